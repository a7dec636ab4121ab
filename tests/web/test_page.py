"""The web app's page in Chromium: a photo goes in by drop, paste or click, and the viewer has the model behind it."""

import contextlib
import re
import threading

import numpy as np
import pytest

import vitscope
from tests.helpers.browser import SET, SHOWN, VIEWER, texts
from tests.helpers.webpage import CAT, DROP, PASTE, READY, SEEN, START, TITLE, moved
from tests.helpers.webserver import TOKEN, serving
from vitscope.images import decode_image
from vitscope.web.samples import sample_picture


@pytest.fixture(scope="module")
def address(tiny_scope):
    with serving(tiny_scope) as (made, _):
        yield made


@pytest.fixture(scope="module")
def app(chromium, address, request):
    """One page for all tests; nothing of it may go wrong or leave the server."""
    bad_file = any(one.function is test_a_bad_file_is_one_line_and_the_next_one_works for one in request.session.items)
    with chromium.opened(f"{address}/?token={TOKEN}", own=address) as made:
        wrong = []
        made.page.on("response", lambda one: wrong.append((one.status, one.url)) if one.status >= 400 else None)
        yield made
        assert [status for status, _ in wrong] == [422] * bad_file, wrong
        assert [one for one in made.troubles if "status of 422" not in one] == []


@pytest.fixture
def start(app):
    """The start page."""
    if app.evaluate("() => !document.querySelector('main').hidden"):
        app.click(".vw-above button", "Another photo")
    app.wait(START)
    return app


@pytest.fixture
def viewed(app):
    """A finished view of the cat: that of the test before, where there is one."""
    if app.evaluate("() => document.querySelector('main').hidden") or app.text("main h1") != "cat":
        app.evaluate(DROP, moved(CAT))
        app.wait(TITLE, "cat")
        app.wait(READY)
    app.evaluate(f"() => {{ const {{ store, ctx }} = {VIEWER}; store.set({{ ...ctx.initial }}); }}")
    return app


def test_a_photo_is_dropped(start, tiny_scope):
    marked, unheeded = start.evaluate(DROP, moved(CAT))
    assert marked
    assert not unheeded  # the browser itself would open the file
    start.wait(TITLE, "cat")
    start.wait(READY)
    drawn = start.evaluate(SHOWN)
    true = tiny_scope.explain(decode_image(CAT, "cat.png"), method="auto")
    assert np.allclose(drawn[1:], true.map.ravel(), rtol=2e-3, atol=1e-3 * np.abs(true.map).max())
    assert "?" not in start.evaluate("() => location.href")  # the token is gone from the address


def test_any_class_is_asked_on_demand(viewed, tiny_scope):
    label = "kite"
    viewed.evaluate("""(label) => {
        const [method, target] = document.querySelectorAll('.vs-more select');
        [method.value, target.value] = ['gradcam', label];
        method.dispatchEvent(new Event('change'));
    }""", label)  # fmt: skip
    viewed.click(".vs-more button")
    viewed.wait(f"(label) => {VIEWER}.ctx.scene.entry?.target === label && {VIEWER}.ctx.scene.entry.more", label)
    true = tiny_scope.explain(decode_image(CAT, "cat.png"), method="gradcam", target=label)
    assert np.allclose(viewed.evaluate(SHOWN)[1:], true.map.ravel(), rtol=2e-3, atol=2e-3 * np.abs(true.map).max())
    assert any("kite" in one for one in texts(viewed, ".vs-methods button"))


