"""The measurement of a map: numbers, sentence, refusals."""

import json
from dataclasses import replace

import pytest

import vitscope
from tests.helpers.errors import raises
from tests.helpers.faithfulness import BETTER, NAMES, photo, scope_of, state
from vitscope.errors import UnknownNameError, UnsupportedError, UsageError
from vitscope.evaluation.evaluate import metric_names
from vitscope.images import load_image
from vitscope.metrics.faithfulness import DEFAULT


def test_known_scores_belong_to_one_picture_and_one_question(tiny_scope, album, monkeypatch):
    known = {}
    options = {"metrics": ["deletion"], "n_random_maps": 2, "steps": 4, "score_cache": known}
    e = tiny_scope.explain(album[0])
    first = tiny_scope.measure(e, **options)
    whole, sets = known.values()
    assert set(whole) == {b""}
    assert first.forwards == len(sets) > 0
    with monkeypatch.context() as without:
        without.setattr(type(tiny_scope.engine), "answer", None)  # the model is not run again, not for the whole either
        again = tiny_scope.measure(e, **options)
    assert again.forwards == 0
    assert again.numbers == first.numbers
    for other in ({"score": "logit"}, {"target": "fox"}):  # the same answers, read in another way
        again = tiny_scope.measure(e, **options, **other)
        assert again.forwards == 0
        assert again.numbers == tiny_scope.measure(e, **{**options, "score_cache": None}, **other).numbers
        assert again["deletion"].value != first["deletion"].value
    assert tiny_scope.measure(e, **options, baseline="black").forwards == first.forwards
    assert tiny_scope.measure(tiny_scope.explain(album[1]), **options).forwards > 0
    assert len(known) == 3 + 2  # the sets of each, and two whole pictures


def test_on_the_processor_few_large_images_go_through_together(tiny_scope, album, monkeypatch):
    """16 patches each: of 100 tokens in all six, and with the same numbers as one by one."""
    e, sizes, answer = tiny_scope.explain(album[0]), [], tiny_scope.engine.answer
    monkeypatch.setattr(tiny_scope.engine, "answer", lambda pixels: sizes.append(len(pixels)) or answer(pixels))
    options = {"metrics": ["infidelity"], "baseline": "mean", "n_squares": 30}
    numbers = []
    for most, largest in ((4096, 8), (100, 6), (10, 1)):
        sizes.clear()
        monkeypatch.setattr("vitscope.evaluation.evaluate._TOKENS", most)
        numbers.append(tiny_scope.measure(e, **options)["infidelity"].value)
        assert max(sizes) == largest
    assert numbers[1:] == [pytest.approx(numbers[0], rel=1e-4)] * 2


