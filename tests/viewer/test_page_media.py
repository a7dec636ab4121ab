"""The page on paper, and in the colours of the reader's system."""

import io

import numpy as np
import pypdf
import pytest
from PIL import Image

from tests.helpers.browser import CAPTION, SET
from tests.helpers.browser import shown as opened


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_where_the_system_has_its_own_colours_what_is_chosen_is_seen(chromium, tiny_file, tmp_path, scheme):
    """Backgrounds and borders of a page are dropped there: the chosen one of each group is its system's selection."""
    with opened(chromium, tiny_file.as_uri(), size=(1440, 1100), forced_colors="active", color_scheme=scheme) as made:
        made.evaluate(SET, {"source": "query", "query": 7, "layer": 1, "head": 1})
        made.wait(CAPTION, "What patch 1,2 looks at")
        places = made.evaluate("""() => {
            const place = (one) => {
                const { x, y, right, bottom } = one.getBoundingClientRect();
                return [x + 3, bottom - 5, right - 3, bottom - 2].map(Math.round); // below its letters
            };
            const groups = [...document.querySelectorAll('[role=radiogroup], [role=tablist]')]
                .map((group) => [...group.querySelectorAll('[role=radio], [role=tab]')])
                .map((all) => [true, false].map((on) => all.find((one) =>
                    String(on) === (one.getAttribute('aria-checked') ?? one.getAttribute('aria-selected')))))
                .filter(([on, off]) => on?.checkVisibility() && off);
            return groups.map((pair) => pair.map(place));
        }""")
        made.picture(tmp_path / "seen.png")
    seen = Image.open(tmp_path / "seen.png").convert("RGB")
    apart = [np.abs(np.subtract(*(np.asarray(seen.crop(one), float).mean((0, 1)) for one in pair))) for pair in places]
    assert len(apart) >= 6
    assert min(one.max() for one in apart) > 60


@pytest.mark.slow
def test_on_paper_the_panels_are_whole(chromium, tiny_file):
    """A window as narrow as a page has a sheet that scrolls; paper does not."""
    with opened(chromium, tiny_file.as_uri()) as made:
        made.evaluate(SET, {"panel": "numbers"})
        made.wait("() => document.querySelector('.vs-tab svg')")
        last = made.evaluate("() => [...document.querySelectorAll('.vs-tab h3')].at(-1).textContent")
        pages = pypdf.PdfReader(io.BytesIO(made.page.pdf(format="A4"))).pages
    said = " ".join("".join(one.extract_text() for one in pages).split())
    assert last in said
    assert "Predictions" in said
    assert "Point at any patch" not in said