@pytest.mark.parametrize("mode", ["fill", "drop"])
def test_patches_are_painted_away_and_the_answer_stands_beside_the_promise(viewed, tiny_scope, mode):
    viewed.wait("() => !/patches hidden/.test(document.querySelector('main').textContent)")  # and nothing moves
    viewed.click(".vs-toggle", "Paint")
    viewed.click("[role=radio]", mode)
    box = viewed.box(".vs-stage")
    viewed.move(box["x"] + box["width"] * 0.1, box["y"] + box["height"] * 0.1)
    viewed.down()
    viewed.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.1)
    viewed.up()
    told = viewed.wait("() => /2 patches hidden.*ms/.exec(document.querySelector('main').textContent)?.[0]")
    assert viewed.evaluate(f"() => {VIEWER}.state.mode") == mode
    whole = decode_image(CAT, "cat.png")
    true = tiny_scope.predict_without(whole, [0, 1], mode)
    score, before = (float(one) for one in re.search(r"hidden: ([\d.e-]+), was ([\d.e-]+)", told).groups())
    assert score == pytest.approx(true.score, rel=1e-2)
    assert before == pytest.approx(true.whole, rel=1e-2)
    assert f"({true.words}; " in told
    values = np.clip(viewed.evaluate(SHOWN)[1:], 0, None)
    promise = f"The map put {100 * values[:2].sum() / values.sum():.0f}"
    said = viewed.evaluate("() => document.querySelector('main').textContent")
    assert promise in said
    label, p = true.predictions[0]
    after = f"→ {100 * p:.{1 if p < 0.1 else 0}f} %"
    assert any(label in one and after in one for one in texts(viewed, ".vs-predictions li"))
    viewed.click(".vs-toggle", "Paint")


def test_paint_its_answer_and_the_photo_are_in_sight_together(viewed):
    viewed.resize(1440, 900)
    viewed.evaluate(SET, {"hidden": [viewed.evaluate(f"() => {VIEWER}.ctx.data.prefix.length")]})
    viewed.wait("() => document.querySelector('.vs-both')")
    viewed.evaluate("() => scrollTo(0, 0)")
    bottom = "(part) => document.querySelector(part).getBoundingClientRect().bottom"
    paint = ".vs-row > .vs-toggle"
    assert all(0 < viewed.evaluate(bottom, part) <= 900 for part in (".vs-stage", ".vs-masked", ".vs-both", paint))
    viewed.resize(1280, 900)


@pytest.fixture
def held(monkeypatch):
    """Hold the model before the second map of a view, until the event is set."""
    from vitscope.viewer import view

    free, explain = threading.Event(), view._Parts.explain

    def waiting(self, name):
        if self.maps:
            assert free.wait(60)
        explain(self, name)

    monkeypatch.setattr(view._Parts, "explain", waiting)
    yield free
    free.set()


def test_the_first_map_is_there_before_the_last_is_made_and_what_one_does_meanwhile_stays(start, held, tiny_scope):
    start.click("[data-sample=coffee]")
    start.wait(SEEN)
    assert start.text("main h1") == "coffee"
    true = tiny_scope.explain(sample_picture("coffee"), method="auto")
    assert start.evaluate(f"() => {VIEWER}.ctx.data.maps.map((one) => one.method)") == [true.method]
    assert np.allclose(start.evaluate(SHOWN)[1:], true.map.ravel(), rtol=2e-3, atol=1e-3 * np.abs(true.map).max())
    assert texts(start, ".vs-more button") == []  # the model is at work
    chosen = {"source": "query", "query": 6, "layer": 1, "head": 1, "panel": "about", "opacity": 0.4}
    start.evaluate(f"(chosen) => {VIEWER}.store.set(chosen)", chosen)
    start.wait(f"() => {VIEWER}.ctx.scene.of.query === 6")
    assert "further maps" in start.text(".vs-tab")
    start.evaluate("() => { document.querySelector('.vs-stage').marked = true; }")
    held.set()
    start.wait(READY)
    assert start.evaluate(f"(chosen) => Object.keys(chosen).map((key) => {VIEWER}.state[key])", chosen) == list(
        chosen.values()
    )
    assert start.evaluate("() => document.querySelector('.vs-stage').marked")  # and not made anew
    methods = start.evaluate(f"() => {VIEWER}.ctx.data.maps.filter((one) => !one.label).map((one) => one.method)")
    assert methods == [true.method, "attention", "rollout", "relevance", "random"]
    assert len(texts(start, ".vs-methods button")) == len(methods)
    assert len(texts(start, ".vs-predictions button")) == 5  # each with its map by now
    assert "further maps" not in start.text(".vs-tab")
    assert len(texts(start, ".vs-more button")) == 1
    start.evaluate(f"() => {VIEWER}.store.set({{ source: 'map' }})")
    start.wait(f"() => {VIEWER}.ctx.scene.of.source === 'map'")
    assert np.allclose(start.evaluate(SHOWN)[1:], true.map.ravel(), rtol=2e-3, atol=1e-3 * np.abs(true.map).max())


