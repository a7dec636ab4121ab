"""What Python says is Chinese on a Chinese page: all that its sources can say, and all that a page shows."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

import vitscope
from tests.helpers.browser import CAPTION, SET, VIEWER, shown
from tests.helpers.sayings import GAP, compiled, sayings, table
from tests.models import toys as zoo
from vitscope.viewer.page import page_bytes

ENGLISH = re.compile(r"[A-Za-z]{2,} [a-z]{2,}|[a-z]{3,}: ")  # words that follow each other
NAMES = {
    "vitscope", "tiny", "vit", "cat", "coffee", "softmax", "auto", "notebook-recipe", "gradcam", "sink", "rollout",
    "attention", "random", "cls", "CLS", "tabby", "hound", "teapot", "kite", "red", "robin", "fox", "ant", "English",
    "Spearman", "inferno", "viridis", "cividis", "grey", "balance", "PNG", "npz", "JSON", "PageUp", "PageDown", "Esc",
    "Shift", "P", "relevance", "dev", "MB", "png",
}  # fmt: skip
WORDS = """() => {
    const found = [], skipped = 'textarea, script, style, .vs-predictions';
    const names = ['aria-label', 'title', 'placeholder', 'aria-valuetext'];
    const { SHOW_ELEMENT, SHOW_TEXT } = NodeFilter;
    const walk = document.createTreeWalker(document.querySelector('main'), SHOW_ELEMENT | SHOW_TEXT);
    while (walk.nextNode()) {
        const one = walk.currentNode;
        if (one.nodeType === 3 && !one.parentElement.closest(skipped)) found.push(one.data);
        else for (const name of names) found.push(one.getAttribute?.(name) ?? '');
    }
    return found.filter(Boolean);
}"""


@pytest.fixture(scope="module")
def told():
    """All that the sources can say on a page, and where."""
    return sorted(set(sayings()))


def test_the_sources_are_read(told):
    """The reader of the sources finds what is known to be there, of each kind."""
    words = {one for one, _ in told}
    assert {
        "it was not asked for", f"layers {GAP} do not fit into {GAP} MB", "transparency laid on white",
        f"the method '{GAP}' does not apply: {GAP}", "the recipe reads token 0 as CLS, and this model has no CLS token",
        f"frame {GAP} of {GAP} frames", f"not {GAP}: {GAP}", "the server is busy: its queue is full",
        f"{GAP} is truncated or broken: {GAP}", "its layers do not all see the same tokens",
    } <= words  # fmt: skip
    assert len(words) > 120


def test_all_that_python_says_has_its_chinese(told):
    forms = [compiled(english) for english, _ in table()]
    assert [one for one in told if not any(form.fullmatch(one[0]) for form in forms)] == []


def test_both_languages_have_the_same_values():
    for english, chinese in table():
        given, used = (set(re.findall(r"\{(\w)\}", text)) for text in (english, chinese))
        assert given - {"_"} == used, english


@pytest.fixture(scope="module")
def page(chromium, tiny_scope, tmp_path_factory):
    """A Chinese page with as many things to say as there are, of a photo that is not quite plain."""
    folder = tmp_path_factory.mktemp("photos")
    cat = np.dstack([data.chelsea(), np.full(data.chelsea().shape[:2], 200, np.uint8)])
    Image.fromarray(cat).save(folder / "cat.png")
    Image.fromarray(data.coffee()).save(folder / "coffee.png")
    methods = ("auto", "notebook-recipe", "sink-rollout")
    view = tiny_scope.view(folder / "cat.png", other=folder / "coffee.png", methods=methods, measure=False)
    document = view.document()
    document["header"]["model"]["reference"] = "tiny-vit"
    document["header"]["missing"].append({"what": "layers", "why": "layers 0 to 3 do not fit into 10 MB"})
    path = folder / "page.html"
    path.write_bytes(page_bytes(document, "zh"))
    with shown(chromium, path.as_uri()) as made:
        yield made
        assert made.troubles == []


def test_a_chinese_page_has_no_english(page):
    page.evaluate("() => { for (const one of document.querySelectorAll('main details')) one.open = true; }")
    found = []
    states = [{"panel": "about", "map": one} for one in page.evaluate(f"() => {VIEWER}.ctx.data.maps.map((m) => m.id)")]
    states += [{"panel": name} for name in ("grid", "numbers", "compare", "save")]
    states += [{"tour": step} for step in range(6)]
    states += [{"tour": None, "source": "query", "query": 3, "pinned": [3, 9], "norm": "balance", "sinks": True}]
    for state in states:
        page.evaluate(SET, state)
        page.evaluate("() => new Promise((done) => setTimeout(done, 60))")
        found += page.evaluate(WORDS)
    words = {word for text in found for word in re.findall(r"[A-Za-z]{2,}", text)}
    assert words - NAMES == set(), [text for text in found if set(re.findall(r"[A-Za-z]{2,}", text)) - NAMES]
    assert {"透明处已铺白底", "测量: 未要求", "层: 第 0 至 3 层放不进 10 MB"} <= set(found)
    assert any("并非展开" in text for text in found)
    assert any("vitscope 为此模型所选：gradcam（类别的依据）" in text for text in found)


def test_an_english_page_says_what_python_says(page):
    page.evaluate(SET, {"lang": "en", "panel": "about", "source": "map", "tour": None, "map": "1-notebook-recipe"})
    page.wait(CAPTION, "notebook-recipe")
    assert "it was not asked for" in page.text(".vs-tab")
    assert "not rollout: the layers are multiplied in the wrong order" in page.text(".vs-below")
    page.evaluate(SET, {"lang": "zh"})


@pytest.fixture(scope="module")
def reasons():
    """Why methods do not apply: to models of four kinds, one of them with windows."""
    from transformers import SwinConfig, SwinModel

    torch.manual_seed(0)
    config = SwinConfig(image_size=64, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)
    models = [row.model() for row in zoo.ROWS if row.name in ("vit", "ijepa", "beit")] + [SwinModel(config).eval()]
    scopes = [vitscope.load(model) for model in models]
    found = {method.reason for scope in scopes for method in scope.methods() if not method}
    return sorted(found | {note for scope in scopes for note in scope.adapter.notes})


def test_real_reasons_and_their_hints_are_chinese_through_and_through(page, reasons):
    assert len(reasons) >= 5
    whole = [
        f"the method 'notebook-recipe' does not apply: {reason} (these do: attention, rollout)" for reason in reasons
    ]
    advice = f"chosen by vitscope for this model: relevance (evidence for the class; not gradcam: {reasons[0]})"
    asked = [*reasons, *whole, advice, "no class is called 'ca' (did you mean 'cat'? choices: cat, dog)"]
    made = page.evaluate(f"(all) => all.map((one) => {VIEWER}.ctx.t.said(one))", asked)
    assert [one for one in made if ENGLISH.search(one)] == []
    assert made[-1] == "没有名为 ca 的类别（是否指 cat？可选：cat, dog）"


def test_what_nobody_foresaw_stays_as_it_is(page):
    odd = "RuntimeError: 3 != 4; and more (so it is)"
    assert page.evaluate(f"(one) => {VIEWER}.ctx.t.said(one)", odd) == odd
