"""A folder of DICOM slices: a map of each in a window of your choice, and the numbers in one CSV file.

python examples/dicom.py scans/ --model runs/checkpoint-500 --target pneumonia --window=-1000,400
"""

import argparse
import csv
from pathlib import Path

import vitscope
from vitscope.metrics.concentration import concentration


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--window", default=None, help="LOW,HIGH in the file's units; by default the file's own")
    parser.add_argument("--out", type=Path, default=Path("out"))
    given = parser.parse_args(arguments)

    scope = vitscope.load(given.model, window=given.window)
    slices = sorted(given.folder.glob("*.dcm"))
    given.out.mkdir(parents=True, exist_ok=True)
    with (given.out / "maps.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["slice", "score", "effective patches", "hottest row", "hottest column", "notes"])
        for path, e in zip(slices, scope.explain_many(slices, target=given.target), strict=True):
            if isinstance(e, vitscope.Failure):
                table.writerow([path.name, "", "", "", "", str(e.error)])
                continue
            e.overlay(colorbar=True).save(given.out / f"{path.stem}.png")
            row, column = divmod(int(e.map.argmax()), e.map.shape[1])
            patches = concentration(e)["effective_patches"]
            table.writerow([path.name, e.score, patches, row, column, "; ".join(e.provenance.get("notes", ()))])
    print((given.out / "maps.csv").read_text("utf-8"))


if __name__ == "__main__":
    main()
