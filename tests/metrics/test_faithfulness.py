"""Faithfulness of one map: against slow twins, known answers and torchcam; repeatable, leaving no trace."""

import contextlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import vitscope
from tests.models import toys as zoo
from tests.oracles import faithfulness as oracles
from vitscope.errors import MethodError, UnknownNameError, UsageError
from vitscope.images import load_image
from vitscope.metrics.faithfulness import MEASURES, Found, Plan
from vitscope.metrics.measurement import Measurement, Number, band, number_of, student_quantile
from vitscope.metrics.perturb import BASELINES, Probe, fill_of
from vitscope.metrics.ranking import covering, ranked, shuffles, spearman, ssim, step_counts
from vitscope.models.transformers import TransformersAdapter
from vitscope.scope import Scope

NAMES = [measure.name for measure in MEASURES]
BETTER = {measure.name: measure.better for measure in MEASURES}


def photo(size=(40, 40), seed=0):
    """Blocks of colour and a little noise: patches differ, so that replacing them does something."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (5, 5, 3)).repeat(size[0] // 5, 0).repeat(size[1] // 5, 1)
    return (blocks + rng.integers(-9, 10, blocks.shape)).clip(0, 255).astype(np.uint8)


def scope_of(name="vit", dtype=torch.float64):
    row = next(row for row in zoo.ROWS if row.name == name)
    model = row.model().to(dtype)
    with torch.no_grad():  # a freshly made model hardly looks at its picture
        for key, parameter in model.named_parameters():
            if "projection.weight" in key or "v_proj.weight" in key:
                parameter.mul_(10)
    return Scope(TransformersAdapter(model, weights="none"), torch.device("cpu"), dtype)


@pytest.fixture(scope="module")
def vit():
    return scope_of()


def additive(parts, grid):
    """A probe whose score is the sum of what each patch that is there brings: `parts`, one number per patch."""
    parts = torch.as_tensor(np.asarray(parts, np.float64)).reshape(grid)
    pixels = parts.repeat_interleave(3, 0).repeat_interleave(2, 1).expand(3, -1, -1)

    def run(pixels, _kept):
        return pixels[:, 0].unflatten(1, (grid[0], 3)).unflatten(3, (grid[1], 2)).mean((2, 4)).sum((1, 2))

    return Probe(run, pixels, torch.zeros_like(pixels), grid, 5)


def numbers_of(values, probe, **options):
    """Every measure of one map on a probe."""
    plan = Plan(probe.grid, **options)
    one = ranked(np.asarray(values, np.float32).reshape(probe.grid), plan.seed)
    masks = [measure.masks(one, plan) for measure in MEASURES]
    scores, _ = probe.scores(masks)
    return {m.name: m.value(one, s, plan).value for m, s in zip(MEASURES, scores, strict=True)}


class TestKnownAnswers:
    """Sixteen patches that bring 1 to 16 to an additive score: the right map is what they bring.

    After the k best are gone (16 - k)(17 - k) / 2 is left of 136.
    """

    parts = np.random.default_rng(0).permutation(16) + 1.0
    right = {
        "deletion": 46.75,  # (136 / 2 + 680) / 16
        "insertion": 89.25,  # 136 - 46.75
        "aopc": 47 / 3,  # drops 0, 16, 31 at 0, 1, 2 patches
        "positive": 43,  # .1 / .8 ((105 + 3) / 2 + 91 + 66 + 55 + 36 + 21 + 15 + 6)
        "negative": 93,  # .1 / .8 ((133 + 31) / 2 + 130 + 121 + 115 + 100 + 81 + 70 + 45)
        "saco": 1,
        "sensitivity-n": 1,
        "infidelity": 0,
    }
    reversed = {
        "deletion": 89.25,
        "insertion": 46.75,
        "aopc": 4 / 3,  # drops 0, 1, 3
        "positive": 93,
        "negative": 43,
        "saco": -1,
        "sensitivity-n": -1,
        "infidelity": 1,
    }

    def test_the_right_map(self):
        got = numbers_of(self.parts, additive(self.parts, (4, 4)), steps=16)
        assert got == pytest.approx(self.right, abs=1e-9)

    def test_the_reversed_map(self):
        got = numbers_of(-self.parts, additive(self.parts, (4, 4)), steps=16)
        assert got == pytest.approx(self.reversed, abs=1e-9)

    def test_what_is_no_matter_of_scale(self):
        probe = additive(self.parts, (2, 8))
        got, scaled = (numbers_of(m, probe, steps=16) for m in (self.parts, 3 * self.parts))
        assert got == pytest.approx(scaled, abs=1e-9)

    def test_a_flat_map_says_nothing(self):
        got = numbers_of(np.ones(16), additive(self.parts, (4, 4)))
        assert got["saco"] == got["sensitivity-n"] == 0

    def test_the_score_of_an_interaction(self):
        """Two patches that count only together: removing either costs all of it."""

        def run(pixels, _kept):
            return pixels[:, 0, 0, 0] * pixels[:, 0, 0, 1]

        pixels = torch.ones(3, 1, 4, dtype=torch.float64)
        probe = Probe(run, pixels, torch.zeros_like(pixels), (1, 4))
        got = numbers_of([2, 1, 0, -1], probe)
        assert got["deletion"] == pytest.approx(0.125)  # 1, 0, 0, 0, 0
        assert got["insertion"] == pytest.approx(0.625)  # 0, 0, 1, 1, 1
        assert got["saco"] == pytest.approx(1)  # drops 1, 1, 0, 0


@pytest.mark.parametrize("grid", [(4, 4), (3, 7), (1, 1), (1, 2), (9, 2)])
@pytest.mark.parametrize("steps", [1, 5, 20, 1000])
def test_every_measure_against_its_twin(grid, steps):
    rng = np.random.default_rng(grid)
    patches = grid[0] * grid[1]
    weights, values = rng.normal(size=(patches, patches)), rng.normal(size=patches).astype(np.float32)

    def y(gone):
        there = np.array([float(j not in gone) for j in range(patches)])
        return float(np.tanh(there @ weights @ there) + there @ weights[0])

    plan = Plan(grid, steps, n_subsets=7, n_squares=6, seed=3)
    one = ranked(values.reshape(grid), plan.seed)
    order = sorted(range(patches), key=lambda j: -values[j])
    assert one.order.tolist() == order
    m = values.astype(float).tolist()
    wanted = {
        "deletion": oracles.deletion(y, order, steps),
        "insertion": oracles.insertion(y, order, steps),
        "aopc": oracles.aopc(y, order, steps),
        "positive": oracles.perturbation(y, order),
        "negative": oracles.perturbation(y, order[::-1]),
        "saco": oracles.saco(y, m, order),
    }
    for measure in MEASURES:
        masks = measure.masks(one, plan)
        sets = [set(np.flatnonzero(mask).tolist()) for mask in masks]
        got = measure.value(one, np.array([y(s) for s in sets]), plan)
        if measure.name == "infidelity":
            wanted[measure.name] = oracles.infidelity(y, m, sets[1:])
        if measure.name == "sensitivity-n":
            ns = got.detail["n"]
            by_n = [sets[1 + 7 * i : 8 + 7 * i] for i in range(len(ns))]
            assert [{len(s) for s in of} for of in by_n] == [{n} for n in ns]
            with contextlib.suppress(ZeroDivisionError):  # all patches at once: nothing to correlate
                wanted[measure.name] = np.mean([oracles.sensitivity_n(y, m, of) for of in by_n])
        assert got.value == pytest.approx(wanted.get(measure.name, 0), abs=1e-9), measure.name


def test_squares_are_squares_and_sets_of_n_differ():
    plan = Plan((5, 9), n_squares=30)
    one = ranked(np.zeros((5, 9), np.float32), 0)
    masks = next(m for m in MEASURES if m.name == "infidelity").masks(one, plan)
    assert not masks[0].any()
    sides = set()
    for mask in masks[1:].reshape(-1, 5, 9):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == rows.size * columns.size == rows.size**2
        assert np.ptp(rows) == np.ptp(columns) == rows.size - 1
        sides.add(rows.size)
    assert sides == {1, 2}
    sets = next(m for m in MEASURES if m.name == "sensitivity-n").masks(one, plan)
    assert len(np.unique(sets[1 + 24 :], axis=0)) > 0.9 * (len(sets) - 25)
    assert sets[1:].any(0).all()


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("name", ["vit-wide", "dinov2"])
def test_the_whole_way_against_pixels_replaced_one_by_one(name, baseline):
    """Photo, preprocessing, patches to pixels, model, softmax or cosine, curves: nothing of vitscope's in the twin."""
    scope = scope_of(name)
    e = scope.explain(photo(), method="rollout", **({"layers": [0, 2]} if name == "dinov2" else {}))
    pixels = scope.adapter.prepare(load_image(photo()))[0].double().numpy()
    grid, prefix = e.layout.grid, 1
    black = scope.adapter.prepare(load_image(np.zeros((40, 40, 3), np.uint8)))[0].double().numpy()
    fill = {
        "blur": lambda: oracles.blurred(pixels, grid),
        "mean": lambda: np.broadcast_to(pixels.mean((1, 2), keepdims=True), pixels.shape),
        "black": lambda: black,
        "zero": lambda: np.zeros_like(pixels),
        "removal": lambda: None,
    }[baseline]()
    if baseline == "black":
        assert len(np.unique(black)) <= 3  # one value a channel
        assert (black < pixels.mean((1, 2), keepdims=True)).all()

    def answer(gone):
        with torch.no_grad():
            if fill is not None:
                return scope.adapter.answer(torch.from_numpy(oracles.covered(pixels, fill, gone, grid))[None])[0]
            kept = [*range(prefix), *(prefix + j for j in range(grid[0] * grid[1]) if j not in gone)]
            block = scope.body.blocks[0]
            handle = block.register_forward_pre_hook(lambda _, args: (args[0][:, kept], *args[1:]))
            try:
                return scope.adapter.answer(torch.from_numpy(pixels)[None])[0]
            finally:
                handle.remove()

    known = {}

    def y(gone):
        key = frozenset(gone)
        if key not in known:
            a = answer(gone)
            known[key] = (
                float(torch.exp(a[best]) / torch.exp(a).sum())
                if scope.adapter.labels
                else float(a @ whole / (a.norm() * whole.norm()))
            )
        return known[key]

    whole = answer(set())
    best = int(whole.argmax())
    m = e.map.astype(float).ravel().tolist()
    order = sorted(range(len(m)), key=lambda j: -m[j])
    assert len(set(m)) == len(m)
    wanted = {
        "deletion": oracles.deletion(y, order, 6),
        "insertion": oracles.insertion(y, order, 6),
        "aopc": oracles.aopc(y, order, 6),
        "positive": oracles.perturbation(y, order),
        "negative": oracles.perturbation(y, order[::-1]),
        "saco": oracles.saco(y, m, order),
    }
    assert abs(wanted["insertion"] - wanted["deletion"]) > 1e-5  # else nothing is compared
    for batch in (1, 7, 1000):
        got = scope.measure(e, metrics=list(wanted), baseline=baseline, steps=6, n_random_maps=2, batch_size=batch)
        assert {n.name: n.value for n in got.numbers} == pytest.approx(wanted, rel=1e-6, abs=1e-9)
        assert (got.whole, got.empty) == pytest.approx((y(set()), y(set(order))), rel=1e-6)
        curve = [y(set(order[:k])) for k in oracles.counts_of(len(order), 6)]
        assert got["deletion"].y == pytest.approx(curve, rel=1e-6)
        assert got["deletion"].x == pytest.approx(np.array(oracles.counts_of(len(order), 6)) / len(order))


