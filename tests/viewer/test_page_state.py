"""One object is on the photo: title, colours, command and saved data never tell of different maps."""

import copy
import json
import re

import numpy as np
import pytest

from tests.helpers.browser import CAPTION, SET, VIEWER
from tests.helpers.browser import shown as opened
from tests.helpers.viewing import hover, near_at_the_top, shown
from vitscope.viewer.page import page

DRAWN = """() => {
    const canvas = document.querySelector('.vs-heat');
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    return data.some((value, i) => i % 4 === 3 && value > 0);
}"""
COMMAND = "() => document.querySelector('textarea[aria-label*=\"for this image\"]').value"
SAVERS = "() => [...document.querySelectorAll('.vs-tab .vs-row .vs-quiet')].slice(0, 3).map((one) => one.disabled)"


@pytest.fixture(scope="module")
def partial(browser, tiny_view, tmp_path_factory):
    """A page without the rows of its first layer, as where `--max-mb` leaves no room for them."""
    document = copy.deepcopy(tiny_view.document())
    document["header"]["layers"][0] |= {"rows": False}
    path = tmp_path_factory.mktemp("pages") / "partial.html"
    path.write_text(page(document, "en"))
    with opened(browser, path.as_uri()) as made:
        yield made
        assert made.troubles == []


def layers_told(made):
    """The layer that the title names, and the one that the command would draw."""
    title, command = made.text(".vs-caption"), made.evaluate(COMMAND)
    return int(re.search(r"layers? (\d+)", title)[1]), int(re.search(r"--(?:start-)?layer (\d+)", command)[1])


@pytest.mark.slow
def test_a_change_of_drawing_leaves_the_value_of_the_kept_patch(fresh):
    shown(fresh, "What patch 1,2 looks at", {"source": "query", "query": 7})
    before = fresh.text(".vs-value")
    assert before.startswith("patch 1,2: ")
    fresh.evaluate(SET, {"opacity": 0.3})
    assert fresh.text(".vs-value") == before


def test_the_maps_that_are_compared_begin_with_the_shown_one(fresh, tiny_view):
    """Until somebody chooses others; a link to a page says no more of it."""
    names = "() => [...document.querySelectorAll('.vs-half-told strong')].map((one) => one.textContent)"
    fresh.evaluate(SET, {"panel": "compare"})
    for entry in tiny_view.header["maps"][1:3]:
        fresh.evaluate(SET, {"map": entry["id"]})
        fresh.wait(f"(name) => ({names})()[0] === name", entry["method"])
    fresh.evaluate(SET, {"compare": {"left": f"own:{tiny_view.header['maps'][0]['id']}"}})
    fresh.wait(f"(name) => ({names})()[0] === name", tiny_view.header["maps"][0]["method"])


def test_a_layer_that_is_not_in_the_page_shows_nothing_under_its_own_title(partial):
    partial.evaluate(SET, {"panel": "save"})
    shown(partial, "What patch 1,2 looks at · layer 2", {"source": "query", "query": 7, "layer": 2})
    assert partial.evaluate(DRAWN)
    partial.evaluate(SET, {"layer": 0})
    partial.wait(CAPTION, "layer 0")
    assert layers_told(partial) == (0, 0)
    assert not partial.evaluate(DRAWN)
    assert partial.text(".vs-status") == "The attention of layer 0 is not included in this page."
    assert partial.evaluate(SAVERS) == [True] * 3
    partial.evaluate(SET, {"layer": 1})
    partial.wait(CAPTION, "layer 1")
    assert layers_told(partial) == (1, 1)
    assert partial.evaluate(DRAWN)
    assert partial.evaluate(SAVERS) == [False] * 3


def test_heads_of_a_layer_that_is_not_in_the_page_are_empty(partial):
    """They would keep the thumbnails of another token, under the name of this one."""
    partial.evaluate(SET, {"panel": "grid", "heads": "layers", "source": "query", "query": -1, "layer": 2})
    seen = "() => [...document.querySelectorAll('.vs-grid button')].map((one) => one.classList.contains('vs-gone'))"
    partial.wait(f"() => !({seen})().some(Boolean)")
    partial.evaluate(SET, {"query": 7})
    partial.wait(f"() => ({seen})().join() === 'true,true,false,false,false,false'")


