"""The viewer's panels in both browsers: what they draw, compare, save and tell is what Python says."""

import io
import json
import re
import shlex
import sys
import zipfile

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image
from scipy.stats import spearmanr

import vitscope
from tests.helpers.browser import CAPTION, SET, SHOWN, VIEWER, shown, texts
from vitscope.cli.main import main

MARKED = {
    "better than random": "▲ better than random",
    "worse than random": "▼ worse than random",
    "no better than random": "= no better than random",
}
ENDS = ".vs-half-told:nth-of-type(%d) .vs-ends span"


@pytest.fixture(scope="module")
def layers(tiny_scope, photo):
    return tiny_scope.statistics(photo).layers


def state_of(made):
    return made.evaluate(f"() => {VIEWER}.state")


def attribute(made, selector, name):
    return made.evaluate(
        "([selector, name]) => [...document.querySelectorAll(selector)].map((one) => one.getAttribute(name))",
        [selector, name],
    )


def straight(drawn, values):
    """Whether places on an axis are a straight line of the values, to a tenth of a unit of the chart."""
    slope, start = np.polyfit(values, drawn, 1)
    return slope != 0 and np.abs(slope * np.asarray(values) + start - drawn).max() < 0.1


def numbers_of(path):
    return np.array([float(one) for one in path.replace("M", " ").replace("L", " ").split()]).reshape(-1, 2)


@pytest.mark.parametrize(
    ("number", "name"), [(1, "distance"), pytest.param(2, "entropy_normalised", marks=pytest.mark.slow)]
)
def test_every_head_is_a_dot_at_its_number(clean, layers, number, name):
    clean.evaluate(SET, {"panel": "numbers"})
    chart = f".vs-charts:has(.vs-dot) .vs-figure-box:nth-child({number}) .vs-dot"
    true = [value for layer in layers for value in getattr(layer, name)]
    assert straight([float(y) for y in attribute(clean, chart, "cy")], true)
    depth = [layer for layer, one in enumerate(layers) for _ in getattr(one, name)]
    assert straight([float(x) for x in attribute(clean, chart, "cx")], depth)


def test_a_dot_under_the_pointer_is_that_head_on_the_photo(clean, tiny_scope, photo):
    clean.evaluate(SET, {"panel": "numbers"})
    box = clean.box(".vs-dot", "layer 0, head 1")
    clean.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    clean.wait(CAPTION, "layer 0, head 1")
    e = tiny_scope.explain(photo, method="attention", layer=0, head=1)
    assert np.allclose(clean.evaluate(SHOWN), [*e.prefix, *e.map.ravel()], rtol=2e-3)
    assert state_of(clean)["source"] == "map"
    clean.move(1, 1)
    clean.wait(CAPTION, "rollout")
    clean.click(".vs-dot", "layer 0, head 1")
    clean.move(1, 1)
    clean.wait(CAPTION, "layer 0, head 1")
    assert (state_of(clean)["layer"], state_of(clean)["head"]) == (0, 1)


def test_dots_are_walked_by_keys(clean, layers):
    clean.evaluate(SET, {"panel": "numbers", "source": "query", "layer": 2, "head": 0})
    clean.focus(".vs-dot[tabindex='0']")
    clean.press("ArrowLeft")
    clean.wait(CAPTION, "layer 1")
    assert state_of(clean)["layer"] == 2
    low, high = np.argsort(layers[1].distance)
    clean.press("ArrowDown", "ArrowUp")
    clean.wait(CAPTION, f"layer 1, head {high}")
    clean.press("ArrowDown")
    clean.wait(CAPTION, f"layer 1, head {low}")
    clean.press("Enter")
    assert (state_of(clean)["layer"], state_of(clean)["head"]) == (1, int(low))