class TestProperties:
    maps = arrays(np.float32, (3, 4), elements=st.floats(-4, 4, width=16))

    @settings(max_examples=40, deadline=None)
    @given(maps, st.integers(0, 5))
    def test_ranges_and_mirrors(self, values, seed):
        rng = np.random.default_rng(seed)
        weights = torch.from_numpy(rng.normal(size=(12, 12)))
        pixels = torch.ones(3, 3, 4, dtype=torch.float64)

        def run(pixels, _kept):
            there = pixels[:, 0].flatten(1)
            return torch.einsum("bi,ij,bj->b", there, weights, there).sigmoid()

        probe = Probe(run, pixels, torch.zeros_like(pixels), (3, 4))
        got = numbers_of(values, probe, steps=12, seed=seed)
        assert all(0 <= got[name] <= 1 for name in ("deletion", "insertion", "positive", "negative"))
        assert abs(got["saco"]) <= 1 + 1e-12
        assert abs(got["sensitivity-n"]) <= 1 + 1e-12
        assert -1e-12 <= got["infidelity"] <= 1 + 1e-12
        if len(np.unique(values)) == 12:
            mirror = numbers_of(-values, probe, steps=12, seed=seed)
            assert mirror["deletion"] == pytest.approx(got["insertion"])
            assert mirror["positive"] == pytest.approx(got["negative"])
            assert mirror["sensitivity-n"] == pytest.approx(-got["sensitivity-n"])
            order = ["deletion", "insertion", "aopc", "positive", "negative"]
            same = numbers_of(values.astype(np.float64) ** 3, probe, steps=12, seed=seed)
            assert [same[name] for name in order] == [got[name] for name in order]

    @settings(max_examples=30, deadline=None)
    @given(st.integers(1, 40), st.integers(1, 50))
    def test_steps_go_from_none_to_all(self, patches, steps):
        counts = step_counts(patches, steps).tolist()
        assert counts == sorted(set(counts))
        assert (counts[0], counts[-1]) == (0, patches)
        assert counts == sorted({oracles.half_up(i * patches / steps) for i in range(steps + 1)})

    @settings(max_examples=40, deadline=None)
    @given(maps, maps)
    def test_likeness_of_maps(self, a, b):
        from skimage.metrics import structural_similarity

        with np.errstate(invalid="ignore"):
            rho = scipy.stats.spearmanr(a.ravel(), b.ravel()).statistic if np.ptp(a) and np.ptp(b) else 0
        assert spearman(a, b) == pytest.approx(rho, abs=1e-9)
        wide = [x.astype(float) for x in (a, b)]  # a float less a float32 would be a float32
        unit = [(x - x.min()) / (x.max() - x.min() or 1) for x in wide]
        wanted = structural_similarity(*unit, win_size=3, data_range=1)
        assert ssim(a, b) == pytest.approx(wanted, abs=1e-9)
        assert ssim(np.stack([a, b]), np.stack([b, a])) == pytest.approx([wanted, wanted], abs=1e-9)


