"""The viewer in a browser: what it shows of attention is what Python says."""

import io
import re
import statistics as numbers
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torchvision.transforms.functional import to_tensor

import vitscope
from tests.helpers.browser import CAPTION as WAIT
from tests.helpers.browser import SET, SHOWN, VIEWER, texts
from tests.helpers.browser import shown as opened
from tests.helpers.sizes import sizes
from tests.helpers.viewing import hover, near_at_the_top, shown
from tests.models import toys as zoo
from vitscope.viewer.page import page


@pytest.mark.covering
@pytest.mark.parametrize("head", ["mean", *(pytest.param(one, marks=pytest.mark.slow) for one in ("max", 0)), 1])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_hovered_patch_shows_what_python_says_it_attends_to(fresh, tiny_scope, photo, layer, head):
    fresh.evaluate(SET, {"layer": layer, "head": head})
    hover(fresh, tiny_scope.layout, 1, 2)
    drawn = shown(fresh, "patch 1,2")
    e = tiny_scope.explain(photo, method="attention", layer=layer, head=head, query="1,2")
    near_at_the_top(drawn, np.concatenate([e.prefix, e.map.ravel()]))


def test_a_click_keeps_the_patch_and_escape_goes_back(fresh, tiny_scope):
    hover(fresh, tiny_scope.layout, 0, 3)
    fresh.down()
    fresh.up()
    fresh.move(1, 1)
    shown(fresh, "patch 0,3")
    fresh.focus(".vs-stage")
    fresh.press("Escape")
    shown(fresh, "rollout")


@pytest.mark.parametrize("head", ["mean", 1])
def test_who_attends_to_a_patch_is_a_column_of_all_queries(fresh, tiny_scope, photo, head):
    drawn = shown(fresh, "Who looks at patch 2,1", {"source": "received", "query": 10, "layer": 1, "head": head})
    near_at_the_top(drawn, tiny_scope.queries(photo, layer=1, head=head)[:, 10])


@pytest.mark.parametrize("start", [0, 1])
def test_rolled_out_is_rollout_of_that_query(fresh, tiny_scope, photo, start):
    state = {"source": "query", "query": 7, "layer": start, "rolled": True}
    drawn = shown(fresh, f"layers {start} to 2, rolled out", state)
    e = tiny_scope.explain(photo, method="rollout", query="1,2", start_layer=start)
    near_at_the_top(drawn, np.concatenate([e.prefix, e.map.ravel()]))


def test_the_cls_button_asks_cls(fresh, tiny_scope, photo):
    fresh.click("[role=radio]", "cls")
    e = tiny_scope.explain(photo, method="attention", query="cls")
    near_at_the_top(shown(fresh, "What cls looks at"), np.concatenate([e.prefix, e.map.ravel()]))


@pytest.fixture(scope="module")
def registers():
    """A tiny DINOv2 with three registers, and what the viewer shows of noise by it."""
    row = next(row for row in zoo.ROWS if row.name == "dinov2-registers")
    scope = vitscope.load(row.model(), processor=lambda image: to_tensor(image.resize(row.size[::-1])))
    pixels = np.random.default_rng(0).integers(0, 256, (*row.size, 3), np.uint8)
    return scope, pixels, scope.view(pixels, methods=("rollout",), measure=False)


def test_register_buttons_ask_registers(browser, registers, tmp_path):
    scope, pixels, view = registers
    path = tmp_path / "registers.html"
    path.write_text(page(view.document(), "en"))
    with opened(browser, path.as_uri()) as made:
        assert [one for one in texts(made, "[role=radio]") if "register" in one] == [f"register {i}" for i in (1, 2, 3)]
        drawn = []
        for name, layer, head in (("register 2", 2, "mean"), ("register 3", 1, 0), ("register 1", 0, 3)):
            made.evaluate(SET, {"layer": layer, "head": head})
            made.click("[role=radio]", name)
            drawn.append(shown(made, f"What {name} looks at · layer {layer}"))
            e = scope.explain(pixels, method="attention", query=name, layer=layer, head=head)
            near_at_the_top(drawn[-1], np.concatenate([e.prefix, e.map.ravel()]))
        assert drawn[0].shape == (4 + 24,)
        made.evaluate(SET, {"lang": "zh"})
        made.click("[role=radio]", "寄存器 2")
        shown(made, "寄存器 2 看向哪里")
        assert made.troubles == []


