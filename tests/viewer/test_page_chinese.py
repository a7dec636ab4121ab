"""A Chinese page is Chinese: its own texts, and the sentences of Python."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

import vitscope
from tests.helpers.browser import CAPTION, SET, VIEWER, shown
from tests.models import toys as zoo
from vitscope._catalogues import page_messages
from vitscope._messages import join_messages, msg
from vitscope.errors import MissingDependencyError, UnknownNameError
from vitscope.explanation import Explanation
from vitscope.viewer.page import page as page_of
from vitscope.viewer.saved_map import document_of

ENGLISH = re.compile(r"[A-Za-z]{2,} [a-z]{2,}|[a-z]{3,}: ")  # words that follow each other
NAMES = {
    "vitscope", "tiny", "vit", "cat", "coffee", "softmax", "auto", "notebook-recipe", "gradcam", "sink", "rollout",
    "attention", "evidence", "walk",
    "random", "cls", "CLS", "tabby", "hound", "teapot", "kite", "red", "robin", "fox", "ant", "English",
    "Spearman", "inferno", "viridis", "cividis", "grey", "balance", "PNG", "npz", "JSON", "PageUp", "PageDown", "Esc",
    "Shift", "P", "relevance", "dev", "MB", "png", "notebook", "recipe", "PCA", "PDF", "SVG", "WebM", "GIF", "method",
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
def page(chromium, tiny_scope, tmp_path_factory):
    """A Chinese page with as many things to say as there are, of a photo that is not quite plain."""
    folder = tmp_path_factory.mktemp("photos")
    cat = np.dstack([data.chelsea(), np.full(data.chelsea().shape[:2], 200, np.uint8)])
    Image.fromarray(cat).save(folder / "cat.png")
    Image.fromarray(data.coffee()).save(folder / "coffee.png")
    methods = ("auto", "notebook-recipe", "sink-rollout")
    view = tiny_scope.view(folder / "cat.png", other=folder / "coffee.png", methods=methods, measure=False)
    why = msg("viewer.layers-left-out", "layers {span} do not fit into {most} MB", span="0–3", most="10")
    view.header["missing"].append({"what": msg("viewer.layers", "layers"), "why": why})
    document = view.document()
    document["header"]["model"]["reference"] = "tiny-vit"
    path = folder / "page.html"
    path.write_text(page_of(document, "zh"))
    with shown(chromium, path.as_uri()) as made:
        yield made
        assert made.troubles == []


@pytest.mark.slow
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
    assert {"透明处已铺白底", "测量：测量已关闭", "层：第 0–3 层放不进 10 MB"} <= set(found)
    assert any("并非展开" in text for text in found)
    assert any(
        "vitscope 为此模型所选：evidence-walk（为何是此类别；模型看向哪里：method=random-walk）" in text
        for text in found
    )


@pytest.mark.slow
def test_an_english_page_says_what_python_says(page):
    page.evaluate(SET, {"lang": "en", "panel": "about", "source": "map", "tour": None, "map": "1-notebook-recipe"})
    page.wait(CAPTION, "notebook-recipe")
    assert "measuring was switched off" in page.text(".vs-tab")
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


@pytest.mark.slow
def test_real_reasons_and_their_hints_are_chinese_through_and_through(page, reasons):
    assert len(reasons) >= 5
    errors = [UnknownNameError("class", "ca", ["cat", "dog"]), MissingDependencyError("timm", "timm")]
    sentences = [
        *reasons,
        join_messages("; ", reasons[:2]),
        *(part for one in errors for part in (one.message, one.hint)),
    ]
    learn = (
        f"([all, table]) => {{ {VIEWER}.ctx.t.learn(table); return all.map((one) => {VIEWER}.ctx.t.message(one)); }}"
    )
    made = page.evaluate(learn, [sentences, page_messages(sentences)])
    assert [one for one in made if ENGLISH.search(one) and "pip install" not in one] == []


@pytest.mark.slow
def test_what_nobody_foresaw_stays_as_it_is(page):
    odd = "RuntimeError: 3 != 4; and more (so it is)"
    assert page.evaluate(f"(one) => {VIEWER}.ctx.t.message(one)", odd) == odd
    error = {"message": odd, "hint": "look"}
    assert page.evaluate(f"(one) => {VIEWER}.ctx.t.error(one)", error) == f"{odd}（look）"


def test_a_saved_map_is_chinese_again(tiny_scope, photo, tmp_path):
    made = tiny_scope.explain(photo, method="notebook-recipe")
    loaded = Explanation.load(made.save(tmp_path / "cat"))
    assert page_messages(loaded.provenance) == page_messages(made.provenance)
    assert all("zh" in one for one in document_of(loaded)["messages"].values())
    assert loaded.caveat in document_of(loaded)["messages"]
