"""Take the pictures of the viewer's states in docs: `python -m tools.screenshots PAGE` of `vitscope view`.

Twelve states in three widths, each width on one sheet: what a change of the viewer did is seen at a glance.
"""

import io
import json
import shutil
import sys
from pathlib import Path
from urllib.parse import quote

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTHS = {"1440": (1440, 900), "400": (400, 860), "3840": (3840, 2160)}
TILES = {"1440": (480, 3), "400": (200, 6), "3840": (640, 3)}  # width of a picture on its sheet, pictures in a row
STATES = (
    {},
    {"source": "query", "query": 90, "flow": True},
    {"source": "query", "query": 90, "layer": 8, "head": 2, "heads": "layers"},
    {"source": "query", "query": -1, "layer": 4, "rolled": True},
    {"source": "received", "query": 90},
    {"source": "like", "query": 90},
    {"source": "pca"},
    {"panel": "numbers", "deletion_step": 1},
    {"panel": "compare"},
    {"panel": "save", "pinned": [90, 120], "sinks": True},
    {"theme": "dark", "panel": "about"},
    {"embed": True},
)
DRAWN = "(({ values, rgb } = {}) => Boolean(values ?? rgb))(document.querySelector('main').viewer?.ctx.scene ?? {})"
ADDRESS = "https://example.org/view.html"  # which the pictures show, not where the file lies
OUT = Path(__file__).parents[1] / "docs" / "images"


def main(page: Path) -> None:
    """Write the sheets of a page."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for name, (width, height) in WIDTHS.items():
            taken = []
            for state in STATES:
                tab = chromium.new_page(viewport={"width": width, "height": height}, reduced_motion="reduce")
                tab.set_default_timeout(180_000)  # of a busy machine
                tab.route(f"{ADDRESS}*", lambda route: route.fulfill(path=page))
                tab.goto(f"{ADDRESS}{'?embed' if 'embed' in state else ''}#{_fragment(state)}")
                while not tab.evaluate(DRAWN):  # the page's policy lets no function wait in it
                    tab.wait_for_timeout(100)
                before = b""
                while (shot := tab.screenshot()) != before:  # thumbnails, arcs and likenesses come one after another
                    before = shot
                    tab.wait_for_timeout(2500)
                taken.append(Image.open(io.BytesIO(shot)).convert("RGB"))
                tab.close()
            _sheet(taken, *TILES[name]).save(OUT / f"viewer-states-{name}.webp", quality=72, method=6)
        chromium.close()


def _fragment(state: dict[str, object]) -> str:
    return "&".join(f"{key}={quote(json.dumps(value))}" for key, value in state.items() if key != "embed")


def _sheet(pictures: list[Image.Image], width: int, across: int, gap: int = 12) -> Image.Image:
    high = round(width * pictures[0].height / pictures[0].width)
    down = -(-len(pictures) // across)
    sheet = Image.new("RGB", (across * (width + gap) - gap, down * (high + gap) - gap), "white")
    for number, picture in enumerate(pictures):
        place = (number % across * (width + gap), number // across * (high + gap))
        sheet.paste(picture.resize((width, high), Image.Resampling.LANCZOS), place)
    return sheet


if __name__ == "__main__":
    main(Path(sys.argv[1]))
