"""The viewer's keys, and several viewers on one page."""

import re

import numpy as np
import pytest

from tests.helpers.browser import CAPTION, SET, SHOWN, VIEWER, texts
from tests.helpers.browser import shown as opened
from tests.helpers.viewing import KEY, free, hover, layer_of, near_at_the_top, shown
from vitscope.viewer.page import page


def test_brackets_step_layers_and_rollout_grows(fresh, tiny_scope, photo):
    free(fresh)
    for key, start in (("[", 1), ("-", 0), ("]", 1)):
        fresh.press(key)
        drawn = shown(fresh, f"layers {start} to 2, rolled out")
        e = tiny_scope.explain(photo, method="rollout", start_layer=start)
        assert np.allclose(drawn, [*e.prefix, *e.map.ravel()], rtol=1e-2, atol=2**-16)  # what 16 bits a weight keep
    fresh.evaluate(SET, {"rolled": False})
    fresh.press("]")
    shown(fresh, "layer 2, mean of heads")


def test_stepping_keeps_the_patch_under_the_pointer_and_says_it(fresh, tiny_scope, photo):
    hover(fresh, tiny_scope.layout, 1, 2)
    shown(fresh, "What patch 1,2 looks at · layer 2")
    fresh.press("[")
    drawn = shown(fresh, "What patch 1,2 looks at · layer 1")
    near_at_the_top(drawn, tiny_scope.queries(photo, layer=1)[7])
    fresh.wait("() => document.querySelector('.vs-sr').textContent.startsWith('What patch 1,2 looks at · layer 1')")
    fresh.move(1, 1)
    shown(fresh, "rollout")  # what was shown before one pointed


def test_space_shows_the_photo_after_a_click_and_presses_what_keys_have_reached(fresh, tiny_scope):
    fresh.evaluate("""() => {
        window.bared = 0;
        const stage = document.querySelector('.vs-stage');
        new MutationObserver(() => { window.bared += stage.classList.contains('vs-bare'); })
            .observe(stage, { attributeFilter: ['class'] });
    }""")
    flow = f"() => {VIEWER}.state.flow"
    fresh.click(".vs-toggle", "Flow")
    assert fresh.evaluate(flow)
    hover(fresh, tiny_scope.layout, 1, 2)
    fresh.press("Space")
    fresh.wait("() => window.bared")
    assert fresh.evaluate(flow)
    fresh.press("Tab")
    fresh.focus(".vs-toggle:has(+ .vs-note) input")
    fresh.press("Space")
    fresh.wait(f"() => !({flow})()")


def test_rolling_out_from_the_last_layer_is_of_all_layers(fresh, tiny_scope, photo):
    fresh.click(".vs-toggle", "Rolled out")
    fresh.wait(CAPTION, "layers 0 to 2, rolled out")
    fresh.wait(f"() => {VIEWER}.ctx.scene.values")
    e = tiny_scope.explain(photo, method="rollout")
    assert np.allclose(fresh.evaluate(SHOWN), [*e.prefix, *e.map.ravel()], rtol=1e-2, atol=2**-16)
    fresh.evaluate(SET, {"rolled": False})


def test_stepping_keeps_the_patch_under_the_cursor_and_says_it(fresh):
    fresh.focus(".vs-stage")
    fresh.press("ArrowRight", "ArrowRight")
    shown(fresh, "patch 2,3 looks at · layer 2")
    for key, layer in (("PageDown", 1), ("[", 0), ("PageUp", 1)):
        fresh.press(key)
        shown(fresh, f"What patch 2,3 looks at · layer {layer}")
        fresh.wait("(words) => document.querySelector('.vs-sr').textContent.startsWith(words)",
                   f"What patch 2,3 looks at · layer {layer}")  # fmt: skip


def test_pin_and_escape_work_wherever_the_focus_is(fresh, tiny_scope):
    for one in (".vs-predictions button", ".vs-grid button", ".vs-tabs button", ".vs-slider input"):
        fresh.evaluate(SET, {"pinned": [], "source": "query"})
        fresh.focus(one)
        hover(fresh, tiny_scope.layout, 1, 2)
        shown(fresh, "What patch 1,2")
        fresh.press("p")
        assert fresh.evaluate(f"() => {VIEWER}.state.pinned") == [7], one
        fresh.press("Escape")
        shown(fresh, "rollout")
        fresh.move(1, 1)