def test_a_number_has_its_verdict_and_meaning_in_words(clean, tiny_pair):
    entry = tiny_pair.header["maps"][1]
    clean.evaluate(SET, {"panel": "numbers", "map": entry["id"]})
    numbers = entry["measurement"]["numbers"]
    assert [one["name"] for one in numbers] == ["deletion", "infidelity"]
    told = texts(clean, "figcaption strong")
    for at, number in enumerate(numbers):
        said = MARKED.get(number["verdict"], "? cannot tell")
        assert told[at] == said
        assert number["sentence"] in texts(clean, ".vs-figure-box > p")
        line = rf"{re.escape(said)} by (deletion, )?{number['name']}"
        assert re.search(line, texts(clean, ".vs-methods")[0])
        best = {"lower": "low is better", "higher": "high is better"}[number["better"]]
        words = rf"{re.escape(said)} · {number['name']} [\d.e-]+, random maps [\d.e-]+ \({best}\). "
        assert any(re.search(words, one) for one in attribute(clean, ".vs-methods small[title]", "title"))
    assert f"Value {numbers[1]['value']:.3g}"[:9] in texts(clean, ".vs-figure-box > .vs-note")[1]


def test_the_curve_is_the_measured_one_within_its_band(clean, tiny_pair):
    entry = tiny_pair.header["maps"][1]
    clean.evaluate(SET, {"panel": "numbers", "map": entry["id"]})
    number = entry["measurement"]["numbers"][0]
    (drawn,) = attribute(clean, ".vs-curve", "d")
    places = numbers_of(drawn)
    assert straight(places[:, 0], number["x"])
    assert straight(places[:, 1], number["y"])
    middle = numbers_of(attribute(clean, ".vs-random", "d")[0])
    slope, start = np.polyfit(number["y"], places[:, 1], 1)
    around = np.array(number["around"])
    assert np.allclose(middle[:, 1], slope * around[:, 0] + start, atol=0.1)
    band = numbers_of(attribute(clean, ".vs-band", "d")[0].removesuffix("Z"))
    inside = (around[:, 2] < around[:, 0].max()) & (around[:, 1] > around[:, 0].min())
    assert np.allclose(band[: len(places), 1][inside], (slope * around[:, 2] + start)[inside], atol=0.1)
    label = attribute(clean, ".vs-charts svg", "aria-label")[0]
    assert MARKED.get(number["verdict"], "? cannot tell") in label
    assert number["sentence"] in label


def test_the_step_of_the_slider_is_a_dot_on_the_curve(clean, tiny_pair):
    clean.evaluate(SET, {"panel": "numbers", "deletion_step": 3})
    places = numbers_of(attribute(clean, ".vs-curve", "d")[0])
    dot = [float(attribute(clean, ".vs-at", name)[0]) for name in ("cx", "cy")]
    assert np.allclose(dot, places[3], atol=0.1)


def test_sinks_are_marked_and_lead_to_who_looks_at_them(clean, tiny_scope, photo):
    clean.evaluate(SET, {"panel": "numbers"})
    marked = """() => {
        const context = document.querySelector('.vs-marks').getContext('2d');
        return context.getImageData(0, 0, 2000, 2000).data.some(Boolean);
    }"""
    assert not clean.evaluate(marked)
    clean.click(".vs-tab .vs-toggle input")
    assert clean.evaluate(marked)
    sink = tiny_scope.statistics(photo).sinks[0]
    clean.click(".vs-tab .vs-quiet")
    clean.wait(CAPTION, "Who looks at patch " + sink.name)
    assert np.allclose(clean.evaluate(SHOWN), tiny_scope.queries(photo, layer=2)[:, sink.token], rtol=2e-2, atol=1e-4)


def test_two_photos_stand_beside_each_other_with_what_makes_them_alike(clean, tiny_pair):
    clean.evaluate(SET, {"panel": "compare", "norm": "range"})
    clean.wait("() => document.querySelectorAll('.vs-half-told strong')[1].textContent.includes('coffee')")
    for number, view in ((1, tiny_pair), (2, tiny_pair.other)):
        entry = next(one for one in view.header["maps"] if one["alike"])
        values = values_of(view, entry)
        ends = [float(one) for one in texts(clean, ENDS % number)]
        assert np.allclose(ends, [values.min(), values.max()], rtol=1e-2)
    assert attribute(clean, ".vs-half img", "src") == [
        view.header["images"][name] for view in (tiny_pair, tiny_pair.other) for name in ("photo", "photo_below")
    ]