class TestMeasurement:
    @pytest.mark.slow
    def test_it_repeats_to_the_digit_and_follows_its_seed(self, vit):
        e = vit.explain(photo(), method="rollout")
        first, again = (vit.measure(e, metrics="all", steps=3, n_random_maps=5, seed=0) for _ in range(2))
        other = vit.measure(e, steps=3, n_random_maps=5, seed=1)
        assert first.to_json() == again.to_json()
        assert all(first[number.name].random != number.random for number in other.numbers)
        assert first["deletion"].value == pytest.approx(other["deletion"].value)  # the map's own order draws nothing

    def test_what_is_recorded(self, vit):
        e = vit.explain(photo(), method="rollout")
        assert [number.name for number in vit.measure(e).numbers] == list(DEFAULT)
        got = vit.measure(e, metrics=NAMES)
        document = json.loads(got.to_json())
        assert [n["name"] for n in document["numbers"]] == NAMES
        assert {n["name"]: n["better"] for n in document["numbers"]} == BETTER
        assert document["sentence"] == got.sentence()
        assert document["score"] == f"probability of {e.predictions[0][0]} (softmax)"
        assert got.whole == pytest.approx(e.predictions[0][1], abs=1e-6)
        assert list(got.rows()[0]) == [
            "name",
            "value",
            "better",
            "random",
            "low",
            "high",
            "draws",
            "verdict",
        ]
        assert [row["verdict"] for row in got.rows()] == [n["verdict"] for n in document["numbers"]]
        assert got.forwards == document["forwards"] > 0
        with pytest.raises(UnknownNameError, match="did you mean 'deletion'"):
            got["deletio"]
        with pytest.raises(AttributeError):
            got.method = "another"

    def test_forwards_are_counted_and_bounded(self, vit):
        e = vit.explain(photo(), method="rollout")
        rows = []
        handle = vit.model.register_forward_hook(lambda _m, args, kwargs, _out: rows.append(0), with_kwargs=True)
        try:
            got = vit.measure(e, metrics=["deletion", "insertion"], steps=20, n_random_maps=2, batch_size=1)
        finally:
            handle.remove()
        assert got.forwards == len(rows) - 1  # and one that settles the target
        assert got.forwards <= 3 * 2 * 15 + 2

    def test_progress(self, vit):
        told = []
        e = vit.explain(photo(), method="rollout")
        got = vit.measure(e, metrics="deletion", progress=lambda *args: told.append(args))
        assert {name for name, *_ in told} == {"faithfulness"}
        assert told[-1][1:] == (got.forwards, got.forwards)
        assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)

    def test_logits_and_contrasts_and_other_classes(self, vit):
        plain = vit.explain(photo(), method="rollout")
        pixels = vit.adapter.prepare(load_image(photo()))[0][None].double()
        logits = vit.adapter.answer(pixels)[0].detach()
        best = int(logits.argmax())
        assert vit.measure(plain, metrics="saco", score="logit").whole == pytest.approx(float(logits[best]))
        other = (best + 1) % 5
        e = vit.explain(photo(), method="gradcam", target=other)
        probability = float(logits.softmax(-1)[other])
        assert vit.measure(e, metrics="saco").whole == pytest.approx(probability, rel=1e-6)
        label = vit.adapter.labels[other]
        assert vit.measure(plain, metrics="saco", target=label).whole == pytest.approx(probability, rel=1e-6)
        words = f"{vit.adapter.labels[best]} - {label}"
        contrast = vit.explain(photo(), method="gradcam", target=words)
        got = vit.measure(contrast, metrics="saco")
        assert (got.score, got.whole) == (words, pytest.approx(float(logits[best] - logits[other])))
        asked = vit.measure(plain, metrics="saco", target=lambda answer: answer[:, 0] ** 2)
        assert asked.whole == pytest.approx(float(logits[0] ** 2))

    def test_classes_of_one_name_are_told_apart_by_the_score(self):
        scope = scope_of()
        scope.adapter.labels = {0: "crane", 1: "crane", 2: "ant", 3: "fox"}  # 4 has none
        pixels = scope.adapter.prepare(load_image(photo()))[0][None].double()
        shares = scope.adapter.answer(pixels)[0].detach().softmax(-1)
        for number in (0, 1, 4):
            e = scope.explain(photo(), method="gradcam", target=number)
            assert e.target == (f"crane (class {number})" if number < 2 else "class 4")
            assert scope.measure(e, metrics="saco").whole == pytest.approx(float(shares[number]), rel=1e-6)

    def test_features_and_likeness(self):
        scope = scope_of("dinov2")
        e = scope.explain(photo(), method="relevance")
        got = scope.measure(e, metrics="saco")
        assert (got.score, got.whole) == ("cosine to the whole image's feature", pytest.approx(1))
        like = vitscope.similar_to(photo(seed=1))
        e = scope.explain(photo(), method="relevance", target=like)
        with raises(UsageError, "metrics.target-not-restorable"):
            scope.measure(e)
        got = scope.measure(e, metrics="saco", target=like)
        assert got.score == "similar to ndarray"
        assert got.whole == pytest.approx(e.score, rel=1e-5)
        with raises(UsageError, "metrics.no-logits"):
            scope.measure(e, score="logit", target=like)