class TestOrder:
    def test_equal_values_stand_in_an_order_that_the_seed_draws(self):
        values = np.array([[1, 2, 2], [1, 1, 3]], np.float32)
        orders = {tuple(ranked(values, seed).order.tolist()) for seed in range(60)}
        assert {order[0] for order in orders} == {5}
        assert {order[1:3] for order in orders} == {(1, 2), (2, 1)}
        assert len({order[3:] for order in orders}) == 6
        assert (ranked(values, 7).order == ranked(values, 7).order).all()

    def test_random_maps_have_the_maps_values_and_orders_of_their_own(self):
        values = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
        one = ranked(values, 0)
        others = shuffles(one, 4, 0)
        for other in others:
            assert sorted(other.values) == sorted(one.values)
            assert (np.diff(other.values[other.order]) <= 0).all()
        assert len({tuple(o.order.tolist()) for o in others}) == 4
        flat = shuffles(ranked(np.ones((6, 5), np.float32), 0), 4, 0)
        assert [o.order.tolist() for o in flat] == [o.order.tolist() for o in others]

    def test_a_mask_covers_the_first_of_the_order(self):
        assert covering(np.array([2, 0, 1]), np.array([0, 1, 3])).tolist() == [
            [False] * 3,
            [False, False, True],
            [True] * 3,
        ]