def values_of(view, entry):
    return view.arrays[f"map.{entry['id']}"].array().astype(float) * entry["scale"]


def of(tiny_pair, left=0, right=1):
    ids = [one["id"] for one in tiny_pair.header["maps"]]
    return {"left": f"own:{ids[left]}", "right": f"own:{ids[right]}", "at": 50, "beside": False}


def test_one_scale_for_both_is_that_of_all_values(clean, tiny_pair):
    clean.evaluate(SET, {"panel": "compare", "compare": of(tiny_pair, 0, 2), "norm": "range"})
    second = tiny_pair.header["maps"][2]["method"]  # what is drawn first has other lines, and the toggle another place
    clean.wait("(name) => document.querySelectorAll('.vs-half-told strong')[1]?.textContent.includes(name)", second)
    clean.click(".vs-tab .vs-toggle input")
    clean.wait("() => document.querySelector('.vs-half-told .vs-note')?.textContent.includes('shared')")
    entries = [tiny_pair.header["maps"][i] for i in (0, 2)]
    values = [values_of(tiny_pair, one) for one in entries]
    ends = [[float(one) for one in texts(clean, ENDS % number)] for number in (1, 2)]
    assert ends[0] == ends[1]
    assert np.allclose(ends[0], [min(map(np.min, values)), max(map(np.max, values))], rtol=1e-2)


def test_two_maps_are_wiped_by_the_pointer(clean, tiny_pair):
    clean.evaluate(SET, {"panel": "compare", "compare": of(tiny_pair)})
    box = clean.box(".vs-pair")
    clean.move(box["x"] + box["width"] / 2, box["y"] + 20)
    clean.down()
    clean.move(box["x"] + box["width"] * 0.25, box["y"] + 30)
    clean.up()
    clean.move(box["x"] + box["width"] * 0.9, box["y"] + 30)
    now = int(attribute(clean, ".vs-handle", "aria-valuenow")[0])
    assert abs(now - 25) <= 1
    clipped = clean.evaluate("() => getComputedStyle(document.querySelector('.vs-half-left')).clipPath")
    assert clipped in (f"inset(0px {100 - now}% 0px 0px)", f"inset(0px {100 - now}% 0px 0px)")


def test_two_maps_are_wiped_by_keys(clean, tiny_pair):
    clean.evaluate(SET, {"panel": "compare", "compare": of(tiny_pair)})
    clean.focus(".vs-handle")
    at = []
    for key in ("ArrowRight", "PageUp", "ArrowLeft", "Home", "End", "ArrowRight"):
        clean.press(key)
        at.append(int(attribute(clean, ".vs-handle", "aria-valuenow")[0]))
    assert at == [52, 62, 60, 0, 100, 100]


@pytest.mark.parametrize("right", [1, 3])
def test_how_alike_two_maps_rank_is_spearmans(clean, tiny_pair, right):
    clean.evaluate(SET, {"panel": "compare", "compare": of(tiny_pair, 0, right)})
    entries = [tiny_pair.header["maps"][i] for i in (0, right)]
    true = spearmanr(*(tiny_pair.arrays[f"map.{one['id']}"].array().ravel() for one in entries)).statistic
    words = f"over all patches: {true:.2f}"
    clean.wait("(words) => document.querySelector('.vs-tab [role=status]').textContent.includes(words)", words)


def save(made, label, state):
    made.evaluate(SET, {**state, "panel": "save"})
    made.wait(f"(source) => {VIEWER}.ctx.scene.kind === source", state.get("source", "map"))
    return made.saved(lambda: made.click(".vs-tab button", label))


