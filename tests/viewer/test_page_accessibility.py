"""Everyone can use the viewer: axe-core, keys alone, small and large screens, dark and light, less motion."""

import os
from pathlib import Path

import pytest
from PIL import Image
from skimage import data

import vitscope
from tests.helpers.browser import CAPTION, SET, VIEWER, axe_of, browser_of, shown
from vitscope.viewer.page import page

STATES = {
    "map": {},
    "dark map": {"theme": "dark"},
    "heads of a patch": {"panel": "grid", "source": "query", "query": 6, "head": 0, "pinned": [3, 9]},
    "heads by layer, dark": {"panel": "grid", "heads": "layers", "theme": "dark"},
    "flow": {"source": "query", "query": 6, "flow": True},
    "numbers": {"panel": "numbers", "deletion_step": 3, "sinks": True},
    "numbers, dark": {"panel": "numbers", "source": "received", "query": 1, "theme": "dark"},
    "two photos": {"panel": "compare", "shared": True},
    "swipe, dark": {"panel": "compare", "theme": "dark", "swipe": True},
    "save": {"panel": "save", "theme": "dark"},
    "tour in Chinese": {"tour": 3, "panel": "about", "lang": "zh"},
    "tour, dark": {"tour": 5, "theme": "dark"},
}
# each part, and each theme, is in another state
FEWER = ("map", "dark map", "heads by layer, dark", "flow", "numbers", "numbers, dark", "swipe, dark", "tour, dark")
ARTEFACTS = Path(os.environ["VITSCOPE_ARTEFACTS"]) if "VITSCOPE_ARTEFACTS" in os.environ else None
QUIETER = ("grid", "numbers", "save")
GROUPS = "[role=radiogroup], [role=tablist], .vs-grid, .vs-chart"  # within these, arrow keys move
WALKED = """() => {
    const one = document.activeElement;
    if (one.className === 'fence') return null;
    const { outlineStyle, outlineWidth, strokeWidth } = getComputedStyle(one);
    const outlined = outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2;
    if (!window.walked.has(one)) window.walked.set(one, window.walked.size);
    return {
        number: window.walked.get(one), seen: outlined || (one.tagName === 'circle' && strokeWidth === '3px'),
        tag: one.tagName, name: one.className.baseVal ?? one.className,
    };
}"""
FENCED = """() => {
    window.walked = new Map();
    for (const one of document.querySelectorAll('main details')) one.open = true;
    const fence = () => Object.assign(document.createElement('button'), { className: 'fence', textContent: 'fence' });
    const [first, last] = [fence(), fence()];
    document.querySelector('main').before(first);
    document.querySelector('main').after(last); // a walk that left the page would end in the browser's own bars
    first.focus();
}"""
MISSED = """(groups) => {
    const kinds = ['button', 'input', 'select', 'summary', 'textarea', '[tabindex]', 'a'];
    const all = [...document.querySelectorAll(kinds.map((one) => `main ${one}`).join())];
    const walked = [...window.walked.keys()];
    return all.filter((one) => one.checkVisibility() && !one.disabled && one.tagName !== 'H2' && !walked.includes(one)
        && !walked.some((other) => one.closest(groups)?.contains(other))).map((one) => one.outerHTML.slice(0, 120));
}"""


@pytest.fixture(scope="module")
def open_page(browser, pair_file):
    with shown(browser, pair_file.as_uri()) as made:
        yield made
        assert made.troubles == []


@pytest.fixture
def made(open_page):
    open_page.resize(1280, 900)
    open_page.evaluate(f"() => {{ const {{ store, ctx }} = {VIEWER}; store.set({{ ...ctx.initial }}); }}")
    open_page.wait(CAPTION, "rollout")
    return open_page


def go(made, state, view):
    state = dict(state)
    if state.pop("swipe", False):
        left, right = (f"own:{one['id']}" for one in view.header["maps"][:2])
        state["compare"] = {"left": left, "right": right, "at": 40, "beside": False}
    made.evaluate(SET, state)
    if state.get("tour") is not None:
        made.wait("() => !document.querySelector('.vs-tour').hidden")
    if state.get("panel") == "compare":
        made.wait("() => document.querySelector('.vs-half-told strong')?.textContent")


