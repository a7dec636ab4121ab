"""Why a fine-tuned classifier says what it says: both maps, the contrast of two classes, and whether they hold.

python examples/fine_tuned.py photo.jpg --model runs/checkpoint-500 --target pneumonia --against healthy
"""

import argparse
from pathlib import Path

import vitscope
from vitscope.render.sheets import Cell, sheet


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image")
    parser.add_argument("--model", required=True, help="a folder that save_pretrained or a Trainer wrote, or a Hub id")
    parser.add_argument("--target", required=True, help="the class to explain")
    parser.add_argument("--against", required=True, help="the class that it could have been")
    parser.add_argument("--out", type=Path, default=Path("out"))
    given = parser.parse_args(arguments)

    scope = vitscope.load(given.model)
    looks = scope.explain(given.image, method="rollout", layers="last3")
    why = scope.explain(given.image, target=given.target)
    instead = scope.explain(given.image, target=f"{given.target} - {given.against}")
    for prediction in why.predictions:
        print(prediction)
    print(scope.measure(why, metrics="deletion").sentence())

    titles = ("where it looks", f"why {given.target}", f"why {given.target} and not {given.against}")
    cells = [Cell(e.overlay(), title) for e, title in zip((looks, why, instead), titles, strict=True)]
    given.out.mkdir(parents=True, exist_ok=True)
    sheet(cells, Path(given.image).name, columns=3).save(given.out / "fine-tuned.png")


if __name__ == "__main__":
    main()