class TestProbe:
    def test_the_same_set_is_scored_once(self):
        rows = []

        def run(pixels, _kept):
            rows.append(len(pixels))
            return pixels.sum((1, 2, 3))

        pixels = torch.ones(3, 2, 2, dtype=torch.float64)
        probe = Probe(run, pixels, torch.zeros_like(pixels), (2, 2), batch=2)
        told = []
        masks = [np.array([[0, 0, 0, 0], [1, 0, 0, 0]], bool), np.array([[1, 0, 0, 0], [1, 1, 0, 0]], bool)]
        scores, forwards = probe.scores(masks, lambda done, total: told.append((done, total)))
        assert [s.tolist() for s in scores] == [[12, 9], [9, 6]]
        assert forwards == sum(rows) == 3
        assert max(rows) == 2
        assert told == [(2, 3), (3, 3)]

    def test_tokens_left_out_go_in_batches_of_equal_length(self):
        seen = []

        def run(_pixels, kept):
            seen.append(sorted(set(kept.sum(1).tolist())))
            return kept.double() @ torch.arange(4.0).double()

        probe = Probe(run, torch.zeros(3, 2, 2), None, (2, 2), batch=8)
        masks = np.array([[0, 0, 0, 1], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]], bool)
        scores, forwards = probe.scores([masks])
        assert scores[0].tolist() == [3, 5, 6, 0]
        assert forwards == 4
        assert all(len(counts) == 1 for counts in seen)

    def test_a_score_that_is_no_number_is_told(self):
        probe = Probe(lambda x, _: x.mean((1, 2, 3)) / 0 * 0, torch.ones(3, 2, 2), torch.ones(3, 2, 2), (2, 2))
        with pytest.raises(MethodError, match="not a finite number"):
            probe.scores([np.ones((1, 4), bool)])

    def test_blur_keeps_a_flat_picture_and_a_sum_of_weights(self):
        flat = torch.full((3, 12, 20), 0.7, dtype=torch.float64)
        torch.testing.assert_close(fill_of("blur", flat, flat, (3, 4)), flat)