@pytest.mark.parametrize("name", [pytest.param(one, marks=[pytest.mark.slow] * (one in FEWER)) for one in STATES])
def test_axe_finds_no_violation_of_wcag_2_2_aa(made, tiny_pair, name):
    go(made, STATES[name], tiny_pair)
    for section in range(made.evaluate("() => document.querySelectorAll('main details').length")):
        made.evaluate("(i) => { document.querySelectorAll('main details')[i].open = true; }", section)
    found = axe_of(made)
    assert found["violations"] == []
    assert found["passes"] > 15


def test_axe_would_find_one(made):
    axe_of(made)
    names = """async () => {
        const bad = document.querySelector('main').appendChild(document.createElement('button'));
        const { violations } = await window.axe.run(document, { runOnly: { type: 'tag', values: ['wcag2a'] } });
        bad.remove();
        return violations.map(({ id }) => id);
    }"""
    assert "button-name" in made.evaluate(names)


@pytest.mark.parametrize("panel", ["compare", "about", *(pytest.param(one, marks=pytest.mark.slow) for one in QUIETER)])
def test_tab_reaches_everything_and_the_focus_is_seen(made, tiny_pair, panel):
    go(made, {"panel": panel, "swipe": True, "tour": 1 if panel == "about" else None}, tiny_pair)
    made.front()
    made.evaluate(FENCED)
    walked = []
    for _ in range(90):
        made.press("Tab")
        one = made.evaluate(WALKED)
        if one is None:
            break
        walked.append(one)
    else:
        pytest.fail("Tab never leaves the viewer")
    made.evaluate("() => { for (const one of document.querySelectorAll('.fence')) one.remove(); }")
    assert [one for one in walked if not one["seen"]] == []
    assert made.evaluate(MISSED, GROUPS) == []
    assert len({one["number"] for one in walked}) == len(walked) > 12


@pytest.mark.spread
@pytest.mark.parametrize("panel", ["grid", "numbers", "compare", "save", "about"])
def test_nothing_sticks_out_at_400_pixels(made, tiny_pair, panel):
    made.resize(400, 800)
    go(made, {"panel": panel, "tour": 2 if panel == "grid" else None}, tiny_pair)
    assert made.evaluate("() => document.documentElement.scrollWidth") <= 400
    outside = """() => [...document.querySelectorAll('main *')].filter((one) => one.checkVisibility()
        && one.getBoundingClientRect().right > 401 && !one.closest('.vs-half, .vs-sr')).map((one) => one.className)"""
    assert made.evaluate(outside) == []
    small = """() => [...document.querySelectorAll('main button')].filter((one) => one.checkVisibility()
        && !one.closest('.vs-grid') && one.getBoundingClientRect().height < 24).map((one) => one.textContent)"""
    assert made.evaluate(small) == []


def test_a_large_screen_is_used(made):
    made.resize(3840, 2160)
    made.wait("() => document.querySelector('.vs-stage').clientWidth > 2400")
    assert made.evaluate("() => document.querySelector('.vs-stage').getBoundingClientRect().bottom") < 2160
    assert float(made.evaluate("() => getComputedStyle(document.querySelector('.vs-note')).fontSize")[:-2]) >= 17


def test_dark_and_light_turn_paper_and_ink(made):
    look = """() => {
        const { color, backgroundColor } = getComputedStyle(document.querySelector('main'));
        return [color, backgroundColor];
    }"""
    brightness = {}
    for theme in ("light", "dark"):
        made.click(".vs-switches [role=radio]", theme.capitalize())
        assert made.evaluate("() => document.querySelector('main').dataset.theme") == theme
        brightness[theme] = [sum(int(part) for part in one[4:-1].split(",")) for one in made.evaluate(look)]
    assert brightness["light"][0] < 150 < 700 < brightness["light"][1]
    assert brightness["dark"][1] < 150 < 600 < brightness["dark"][0]


PAPER = "() => getComputedStyle(document.querySelector('main')).backgroundColor"