class TestRefusals:
    def test_another_model(self, vit):
        e = vit.explain(photo(), method="rollout")
        stranger = scope_of("deit")
        stranger.adapter._weights = "other"
        with raises(UsageError, "evaluation.other-model", "evaluation.other-model.hint"):
            stranger.measure(e)

    def test_another_size(self, vit):
        e = vit.explain(photo(), method="rollout")
        wide = scope_of("vit-wide")
        wide.adapter.size = None
        e = replace(e, provenance={**e.provenance, "size": 48})
        with raises(UsageError, "evaluation.other-layout", "evaluation.other-model.hint"):
            vit.measure(e)

    def test_no_photo_and_another_photo(self, vit):
        e = vit.explain(photo(), method="rollout")
        bare = replace(e, picture=None)
        with raises(UsageError, "evaluation.no-photo", "evaluation.no-photo.hint"):
            vit.measure(bare)
        assert vit.measure(bare, metrics="saco", image=photo())["saco"] == vit.measure(e, metrics="saco")["saco"]
        with raises(UsageError, "evaluation.other-photo"):
            vit.measure(e, image=photo((50, 40)))

    def test_a_map_of_ones_own(self, vit):
        e = vit.explain(photo(), method="rollout")
        own = replace(e, provenance={}, method="mine")
        got = vit.measure(own, metrics="saco")
        assert got["saco"] == vit.measure(e, metrics="saco")["saco"]
        assert [note.code for note in got.notes] == ["evaluation.unrecorded-model"]
        with pytest.raises(UnknownNameError, match="no method is called 'mine'"):
            vit.measure(own, metrics="stability")

    def test_saved_and_loaded(self, vit, tmp_path):
        e = vit.explain(photo(), method="gradcam", target=1)
        e.save(tmp_path / "e")
        loaded = vitscope.Explanation.load(tmp_path / "e")
        lossless = vit.measure(loaded, metrics="saco", image=photo())
        assert lossless["saco"] == vit.measure(e, metrics="saco")["saco"]
        assert not lossless.notes
        kept = vit.measure(loaded, metrics="saco")
        assert [note.code for note in kept.notes] == ["evaluation.logit-changed"]

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"metrics": "delete"}, "no metric is called 'delete'"),
            ({"metrics": ["saco", "delete"]}, "no metric is called 'delete'"),
            ({"metrics": []}, "no metric is given"),
            ({"baseline": "white"}, "no baseline is called 'white'"),
            ({"score": "loss"}, "no score is called 'loss'"),
            ({"n_random_maps": 1}, "n_random_maps= lies between 2 and"),
            ({"steps": 0}, "steps= lies between 1 and"),
            ({"n_subsets": 2}, "n_subsets= lies between 3 and"),
            ({"batch_size": 0}, "batch_size= is an integer between 1"),
            ({"target": "unicorn"}, "no class is called 'unicorn'"),
        ],
    )
    @pytest.mark.usefixtures("as_shipped")
    def test_wrong_options(self, vit, options, told):
        e = vit.explain(photo(), method="rollout")
        with pytest.raises(UsageError, match=told) as caught:
            vit.measure(e, **options)
        assert "\n" not in str(caught.value)

    def test_removal_where_it_does_not_apply(self):
        for name, why in (("beit", "engine.positions-in-blocks"), ("ijepa", "engine.no-token-left")):
            scope = scope_of(name)
            e = scope.explain(photo(), method="rollout")
            with raises(UnsupportedError, "evaluation.no-removal", "evaluation.no-removal.hint") as caught:
                scope.measure(e, baseline="removal")
            assert caught.value.message.params["reason"].code == why


@pytest.mark.spread
@pytest.mark.parametrize("options", [{"metrics": "all"}, {"baseline": "removal"}])
def test_neither_model_nor_map_is_changed(options):
    scope = scope_of("vit")
    e = scope.explain(photo(), method="relevance", target=2)
    scope.model.train()
    scope.model.vit.layers[0].eval()
    next(scope.model.parameters()).requires_grad_(False)
    before, values = state(scope.model), e.map.tobytes()
    scope.measure(e, steps=3, n_random_maps=2, **options)
    assert state(scope.model) == before
    assert e.map.tobytes() == values
    assert scope.explain(photo(), method="relevance", target=2).map.tobytes() == values


def test_default_and_all_may_stand_in_a_list():
    assert metric_names(["default", "insertion", "deletion"], "auto", "logit") == (*DEFAULT, "insertion")
    assert metric_names(["saco", "all"], "auto", "logit")[0] == "saco"
    assert set(metric_names(["all"], "auto", "logit")) == set(metric_names(["saco", "all"], "auto", "logit"))