class TestRandomBand:
    @pytest.mark.parametrize("freedom", [1, 2, 4, 9, 30, 200])
    def test_students_quantile(self, freedom):
        for probability in (0.6, 0.9, 0.975, 0.995):
            wanted = scipy.stats.t.ppf(probability, freedom)
            assert student_quantile(probability, freedom) == pytest.approx(wanted, rel=1e-5)

    def test_the_interval(self):
        values = [1.0, 2.0, 4.0, 4.5]
        mean, low, high = band(values)
        assert mean == 2.875
        assert (low, high) == pytest.approx(oracles.t_interval(values, scipy.stats.t.ppf(0.975, 3)), rel=1e-5)
        assert band([float(i) for i in range(101)], "percentiles") == (50, 2.5, 97.5)

    @pytest.mark.parametrize("better", ["lower", "higher"])
    def test_the_verdict_is_where_the_value_lies(self, better):
        randoms = [0.4, 0.5, 0.6]
        _, low, high = band(randoms)
        for value, above in ((high + 0.01, True), (low - 0.01, False), (high - 0.01, None), (low + 0.01, None)):
            verdict = number_of("deletion", "faithfulness", better, Found(value), randoms).verdict
            good = {None: "no better", True: "better", False: "worse"}[
                None if above is None else above == (better == "higher")
            ]
            assert verdict == f"{good} than random"
            alike = number_of("sanity", "sanity", "lower", Found(value), randoms).verdict
            words = {None: "as unlike as chance", True: "more alike than chance", False: "more opposite than chance"}
            assert alike == words[above]

    def test_rounding_is_no_verdict(self):
        randoms = [0.3, 0.1 + 0.2, 0.3]
        assert number_of("saco", "faithfulness", "higher", Found(0.1 + 0.2), randoms).verdict == "no better than random"

    def test_random_maps_are_no_better_than_random_at_the_nominal_rate(self):
        """An additive score, 400 maps of independent normal numbers: one in twenty lies outside, within four sigma."""
        rng = np.random.default_rng(0)
        parts = rng.exponential(size=36)
        plan = Plan((6, 6), n_subsets=6)
        for name in ("deletion", "saco", "sensitivity-n"):
            measure = next(m for m in MEASURES if m.name == name)
            outside = []
            for number in range(400):
                one = ranked(rng.normal(size=(6, 6)).astype(np.float32), number)
                plan = replace(plan, seed=number)
                values = [
                    measure.value(m, parts.sum() - measure.masks(m, plan) @ parts, plan).value
                    for m in (one, *shuffles(one, 5, number))
                ]
                verdict = number_of(name, "faithfulness", measure.better, Found(values[0]), values[1:]).verdict
                outside.append(verdict != "no better than random")
            assert np.mean(outside) == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / 400) ** 0.5), name