@pytest.mark.slow
def test_a_reload_goes_on_with_a_view_in_the_making(start, held):
    start.click("[data-sample=rocket]")
    start.wait(SEEN)
    start.wait("() => location.hash.startsWith('#view=')")
    start.page.reload()
    start.wait(SEEN)
    assert start.evaluate(f"() => {VIEWER}.ctx.data.maps.length") == 1
    held.set()
    start.wait(READY)
    assert start.evaluate(f"() => {VIEWER}.ctx.data.maps.length") == 10


@pytest.mark.slow
def test_what_is_shown_stays_when_the_rest_is_cancelled(start, held):
    start.click("[data-sample=digits]")
    start.wait(SEEN)
    start.click(".vw-above button", "Cancel")
    held.set()
    start.wait("() => !document.querySelector('.vw-above progress')")
    assert start.evaluate(f"() => {VIEWER}.ctx.data.maps.length") == 1
    assert texts(start, ".vw-error") == []
    start.click(".vw-above button", "Measure")
    start.wait(READY)
    start.wait(f"() => {VIEWER}.ctx.data.maps.filter((one) => one.measurement).length === 10")


@pytest.mark.slow
def test_what_is_under_way_when_a_view_is_left_is_broken_off(start):
    """The view is gone by then, and the answer would be a 404."""
    from playwright.sync_api import Error

    held, refused = [], []
    start.page.route("**/*part=rest", lambda route: held.append(route), times=1)
    start.page.on("response", lambda one: refused.append(one.url) if one.status >= 400 else None)
    start.click("[data-sample=coffee]")
    start.wait(SEEN)
    while not held:
        start.page.wait_for_timeout(20)
    start.click(".vw-above button", "Another photo")
    start.wait(START)
    with contextlib.suppress(Error):  # there is nothing to go on with
        held[0].continue_()
    start.page.wait_for_timeout(500)
    assert refused == []


@pytest.mark.slow
def test_measuring_is_asked_for_beside_the_viewer(viewed):
    viewed.click(".vw-above button", "Measure")
    viewed.wait("() => document.querySelector('main').viewer?.ctx.data.maps.some((one) => one.measurement)")
    assert re.search(r"random by (infidelity, )?deletion", viewed.text(".vs-methods"))


@pytest.mark.slow
def test_a_photo_is_pasted(start):
    start.evaluate(PASTE, moved(CAT, "pasted.png"))
    start.wait(TITLE, "pasted")
    start.wait(READY)


@pytest.mark.slow
def test_a_sample_is_taken_and_a_reload_keeps_it(start, tiny_scope):
    start.click("[data-sample=coffee]")
    start.wait(TITLE, "coffee")
    start.wait(READY)
    before = start.evaluate(SHOWN)
    true = tiny_scope.explain(sample_picture("coffee"), method="auto")
    assert np.allclose(before[1:], true.map.ravel(), rtol=2e-3, atol=1e-3 * np.abs(true.map).max())
    start.page.reload()
    start.wait(READY)
    assert start.evaluate(SHOWN) == before


LATE = """(seconds) => {
    const real = window.fetch;
    window.fetch = async (path, ...given) => {
        const answer = await real(path, ...given);
        if (path === "/api/views") {
            window.fetch = real;
            await new Promise((go) => setTimeout(go, 1000 * seconds));
        }
        return answer;
    };
}"""


@pytest.mark.slow
@pytest.mark.parametrize("late", [0, 2])
def test_a_running_question_is_cancelled_and_nothing_stays(start, tiny_scope, monkeypatch, late):
    """Held by a model that waits to be cancelled; also where the question's name comes after the wish to cancel it."""
    from vitscope.web import models

    entered = threading.Event()

    def held(scope, picture, asked, job):
        entered.set()
        while True:
            job.check()
            threading.Event().wait(0.01)

    monkeypatch.setattr(models, "make_view", held)
    start.evaluate(LATE, late)
    start.evaluate(DROP, moved(CAT))
    assert entered.wait(10)
    start.wait("() => document.querySelector('.vw-work progress')")
    start.press("Escape")
    start.wait(START)
    assert texts(start, ".vw-error") == []
    monkeypatch.undo()
    start.click("[data-sample=digits]")
    start.wait(TITLE, "digits")


