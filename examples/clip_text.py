"""Which patches fit which sentence: a map for each text, and where the first two differ.

python examples/clip_text.py photo.jpg "a cat" "a sofa" --model openai/clip-vit-base-patch32
"""

import argparse
from pathlib import Path

import vitscope
from vitscope.render.sheets import Cell, sheet


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image")
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--model", default="openai/clip-vit-base-patch32")
    parser.add_argument("--out", type=Path, default=Path("out"))
    given = parser.parse_args(arguments)

    scope = vitscope.load(given.model)
    found = scope.explain(given.image, targets=[vitscope.text(text) for text in given.texts])
    cells = [Cell(e.overlay(), text, f"cosine {e.score:.3f}") for text, e in zip(given.texts, found, strict=True)]
    if len(given.texts) > 1:
        one, other = (e.map / abs(e.map).max() for e in found[:2])
        row, column = divmod(int((one - other).argmax()), one.shape[1])
        print(f"{given.texts[0]}, not {given.texts[1]}: most at patch {row},{column}")
    given.out.mkdir(parents=True, exist_ok=True)
    sheet(cells, Path(given.image).name, columns=len(cells)).save(given.out / "clip-text.png")


if __name__ == "__main__":
    main()
