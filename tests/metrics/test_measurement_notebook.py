"""What a notebook shows of numbers: one line, and a plot with its table and nothing executable in it."""

import html
import re

import pytest


@pytest.fixture(scope="module")
def measured(tiny_scope, photo):
    e = tiny_scope.explain(photo, method="rollout")
    return tiny_scope.measure(e, metrics=("deletion",), steps=4, n_random_maps=3)


def test_a_measurement_is_its_verdict_its_curves_and_its_table(measured):
    text = measured._repr_html_()
    assert measured.sentence() in html.unescape(text)
    assert text.count("<img") == 1
    assert [text.count(f"<th>{name}</th>") for name in ("name", "value", "verdict")] == [1, 1, 1]
    assert f"<td>{measured['deletion'].value:.3g}</td>" in text
    assert "<script" not in text
    assert re.fullmatch(r"<Measurement 'rollout' of chelsea\.png: deletion \S+ \([a-z ]+\)>", repr(measured))


def test_statistics_are_their_plot_and_one_line_for_each_layer(tiny_scope, photo):
    found = tiny_scope.statistics(photo)
    text = found._repr_html_()
    assert text.count("<img") == 1
    assert text.count("<tr>") == 1 + len(found.layers)
    assert f"<td>{float(found.layers[0].entropy.mean()):.3g}</td>" in text
    assert re.fullmatch(r"<Statistics 3 layers x 2 heads, \d+ sinks>", repr(found))
