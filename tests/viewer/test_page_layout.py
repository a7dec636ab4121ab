"""The photo stays in sight; what the model did not see is hatched; the first ten seconds have a hint."""

import copy

import pytest

from tests.helpers.browser import CAPTION, SET, VIEWER
from tests.helpers.browser import shown as opened
from tests.helpers.viewing import hover
from vitscope.viewer.page import page

IN_SIGHT = """() => {
    const { top, bottom, height } = document.querySelector('.vs-stage').getBoundingClientRect();
    const sheet = document.querySelector('.vs-rest').getBoundingClientRect().top;
    const floor = innerWidth < 860 ? Math.min(innerHeight, sheet) : innerHeight;
    return Math.max(0, Math.min(bottom, floor) - Math.max(top, 0)) / height;
}"""


@pytest.fixture
def sized(tiny):
    """The page; each test chooses the size of its window."""
    tiny.evaluate(f"() => {{ const {{ store, ctx }} = {VIEWER}; store.set({{ ...ctx.initial }}); }}")
    tiny.move(1, 1)
    yield tiny
    tiny.resize(1280, 900)


@pytest.mark.parametrize(
    ("size", "least"),
    [
        ((1440, 700), 0.9),
        pytest.param((900, 700), 0.9, marks=pytest.mark.slow),
        ((400, 800), 0.95),
        pytest.param((3840, 2160), 0.9, marks=pytest.mark.slow),
    ],
)
def test_a_clicked_head_and_the_photo_are_in_sight_together(sized, size, least):
    sized.resize(*size)
    sized.click(".vs-grid button", "layer 0, head 1")
    sized.wait(CAPTION, "layer 0, head 1")
    box = sized.box(".vs-grid button", "layer 0, head 1")
    assert 0 <= box["y"] <= size[1] - box["height"]
    assert sized.evaluate(IN_SIGHT) >= least


@pytest.mark.parametrize("size", [(1440, 900), (1280, 720), pytest.param((3840, 2160), marks=pytest.mark.slow)])
def test_what_stands_below_the_photo_is_in_sight_with_it(sized, size):
    """The photo does not scroll away, so that what is below the window's edge could not be reached either."""
    sized.resize(*size)
    edges = """() => ['.vs-film', '.vs-caption', '.vs-scale', '.vs-steps'].map(
        (part) => Math.round(document.querySelector(part).getBoundingClientRect().bottom)
    )"""
    film, caption, scale, steps = sized.evaluate(edges)
    assert 0 < film < caption < scale < steps <= size[1]


@pytest.mark.slow
def test_below_a_narrow_photo_the_legend_has_room(browser, tiny_view, tmp_path):
    document = copy.deepcopy(tiny_view.document())
    width, _ = document["header"]["region"]["size"]
    document["header"]["region"] |= {"size": [width, 4 * width], "box": [0, 0, width, 4 * width]}
    (tmp_path / "tall.html").write_text(page(document, "en"))
    with opened(browser, (tmp_path / "tall.html").as_uri(), size=(1440, 900)) as made:
        apart = """() => [...document.querySelectorAll('.vs-scale .vs-ends span, .vs-unit')].map((one) => {
            const range = document.createRange();
            range.selectNodeContents(one);
            const { left, right } = range.getBoundingClientRect();
            return [left, right];
        })"""
        (_, low), (start, middle), (last, high), (unit, _) = made.evaluate(apart)
        assert low < start < middle < last < high < unit
        assert made.evaluate("() => document.querySelector('.vs-scale').getBoundingClientRect().bottom") <= 900


@pytest.mark.slow
def test_a_phone_shows_title_colours_and_slider_of_a_patch_above_the_sheet(sized, tiny_scope):
    sized.resize(400, 800)
    hover(sized, tiny_scope.layout, 1, 2)
    sized.wait(CAPTION, "What patch 1,2 looks at · layer 2, mean of heads")
    below = "() => document.querySelector('.vs-steps').getBoundingClientRect().bottom"
    assert sized.evaluate(below) <= sized.evaluate("() => document.querySelector('.vs-rest').offsetTop")


@pytest.mark.parametrize("size", [(1440, 900), (400, 800)])
def test_why_one_class_and_not_another_is_answered_in_sight(sized, size):
    sized.resize(*size)
    sized.click(".vs-predictions + .vs-quiet")
    sized.wait("() => document.querySelector('.vs-pair')?.offsetHeight > 0")
    top, bottom = "'.vs-pair').getBoundingClientRect().top", "'.vs-grab').getBoundingClientRect().bottom"
    at, handle = (f"document.querySelector({one}" for one in (top, bottom))
    sized.wait(f"() => {handle} <= {at} && {at} <= innerHeight - 200")


def test_a_class_has_a_track_below_its_bar_with_a_map_of_its_own_too(sized):
    track = "() => getComputedStyle(document.querySelector('.vs-share > button')).backgroundImage"
    assert "gradient" in sized.evaluate(track)


def test_the_layout_follows_its_container_and_not_the_window(sized):
    sized.resize(1440, 900)
    widths = []
    for width in ("600px", "1000px", ""):
        sized.evaluate("(width) => { document.querySelector('main').style.inlineSize = width; }", width)
        widths.append(sized.evaluate("() => document.querySelector('.vs-stage').clientWidth"))
    narrow, middle, wide = widths
    assert narrow >= 300
    assert middle >= 500
    assert wide > middle


