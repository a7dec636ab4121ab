"""The page of the recipe, its drawings and its files."""

import html
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.stats import spearmanr

from vitscope._catalogues import page_texts
from vitscope.errors import ResultError, UsageError
from vitscope.images import Picture


@pytest.fixture(scope="module")
def found(tiny_scope, album):
    return tiny_scope.recipe(album[0], measured=False)


def test_rank_correlation_is_that_of_scipy(found):
    one, two = (walk.result.map.ravel() for walk in found.walks)
    assert found.rank_correlation == pytest.approx(spearmanr(one, two).statistic, abs=1e-9)


def test_spread_is_a_part_of_the_largest(found):
    for walk in found.walks:
        values = walk.result.map.astype(np.float64)
        assert walk.spread == pytest.approx((values.max() - values.min()) / values.max(), rel=1e-5)


def test_the_copied_drawings_are_the_notebooks_lines(found):
    values = found.walks[1].result.map
    scaled = (values - values.min()) / (values.max() - values.min())
    small = Image.fromarray((scaled * 255).astype(np.uint8))
    resized = small.resize((64, 64), Image.BICUBIC)
    drawn = found.walks[1].drawings()
    assert np.array_equal(drawn[0], np.asarray(small).repeat(128, 0).repeat(128, 1))
    assert np.array_equal(drawn[1], resized)
    assert np.array_equal(drawn[2], resized.filter(ImageFilter.GaussianBlur(2)))
    assert np.array_equal(drawn[3], found.walks[1].result.overlay(style="notebook"))


def test_rollout_is_drawn_on_the_photo_and_blurred_as_much(found):
    e, (_, resized, blurred, laid) = found.walks[0].result, found.walks[0].drawings()
    assert resized.size == blurred.size == laid.size == e.photo.pil().size
    wide = e.region.window()[2] - e.region.window()[0]
    assert np.array_equal(laid, e.overlay(style="grey", norm="minmax", blur=2 * wide / 64))
    assert not np.array_equal(resized, blurred)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_page_says_every_step_in_its_language(found, lang):
    page, texts = found.page(lang), page_texts("recipe-page")[lang]
    for key in (
        "model_h",
        "average_h",
        "layers_h",
        "grid_h",
        "drawing_h",
        "layers_copied",
        "layers_rollout",
        "not_measured",
    ):
        assert texts[key] in page
    assert texts["heads_h"].format(layer=2) in page
    assert "(2, 17, 17)" in page
    assert page.count("<figure><img alt=") == 2 * 3 + 2 + 2 * 4 + 1  # layers, overlays, drawings, the sheet
    assert page.count("<td") == 2 * 16
    for walk in found.walks:
        assert f">{walk.result.map[1, 2]:.3g}<".replace(">0.", ">.") in page


def test_the_page_loads_and_runs_nothing(found):
    page = found.page()
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert set(re.findall(r'src="([^:"]+):', page)) == {"data"}


def test_names_are_text_and_no_markup(found):
    walk = found.walks[1]
    hostile = replace(walk.result, picture=Picture(walk.result.photo.pixels, "<b>{x}</b>", "x"))
    page = replace(found, walks=(replace(walk, result=hostile),)).page()
    assert "<b>" not in page
    assert "&lt;b&gt;{x}&lt;/b&gt;" in page
    assert page_texts("recipe-page")["en"]["lead_copied"] in page


def test_verdicts_and_remarks_are_in_the_page(tiny_scope, found, album):
    measurement = tiny_scope.measure(found.walks[0].result, metrics=["deletion"], n_random_maps=2, steps=2)
    flat = replace(found.walks[1].result, map=np.full((4, 4), 0.5, np.float32))
    changed = (replace(found.walks[0], measurement=measurement), replace(found.walks[1], result=flat))
    page = replace(found, walks=changed).page()
    assert measurement.sentence().partition("(")[0].replace("'", "&#39;") in page
    words = flat.remarks[0][1:]
    assert f" T{words}.<" in page, "a sentence"
    chinese = replace(found, walks=changed).page("zh")
    assert "deletion" in chinese
    assert words not in chinese
    assert "。</figcaption>" in chinese
    assert "0.5" in chinese


def test_the_code_on_the_page_makes_the_page(tiny_scope, found, album):
    """Its lines have the options of the page: the pieces are of the shapes that stand beside them."""
    calls = {
        (): ('scope.recipe("photo.jpg")', 'scope.explain("photo.jpg", method="rollout")'),
        (("size", 48),): ('recipe("photo.jpg", size=48)', 'explain("photo.jpg", method="rollout", size=48)'),
        (("layer", 0), ("as_published", True)): ('recipe("photo.jpg", layer=0, as_published=True)',),
    }
    for options, wanted in calls.items():
        made = tiny_scope.recipe(album[0], measured=False, **dict(options)) if options else found
        page = html.unescape(made.page())
        assert [line for line in wanted if line not in page] == []
        assert str(made.heads.shape) in page


def test_files(found, tmp_path):
    page = found.save(tmp_path / "new" / "a.html", lang="zh")
    assert page.read_text("utf-8") == found.page("zh")
    with np.load(found.save(tmp_path / "a.npz")) as arrays:
        assert set(arrays) == {"heads", "rollout_map", "rollout_layers", "copied_map", "copied_layers"}
        for name in arrays:
            np.testing.assert_array_equal(arrays[name], found.arrays()[name])
    with pytest.raises(ResultError, match="already there"):
        found.save(page)
    assert found.save(page, force=True).read_text("utf-8") == found.page()
    with pytest.raises(UsageError, match=r"\.html or \.npz"):
        found.save(tmp_path / "a.pdf")
    assert repr(found) == "<Recipe of cat: rollout, notebook-recipe, 3 layers>"