@pytest.fixture(scope="session")
def pooled_scope():
    """A tiny SigLIP: no CLS, read out by attention pooling."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    config = SiglipVisionConfig(
        **sizes(side=64, patch=16),
    )
    return vitscope.load(SiglipVisionModel(config).eval(), processor=lambda image: to_tensor(image.resize((64, 64))))


@pytest.mark.slow
def test_the_pooling_button_asks_the_pooling_query(browser, pooled_scope, photo, tmp_path):
    made = pooled_scope.view(photo, methods=("rollout",), measure=False)
    path = tmp_path / "pooled.html"
    path.write_text(page(made.document(), "en"))
    with opened(browser, path.as_uri()) as it:
        it.click("[role=radio]", "pooling query")
        drawn = shown(it, "What the pooling query looks at · in the attention pooling")
        near_at_the_top(drawn, pooled_scope.attention(photo).readout_weights()[0].numpy())
        assert it.evaluate(f"() => {VIEWER}.state.query") == -2
        it.click("[role=radio]", "Readout")
        shown(it, "What the readout looks at")
        assert it.troubles == []


def test_layers_are_stepped_by_keys(fresh, tiny_scope):
    fresh.evaluate(SET, {"source": "query"})
    fresh.focus(".vs-stage")
    fresh.press("PageDown")
    shown(fresh, "layer 1")
    fresh.press("PageDown")
    shown(fresh, "layer 0")
    fresh.focus(".vs-slider input")
    fresh.press("ArrowRight")
    shown(fresh, "layer 1")


def test_two_pins_say_how_much_they_share(fresh, tiny_scope, photo):
    fresh.evaluate(SET, {"source": "query", "query": 3, "pinned": [3, 9], "layer": 2})
    rows = tiny_scope.queries(photo, layer=2)
    share = np.minimum(rows[3], rows[9]).sum()
    told = fresh.wait("() => document.querySelector('.vs-pins .vs-note')?.textContent")
    assert abs(float(re.search(r"([\d.]+) %", told)[1]) / 100 - share) < 0.01


def test_a_thumbnail_is_its_head_and_a_click_enlarges_it(fresh, tiny_scope, photo):
    fresh.click(".vs-grid button", "layer 1, head 0")
    drawn = shown(fresh, "layer 1, head 0")
    heads = tiny_scope.attention_heads(photo, 1)
    near_at_the_top(drawn[1:], heads[0].map.ravel())


def test_a_class_shows_its_map(fresh, tiny_scope, photo):
    label, _ = tiny_scope.explain(photo, method="attention").predictions[1]
    fresh.click(".vs-predictions button", label)
    e = tiny_scope.explain(photo, method="evidence-walk", target=label)
    drawn = shown(fresh, "evidence-walk")
    assert np.allclose(drawn[1:], e.map.ravel(), rtol=2e-3, atol=2e-3 * np.abs(e.map).max())


def test_every_method_shows_its_own_map(fresh, tiny_view, tiny_scope, photo):
    for entry in tiny_view.header["maps"][:3]:
        fresh.evaluate(SET, {"map": entry["id"], "source": "map"})
        fresh.wait(f"(id) => {VIEWER}.ctx.scene.entry?.id === id", entry["id"])
        e = tiny_scope.explain(photo, method=entry["method"], **entry["options"])
        assert np.allclose(fresh.evaluate(SHOWN)[1:], e.map.ravel(), rtol=2e-3, atol=2e-3 * np.abs(e.map).max())


def test_the_colour_bar_says_the_ends_of_the_scale(fresh, tiny_view):
    fresh.evaluate(SET, {"norm": "range"})
    values = np.array(fresh.evaluate(SHOWN))[1:]
    ends = [float(text) for text in texts(fresh, ".vs-below .vs-ends span")]
    assert ends[0] == pytest.approx(values.min(), rel=1e-2)
    assert ends[2] == pytest.approx(values.max(), rel=1e-2)
    assert "Smallest to largest" in fresh.text(".vs-unit")


def test_deletion_steps_hide_the_hottest_patches(fresh, tiny_view):
    entry = tiny_view.header["maps"][0]
    curve = next(one for one in entry["measurement"]["numbers"] if one["name"] == "deletion")
    fresh.evaluate(SET, {"deletion_step": 3})
    words = f"{round(curve['x'][3] * 16)} of 16 patches hidden"
    fresh.wait("(words) => document.querySelector('.vs-steps').textContent.includes(words)", words)
    label, likely = entry["steps"][3][0]
    assert f"Then predicted: {label} ({likely * 100:.0f}" in fresh.text(".vs-steps")
    order = tiny_view.arrays[f"order.{entry['id']}"].array()
    hidden = fresh.evaluate(f"() => {VIEWER}.ctx.deleted()")
    assert sorted(token - 1 for token in hidden) == sorted(order[: round(curve["x"][3] * 16)])


@pytest.mark.slow
def test_the_link_brings_the_state_back_and_wrong_links_are_harmless(browser, tiny_file):
    link = f"{tiny_file.as_uri()}#source=%22query%22&query=7&layer=1&head=0"
    with opened(browser, link) as made:
        shown(made, "What patch 1,2 looks at · layer 1, head 0")
        assert made.troubles == []
    wrong = f"{tiny_file.as_uri()}#layer=99&query=-7&head=%22x%22&map=%22%3Cb%3E%22&source=3&__proto__=1&opacity=%7B%7D"
    with opened(browser, wrong) as made:
        shown(made, "rollout")
        assert made.troubles == []


def test_languages_switch(fresh):
    fresh.click("[role=radio]", "中文")
    fresh.wait("() => document.querySelector('main').lang === 'zh-Hans'")
    assert "方法" in fresh.text(".vs-side")
    assert "的概率（softmax）" in fresh.text(".vs-steps")
    fresh.click("[role=radio]", "English")
    fresh.wait("() => document.querySelector('main').lang === 'en'")


def test_names_stay_text(fresh, tiny_view):
    assert texts(fresh, "main b") == []
    names = [label for label, _ in tiny_view.header["predictions"]]
    assert [one for one in names if "<b>" in one or "[red]" in one]
    assert set(names) <= set(texts(fresh, ".vs-predictions span"))


def test_a_map_lies_on_its_photo_as_in_the_image_that_python_draws(chromium, tiny_scope, tmp_path):
    """On a photo that shows its object by hue alone, so that it matters how grey is made."""
    y, x = np.mgrid[:300, :400]
    inside = np.abs(np.hypot(x - 200, y - 150) - 80) < 25
    photo = np.where(inside[..., None], (230, 60, 60), (60, 132, 118)).astype(np.uint8)
    view = tiny_scope.view(photo, methods=("rollout",), measure=False)
    (tmp_path / "ring.html").write_text(page(view.document(), "en"))
    drawn = np.asarray(tiny_scope.explain(photo, method="rollout").overlay(), float)
    with opened(chromium, (tmp_path / "ring.html").as_uri()) as made:
        made.move(*(made.box(".vs-stage")[at] + 50 for at in "xy"))
        made.move(1, 1)
        made.wait(WAIT, "rollout")
        made.page.wait_for_timeout(300)  # of the fading
        shot = Image.open(io.BytesIO(made.page.locator(".vs-stage").screenshot())).convert("RGB").resize((400, 300))
    apart = np.abs(np.asarray(shot, float) - drawn)[8:-8, 8:-8]
    assert apart.mean() < 2.5
    assert np.percentile(apart, 95) < 8


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(300)
def test_the_default_photo_is_exact_and_hover_keeps_up(chromium, tmp_path):
    """518 pixels, some 1,370 tokens, 12 layers, 6 heads: at most 20 MB, and a hovered patch within a frame.

    The page times itself. A busy machine only ever adds to that: of three walks over the photo the best one counts.
    """
    scope, cat = vitscope.load(), data.chelsea()
    made = scope.view(cat, methods=("auto",), measure=False)
    text = page(made.document(), "en")
    assert len(text) <= 20_000_000
    error = made.header["attention"]["error"]
    assert max(error["head_max"], error["mean_max"]) < 0.02  # of the 20 largest weights of every row
    path = tmp_path / "cat.html"
    path.write_text(text)
    rows, (gh, gw) = scope.queries(cat), made.header["layout"]["grid"]
    assert gh * gw > 1300
    assert made.header["layers"][-1]["heads"] == 6
    drawn = SimpleNamespace(grid=(gh, gw))  # the photo's own grid; the scope's layout is that of its standard input
    with opened(chromium, path.as_uri()) as it:
        for row, column in ((3, 5), (gh // 2, gw // 2), (gh - 2, gw - 4)):
            hover(it, drawn, row, column)
            near_at_the_top(shown(it, f"patch {row},{column}"), rows[1 + row * gw + column])
        found = []
        for row in (gh // 2, gh // 3, gh // 4):
            it.evaluate(f"() => {{ {VIEWER}.ctx.stage.timings.length = 0; }}")
            for column in range(gw):
                hover(it, drawn, row, column)
                it.wait(WAIT, f"patch {row},{column}")
            timings = it.evaluate(f"() => {VIEWER}.ctx.stage.timings")
            assert len(timings) > 10
            found.append(numbers.median(one["work"] for one in timings))
            if found[-1] <= 16:
                break
        print(f"a hovered patch is drawn in {min(found):.1f} ms")
        assert min(found) <= 16
        assert it.troubles == []