def test_escape_leaves_a_patch_that_is_only_pointed_at(fresh, tiny_scope):
    hover(fresh, tiny_scope.layout, 1, 2)
    shown(fresh, "What patch 1,2")
    fresh.press("Escape")
    shown(fresh, "rollout")
    assert fresh.evaluate(f"() => {VIEWER}.ctx.stage.pointed()") is None


def test_pinning_and_leaving_are_said(fresh):
    said = "(words) => document.querySelector('.vs-main .vs-sr').textContent === words"
    fresh.focus(".vs-stage")
    fresh.press("ArrowRight")
    fresh.wait(CAPTION, "What patch 2,2")
    fresh.press("p")
    fresh.wait(said, "Pinned, to compare: patch 2,2")
    fresh.press("p")
    fresh.wait(said, "Pinned, to compare: –")
    fresh.press("Escape")
    fresh.wait(said, "rollout")


@pytest.mark.parametrize("one", [".vs-side select", ".vs-tab textarea"])
def test_letters_are_left_to_what_takes_letters(fresh, tiny_scope, one):
    fresh.evaluate("() => { for (const one of document.querySelectorAll('main details')) one.open = true; }")
    fresh.evaluate(SET, {"layer": 1, "source": "query", "panel": "save"})
    fresh.focus(one)
    hover(fresh, tiny_scope.layout, 1, 2)
    fresh.press("p", "[")
    assert fresh.evaluate(f"() => [{VIEWER}.state.pinned, {VIEWER}.state.layer]") == [[], 1]
    fresh.evaluate("() => document.activeElement.blur()")


def test_arrow_keys_are_the_pages_own_but_on_the_photo(fresh):
    fresh.evaluate(SET, {"source": "query"})
    free(fresh)
    for key in ("ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"):
        assert not fresh.evaluate(KEY, {"key": key})
    assert layer_of(fresh) == 2
    assert fresh.evaluate(KEY, {"key": "["})
    assert layer_of(fresh) == 1


def test_keys_are_not_taken_with_a_modifier_or_where_switched_off(fresh):
    fresh.evaluate(SET, {"source": "query"})
    free(fresh)
    for name in ("ctrlKey", "metaKey", "altKey"):
        assert not fresh.evaluate(KEY, {"key": "[", name: True})
    fresh.evaluate(SET, {"keys": False})
    assert not fresh.evaluate(KEY, {"key": "["})
    fresh.focus(".vs-stage")
    fresh.press("[")
    shown(fresh, "layer 1")
    fresh.evaluate(SET, {"keys": True})


def test_space_held_shows_the_photo_alone(fresh):
    free(fresh)
    seen = "() => getComputedStyle(document.querySelector('.vs-heat')).visibility"
    assert fresh.evaluate(KEY, {"key": " "})
    assert fresh.evaluate(seen) == "hidden"
    fresh.evaluate("() => document.body.dispatchEvent(new KeyboardEvent('keyup', { key: ' ', bubbles: true }))")
    assert fresh.evaluate(seen) == "visible"


def test_patches_are_walked_by_keys_and_spoken(fresh):
    fresh.focus(".vs-stage")
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        fresh.press(key)
    shown(fresh, "patch 1,3")
    assert "patch 1,3" in fresh.text("[aria-live=polite].vs-sr")
    fresh.press("Enter")
    fresh.press("p")
    assert fresh.evaluate(f"() => {VIEWER}.state.pinned") == [1 + 4 + 3]


@pytest.mark.slow
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
            made.evaluate(KEY, {"key": "]" if on == "main .vs-stage" else "["})
            assert (layer_of(made), made.evaluate(second)) == layers
        made.evaluate(f"() => {VIEWER}.destroy()")
        assert len(texts(made, "div.vs .vs-stage")) == 1
        assert made.troubles == []
