"""Verdicts in words: they say what the numbers say, in both languages."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.faithfulness import BETTER, NAMES
from vitscope._catalogues import page_messages
from vitscope.metrics.faithfulness import MeasureResult
from vitscope.metrics.measurement import Measurement, compare_with_random
from vitscope.metrics.verdict_text import MARKS

COUNTS = {
    "en": re.compile(r": (better|worse) than (\d+) of (\d+)"),
    "zh": re.compile(r"：(优|劣)于 (\d+) 张(?:随机热图)?中的 (\d+) 张"),
}
MORE = {
    "en": re.compile("(keeps|changes).* (far )?more (of|than)|values are (far )?better"),
    "zh": re.compile("(?<!并不明显)(?<!是否)(大|高)于"),
}
LESS = {"en": re.compile("(far )?less|values are (far )?worse"), "zh": re.compile("小于|低于")}


def made(name, value, randoms, planned=0, **options):
    return compare_with_random(
        name, "faithfulness", BETTER[name], MeasureResult(value), randoms, planned=planned, **options
    )


def chinese(text):
    """What a page in Chinese makes of it."""
    table = page_messages([text])

    def said(text):
        entry = table.get(text, {})
        template = entry.get("zh")
        if not template:
            return text
        return re.sub(r"\{(\w+)\}", lambda found: said(str(entry["params"][found[1]])), template)

    return said(text)


def measured(*numbers):
    return Measurement("pca", "x", "m", "s", 1.0, 0.0, "blur", numbers, 9)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(NAMES), st.integers(0, 9), st.lists(st.integers(0, 9), min_size=2, max_size=40), st.integers(0, 60)
)
def test_words_never_contradict_numbers(name, value, randoms, planned):
    number = made(name, float(value), [float(r) for r in randoms], planned)
    as_good = [r >= value if BETTER[name] == "higher" else r <= value for r in randoms]
    as_bad = [r <= value if BETTER[name] == "higher" else r >= value for r in randoms]
    for language, said in (("en", number.sentence), ("zh", chinese(number.sentence))):
        how, first, second = COUNTS[language].search(said).groups()
        count, draws = (int(first), int(second)) if language == "en" else (int(second), int(first))
        assert draws == len(randoms)
        assert count == (as_good if how in ("better", "优") else as_bad).count(False)
        more, less = bool(MORE[language].search(said)), bool(LESS[language].search(said))
        verdict = number.verdict
        if verdict == "better than random":
            assert (more, less, how in ("better", "优")) == (True, False, True)
            assert as_good.count(True) < len(randoms) / 19
        elif verdict == "worse than random":
            assert (less, how in ("worse", "劣")) == (True, True)
            assert as_bad.count(True) < len(randoms) / 19
        elif verdict == "undecided":
            assert {"en": "not enough random maps to tell", "zh": "随机热图不够"}[language] in said
            assert str(number.needed) in said
        else:
            assert re.search({"en": "(does|are) not clearly", "zh": "并不明显"}[language], said)
            assert True in as_good
            assert True in as_bad
        far = "far " in said or "远" in said
        if far:
            assert min(abs(value - r) for r in randoms) >= 0
            assert number.far
            assert verdict in ("better than random", "worse than random")


def test_a_map_that_is_clearly_right():
    m = measured(
        made("deletion", 0.1, [0.5, 0.6] * 10), made("insertion", 0.5, [0.4, 0.6]), made("saco", 1.0, [0.0] * 199)
    )
    assert m.sentence(brief=True) == (
        "pca: Hiding what this map marks changes the model's answer far more than hiding random patches (deletion: "
        "better than 20 of 20 random maps). Shown alone, what this map marks does not clearly keep more of the model's "
        "answer than random patches (insertion: better than 1 of 2 random maps). This map's values are far better "
        "than those of random maps at predicting how much hiding parts of the image changes the model's answer (saco: "
        "better than 199 of 199 random maps)."
    )
    assert m.sentence().endswith(
        "In numbers: deletion 0.1 against 0.55, insertion 0.5 against 0.5, saco 1 against 0 (score: s; replaced "
        "patches: blur)."
    )
    assert chinese(m.sentence()).startswith(
        "pca：遮住这张热图标出的部分，对模型答案的改变远大于遮住随机图块（deletion：优于 20 张"
    )


def test_one_sentence_for_each_question():
    numbers = [made(name, 0.0, [-1.0, 1.0]) for name in NAMES]
    said = measured(*numbers).sentence(brief=True)
    assert [name for name in NAMES if f"({name}: " in said] == ["deletion", "insertion", "infidelity"]
    assert "(negative: " in measured(numbers[4]).sentence(brief=True)


def test_where_random_maps_are_as_good_as_can_be():
    number = made("infidelity", 0.0, [0.0] * 19, possible=(0.0, 1.0))
    assert "infidelity cannot tell, as random maps reach the best possible value" in number.sentence


def test_how_many_more_random_maps_it_takes():
    assert "better than 5 of 5; it takes 14 more at most" in made("deletion", 0.0, [1.0] * 5).sentence
    assert "better than 5 of 5; it takes 34 more at most" in made("deletion", 0.0, [1.0] * 5, 39).sentence


def test_nothing_measured():
    assert measured().sentence() == "pca: nothing was measured."


def test_a_number_goes_into_json_with_its_words():
    number = made("saco", 1.0, [0.0] * 19)
    document = json.loads(json.dumps(number.to_dict()))
    assert (document["verdict"], document["beaten"], document["needed"]) == ("better than random", 19, 0)
    assert document["sentence"] == number.sentence


@pytest.mark.parametrize("verdict", ["better", "worse", "no better"])
def test_marks_differ_without_colour(verdict):
    assert len(MARKS[f"{verdict} than random"]) == 1
    assert len({MARKS[f"{one} than random"] for one in ("better", "worse", "no better")} | {MARKS["undecided"]}) == 4