def test_arrays_are_saved_as_numpy_reads_them(clean, tiny_pair, tiny_scope, photo):
    name, raw = save(clean, "Arrays", {"source": "query", "query": 6, "layer": 1, "head": 0})
    assert name == "chelsea-attention-layer1-head-0-1-1.npz"
    assert zipfile.ZipFile(io.BytesIO(raw)).testzip() is None
    arrays, drawn = np.load(io.BytesIO(raw)), np.array(clean.evaluate(SHOWN), np.float32)
    assert np.array_equal(arrays["shown"], drawn[1:].reshape(4, 4))
    assert np.array_equal(arrays["shown_prefix"], drawn[:1])
    assert arrays["heads"].shape == (3, 2, 17)
    assert np.allclose(arrays["heads"][1, 0, 1:], tiny_scope.attention_heads(photo, 1)[0].map.ravel(), rtol=2e-3)
    for entry in tiny_pair.header["maps"]:
        values = tiny_pair.arrays[f"map.{entry['id']}"].array().astype(np.float32) * np.float32(entry["scale"])
        assert np.allclose(arrays[f"map.{entry['id']}"], values.reshape(4, 4), rtol=1e-6)


def test_the_picture_has_photo_map_and_legend(clean):
    _, raw = save(clean, "Picture", {"opacity": 1})
    inside = Image.open(io.BytesIO(raw)).text
    assert inside["Title"] == "rollout"
    assert inside["Comment"].startswith("vitscope explain ")
    assert "random maps" in inside["Description"]  # how far it can be believed
    picture = np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")).astype(int)
    height, width, _ = picture.shape
    photo_height = round(width * 300 / 451)
    assert width >= 960
    assert height > photo_height + 100
    assert picture[:photo_height].std() > 20
    legend, unit = picture[photo_height:], width / 50
    assert (legend[-1] == 255).all()
    bar = legend[:, round(1.2 * unit + 2)], legend[:, round(23.2 * unit - 3)]
    for strip, share in zip(bar, (0.0, 1.0), strict=True):
        colour = np.array(colormaps["inferno"](share)[:3]) * 255
        assert (np.abs(strip - colour).max(1) < 6).sum() > unit / 2
    assert ((legend < 120).all(2)).mean() > 0.005  # letters


def test_values_are_saved_with_scale_state_and_command(clean):
    name, raw = save(clean, "Values", {"norm": "range"})
    told = json.loads(raw)
    drawn = clean.evaluate(SHOWN)
    assert name == "chelsea-rollout.json"
    assert told["values"] == drawn[1:]
    assert told["prefix"] == {"cls": drawn[0]}
    assert told["scale"] == {"kind": "range", "low": min(drawn[1:]), "high": max(drawn[1:])}
    assert told["state"]["norm"] == "range"
    assert told["command"].startswith("vitscope explain")
    assert told["model"]["reference"].endswith("tiny-vit")


def field(made, label):
    return made.evaluate("(one) => document.querySelector(`textarea[aria-label*='${one}']`).value", label)


@pytest.mark.slow
def test_the_link_opens_the_exact_state(browser, clean, tiny_pair):
    state = {
        "source": "query", "query": 9, "layer": 0, "head": 1, "pinned": [3, 9], "cmap": "viridis", "opacity": 0.5,
        "norm": "share", "smooth": False, "compare": of(tiny_pair, 1, 2), "panel": "save",
    }  # fmt: skip
    clean.evaluate(SET, state)
    clean.wait(CAPTION, "What patch 2,0 looks at · layer 0, head 1")  # the link is of what is shown
    with shown(browser, field(clean, "link")) as other:
        other.wait(CAPTION, "What patch 2,0 looks at · layer 0, head 1")
        assert state_of(other) == state_of(clean)
        assert np.allclose(other.evaluate(SHOWN), clean.evaluate(SHOWN))


