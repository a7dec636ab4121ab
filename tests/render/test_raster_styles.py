"""What the styles of an overlay refuse: options that they would not follow."""

import pytest

from tests.helpers.errors import raises
from vitscope.errors import UsageError
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
