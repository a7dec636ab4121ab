"""Two models of one photo on one page: both maps, the one minus the other, and what stays when one switches."""

import json

import numpy as np
import pytest

import vitscope
from tests.helpers.browser import CAPTION, SET, VIEWER, axe_of, texts
from tests.helpers.browser import shown as opened
from tests.helpers.viewing import hover, layout_of
from vitscope.errors import UsageError
from vitscope.viewer.page import page

HEADS = "() => [...document.querySelectorAll('.vs-half-told strong')].map((one) => one.textContent)"


@pytest.fixture(scope="module")
def twin_view(tiny_folder, photo, tmp_path_factory):
    """The tiny model and a copy of it whose last block's weights moved."""
    import torch
    from transformers import ViTForImageClassification

    model = ViTForImageClassification.from_pretrained(tiny_folder)
    with torch.no_grad():
        for weights in model.vit.layers[-1].parameters():
            weights += 0.2 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("models") / "tuned"
    model.save_pretrained(folder)
    methods = ("rollout", "attention")
    base, tuned = (vitscope.load(str(one)) for one in (tiny_folder, folder))
    return base.view(photo, beside=tuned, methods=methods, top=1, measure=False)


@pytest.fixture(scope="module")
def twins(browser, twin_view, tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "twins.html"
    path.write_text(page(twin_view.document(), "en"))
    with opened(browser, path.as_uri()) as made:
        yield made
        assert made.troubles == []


def arrays(view, layer, query):
    """A row of the mean over heads as the page has it: close to the model's own."""
    q, k = (view.arrays[f"{name}.{layer}"].array() for name in ("q", "k"))
    signs = [(one >> 1).astype(np.int64) ^ -(one & 1).astype(np.int64) for one in (q, k)]
    heads = view.header["layers"][layer]["heads"]
    weight = view.arrays[f"weight.{layer}"].array().reshape(heads, -1)
    tokens = q.size // weight.size
    left, right = (one.reshape(heads, -1, tokens) for one in signs)
    scores = np.einsum("hd,hd,hdj->hj", weight, left[:, :, query], right)
    rows = np.exp(scores - scores.max(1, keepdims=True))
    return (rows / rows.sum(1, keepdims=True)).mean(0)


def test_what_is_pointed_at_is_shown_by_both(twins, twin_view):
    twins.evaluate(SET, {"norm": "range"})
    hover(twins, layout_of(twin_view), 1, 2)
    twins.wait(f"() => ({HEADS})().every((one) => one.includes('What patch 1,2 looks at'))")
    told = twins.evaluate(HEADS)
    assert told[1].startswith(twin_view.other.header["model"]["reference"])
    high = [float(one) for one in texts(twins, ".vs-half-told .vs-ends span:last-child")]
    for view, shown in zip((twin_view, twin_view.other), high, strict=True):
        row = arrays(view, 2, 1 + 6)[1:]
        assert shown == pytest.approx(row.max(), rel=0.02)
    one, other = (arrays(view, 2, 1 + 6)[1:] for view in (twin_view, twin_view.other))
    difference = np.abs(other / other.sum() - one / one.sum()).max()
    end = float(texts(twins, ".vs-difference-told .vs-ends span:last-child")[0])
    assert end == pytest.approx(difference, rel=0.03)


def test_the_distance_is_told_layer_by_layer(twins, twin_view):
    layers = twin_view.header["twin"]["layers"]
    assert [one["relative"] > 0.01 for one in layers] == [False, False, True], layers
    (label,) = [
        one
        for one in twins.evaluate(
            "() => [...document.querySelectorAll('.vs-tab svg')].map((one) => one.getAttribute('aria-label'))"
        )
        if "CKA" in one
    ]
    assert f"Layer 2: {layers[2]['cka']:.3g}"[:14] in label


def test_what_is_looked_at_stays_when_the_other_model_is_shown(twins, twin_view):
    twins.move(1, 1)
    twins.evaluate(SET, {"source": "query", "query": 4, "layer": 1, "head": 0})
    twins.evaluate(SET, {"photo": 1})
    twins.wait(CAPTION, "layer 1, head 0")
    state = twins.evaluate(f"() => {VIEWER}.state")
    assert (state["query"], state["layer"], state["head"], state["panel"]) == (4, 1, 0, "models")
    assert texts(twins, ".vs-head p") == [twin_view.other.header["model"]["reference"]]
    twins.wait(f"(word) => ({HEADS})()[0].startsWith(word)", twin_view.other.header["model"]["reference"])
    twins.evaluate(SET, {"photo": 0})


def test_what_the_other_model_has_not_leaves_no_earlier_maps(twins):
    """Colours of features are of one model alone; what was compared before them is gone, and comes again."""
    told = "() => document.querySelector('.vs-tab [role=status]').textContent"
    seen = "() => [...document.querySelectorAll('.vs-tab .vs-half')].filter((one) => one.checkVisibility()).length"
    twins.evaluate(SET, {"panel": "models", "source": "query", "query": 4})
    twins.wait(f"() => ({seen})() === 3")
    twins.evaluate(SET, {"source": "pca"})
    twins.wait(f"() => ({told})().includes('Alike patches in alike colours') && ({seen})() === 0")
    twins.evaluate(SET, {"source": "query"})
    twins.wait(f"() => ({seen})() === 3")


@pytest.mark.slow
def test_maps_of_two_classes_say_which(browser, twin_view, tmp_path):
    """Each model explains what it predicts itself: under one name that would be a comparison of two questions."""
    document = json.loads(json.dumps(twin_view.document()))
    for part, target in ((document, "first"), (document["other"], "second")):
        part["header"]["maps"][0]["target"] = target
    path = tmp_path / "targets.html"
    path.write_text(page(document, "en"))
    with opened(browser, path.as_uri()) as made:
        made.wait(f"() => ({HEADS})()[1]")
        assert [one.rpartition(" · ")[2] for one in made.evaluate(HEADS)] == ["first", "second"]


def test_without_a_common_grid_there_is_no_difference(browser, twin_view, tmp_path):
    document = json.loads(json.dumps(twin_view.document()))
    box = document["other"]["header"]["region"]["box"]
    document["other"]["header"]["region"] |= {"box": [box[0] + 90, *box[1:]], "cells": None}
    path = tmp_path / "apart.html"
    path.write_text(page(document, "en"))
    with opened(browser, path.as_uri()) as made:
        made.wait("() => document.querySelector('.vs-tab [role=status]').textContent.includes('no difference map')")
        assert not made.evaluate("() => document.querySelector('.vs-contrast').checkVisibility()")


def test_two_models_leave_no_room_for_a_second_photo(tiny_scope, photo):
    with pytest.raises(UsageError):
        tiny_scope.view(photo, other=photo, beside=tiny_scope)


def test_the_command_names_both(twin_view):
    models = [twin_view.header["model"]["reference"], twin_view.other.header["model"]["reference"]]
    assert [word for word in models if f"--model {word}" in twin_view.header["command"]] == models


@pytest.mark.slow
@pytest.mark.parametrize("state", [{"theme": "light"}, {"theme": "dark", "lang": "zh", "source": "query", "query": 4}])
def test_axe_finds_nothing_on_two_models(twins, state):
    twins.evaluate(SET, {"panel": "models", **state})
    twins.wait("() => document.querySelector('.vs-difference-told strong').textContent")
    assert axe_of(twins)["violations"] == []
    twins.evaluate(SET, {"theme": "auto", "lang": "en"})


@pytest.mark.slow
def test_on_a_phone_long_names_of_two_models_take_one_row_and_hide_no_switch(chromium, twin_view, tmp_path):
    document = json.loads(json.dumps(twin_view.document()))
    names = [f"timm:vit_base_patch16_clip_224.{one}" for one in ("openai", "openai_ft_in1k")]
    for one, name in zip((document, document["other"]), names, strict=True):
        one["header"]["model"]["reference"] = name
    (tmp_path / "twins.html").write_text(page(document, "en"))
    with opened(chromium, (tmp_path / "twins.html").as_uri(), size=(400, 800)) as made:
        assert made.evaluate("() => document.querySelector('.vs-head').getBoundingClientRect().height") < 76
        outside = "() => [...document.querySelectorAll('.vs-head *')].map((o) => o.getBoundingClientRect().right)"
        assert max(made.evaluate(outside)) <= 400
        assert made.evaluate("() => document.documentElement.scrollWidth") <= 400
        assert [
            made.evaluate(f"() => document.querySelectorAll('.vs-which button')[{i}].title") for i in (0, 1)
        ] == names
        made.click(".vs-which button", names[1])
        made.wait(f"() => {VIEWER}.state.photo === 1")
        made.click(".vs-switches button", "Dark")
        made.wait("() => document.querySelector('main').dataset.theme === 'dark'")
        made.picture(tmp_path / "phone.png")
        assert made.troubles == []


@pytest.mark.slow
def test_a_model_given_twice_has_two_names(browser, tiny_folder, photo, tmp_path):
    scope = vitscope.load(str(tiny_folder))
    view = scope.view(photo, beside=scope, methods=("rollout",), top=1, measure=False)
    path, name = tmp_path / "same.html", view.header["model"]["reference"]
    path.write_text(page(view.document(), "en"))
    with opened(browser, path.as_uri()) as made:
        made.wait(f"() => ({HEADS})()[1]")
        assert [one.split(" · ")[0] for one in made.evaluate(HEADS)][:2] == [f"{name} (1)", f"{name} (2)"]
        assert texts(made, ".vs-which button") == [f"{name} (1)", f"{name} (2)"]
        assert texts(made, ".vs-head p") == [f"{name} (1)"]
        made.evaluate(SET, {"photo": 1})
        made.wait("(words) => document.querySelector('.vs-head p').textContent === words", f"{name} (2)")
        made.wait(f"(name) => ({HEADS})()[0]?.startsWith(name)", f"{name} (2)")
        assert texts(made, ".vs-which button") == [f"{name} (1)", f"{name} (2)"]
        assert made.troubles == []


@pytest.mark.slow
def test_the_second_model_may_come_later(twin_view, browser, tmp_path):
    """A page that grows, as in a notebook, has one model first: its switch then names models, not the photo twice."""
    document = twin_view.document()
    path = tmp_path / "grown.html"
    own = {**{key: value for key, value in document.items() if key != "other"}}
    own["header"] = {key: value for key, value in document["header"].items() if key != "twin"}
    path.write_text(page(own, "en"))
    with opened(browser, path.as_uri()) as made:
        made.evaluate(f"(more) => {VIEWER}.grow(more)", document)
        names = [one.header["model"]["reference"] for one in (twin_view, twin_view.other)]
        assert texts(made, ".vs-which button") == names
