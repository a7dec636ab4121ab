"""Heads by what they do: the page's groups are Python's, and each is on the photo while it is pointed at."""

import json

import numpy as np
import pytest

from tests.helpers.browser import CAPTION, SET, SHOWN, VIEWER, axe_of, texts
from tests.helpers.browser import shown as opened
from vitscope.viewer.page import page

GROUPS = """() => [...document.querySelectorAll('.vs-kind')].map((one) => [
    one.querySelector('strong').textContent.toLowerCase(),
    [...one.querySelectorAll('button')].map((cell) => cell.getAttribute('aria-label'))
        .map((name) => name.match(/\\d+/g).slice(2).map(Number)),
])"""


KINDS = [["object", "mixed"], ["object", "local"], ["sink", "mixed"]]  # the tiny model's own heads are all sinks


@pytest.fixture(scope="module")
def sorted_page(browser, tiny_view, tmp_path_factory):
    """The tiny model's page, its heads sorted as if they did different things."""
    document = json.loads(json.dumps(tiny_view.document()))
    for kinds, layer in zip(KINDS, document["header"]["statistics"]["layers"], strict=True):
        layer |= {"kinds": kinds, "object_ratio": [3 if kinds[1] == "mixed" else 4, 1]}
    path = tmp_path_factory.mktemp("pages") / "sorted.html"
    path.write_text(page(document, "en"))
    with opened(browser, path.as_uri()) as made:
        yield made
        assert made.troubles == []


@pytest.fixture
def heads(sorted_page):
    sorted_page.evaluate(f"() => {{ const {{ store, ctx }} = {VIEWER}; store.set({{ ...ctx.initial }}); }}")
    sorted_page.evaluate(SET, {"panel": "grid", "heads": "kinds"})
    sorted_page.move(1, 1)
    sorted_page.wait(CAPTION, "rollout")
    return sorted_page


def point(made, selector, text=None):
    box = made.box(selector, text)
    made.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 3)


def test_every_head_is_in_its_group_the_clearest_first(heads):
    assert heads.evaluate(GROUPS) == [
        ["object", [[1, 0], [0, 0]]],
        ["local", [[1, 1]]],
        ["sink", [[2, 0]]],
        ["mixed", [[0, 1], [2, 1]]],
    ]


def test_kinds_are_those_that_python_tells(tiny_view, tiny_scope, photo):
    layers = tiny_view.header["statistics"]["layers"]
    assert [tuple(one["kinds"]) for one in layers] == [one.kinds for one in tiny_scope.statistics(photo).layers]


def test_a_head_that_is_pointed_at_is_on_the_photo(heads, tiny_scope, photo):
    e = tiny_scope.explain(photo, method="attention", layer=1, head=1)
    point(heads, ".vs-kind button", "layer 1, head 1")
    heads.wait(CAPTION, "layer 1, head 1")
    assert np.allclose(heads.evaluate(SHOWN), [*e.prefix, *e.map.ravel()], rtol=2e-3)
    heads.move(1, 1)
    heads.wait(CAPTION, "rollout")
    assert heads.evaluate(f"() => {VIEWER}.state.source") == "map"


def test_the_mean_of_a_group_is_the_mean_of_its_heads(heads, tiny_scope, photo):
    (_, cells), *_ = heads.evaluate(GROUPS)
    maps = [tiny_scope.attention_heads(photo, layer)[head] for layer, head in cells]
    heads.wait("() => !document.querySelector('.vs-kind button.vs-gone')")
    point(heads, ".vs-kind-mean")
    heads.wait(CAPTION, f"mean of its heads ({len(cells)})")
    mean = np.mean([[*one.prefix, *one.map.ravel()] for one in maps], 0)
    assert np.allclose(heads.evaluate(SHOWN), mean, rtol=2e-3)
    heads.evaluate(SET, {"panel": "save"})  # by a key: nothing says that the pointer left what is gone
    heads.wait(CAPTION, "rollout")
    assert not heads.evaluate("() => document.querySelector('.vs-tab .vs-quiet').disabled")


@pytest.mark.slow
def test_arrow_keys_walk_through_all_groups(heads):
    heads.focus(".vs-kind button[tabindex='0']")
    heads.press(*["ArrowLeft"] * 6, *["ArrowRight"] * 5)
    last = heads.evaluate("() => [...document.querySelectorAll('.vs-kind button')].at(-1) === document.activeElement")
    assert last
    heads.press("ArrowUp")
    assert heads.evaluate("() => document.activeElement.closest('.vs-kind').previousElementSibling !== undefined")
    state = heads.evaluate(f"() => {VIEWER}.state")
    assert f"layer {state['layer']}, head {state['head']}" in heads.text(".vs-caption")


def test_each_group_says_its_rule_and_layers_are_a_choice_away(heads):
    rules = texts(heads, ".vs-kind [role=rowheader] small")
    assert len(set(rules)) == len(rules) > 1
    heads.click(".vs-tab [role=radio]", "by layer")
    heads.wait("() => document.querySelectorAll('.vs-line').length === 3")
    assert heads.evaluate("() => document.querySelector('.vs-kind')") is None


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_on_groups(heads, theme):
    heads.evaluate(SET, {"theme": theme, "source": "query", "query": 6})
    heads.wait("() => !document.querySelector('.vs-kind button.vs-gone')")
    assert axe_of(heads)["violations"] == []