class TestMeasurement:
    def test_it_repeats_to_the_digit_and_follows_its_seed(self, vit):
        e = vit.explain(photo(), method="rollout")
        first, again = (vit.measure(e, metrics="all", steps=5, seed=0) for _ in range(2))
        other = vit.measure(e, steps=5, seed=1)
        assert first.to_json() == again.to_json()
        assert all(first[number.name].random != number.random for number in other.numbers)
        assert first["deletion"].value == other["deletion"].value  # the map's own order draws nothing

    def test_what_is_recorded(self, vit):
        e = vit.explain(photo(), method="rollout")
        got = vit.measure(e)
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
            assert e.target == ("crane" if number < 2 else "class 4")
            assert scope.measure(e, metrics="saco").whole == pytest.approx(float(shares[number]), rel=1e-6)

    def test_features_and_likeness(self):
        scope = scope_of("dinov2")
        e = scope.explain(photo(), method="relevance")
        got = scope.measure(e, metrics="saco")
        assert (got.score, got.whole) == ("cosine to the whole picture's feature", pytest.approx(1))
        like = vitscope.similar_to(photo(seed=1))
        e = scope.explain(photo(), method="relevance", target=like)
        with pytest.raises(UsageError, match="cannot be made again from its words"):
            scope.measure(e)
        got = scope.measure(e, metrics="saco", target=like)
        assert got.score == "similar to ndarray"
        assert got.whole == pytest.approx(e.score, rel=1e-5)
        with pytest.raises(UsageError, match="no classes"):
            scope.measure(e, score="logit", target=like)


class TestSentence:
    @staticmethod
    def made(*verdicts):
        place = {"better": 2.0, "worse": -2.0, "same": 0.0}
        numbers = [
            number_of(name, "faithfulness", "higher", Found(place[v]), [-0.1, 0.0, 0.1])
            for name, v in zip(NAMES, verdicts, strict=False)
        ]
        return Measurement("pca", "x", "m", "s", 1.0, 0.0, "blur", tuple(numbers), 9).sentence()

    def test_nothing_found(self):
        assert "no measure of 8 tells the map from random maps" in self.made(*["same"] * 8)

    def test_one_of_eight_is_what_chance_gives(self):
        said = self.made("better", *["same"] * 7)
        assert "better than random maps by 1 of 8 measures (deletion), which chance alone gives to up to 20%" in said
        assert "no better by 7" in said
        said = self.made("worse", *["same"] * 7)
        assert "worse than random maps by 1 of 8 measures (deletion), which chance alone gives to up to 20%" in said

    def test_four_of_eight_are_not(self):
        said = self.made(*["better"] * 4, *["same"] * 4)
        assert "better than random maps by 4 of 8 measures (deletion, insertion, aopc, positive)" in said
        assert "chance" not in said

    def test_good_and_bad_are_both_said(self):
        said = self.made(*["better"] * 4, *["worse"] * 4)
        assert re.search(r"better than random maps by 4 .* worse than random maps by 4", said)

    def test_all(self):
        said = self.made(*["better"] * 8)
        assert "8 of 8" in said
        assert "no better" not in said
        assert "deletion 2 against 0" in said

    def test_nothing_measured(self):
        assert Measurement("pca", "x", "m", "s", 1.0, None, "blur", (), 0).sentence() == "pca: nothing was measured."

    def test_a_number_goes_into_json(self):
        number = Number("saco", "faithfulness", 1.0, "higher", 0.0, -1.0, 0.5, 5)
        assert json.loads(json.dumps(number.to_dict()))["verdict"] == "better than random"