@pytest.mark.spread
@pytest.mark.parametrize(
    "state",
    [
        {"source": "map", "norm": "range", "smooth": False},
        {"source": "query", "query": 7, "layer": 1, "head": 0},
        {"source": "query", "query": 0, "layer": 1, "head": "max", "rolled": True, "opacity": 0.5},
    ],
)
def test_the_command_line_makes_the_same_map(clean, tmp_path, monkeypatch, state):
    clean.evaluate(SET, {**state, "panel": "save"})
    clean.wait(CAPTION, {"map": "rollout", "query": "What"}[state["source"]])
    clean.wait(CAPTION, "rolled out" if state.get("rolled") else "")
    words = shlex.split(field(clean, "Command for this image"))
    assert words[:2] == ["vitscope", "explain"]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    [made] = (tmp_path / "out").iterdir()
    e = vitscope.Explanation.load(made)
    assert np.allclose(clean.evaluate(SHOWN), [*e.prefix, *e.map.ravel()], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"source": "query", "query": 7}, ["--norm", "robust"]),
        ({"source": "query", "query": 7, "norm": "range"}, ["--norm", "minmax"]),
        ({"cmap": "grey"}, ["--cmap", "gray"]),
        ({"cmap": "balance", "opacity": 0.5}, ["--cmap", "RdBu_r", "--opacity", "0.5"]),
        ({"norm": "balance"}, []),
    ],
)
def test_the_command_draws_as_the_page_does_where_it_can(clean, state, words):
    clean.evaluate(SET, {**state, "panel": "save"})
    clean.wait(CAPTION, "What" if "query" in state else "rollout")
    given = shlex.split(field(clean, "Command for this image"))
    drawing = [i for i, word in enumerate(given) if word in ("--norm", "--cmap", "--opacity", "--blocks")]
    assert [word for i in drawing for word in given[i : i + 2]] == words


@pytest.mark.parametrize(
    ("state", "lost"),
    [
        ({"norm": "range", "cmap": "viridis", "smooth": False, "opacity": 0.2}, ""),
        (
            {"norm": "balance", "shared": True, "sinks": True, "deletion_step": 3},
            "Signed, zero in the middle · One scale for all thumbnails · Mark sinks · Hide the hottest patches",
        ),
        ({"as_seen": True, "source": "query", "query": 3, "pinned": [4]}, "As the model saw it · Pinned, to compare"),
        ({"source": "received", "query": 5, "norm": "share"}, "Drawing"),
    ],
)
def test_the_command_says_what_it_leaves_out(clean, state, lost):
    clean.evaluate(SET, {**state, "panel": "save"})
    clean.wait(CAPTION, {"query": "What", "received": "Who"}.get(state.get("source"), "rollout"))
    told = clean.text(".vs-copy:has([aria-label*='for this image']) + .vs-note")
    assert told == (f"Not included, because no command draws it: {lost}." if lost else "")


def test_where_no_command_does_it_python_is_said(clean, tiny_scope, photo):
    clean.evaluate(SET, {"source": "received", "query": 5, "layer": 1, "head": 0, "panel": "save"})
    clean.wait(CAPTION, "Who looks at")
    words = field(clean, "Command for this image")
    made = eval(words, {"vitscope": vitscope})
    assert np.allclose(clean.evaluate(SHOWN), made, rtol=1e-2, atol=1e-4)


def test_the_page_names_the_command_that_makes_it(clean, tiny_pair):
    words = shlex.split(field_of_page(clean))
    assert words[:2] == ["vitscope", "view"]
    assert [one.rsplit("/", 1)[-1] for one in words[2:4]] == ["chelsea.png", "coffee.png"]
    assert words[words.index("--method") + 1] == "rollout,attention,relevance,random"
    assert words[words.index("--top") + 1] == "2"
    assert "--size" not in words
    assert "--no-measure" not in words


def field_of_page(made):
    made.evaluate(SET, {"panel": "save"})
    return field(made, "Command for this page")