def test_while_rolling_out_the_photo_is_empty_under_the_new_title(partial):
    partial.evaluate(SET, {"panel": "save", "rolled": False})
    shown(partial, "layer 1", {"source": "query", "query": 7, "layer": 1})
    partial.evaluate(f"""() => {{
        const {{ rollout }} = {VIEWER}.ctx, real = rollout.from;
        const held = new Promise((go) => {{ window.go = go; }});
        rollout.from = async (...given) => {{ await held; return real(...given); }};
        window.put = () => {{ rollout.from = real; }};
    }}""")
    partial.evaluate(SET, {"rolled": True})
    assert partial.text(".vs-caption") == "What patch 1,2 looks at · layer 1, mean of heads"
    assert "--method attention" in partial.evaluate(COMMAND)  # what is still shown
    partial.wait(CAPTION, "layers 1 to 2, rolled out")
    assert not partial.evaluate(DRAWN)
    assert "--method rollout" in partial.evaluate(COMMAND)
    assert partial.evaluate(SAVERS) == [True] * 3
    partial.evaluate("() => { window.go(); window.put(); }")
    partial.wait(f"() => Boolean({VIEWER}.ctx.scene.values)")
    assert partial.evaluate(DRAWN)
    partial.evaluate(SET, {"rolled": False, "source": "map"})


def test_a_rollout_that_nobody_waits_for_says_nothing(partial):
    partial.evaluate(f"""() => {{
        const {{ rollout }} = {VIEWER}.ctx, real = rollout.from;
        rollout.from = (r, first, head, progress) => new Promise(() => {{ window.told = progress; }});
        window.put = () => {{ rollout.from = real; }};
    }}""")
    said = "() => document.querySelector('.vs-status').textContent"
    partial.evaluate(SET, {"source": "query", "query": 7, "layer": 1, "rolled": True})
    partial.wait(CAPTION, "rolled out")
    partial.evaluate("() => window.told(1, 2)")
    assert partial.evaluate(said) == "rolling out 1 of 2 layers …"
    partial.evaluate(SET, {"source": "map"})
    shown(partial, "rollout")
    partial.evaluate("() => window.told(2, 2)")
    assert partial.evaluate(said) == ""
    partial.evaluate("() => window.put()")
    partial.evaluate(SET, {"rolled": False})


def test_what_is_saved_is_what_the_title_says_under_the_pointer_too(fresh, tiny_scope, photo):
    fresh.evaluate(SET, {"panel": "save", "layer": 1})
    hover(fresh, tiny_scope.layout, 1, 2)
    shown(fresh, "What patch 1,2 looks at · layer 1")
    fresh.wait(f"() => ({COMMAND})().includes('query=1,2')")
    name, raw = fresh.saved(
        lambda: fresh.evaluate("""() => {
            [...document.querySelectorAll('.vs-tab .vs-quiet')].find((one) => one.textContent.includes('JSON')).click();
        }""")
    )
    record = json.loads(raw)
    assert name == "chelsea-attention-layer1-head-mean-1-2.json"
    assert (record["caption"], record["state"]["query"]) == ("What patch 1,2 looks at · layer 1, mean of heads", 7)
    assert "query=1,2" in record["command"]
    e = tiny_scope.explain(photo, method="attention", layer=1, query="1,2")
    assert np.allclose(record["values"], e.map.ravel(), atol=2e-2 * e.map.max())


@pytest.mark.slow
def test_both_of_two_photos_have_everything_and_a_link_opens_either(browser, tiny_pair, tiny_scope, tmp_path):
    path = tmp_path / "pair.html"
    path.write_text(page(tiny_pair.document(), "en"))
    with opened(browser, path.as_uri()) as made:
        made.click(".vs-switches [role=radio]", "coffee")
        made.wait("() => document.querySelector('h1').textContent === 'coffee'")
        made.evaluate(SET, {"source": "query", "query": 7, "layer": 1, "panel": "save"})
        drawn = shown(made, "What patch 1,2 looks at · layer 1")
        near_at_the_top(drawn, tiny_scope.queries(tiny_pair.other.header["photo"]["source"], layer=1)[7])
        assert "coffee.png" in made.evaluate(COMMAND)
        link = made.evaluate("() => document.querySelector('textarea[aria-label*=link]').value")
        assert made.troubles == []
    with opened(browser, link) as again:
        assert again.text("h1") == "coffee"
        shown(again, "What patch 1,2 looks at · layer 1")
        again.click(".vs-switches [role=radio]", "chelsea")
        again.wait("() => document.querySelector('h1').textContent === 'chelsea'")
        again.wait(CAPTION, "rollout")