class TestRefusals:
    def test_another_model(self, vit):
        e = vit.explain(photo(), method="rollout")
        stranger = scope_of("deit")
        stranger.adapter._weights = "other"
        with pytest.raises(UsageError, match="this map was made by"):
            stranger.measure(e)

    def test_another_size(self, vit):
        e = vit.explain(photo(), method="rollout")
        wide = scope_of("vit-wide")
        wide.adapter.size = None
        e = replace(e, provenance={**e.provenance, "size": 48})
        with pytest.raises(UsageError, match=r"this map has .* 4 x 4 patches"):
            vit.measure(e)

    def test_no_photo_and_another_photo(self, vit):
        e = vit.explain(photo(), method="rollout")
        bare = replace(e, picture=None)
        with pytest.raises(UsageError, match="without its photo .*image="):
            vit.measure(bare)
        assert vit.measure(bare, metrics="saco", image=photo())["saco"] == vit.measure(e, metrics="saco")["saco"]
        with pytest.raises(UsageError, match="of a photo of"):
            vit.measure(e, image=photo((50, 40)))

    def test_a_map_of_ones_own(self, vit):
        e = vit.explain(photo(), method="rollout")
        own = replace(e, provenance={}, method="mine")
        got = vit.measure(own, metrics="saco")
        assert got["saco"] == vit.measure(e, metrics="saco")["saco"]
        assert any("not checked" in note for note in got.notes)
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
        assert any("JPEG" in note for note in kept.notes)

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"metrics": "delete"}, "no metric is called 'delete'"),
            ({"metrics": ["saco", "delete"]}, "no metric is called 'delete'"),
            ({"metrics": []}, "no metric is asked for"),
            ({"baseline": "white"}, "no baseline is called 'white'"),
            ({"score": "loss"}, "no score is called 'loss'"),
            ({"n_random_maps": 1}, "n_random_maps is at least 2"),
            ({"steps": 0}, "steps is at least 1"),
            ({"n_subsets": 2}, "n_subsets and n_squares are at least 3"),
            ({"batch_size": 0}, "batch_size at least 1"),
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
        for name, told in (("beit", "places themselves"), ("ijepa", "no token left")):
            scope = scope_of(name)
            e = scope.explain(photo(), method="rollout")
            with pytest.raises(MethodError, match=f"'removal' does not apply: .*{told}.*these do: blur, mean"):
                scope.measure(e, baseline="removal")


def state(model):
    """Everything about a model that a measurement could leave changed."""
    return {
        name: (
            module.training,
            *(len(getattr(module, hooks)) for hooks in sorted(vars(module)) if "hooks" in hooks),
            tuple(
                (id(p), p.data_ptr(), p.requires_grad, p.grad is None, p._version, p.detach().numpy().tobytes())
                for p in module.parameters(recurse=False)
            ),
            tuple(b.numpy().tobytes() for b in module.buffers(recurse=False)),
        )
        for name, module in model.named_modules()
    }


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
