"""The tour over a page: what it teaches on this photo, and how it is left."""

import copy

import numpy as np
import pytest

from tests.helpers.browser import CAPTION, SET, VIEWER, shown, texts
from vitscope.viewer.page import page
from vitscope.viewer.saved_map import document_of


def state_of(made):
    return made.evaluate(f"() => {VIEWER}.state")


def tour(made, step):
    made.wait("(words) => document.querySelector('.vs-tour .vs-note').textContent === words", f"{step} of 6")
    return made.text(".vs-tour h2"), made.text(".vs-tour > p")


def test_the_tour_tells_six_things_on_this_photo(clean, tiny_pair, tiny_scope, photo):
    before = state_of(clean)
    clean.click(".vs-switches .vs-quiet", "Tour")
    seen = []
    for step in range(1, 7):
        title, told = tour(clean, step)
        clean.wait("() => document.activeElement === document.querySelector('.vs-tour h2')")
        assert "{" not in told
        seen.append(title)
        if step == 1:
            clean.wait(CAPTION, "What patch")
            assert "4 × 4 patches" in told
            assert "there are 17" in told
        if step == 2:
            head = int(np.argmin(tiny_scope.statistics(photo).layers[2].readout_entropy))
            clean.wait(CAPTION, f"layer 2, head {head}")
            assert "3 × 2 small maps" in told
        if step == 3:
            clean.wait(CAPTION, "layers 0 to 2, rolled out")
        if step == 4:
            assert max(sink.factor for sink in tiny_scope.statistics(photo).sinks) < 5
            assert "No patch here gets 5 times its share" in told
        if step == 5:
            clean.wait(CAPTION, "random")
            assert "This map is random" in told
        if step == 6:
            entry = next(one for one in tiny_pair.header["maps"] if one["id"] == state_of(clean)["map"])
            curve = next(one for one in entry["measurement"]["numbers"] if one["name"] == "deletion")
            margins = [
                one["random"] - one["value"]
                for other in tiny_pair.header["maps"]
                if other["measurement"] and other["method"] != "random" and not other["label"]
                for one in other["measurement"]["numbers"]
                if one["name"] == "deletion"
            ]
            assert curve["random"] - curve["value"] == max(margins)
            score = curve["y"][state_of(clean)["deletion_step"]]
            assert f"to {float(f'{score:.3g}'):g}." in told
        clean.click(".vs-tour button", "Finish" if step == 6 else "Next")
    assert len(set(seen)) == 6
    clean.wait("() => document.querySelector('.vs-tour').hidden")
    assert state_of(clean) == before
    assert clean.evaluate("() => document.activeElement.textContent") == "Tour"


@pytest.mark.slow
def test_the_tour_teaches_with_the_largest_patch_that_collects_and_with_no_class(browser, tiny_pair, tmp_path):
    document = copy.deepcopy(tiny_pair.document())
    del document["other"]
    sinks = [{"token": 0, "name": "cls", "factor": 33.0}, {"token": 7, "name": "1,2", "factor": 8.0}]
    document["header"]["statistics"]["sinks"] = sinks
    maps = [one for one in document["header"]["maps"] if one["measurement"]]
    for one in maps:  # of an unlikely class, hiding anything leaves less than of the answer itself
        one["label"] = None if one["method"] == "relevance" else "an unlikely class"
    path = tmp_path / "sink.html"
    path.write_text(page(document, "en"))
    with shown(browser, path.as_uri()) as made:
        made.evaluate(SET, {"tour": 3})
        told = tour(made, 4)[1]
        made.wait(CAPTION, "Who looks at patch 1,2")
        assert "share of attention (1)" in told
        assert "Of these, patch 1,2 collects most, 8 times its share" in told
        made.evaluate(SET, {"tour": 5})
        assert "relevance" in tour(made, 6)[1]
        made.wait(CAPTION, "relevance")
        in_sight = """() => {
            const { top, bottom } = document.querySelector('.vs-spot').getBoundingClientRect();
            return top >= 0 && bottom <= innerHeight;
        }"""
        made.wait(in_sight)


@pytest.mark.slow
def test_the_tour_can_be_left_and_taken_back_by_keys(clean):
    clean.evaluate(SET, {"layer": 1, "source": "query", "query": 4})
    clean.focus(".vs-switches .vs-quiet", "Tour")
    clean.press("Enter")
    tour(clean, 1)
    clean.press("Tab", "Enter")  # Back cannot be taken yet, so Next is first
    tour(clean, 2)
    clean.press("Tab", "Enter")
    tour(clean, 1)
    clean.press("Escape")
    clean.wait(CAPTION, "What patch 0,3 looks at · layer 1")
    assert clean.evaluate("() => document.activeElement.textContent") == "Tour"


@pytest.mark.slow
def test_the_tour_keeps_its_step_in_another_language(clean):
    clean.evaluate(SET, {"tour": 2})
    title, _ = tour(clean, 3)
    clean.evaluate(SET, {"lang": "zh"})
    clean.wait("() => document.querySelector('.vs-tour .vs-note').textContent === '3/6'")
    assert not set(title.split()) & set(clean.text(".vs-tour h2").split())
    clean.evaluate(SET, {"tour": None, "lang": "en"})


@pytest.mark.slow
def test_a_saved_map_has_only_the_tabs_that_have_something(browser, tiny_scope, photo, tmp_path):
    path = tmp_path / "one.html"
    path.write_text(page(document_of(tiny_scope.explain(photo, method="attention")), "en"), "utf-8")
    with shown(browser, path.as_uri()) as made:
        assert texts(made, ".vs-tabs button") == ["Save", "About"]
        made.click(".vs-tabs button", "About")
        made.wait("() => document.querySelector('.vs-tab').textContent.includes('a saved map has no model behind it')")
        made.click(".vs-switches .vs-quiet", "Tour")
        for step in range(1, 7):
            assert "{" not in tour(made, step)[1]
            made.press("Tab", *(["Tab"] if step > 1 else []), "Enter")
        made.wait("() => document.querySelector('.vs-tour').hidden")
        assert made.troubles == []