@pytest.mark.slow
def test_the_systems_own_darkness_is_followed(chromium, pair_file):
    with shown(chromium, pair_file.as_uri(), color_scheme="dark") as made:
        assert sum(int(part) for part in made.evaluate(PAPER)[4:-1].split(",")) < 150


@pytest.mark.slow
@pytest.mark.parametrize("dark", [True, False])
def test_the_systems_own_darkness_is_followed_in_firefox(pair_file, tmp_path, dark):
    """Its BiDi cannot say which colours the system prefers; a profile of its own can."""
    chosen = {"layout.css.prefers-color-scheme.content-override": 0 if dark else 1}
    with browser_of("firefox", tmp_path / "browser", **chosen) as other, shown(other, pair_file.as_uri()) as made:
        assert (sum(int(part) for part in made.evaluate(PAPER)[4:-1].split(",")) < 150) == dark


MOVES = """() => [...document.querySelectorAll('main, main *')].filter((one) => {
    const { transitionDuration, animationName } = getComputedStyle(one);
    return animationName !== 'none' || transitionDuration.split(',').some((part) => parseFloat(part) > 0);
}).length"""


@pytest.mark.slow
def test_less_motion_is_honoured(browser, pair_file, made):
    if browser.name == "firefox":  # started with that preference
        assert made.evaluate("() => matchMedia('(prefers-reduced-motion: reduce)').matches")
        assert made.evaluate(MOVES) == 0
        return
    assert made.evaluate(MOVES) > 0
    with shown(browser, pair_file.as_uri(), reduced_motion="reduce") as still:
        assert still.evaluate(MOVES) == 0


PICTURES = {
    "map": {"opacity": 0.9},
    "one-patch": {"source": "query", "panel": "grid"},
    "heads by layer, dark": {"panel": "grid", "heads": "layers", "theme": "dark"},
    "flow": {"source": "query", "query": 6, "flow": True},
    "numbers": {"panel": "numbers", "deletion_step": 2},
    "compare-dark": {"panel": "compare", "theme": "dark", "swipe": True},
    "tour": {"tour": 3},
    "chinese": {"lang": "zh", "panel": "save"},
}


@pytest.fixture(scope="module")
def pictured(request, browser, tmp_path_factory):
    """A page to be pictured, and its view: of the real model where pictures are asked for, else that of the tests."""
    if ARTEFACTS is None:
        yield request.getfixturevalue("open_page"), request.getfixturevalue("tiny_pair")
        return
    view = request.getfixturevalue("real_pair")
    path = tmp_path_factory.mktemp("pages") / "cat.html"
    path.write_text(page(view.document(), "en"))
    with shown(browser, path.as_uri()) as made:
        yield made, view


@pytest.fixture(scope="session")
def real_pair(tmp_path_factory):
    """The cat and its mirrored part by the embedded DINOv2, measured: a minute or two."""
    folder = tmp_path_factory.mktemp("photos")
    for name, pixels in {"cat": data.chelsea(), "mirrored": data.chelsea()[20:280, 360:90:-1]}.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return vitscope.load().view(folder / "cat.png", other=folder / "mirrored.png", size=336)


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_six_states_are_pictured(pictured, browser, tmp_path, name):
    """To be looked at, of the real model: in the folder VITSCOPE_ARTEFACTS, where that is set."""
    made, view = pictured
    folder, size = ARTEFACTS or tmp_path, (1440, 1500)
    folder.mkdir(parents=True, exist_ok=True)
    made.resize(*size)
    rows, columns = view.header["layout"]["grid"]
    middle = len(view.header["layout"]["prefix"]) + rows // 2 * columns + columns // 3
    made.evaluate(
        f"(query) => {{ const {{ store, ctx }} = {VIEWER}; store.set({{ ...ctx.initial, query }}); }}", middle
    )
    go(made, PICTURES[name], view)
    made.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    path = folder / f"viewer-{name}-{browser.name}.png"
    made.picture(path)
    picture = Image.open(path).convert("RGB")
    assert picture.size == size
    assert len(picture.resize((128, 90)).getcolors(20_000)) > 200
