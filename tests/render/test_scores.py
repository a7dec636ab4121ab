"""Plots of methods side by side: what is drawn stands where its number says, and names do not cover each other."""

from itertools import pairwise

import numpy as np

from tests.helpers.errors import raises
from vitscope.errors import UsageError
from vitscope.render import scores
from vitscope.render.scores import Dot, dots, scatter
from vitscope.render.sheets import figure_image, new_figure

BLUE = np.array([0x31, 0x68, 0x8E])


def centre_of(picture, colour):
    near = np.abs(np.asarray(picture).astype(int) - colour).sum(2) < 12
    return np.argwhere(near).mean(0)


def test_a_higher_number_stands_further_right_and_lines_go_down_in_order():
    low, high = (centre_of(dots([("AP", [Dot("a", v, v, v)])]), BLUE) for v in (0.2, 0.8))
    assert high[1] > low[1] + 50
    first = dots([("AP", [Dot("a", 0.5, 0.5, 0.5), Dot("b", 0.5, 0.5, 0.5, prior=True)])])
    second = dots([("AP", [Dot("b", 0.5, 0.5, 0.5, prior=True), Dot("a", 0.5, 0.5, 0.5)])])
    assert centre_of(first, BLUE)[0] < centre_of(second, BLUE)[0] - 10


def test_cost_goes_right_and_value_up():
    def at(value, cost):
        fixed = (
            Dot("f", 0.0, 0.0, 0.0, 0.5, 0.5, 0.5, marked=True),
            Dot("g", 1.0, 1.0, 1.0, 20.0, 20.0, 20.0, marked=True),
        )
        return centre_of(scatter([*fixed, Dot("a", value, value, value, cost, cost, cost)], "cost", "AP"), BLUE)

    assert at(0.8, 2.0)[0] < at(0.2, 2.0)[0] - 50
    assert at(0.5, 8.0)[1] > at(0.5, 1.0)[1] + 50


def test_names_of_close_dots_do_not_cover_each_other():
    figure = new_figure((7.2, 4.6))
    axes = figure.subplots()
    found = [Dot(f"method {n}", 0.8 - 0.002 * n, 0.0, 1.0, 1.0 + 0.01 * n) for n in range(5)]
    for dot in found:
        axes.plot(dot.cost, dot.value, "o")
    axes.set_ylim(0, 1)
    scores._labels(axes, [*found, Dot("far", 0.1, 0.0, 1.0, 50.0)])
    axes.set_xscale("log")
    figure_image(figure)
    boxes = sorted((text.get_window_extent() for text in axes.texts[:5]), key=lambda box: box.y0)
    for lower, upper in pairwise(boxes):
        assert upper.y0 >= lower.y1 - 2


def test_nothing_to_draw_is_refused():
    with raises(UsageError, "render.no-methods"):
        dots([])
    with raises(UsageError, "render.no-cost"):
        scatter([Dot("random", 0.1, 0.1, 0.1, prior=True)], "cost", "AP")
