"""The viewer's file: its scripts alone, its island of data, its policy and size."""

import json
import re
from importlib.resources import files
from urllib.parse import quote

import numpy as np
import pytest
from matplotlib import colormaps
from tools import bundle

import vitscope
from tests.helpers.browser import texts
from vitscope._catalogues import page_texts
from vitscope.methods.base import METHODS
from vitscope.render.raster import limits
from vitscope.viewer.page import page, script, styles

MODULES = ("resample", "colours")  # which import no others


@pytest.fixture(scope="module")
def bare(browser):
    """Call a function of JavaScript with some of the viewer's modules, on an empty page."""
    assets = files("vitscope.viewer") / "assets"
    made = {name: f"data:text/javascript,{quote((assets / f'{name}.js').read_text('utf-8'))}" for name in MODULES}
    call = """async ([urls, given]) => {
        const modules = {};
        for (const [name, url] of Object.entries(urls)) modules[name] = await import(url);
        return (%s)(modules, ...given);
    }"""
    with browser.opened("about:blank") as blank:
        yield lambda function, *given: blank.evaluate(call % function, [made, given])


def test_placing_a_map_is_frames_own_bicubic(bare):
    region, values = (
        vitscope.ImageRegion((90, 70), (10.5, -8, 71, 64), (64, 64)),
        np.random.default_rng(0).random((4, 6)),
    )
    both = bare(
        """({ resample }, values, box) => [true, false].map((smooth) => {
            const laid = resample.place(Float32Array.from(values), 4, 6, 90, 70, box, smooth);
            return [laid.left, laid.top, laid.width, laid.height, [...laid.values]];
        })""",
        values.ravel().tolist(),
        region.box,
    )
    for smooth, (left, top, width, height, laid) in zip((True, False), both, strict=True):
        true = region.upsample(values.astype(np.float32), smooth)
        assert (left, top, left + width, top + height) == region.window()
        assert np.allclose(np.reshape(laid, (height, width)), true[top : top + height, left : left + width], atol=2e-5)


@pytest.mark.parametrize("name", ["inferno", "viridis", "cividis", "grey", "balance"])
def test_colours_are_those_that_the_command_names(bare, name):
    drawn = bare("({ colours }, name) => [...colours.coloursOf(name)]", name)
    table = colormaps[{"grey": "gray", "balance": "RdBu_r"}.get(name, name)](np.arange(256))[:, :3]
    assert np.abs(np.reshape(drawn, (256, 3)) - 255 * table).max() <= 1


@pytest.mark.parametrize("case", ["both signs", "few above zero", "none above zero", "all above zero", "flat"])
def test_the_scale_of_a_map_is_that_of_its_picture(bare, explained, case):
    values = {
        "both signs": np.linspace(-2, 3, 256),
        "few above zero": np.r_[np.linspace(-4, -1, 255), 5],
        "none above zero": np.linspace(-4, -1, 256),
        "all above zero": np.linspace(1, 2, 256),
        "flat": np.full(256, 0.5),
    }[case].reshape(16, 16)
    e = explained(values, (64, 64))
    norm = e.style().norm
    told = bare(
        "({ colours }, values, signed) => colours.limits(Float32Array.from(values), 'auto', signed)",
        values.ravel().tolist(),
        bool(values.min() < 0 < values.max()),
    )
    assert (told["low"], told["high"]) == pytest.approx(limits(values.astype(np.float32), norm))


def test_the_document_is_an_island_that_no_name_can_leave(tiny_view):
    document = json.loads(json.dumps(tiny_view.document()))
    document["header"]["photo"]["name"] = "</script><img src=x onerror=alert(1)>\u2028\u2029<!--"
    text = page(document)
    island = re.search(r'<script type="application/json" data-crc="\w+">(.*?)</script>', text, re.S)[1]
    assert "<" not in island
    assert "\u2028" not in island
    assert json.loads(island) == document
    assert "&lt;/script&gt;" in text[: text.index("<style>")]


def test_the_policy_allows_nothing_from_outside(tiny_file):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', tiny_file.read_text("latin-1"))[1]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_bundles_are_made_of_what_is_there():
    """`make bundle` was run after the last change of a module or a style sheet."""
    assert bundle.SUMS.read_text("utf-8") == bundle.sums(), "run make bundle"


def test_the_viewer_itself_is_small():
    assert max(len(script(name)) + len(styles()) for name in ("page", "notebook")) <= 220_000


def _in_json(whole):
    return next(n for n in range(whole.index(b'"score":'), len(whole)) if chr(whole[n]).isdigit())


def _in_arrays(whole):
    return whole.index(b'"data":"') + 100


@pytest.mark.parametrize("place", [_in_json, pytest.param(_in_arrays, marks=pytest.mark.slow)])
def test_a_damaged_page_says_so_and_shows_nothing(browser, tiny_view, tmp_path, place):
    whole = bytearray(page(tiny_view.document(), "en").encode())
    whole[place(whole)] ^= 1
    path = tmp_path / "damaged.html"
    path.write_bytes(whole)
    with browser.opened(path.as_uri()) as made:
        made.wait("() => document.querySelector('main').textContent")
        assert texts(made, "main > *") == ["This page was damaged after it was written: make it again."]


def test_each_method_of_ours_has_its_plain_line():
    told = page_texts("viewer-page")["en"]
    ours = [name for name, method in METHODS if method.run.__module__.startswith("vitscope.")]
    assert len(ours) > 20
    assert [name for name in ours if f"about_{name.replace('-', '_')}" not in told] == []
