"""What a number of a map is held against: random maps, their interval, and when no verdict is possible."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.faithfulness import NAMES, photo, scope_of
from tests.oracles import chance as oracles
from vitscope.metrics.faithfulness import DRAWS, MEASURES, MeasureResult, MeasureSettings
from vitscope.metrics.measurement import Measurement, compare_with_random, prediction_interval
from vitscope.metrics.ranking import rank_map, shuffled_maps

BY_NAME = {measure.name: measure for measure in MEASURES}
MANY = ("saco", "sensitivity-n", "infidelity")


def made(value, randoms, *, better="higher", possible=(None, None), name="saco", **options):
    return compare_with_random(
        name, "faithfulness", better, MeasureResult(value), randoms, possible=possible, **options
    )


class TestRanks:
    @pytest.mark.parametrize("count", [39, 40, 79, 100, 199, 400])
    def test_the_interval_against_its_twin(self, count):
        values = np.random.default_rng(count).exponential(size=count).tolist()
        assert prediction_interval(values, "ranks")[1:] == oracles.ranks_interval(values)
        number = made(1.0, values)
        assert (number.interval, number.draws) == ("ranks", count)
        assert (number.random, number.low, number.high) == prediction_interval(values, "ranks")
        assert number.low in values
        assert number.high in values

    def test_fewer_are_taken_for_normal(self):
        values = [float(i) for i in range(38)]
        assert made(1.0, values).interval == "t"
        assert made(1.0, [*values, 38.0]).interval == "ranks"

    @pytest.mark.parametrize("draw", ["exponential", "uniform", "standard_cauchy"])
    def test_one_in_twenty_lies_outside_whatever_the_distribution(self, draw):
        rng = np.random.default_rng(0)
        outside = []
        for _ in range(2000):
            values = getattr(rng, draw)(size=200)
            _, low, high = prediction_interval(values[1:].tolist(), "ranks")
            outside.append(not low <= values[0] <= high)
        assert np.mean(outside) == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / 2000) ** 0.5)


class TestManyRandomMaps:
    """`Measure.random_values`: many random maps out of few forwards."""

    plan = MeasureSettings((6, 10), n_subsets=8, n_squares=12)
    parts = np.random.default_rng(2).exponential(size=60)

    def scored(self, name, maps, plan):
        return [self.parts.sum() - BY_NAME[name].masks(m, plan) @ self.parts for m in maps]

    @pytest.mark.parametrize("name", ["sensitivity-n", "infidelity"])
    def test_shared_sets_are_asked_of_every_random_map(self, name):
        """Each of the many is what the measure itself gives for that random map, whose sets are those of the map."""
        one = rank_map(np.random.default_rng(3).normal(size=(6, 10)).astype(np.float32), 0)
        maps = [one, *shuffled_maps(one, 2, 0)]
        many = BY_NAME[name].random_values(maps, self.scored(name, maps, self.plan), self.plan)
        randoms = shuffled_maps(one, DRAWS, 0)
        scores = self.scored(name, randoms, self.plan)
        assert many == [BY_NAME[name].value(m, s, self.plan).value for m, s in zip(randoms, scores, strict=True)]
        assert len(set(many)) > 0.3 * DRAWS  # infidelity is 1 for each map that tells nothing

    def test_saco_in_random_orders_has_the_distribution_of_all_orders(self):
        """Five groups of one patch: all 120 orders are known."""
        plan = MeasureSettings((1, 5))
        values = np.array([[9, 4, 3, 1, 0]], np.float32)
        one, costs = rank_map(values, 0), np.array([1.0, 2.0, 4.0, 8.0, 16.0])
        maps = [one, *shuffled_maps(one, 3, 0)]
        scores = [100 - BY_NAME["saco"].masks(m, plan) @ costs for m in maps]
        many = []
        for seed in range(20):
            many += BY_NAME["saco"].random_values(maps, scores, replace(plan, seed=seed))
        every = oracles.saco_of_every_order([9, 4, 3, 1, 0], costs.tolist())
        assert {round(value, 9) for value in many} <= {round(value, 9) for value in every}
        assert np.mean(many) == pytest.approx(np.mean(every), abs=4 * np.std(every) / len(many) ** 0.5)
        for share in (0.1, 0.25, 0.75, 0.9):
            below = np.mean(np.array(many) <= np.quantile(every, share, method="inverted_cdf") + 1e-9)
            wanted = np.mean(np.array(every) <= np.quantile(every, share, method="inverted_cdf") + 1e-9)
            assert below == pytest.approx(wanted, abs=0.04)

    def test_costs_that_are_all_alike_are_no_finding(self):
        """A score that does not move gives the map the best SaCo, and the random maps, too."""
        one = rank_map(np.arange(60, dtype=np.float32).reshape(6, 10), 0)
        maps = [one, *shuffled_maps(one, 2, 0)]
        scores = [np.ones(11) for _ in maps]
        own = BY_NAME["saco"].value(one, scores[0], self.plan)
        number = made(own.value, BY_NAME["saco"].random_values(maps, scores, self.plan), possible=(-1.0, 1.0))
        assert (number.value, number.low, number.high, number.verdict) == (1, 1, 1, "undecided")

    @pytest.mark.slow
    @pytest.mark.usefixtures("as_shipped")  # annotations are executed by the tests around it
    def test_random_maps_are_told_from_random_maps_at_the_nominal_rate(self):
        """100 maps of independent numbers, an additive score: at most one in twenty outside, within four sigma."""
        rng = np.random.default_rng(0)
        for name in MANY:
            outside, good = [], []
            for number in range(100):
                plan = replace(self.plan, seed=number)
                one = rank_map(rng.normal(size=(6, 10)).astype(np.float32), number)
                maps = [one, *shuffled_maps(one, 3, number)]
                scores = self.scored(name, maps, plan)
                value = BY_NAME[name].value(one, scores[0], plan)
                got = made(value.value, BY_NAME[name].random_values(maps, scores, plan), better=BY_NAME[name].better)
                outside.append(got.verdict in ("better than random", "worse than random"))
                good.append(got.verdict == "better than random")
            sigma = (0.05 * 0.95 / 100) ** 0.5
            assert np.mean(outside) <= 0.05 + 4 * sigma, name
            assert 0 < np.mean(good) <= 0.025 + 4 * (0.025 * 0.975 / 100) ** 0.5, name

    def test_a_right_map_is_found(self):
        """With five random maps and a t interval SaCo could not be beaten; with the same forwards now it can."""
        one = rank_map(self.parts.reshape(6, 10).astype(np.float32), 0)
        maps = [one, *shuffled_maps(one, 5, 3)]
        scores = self.scored("saco", maps, self.plan)
        few = [BY_NAME["saco"].value(m, s, self.plan) for m, s in zip(maps, scores, strict=True)]
        before = made(few[0].value, [f.value for f in few[1:]], possible=(-1.0, 1.0))
        after = made(few[0].value, BY_NAME["saco"].random_values(maps, scores, self.plan), possible=(-1.0, 1.0))
        assert before.high > 1
        assert (before.verdict, after.verdict) == ("undecided", "better than random")
        assert after.high < after.value == pytest.approx(1)


class TestPossible:
    @pytest.mark.parametrize("better", ["lower", "higher"])
    def test_what_is_shown_is_cut_and_the_verdict_is_not(self, better):
        randoms = [0.1, 0.5, 0.9]
        _, low, high = prediction_interval(randoms)
        assert low < 0 < 1 < high
        best, worst = (0.0, 1.0) if better == "lower" else (1.0, 0.0)
        number = made(best, randoms, better=better, possible=(0.0, 1.0))
        assert number.shown == (0, 1)
        assert (number.low, number.high) == (low, high)
        assert (number.beatable, number.verdict) == (False, "undecided")
        assert made(worst, randoms, better=better, possible=(0.0, 1.0)).verdict == "undecided"
        free = made(best, randoms, better=better)
        assert (free.shown, free.beatable, free.verdict) == ((low, high), True, "no better than random")

    @pytest.mark.parametrize("better", ["lower", "higher"])
    def test_an_interval_that_reaches_only_the_worst_leaves_a_verdict(self, better):
        randoms = [0.0, 0.1, 0.2] if better == "higher" else [0.8, 0.9, 1.0]
        low, high = prediction_interval(randoms)[1:]
        assert low < 0 < high < 1 or 0 < low < 1 < high
        best = 1.0 if better == "higher" else 0.0
        assert made(best, randoms, better=better, possible=(0.0, 1.0)).verdict == "better than random"
        assert made(randoms[1], randoms, better=better, possible=(0.0, 1.0)).verdict == "no better than random"

    def test_worse_can_be_said_where_better_cannot(self):
        number = made(-0.9, [0.9, 0.95, 1.0], possible=(-1.0, 1.0))
        assert (number.beatable, number.verdict) == (False, "worse than random")

    def test_the_ends_of_each_number(self):
        vit, dino = scope_of("vit"), scope_of("dinov2")
        e = vit.explain(photo(), method="rollout")
        got = vit.measure(e, steps=3, n_random_maps=2)
        share = (0.0, 1.0)
        assert {n.name: n.possible for n in got.numbers} == dict.fromkeys(NAMES, share) | {
            "aopc": (got.whole - 1, got.whole),
            "saco": (-1, 1),
            "sensitivity-n": (-1, 1),
        }
        for number in got.numbers:
            assert number.possible[0] <= number.shown[0] <= number.shown[1] <= number.possible[1]
        logit = vit.measure(e, steps=3, n_random_maps=2, score="logit", metrics=["deletion", "aopc", "saco"])
        assert [n.possible for n in logit.numbers] == [(None, None), (None, None), (-1, 1)]
        cosine = dino.measure(
            dino.explain(photo(), method="rollout"), steps=3, n_random_maps=2, metrics=["deletion", "aopc"]
        )
        assert cosine["deletion"].possible == (-1, 1)
        assert cosine["aopc"].possible == pytest.approx((0, 2))

    def test_the_sentence_says_what_cannot_be_decided(self):
        said = Measurement("pca", "x", "m", "s", 1.0, 0.0, "mean", (self.wide("saco"), self.wide("infidelity")), 9)
        assert "no measure of 2 tells the map from random maps" in said.sentence()
        assert "for saco, infidelity random maps reach the best possible value" in said.sentence()
        better = made(2.0, [0.1, 0.2, 0.3], name="deletion")
        said = Measurement("pca", "x", "m", "s", 1.0, 0.0, "mean", (better, self.wide("saco")), 9).sentence()
        assert "better than random maps by 1 of 2 measures (deletion)" in said
        assert "undecided by 1 (saco: random maps reach the best possible value)" in said
        assert "no better by" not in said

    def wide(self, name):
        return made(1.0, [0.1, 0.5, 0.9], possible=(0.0, 1.0), name=name)


class TestAroundTheCurve:
    def test_it_is_the_band_of_the_random_maps_at_each_step(self):
        scope = scope_of("vit")
        e = scope.explain(photo(), method="rollout")
        got = scope.measure(e, metrics=["deletion", "insertion", "saco"], steps=4, n_random_maps=3)
        for number in (got["deletion"], got["insertion"]):
            mean, low, high = np.array(number.around).T
            assert len(mean) == len(number.x) == 5
            assert (low <= mean).all()
            assert (mean <= high).all()
            ends = {"deletion": (got.whole, got.empty), "insertion": (got.empty, got.whole)}[number.name]
            for end, place in zip(ends, (0, -1), strict=True):  # nothing and everything are the same for all maps
                assert number.around[place] == pytest.approx((end, end, end))
            area = float(((mean[1:] + mean[:-1]) * np.diff(number.x)).sum() / 2)
            assert area == pytest.approx(number.random)
        assert got["saco"].around == ()
        document = json.loads(got.to_json())
        assert len(document["numbers"][0]["around"]) == 5
        assert document["numbers"][2]["possible"] == [-1, 1]

    def test_it_repeats_to_the_digit(self):
        scope = scope_of("vit")
        e = scope.explain(photo(), method="rollout")
        first, again = (scope.measure(e, steps=4, n_random_maps=3).to_json() for _ in range(2))
        assert first == again


def test_whether_tokens_can_be_left_out_draws_nothing_from_the_callers_generator():
    import torch

    scope = scope_of("vit")
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert scope.supports("order-free")
    assert torch.equal(torch.random.get_rng_state(), before)
