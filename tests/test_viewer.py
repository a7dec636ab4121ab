"""The interactive page in a real browser: what is drawn is what Python says, and nothing leaves the page."""

import json
import re
import statistics as numbers
from contextlib import contextmanager
from urllib.parse import quote

import numpy as np
import pytest
from skimage import data

import vitscope
from browser import chromium, opened
from vitscope.render.packed import Packed
from vitscope.render.page import bundle, page, page_bytes, styles

# A test that this file needs more than once: the numbers that the stage shows now, all tokens.
SHOWN = (
    "() => { const { scene } = document.querySelector('main').viewer.ctx; return [...scene.prefix, ...scene.values]; }"
)
SET = "(change) => document.querySelector('main').viewer.store.set(change)"
WAIT = "(words) => document.querySelector('.vs-caption').textContent.includes(words)"


@pytest.fixture(scope="module")
def browser():
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def tiny_view(tiny_scope, photo):
    return tiny_scope.view(photo, methods=("auto", "attention", "relevance"), top=2)


@pytest.fixture(scope="module")
def tiny_file(tiny_view, tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "tiny.html"
    path.write_bytes(page_bytes(tiny_view.document(), "en"))
    return path


@pytest.fixture(scope="module")
def tiny(browser, tiny_file):
    """One page for many tests; each sets the state that it needs."""
    with opened(browser, tiny_file.as_uri()) as (made, troubles):
        yield made
        assert troubles == []


@pytest.fixture
def fresh(tiny):
    tiny.evaluate(
        "() => { const { store, ctx } = document.querySelector('main').viewer; store.set({ ...ctx.initial }); }"
    )
    tiny.mouse.move(1, 1)
    tiny.wait_for_function(WAIT, arg="rollout")
    return tiny


def shown(made, words, change=None):
    if change is not None:
        made.evaluate(SET, change)
    made.wait_for_function(WAIT, arg=words)
    return np.array(made.evaluate(SHOWN))


def hover(made, layout, row, column):
    bounds = made.locator(".vs-stage").bounding_box()
    rows, columns = layout.grid
    made.mouse.move(
        bounds["x"] + bounds["width"] * (column + 0.5) / columns, bounds["y"] + bounds["height"] * (row + 0.5) / rows
    )


def near_at_the_top(drawn, true, off=1e-2):
    top = np.argsort(-true)[:20]
    assert np.abs(drawn[top] / true[top] - 1).max() < off


@pytest.mark.parametrize("head", ["mean", "max", 0, 1])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_hovered_patch_shows_what_python_says_it_attends_to(fresh, tiny_scope, photo, layer, head):
    fresh.evaluate(SET, {"layer": layer, "head": head})
    hover(fresh, tiny_scope.layout, 1, 2)
    drawn = shown(fresh, "patch 1,2")
    e = tiny_scope.explain(photo, method="attention", layer=layer, head=head, query="1,2")
    near_at_the_top(drawn, np.concatenate([e.prefix, e.map.ravel()]))


def test_a_click_keeps_the_patch_and_escape_goes_back(fresh, tiny_scope):
    hover(fresh, tiny_scope.layout, 0, 3)
    fresh.mouse.down()
    fresh.mouse.up()
    fresh.mouse.move(1, 1)
    shown(fresh, "patch 0,3")
    fresh.locator(".vs-stage").focus()
    fresh.keyboard.press("Escape")
    shown(fresh, "rollout")


@pytest.mark.parametrize("head", ["mean", 1])
def test_who_attends_to_a_patch_is_a_column_of_all_queries(fresh, tiny_scope, photo, head):
    drawn = shown(fresh, "Who looks at patch 2,1", {"source": "received", "query": 10, "layer": 1, "head": head})
    near_at_the_top(drawn, tiny_scope.queries(photo, layer=1, head=head)[:, 10])


@pytest.mark.parametrize("start", [0, 1])
def test_rolled_out_is_rollout_of_that_query(fresh, tiny_scope, photo, start):
    state = {"source": "query", "query": 7, "layer": start, "rolled": True}
    drawn = shown(fresh, f"layers {start} to 2, rolled out", state)
    e = tiny_scope.explain(photo, method="rollout", query="1,2", start=start)
    near_at_the_top(drawn, np.concatenate([e.prefix, e.map.ravel()]))


def test_the_cls_button_asks_cls(fresh, tiny_scope, photo):
    fresh.get_by_role("radio", name="cls").click()
    e = tiny_scope.explain(photo, method="attention", query="cls")
    near_at_the_top(shown(fresh, "What cls looks at"), np.concatenate([e.prefix, e.map.ravel()]))


def test_layers_are_stepped_by_keys(fresh, tiny_scope):
    fresh.locator(".vs-stage").focus()
    fresh.keyboard.press("PageDown")
    shown(fresh, "layer 1")
    fresh.keyboard.press("PageDown")
    shown(fresh, "layer 0")
    fresh.get_by_role("slider", name="Layer").focus()
    fresh.keyboard.press("ArrowRight")
    shown(fresh, "layer 1")


def test_patches_are_walked_by_keys_and_spoken(fresh):
    fresh.locator(".vs-stage").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        fresh.keyboard.press(key)
    shown(fresh, "patch 1,3")
    assert "patch 1,3" in fresh.locator("[aria-live=polite].vs-sr").text_content()
    fresh.keyboard.press("Enter")
    fresh.keyboard.press("p")
    assert fresh.evaluate("document.querySelector('main').viewer.state.pinned") == [1 + 4 + 3]


def test_two_pins_say_how_much_they_share(fresh, tiny_scope, photo):
    fresh.evaluate(SET, {"source": "query", "query": 3, "pinned": [3, 9], "layer": 2})
    rows = tiny_scope.queries(photo, layer=2)
    share = np.minimum(rows[3], rows[9]).sum()
    told = fresh.get_by_text("They share").text_content()
    assert abs(float(re.search(r"([\d.]+) %", told)[1]) / 100 - share) < 0.01


def test_a_thumbnail_is_its_head_and_a_click_enlarges_it(fresh, tiny_scope, photo):
    fresh.get_by_role("button", name="layer 1, head 0").click()
    drawn = shown(fresh, "layer 1, head 0")
    heads = tiny_scope.heads(photo, 1)
    near_at_the_top(drawn[1:], heads[0].map.ravel())


def test_a_class_shows_its_map(fresh, tiny_scope, photo):
    label, _ = tiny_scope.explain(photo, method="attention").predictions[1]
    fresh.get_by_role("button", name=label).first.click()
    e = tiny_scope.explain(photo, method="gradcam", target=label)
    drawn = shown(fresh, "gradcam")
    assert np.allclose(drawn[1:], e.map.ravel(), rtol=2e-3, atol=2e-3 * np.abs(e.map).max())


def test_every_method_shows_its_own_map(fresh, tiny_view, tiny_scope, photo):
    for entry in tiny_view.header["maps"][:3]:
        fresh.evaluate(SET, {"map": entry["id"], "source": "map"})
        fresh.wait_for_function(
            "(id) => document.querySelector('main').viewer.ctx.scene.entry?.id === id", arg=entry["id"]
        )
        e = tiny_scope.explain(photo, method=entry["method"], **entry["options"])
        assert np.allclose(fresh.evaluate(SHOWN)[1:], e.map.ravel(), rtol=2e-3, atol=2e-3 * np.abs(e.map).max())


def test_the_colour_bar_says_the_ends_of_the_scale(fresh, tiny_view):
    fresh.evaluate(SET, {"norm": "range"})
    values = np.array(fresh.evaluate(SHOWN))[1:]
    ends = [float(text) for text in fresh.locator(".vs-ends span").all_text_contents()]
    assert ends[0] == pytest.approx(values.min(), rel=1e-2)
    assert ends[2] == pytest.approx(values.max(), rel=1e-2)
    assert "Smallest to largest" in fresh.locator(".vs-unit").text_content()


def test_deletion_steps_hide_the_hottest_patches(fresh, tiny_view):
    entry = tiny_view.header["maps"][0]
    curve = next(one for one in entry["measurement"]["numbers"] if one["name"] == "deletion")
    fresh.evaluate(SET, {"deletion_step": 5})
    words = f"{round(curve['x'][5] * 16)} of 16 patches hidden"
    fresh.wait_for_function("(words) => document.querySelector('.vs-steps').textContent.includes(words)", arg=words)
    label, likely = entry["steps"][5][0]
    assert f"{label} {likely * 100:.0f}" in fresh.locator(".vs-steps").text_content()
    order = tiny_view.arrays[f"order.{entry['id']}"].array()
    hidden = fresh.evaluate("document.querySelector('main').viewer.ctx.deleted()")
    assert sorted(token - 1 for token in hidden) == sorted(order[: round(curve["x"][5] * 16)])


def test_placing_a_map_is_frames_own_bicubic(fresh, tiny_view):
    frame, values = vitscope.Frame((90, 70), (10.5, -8, 71, 64), (64, 64)), np.random.default_rng(0).random((4, 6))
    code = bundle().replace("export const { mount, fileHost } = $main;", "export const { place } = $place;")
    made = f"data:text/javascript,{quote(code)}"
    for smooth in (True, False):
        call = """async ([url, values, box, smooth]) => {
            const { place } = await import(url);
            const laid = place(Float32Array.from(values), 4, 6, 90, 70, box, smooth);
            return [laid.left, laid.top, laid.width, laid.height, [...laid.values]];
        }"""
        with opened_blank(fresh) as blank:
            left, top, width, height, laid = blank.evaluate(call, [made, values.ravel().tolist(), frame.box, smooth])
        true = frame.place(values.astype(np.float32), smooth)
        assert (left, top, left + width, top + height) == frame.window()
        assert np.allclose(np.reshape(laid, (height, width)), true[top : top + height, left : left + width], atol=2e-5)


@contextmanager
def opened_blank(made):
    """A page without a policy, for calling parts of the viewer."""
    other = made.context.new_page()
    yield other
    other.close()


def test_the_link_brings_the_state_back_and_wrong_links_are_harmless(browser, tiny_file):
    link = f"{tiny_file.as_uri()}#source=%22query%22&query=7&layer=1&head=0"
    with opened(browser, link) as (made, troubles):
        shown(made, "What patch 1,2 looks at · layer 1, head 0")
        assert troubles == []
    wrong = f"{tiny_file.as_uri()}#layer=99&query=-7&head=%22x%22&map=%22%3Cb%3E%22&source=3&__proto__=1&opacity=%7B%7D"
    with opened(browser, wrong) as (made, troubles):
        shown(made, "rollout")
        assert troubles == []


def test_languages_switch(fresh):
    fresh.get_by_role("radio", name="中文").click()
    fresh.wait_for_function("() => document.querySelector('main').lang === 'zh-Hans'")
    assert fresh.get_by_text("方法").count() >= 1
    fresh.get_by_role("radio", name="English").click()
    fresh.wait_for_function("() => document.querySelector('main').lang === 'en'")


def test_names_stay_text(fresh, tiny_view):
    assert fresh.locator("main b").count() == 0
    names = [label for label, _ in tiny_view.header["predictions"]]
    assert [one for one in names if "<b>" in one or "[red]" in one]
    assert set(names) <= set(fresh.locator(".vs-predictions span").all_text_contents())


def test_the_document_is_an_island_that_no_name_can_leave(tiny_view):
    document = json.loads(json.dumps(tiny_view.document()))
    document["header"]["photo"]["name"] = "</script><img src=x onerror=alert(1)>\u2028\u2029<!--"
    text = page(document)
    island = re.search(r'<script type="application/json">(.*?)</script>', text, re.S)[1]
    assert "<" not in island
    assert "\u2028" not in island
    assert json.loads(island) == document
    assert "&lt;/script&gt;" in text[: text.index("<style>")]


def test_the_policy_allows_nothing_from_outside(tiny_file):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', tiny_file.read_text("latin-1"))[1]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_every_byte_comes_through_a_page(browser, tiny_view, tmp_path):
    """Arrays whose streams hold each byte, also those that HTML changes."""
    document = tiny_view.document()
    values = np.random.default_rng(0).integers(0, 256, 20_000).astype(np.uint8)
    document["arrays"]["every"] = Packed.of(values).document()
    document["other"] = {"header": document["header"], "arrays": {"more": Packed.of(values[::-1]).document()}}
    path = tmp_path / "bytes.html"
    path.write_bytes(page_bytes(document, "en"))
    with opened(browser, path.as_uri()) as (made, troubles):
        got = made.evaluate("async () => [...await document.querySelector('main').viewer.ctx.data.array('every')]")
        assert got == values.tolist()
        assert troubles == []


def test_the_viewer_itself_is_small():
    assert len((bundle() + styles()).encode()) <= 150_000


def test_several_viewers_do_not_disturb_each_other(browser, tiny_view, tmp_path):
    text = page(tiny_view.document(), "en")
    path = tmp_path / "two.html"
    path.write_text(re.sub("<meta http-equiv[^>]*>", "", text).replace(
        "root.viewer = viewer;",
        "root.viewer = viewer; const more = document.body.appendChild(document.createElement('div'));"
        "more.viewer = mount(more, given, fileHost, { lang: 'en' });",
    ), "utf-8")  # fmt: skip
    with opened(browser, path.as_uri()) as (made, troubles):
        made.evaluate(SET, {"layer": 0, "source": "query"})
        shown(made, "layer 0")
        made.wait_for_function("() => document.querySelector('div.vs').viewer.ctx.scene")
        assert made.evaluate("document.querySelector('div.vs').viewer.state.layer") == 2
        made.evaluate("document.querySelector('main').viewer.destroy()")
        assert made.locator("div.vs .vs-stage").count() == 1
        assert troubles == []


@pytest.mark.weights
def test_the_default_photo_fits_and_hover_keeps_up(browser, tmp_path):
    """518 pixels, some 1,370 tokens, 12 layers, 6 heads: at most 10 MB, and a hovered patch within a frame."""
    scope, cat = vitscope.load(), data.chelsea()
    made = scope.view(cat, methods=("auto",), measure=False)
    text = page_bytes(made.document(), "en")
    assert len(text) <= 10_000_000
    assert made.header["attention"]["error"]["head_beyond"] < 0.01  # of the 20 largest weights, those off by over 1 %
    assert made.header["attention"]["error"]["mean_beyond"] < 0.01
    path = tmp_path / "cat.html"
    path.write_bytes(text)
    rows, (gh, gw) = scope.queries(cat), made.header["layout"]["grid"]
    with opened(browser, path.as_uri()) as (made_page, troubles):
        for row, column in ((3, 5), (gh // 2, gw // 2), (gh - 2, gw - 4)):
            hover(made_page, vitscope.TokenLayout(("cls",), (gh, gw)), row, column)
            drawn = shown(made_page, f"patch {row},{column}")
            near_at_the_top(drawn, rows[1 + row * gw + column], 2e-2)
        made_page.evaluate("document.querySelector('main').viewer.ctx.stage.timings.length = 0")
        for column in range(gw):
            hover(made_page, vitscope.TokenLayout(("cls",), (gh, gw)), gh // 2, column)
            made_page.wait_for_timeout(30)
        timings = made_page.evaluate("document.querySelector('main').viewer.ctx.stage.timings")
        assert len(timings) > 10
        assert numbers.median(one["work"] for one in timings) <= 16
        assert troubles == []
