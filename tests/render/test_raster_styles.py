"""What the styles of an overlay refuse: options that they would not follow. What a colour scale says."""

from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.errors import raises
from vitscope.errors import UsageError
from vitscope.render import raster
from vitscope.render.raster import Style


def test_the_notebook_style_has_no_colour_bar(explained):
    with raises(UsageError, "render.no-colorbar"):
        explained([[0.1, 0.2]], (32, 16)).overlay(style="notebook", colorbar=True)


@pytest.mark.parametrize(
    "option", [{"blur": 3.0}, {"opacity": 0.2}, {"cmap": "viridis"}, {"smooth": False}, {"norm": "robust"}], ids=str
)
def test_the_published_drawing_takes_no_options(explained, option):
    e = explained([[0.1, 0.2]], (32, 16))
    with raises(UsageError, "render.notebook-is-fixed", "render.notebook-is-fixed.hint"):
        e.overlay(style="notebook", **option)
    assert e.style(style="notebook").to_dict()["blur"] == 2


def test_grey_keeps_an_opacity_and_refuses_colours(explained):
    assert explained([[0.1, 0.2]], (32, 16)).style(style="grey", opacity=0.8, cmap="gray").opacity == 0.8
    with raises(UsageError, "render.grey-has-no-colours", "render.grey-has-no-colours.hint"):
        Style.of(style="grey", cmap="viridis")


def test_along_the_colour_bar_stands_what_its_values_are(explained):
    e = explained(np.eye(4), (120, 300))
    style = e.style(colorbar=True)
    barred, named = (
        np.asarray(raster.overlay(e.map, e.region, e.photo.pixels, replace(style, label=label)))
        for label in ("", "rollout: shares of all tokens")
    )
    new = named[:, barred.shape[1] :].min(-1) < 128
    assert np.array_equal(named[:, : barred.shape[1] - 5], barred[:, :-5])
    rows, columns = (np.flatnonzero(new.any(axis)) for axis in (1, 0))
    assert 4 < np.ptp(columns) < 16
    assert 60 < np.ptp(rows) <= 300
    assert abs(rows.mean() - 150) < 8
    endless = raster.overlay(e.map, e.region, e.photo.pixels, replace(style, label="x" * 400))
    assert np.array_equal(np.asarray(endless), barred)


@pytest.mark.parametrize(
    ("values", "target", "label"),
    [
        (np.full((2, 2), 0.2), None, "rollout: shares of all tokens"),
        (np.full((2, 2), 0.2), "cat", "rollout of cat: shares of all tokens"),
        (np.full((2, 2), 0.3), "猫", "rollout: its own values"),
        (np.array([[-0.2, 0.4], [0.4, 0.2]]), None, "rollout: its own values"),
    ],
)
def test_an_explanation_says_what_its_values_are(explained, values, target, label):
    e = replace(explained(values, (20, 20)), method="rollout", target=target, prefix=np.array([0.2], np.float32))
    assert e.style(colorbar=True).label == label
    assert e.style().label == ""
    assert "label" not in e.style(colorbar=True).to_dict()
