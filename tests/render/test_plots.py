"""Plots of numbers by depth."""

import numpy as np
import pytest

from tests.helpers.errors import raises
from vitscope.errors import UsageError
from vitscope.render.plots import Panel, by_depth


def test_the_plot_has_a_dot_for_each_head():
    """Two heads in two layers: of each head's colour there are two dots, as high as their values are."""
    from matplotlib import colormaps
    from scipy import ndimage

    values = [np.array([10.0, 20.0]), np.array([30.0, 5.0])]
    pixels = np.asarray(by_depth([Panel("distance", "pixels", values)])).astype(int)
    heights = {}
    for head, share in enumerate((0.1, 0.85)):
        near = np.abs(pixels - np.array(colormaps["viridis"](share)[:3]) * 255).max(-1) <= 2
        dots, count = ndimage.label(near)
        assert count == 2
        centres = ndimage.center_of_mass(near, dots, [1, 2])
        for layer, (y, _) in enumerate(sorted(centres, key=lambda centre: centre[1])):
            heights[float(values[layer][head])] = y
    slope = (heights[5] - heights[30]) / 25
    for value, y in heights.items():
        assert heights[5] - y == pytest.approx(slope * (value - 5), abs=1.5)


def test_nothing_to_draw_is_said():
    with raises(UsageError, "render.no-layers"):
        by_depth([])
