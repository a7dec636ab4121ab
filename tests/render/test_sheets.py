"""A sheet of several images: each cell as it is."""

import numpy as np
import pytest
from PIL import Image

from vitscope.render.sheets import Cell, sheet


def test_a_grey_cell_is_drawn_grey():
    drawn = np.asarray(sheet([Cell(Image.new("L", (60, 40), 230), "nothing")], "one").convert("RGB"), int)
    assert (drawn.max(2) - drawn.min(2)).max() == 0
    assert (drawn == 230).all(2).mean() > 0.2


@pytest.mark.parametrize("shape", [(450, 300), (300, 450)])
@pytest.mark.parametrize("lines", [1, 5, 8])
def test_no_caption_is_cut_off_and_no_row_stands_far_from_the_next(lines, shape):
    picture = Image.new("RGB", shape, (200, 100, 100))
    cells = [Cell(picture, "image"), *(Cell(picture, "map", "\n".join(["gap"] * count)) for count in (1, 1, lines))]
    drawn = np.asarray(sheet(cells, "one", columns=2), int)
    inked = np.flatnonzero((drawn < 250).any((1, 2)))
    assert inked[0] >= 5
    assert inked[-1] < len(drawn) - 5  # the margin below
    assert np.diff(inked).max() < 30, "empty rows"
