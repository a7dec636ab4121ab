"""The viewer's keys, and several viewers on one page."""

import re

import numpy as np
import pytest

from tests.helpers.browser import SET, VIEWER, texts
from tests.helpers.browser import shown as opened
from tests.helpers.viewing import KEY, free, layer_of, shown
from vitscope.viewer.page import page


def test_up_and_down_step_layers_and_rollout_grows(fresh, tiny_scope, photo):
    free(fresh)
    for key, start in (("ArrowDown", 1), ("ArrowDown", 0), ("ArrowUp", 1)):
        fresh.press(key)
        drawn = shown(fresh, f"layers {start} to 2, rolled out")
        e = tiny_scope.explain(photo, method="rollout", start_layer=start)
        assert np.allclose(drawn, [*e.prefix, *e.map.ravel()], rtol=1e-2, atol=2**-16)  # what 16 bits a weight keep
    fresh.evaluate(SET, {"rolled": False})
    fresh.press("ArrowUp")
    shown(fresh, "layer 2, mean of heads")


def test_up_and_down_serve_beside_the_photo_too(fresh, tiny_view):
    fresh.evaluate(SET, {"source": "query"})
    free(fresh)
    fresh.focus(".vs-predictions button")
    fresh.press("ArrowDown")
    shown(fresh, "layer 1")
    fresh.evaluate(SET, {"tour": 2})
    fresh.wait("() => document.activeElement === document.querySelector('.vs-tour h2')")
    fresh.press("ArrowUp")
    shown(fresh, "layers 1 to 2, rolled out")
    fresh.evaluate(SET, {"tour": None})


@pytest.mark.parametrize("one", [".vs-side select", ".vs-side [role=radio]", ".vs-slider input", ".vs-grid button",
                                 ".vs-tabs button", ".vs-tab textarea", ".vs-side summary"])  # fmt: skip
def test_up_and_down_keep_their_own_meaning(fresh, one):
    fresh.evaluate("() => { for (const one of document.querySelectorAll('main details')) one.open = true; }")
    fresh.evaluate(SET, {"layer": 1, "source": "query", "panel": "save" if "textarea" in one else "grid"})
    free(fresh)
    fresh.focus(one)
    before = fresh.evaluate("() => window.scrollY")
    fresh.press("ArrowUp")
    steps = 1 if "slider" in one and fresh.evaluate("() => document.activeElement.max") == "2" else 0
    assert layer_of(fresh) == 1 + steps
    assert fresh.evaluate("() => document.activeElement !== document.body")
    fresh.evaluate("(y) => { document.activeElement.blur(); window.scrollTo(0, y); }", before)


def test_up_and_down_are_not_taken_with_a_modifier_or_out_of_sight(fresh):
    fresh.evaluate(SET, {"source": "query"})
    free(fresh)
    for name in ("ctrlKey", "metaKey", "altKey", "shiftKey"):
        assert not fresh.evaluate(KEY, {name: True})
    fresh.evaluate("() => { document.body.style.paddingBlockEnd = '3000px'; window.scrollTo(0, 5000); }")
    assert not fresh.evaluate(KEY, {})
    assert layer_of(fresh) == 2
    fresh.evaluate("() => { document.body.style.paddingBlockEnd = ''; window.scrollTo(0, 0); }")
    assert fresh.evaluate(KEY, {})
    assert layer_of(fresh) == 1


def test_patches_are_walked_by_keys_and_spoken(fresh):
    fresh.focus(".vs-stage")
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        fresh.press(key)
    shown(fresh, "patch 1,3")
    assert "patch 1,3" in fresh.text("[aria-live=polite].vs-sr")
    fresh.press("Enter")
    fresh.press("p")
    assert fresh.evaluate(f"() => {VIEWER}.state.pinned") == [1 + 4 + 3]


def test_several_viewers_do_not_disturb_each_other(browser, tiny_view, tmp_path):
    text = re.sub("<meta http-equiv[^>]*>", "", page(tiny_view.document(), "en"))
    mount, host = (re.search(rf"([\w$]+) as {name}\b", text)[1] for name in ("mount", "fileHost"))
    more = f"""
        const more = document.body.appendChild(document.createElement('div'));
        const again = JSON.parse(document.querySelector('script[type="application/json"]').textContent);
        more.viewer = {mount}(more, again, {host}, {{ lang: 'en' }});
        </script>\n</body>"""
    path = tmp_path / "two.html"
    path.write_text(text.replace("</script>\n</body>", more), "utf-8")
    with opened(browser, path.as_uri(), size=(1280, 3000)) as made:  # both photos are in view
        made.evaluate(SET, {"layer": 0, "source": "query"})
        shown(made, "layer 0")
        made.wait("() => Boolean(document.querySelector('div.vs').viewer.ctx.scene)")
        second = "() => document.querySelector('div.vs').viewer.state.layer"
        assert made.evaluate(second) == 2
        made.evaluate("() => { document.querySelector('main').style.minBlockSize = 0; }")
        for on, layers in (("div.vs .vs-stage", (0, 1)), ("main .vs-stage", (1, 1))):
            box = made.box(on)
            made.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            made.wait("(on) => document.querySelector(on).matches(':hover')", on)
            made.evaluate(KEY, {"key": "ArrowUp" if on == "main .vs-stage" else "ArrowDown"})
            assert (layer_of(made), made.evaluate(second)) == layers
        made.evaluate(f"() => {VIEWER}.destroy()")
        assert len(texts(made, "div.vs .vs-stage")) == 1
        assert made.troubles == []