@pytest.mark.slow
def test_a_bad_file_is_one_line_and_the_next_one_works(start, tiny_scope):
    start.evaluate(DROP, moved(b"hello, I am no picture" * 50, "notes.png"))
    said = start.wait("() => document.querySelector('.vw-error')?.textContent")
    assert "notes" in said
    assert len(said) < 200
    assert start.evaluate("() => document.querySelector('.vw-error').closest('[role=alert]') !== null")
    start.click(".vw-group [role=radio]", "中文")
    start.wait(
        "() => document.querySelector('.vw-error').textContent.startsWith('notes.png 不是可读取的图像可读取的有 ')"
    )
    assert any("一杯咖啡" in one for one in texts(start, ".vw-samples button"))  # and as letters that all see
    rows, columns = tiny_scope.layout.grid
    assert f"个类别，{rows} × {columns} 个图块" in start.text(".vw-row")
    start.click(".vw-group [role=radio]", "English")
    start.evaluate(DROP, moved(CAT))
    start.wait(READY)


@pytest.mark.slow
def test_measuring_says_how_far_it_came_when_time_is_over(start, monkeypatch):
    monkeypatch.setattr("vitscope.web.models._MEASURING_SHARE", 0.0)
    start.click("[data-sample=rocket]")
    start.wait(TITLE, "rocket")
    start.wait(READY)
    start.click(".vw-above button", "Measure")
    told = start.wait("() => document.querySelector('.vw-above .vw-said:last-child')?.textContent")
    assert re.search(r"as far as time allowed: 0 seconds were enough for 0 of \d+ maps", told)
    assert start.evaluate(f"() => {VIEWER}.ctx.data.maps.every((one) => !one.measurement)")


@pytest.mark.slow
def test_any_text_is_asked_of_a_model_that_reads(chromium, clip_folder):
    scope = vitscope.load(clip_folder)
    with serving(scope) as (made, _), chromium.opened(f"{made}/?token={TOKEN}", own=made) as page:
        page.wait(START)
        page.evaluate(DROP, moved(CAT))
        page.wait(READY)
        page.evaluate("""(words) => {
            document.querySelector('.vs-more select').value = 'relevance';
            document.querySelector('.vs-more input').value = words;
        }""", "a cat on a sofa")  # fmt: skip
        page.click(".vs-more button")
        page.wait(f"() => /a cat on a sofa/.test({VIEWER}.ctx.scene.entry?.target) && {VIEWER}.ctx.scene.entry.more")
        true = scope.explain(decode_image(CAT, "cat.png"), method="relevance", target=vitscope.text("a cat on a sofa"))
        drawn = page.evaluate(SHOWN)[-true.map.size :]
        assert np.allclose(drawn, true.map.ravel(), rtol=2e-3, atol=2e-3 * np.abs(true.map).max())
        assert page.troubles == []


@pytest.mark.slow
def test_a_phone_has_the_start_page_without_scrolling_sideways(chromium, address):
    """Also where the choice of a model is longer than a phone is wide."""

    def two(route):
        (one,) = (answer := route.fetch()).json()
        route.fulfill(response=answer, json=[one, one | {"reference": "timm:vit_base_patch16_clip_224.openai_ft_in1k"}])

    with chromium.opened(f"{address}/?token={TOKEN}", size=(400, 800), own=address) as made:
        made.page.route("**/api/models", two)
        made.page.reload()
        made.wait("() => document.querySelectorAll('.vw-row option').length === 2")
        assert made.evaluate("() => document.documentElement.scrollWidth") <= 400
        right = "() => Math.max(...[...document.querySelectorAll('.vw *')].map((o) => o.getBoundingClientRect().right))"
        assert made.evaluate(right) <= 400