def test_a_phone_has_a_sheet_that_makes_room(sized):
    sized.resize(400, 800)
    sheet = "() => Math.round(document.querySelector('.vs-rest').getBoundingClientRect().height)"
    before = sized.evaluate("() => document.querySelector('.vs-stage').clientHeight"), sized.evaluate(sheet)
    assert sized.evaluate("() => document.documentElement.scrollHeight") <= 800
    sized.click(".vs-grab")
    assert sized.evaluate(sheet) < 60 < before[1]
    assert sized.evaluate("() => document.querySelector('.vs-grab').getAttribute('aria-expanded')") == "false"
    sized.click(".vs-grab")
    assert sized.evaluate(sheet) == before[1]


@pytest.fixture(scope="module")
def cropped(browser, tiny_view, tmp_path_factory):
    """A page whose model saw the middle of the photo alone, a third of its width."""
    document = copy.deepcopy(tiny_view.document())
    region = document["header"]["region"]
    width, height = region["size"]
    region["box"] = [width / 3, 0, 2 * width / 3, height]
    path = tmp_path_factory.mktemp("pages") / "cropped.html"
    path.write_text(page(document, "en"))
    with opened(browser, path.as_uri()) as made:
        yield made
        assert made.troubles == []


def test_what_the_model_did_not_see_is_hatched_and_told(cropped):
    alphas = """() => {
        const canvas = document.querySelector('.vs-marks'), { width, height } = canvas;
        const at = (x) => {
            const place = [Math.round(x * width), 0, Math.round(width / 6), height];
            const { data } = canvas.getContext('2d').getImageData(...place);
            return data.filter((_, i) => i % 4 === 3).reduce((sum, one) => sum + (one > 0), 0) / (data.length / 4);
        };
        return [at(0.05), at(0.4), at(0.8)];
    }"""
    left, middle, right = cropped.evaluate(alphas)
    assert (left, middle, right) == (1, 0, 1)
    assert "67 % of the photo, hatched, was not seen by the model" in cropped.text(".vs-below > .vs-note")
    cropped.evaluate(SET, {"as_seen": True})
    assert cropped.evaluate(alphas)[0] == 0
    cropped.evaluate(SET, {"as_seen": False})


@pytest.mark.slow
def test_a_hint_stands_on_the_photo_until_one_points_at_it(browser, tiny_file):
    with opened(browser, tiny_file.as_uri()) as made:
        assert made.text(".vs-hint") == "Point at any patch to see what it looks at"
        assert made.evaluate("() => document.querySelector('.vs-ring').checkVisibility()") == (
            browser.name == "chromium"
        )
        box = made.box(".vs-stage")
        made.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        made.wait("() => !document.querySelector('.vs-hint, .vs-ring')")
        if browser.name == "chromium":  # with a profile of its own for each page
            assert made.text(".vs-switches > .vs-quiet") == "New here? Tour"
        made.evaluate(SET, {"tour": 0})
        made.wait("() => document.querySelector('.vs-switches > .vs-quiet').textContent === 'Tour'")


@pytest.mark.slow
def test_the_hint_says_what_pointing_shows_in_each_view(browser, tiny_file):
    with opened(browser, tiny_file.as_uri()) as made:
        for state, said in (
            ({"source": "received"}, "Point at any patch to see which patches look at it"),
            (
                {"source": "like", "query": 4},
                "Point at any patch to see what is like it: the cosine of their features",
            ),
            ({"source": "query", "hover": "value"}, "Point at any patch to read its value"),
            ({"hover": "attend"}, "Point at any patch to see what it looks at"),
        ):
            made.evaluate(SET, state)
            assert made.text(".vs-hint") == said


def test_each_method_says_what_it_answers_among_its_like(sized):
    told = "() => [...document.querySelectorAll('.vs-methods > *')].map((one) => one.firstChild.textContent)"
    assert sized.evaluate(told) == ["Where it looks", "rollout", "attention", "Why this answer", "relevance"]
    assert "what reaches the answer through all layers" in sized.text(".vs-methods")


def test_a_finger_that_scrolls_asks_nothing_and_one_that_is_lifted_does(sized):
    touch = """([kind, x, y]) => {
        const stage = document.querySelector('.vs-stage'), { left, top, width, height } = stage.getBoundingClientRect();
        const where = { clientX: left + x * width, clientY: top + y * height, pointerType: 'touch', bubbles: true };
        stage.dispatchEvent(new PointerEvent(kind, where));
    }"""
    query = f"() => {VIEWER}.state.query"
    for kind in ("pointerdown", "pointercancel"):
        sized.evaluate(touch, [kind, 0.6, 0.4])
    assert sized.evaluate(query) == -1
    for kind in ("pointerdown", "pointerup"):
        sized.evaluate(touch, [kind, 0.6, 0.4])
    assert sized.evaluate(query) == 7


def test_contours_are_lines_and_leave_the_photo_between_them(sized):
    opaque = """() => {
        const canvas = document.querySelector('.vs-heat');
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const alpha = data.filter((_, i) => i % 4 === 3), some = alpha.filter((one) => one > 0);
        return [some.length / alpha.length, some.every((one) => one === 255)];
    }"""
    assert sized.evaluate(opaque)[0] > 0.99
    sized.evaluate(SET, {"contours": True})
    share, full = sized.evaluate(opaque)
    assert 0.01 < share < 0.3
    assert full
    sized.evaluate(SET, {"contours": False})
