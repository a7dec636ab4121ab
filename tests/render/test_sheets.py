"""A sheet of several images: each cell as it is."""

import numpy as np
from PIL import Image

from vitscope.render.sheets import Cell, sheet


def test_a_grey_cell_is_drawn_grey():
    drawn = np.asarray(sheet([Cell(Image.new("L", (60, 40), 230), "nothing")], "one").convert("RGB"), int)
    assert (drawn.max(2) - drawn.min(2)).max() == 0
    assert (drawn == 230).all(2).mean() > 0.2
