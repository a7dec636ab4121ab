"""What a number of a map is held against: random maps, their range, and when a verdict stands."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.faithfulness import NAMES, additive, photo, scope_of
from tests.oracles import chance as oracles
from vitscope.evaluation.random_maps import compare_scores
from vitscope.metrics.faithfulness import DRAWS, MEASURES, MeasureResult, MeasureSettings
from vitscope.metrics.measurement import compare_with_random, random_range
from vitscope.metrics.ranking import rank_map, shuffled_maps

BY_NAME = {measure.name: measure for measure in MEASURES}
MANY = ("saco", "sensitivity-n", "infidelity")


def made(value, randoms, *, better="higher", possible=(None, None), name="saco", **options):
    return compare_with_random(
        name, "faithfulness", better, MeasureResult(value), randoms, possible=possible, **options
    )


class TestVerdict:
    places = st.integers(0, 12).map(float)  # few values, so that many are equal

    @settings(deadline=None)  # of a busy machine
    @given(places, st.lists(places, min_size=19, max_size=60), st.sampled_from(["higher", "lower"]))
    def test_with_all_random_maps_it_is_the_place_among_them(self, value, randoms, better):
        number = made(value, randoms, better=better)
        assert number.verdict == oracles.place(value, randoms, better)
        assert number.needed == 0
        assert number.low in randoms
        assert number.high in randoms
        beyond = {"higher": value > number.high, "lower": value < number.low}[better]
        assert (number.verdict == "better than random") == beyond  # what is shown is what is said

    @settings(deadline=None)  # of a busy machine
    @given(places, st.lists(places, min_size=19, max_size=60), st.sampled_from(["higher", "lower"]), st.data())
    def test_a_verdict_that_stands_early_is_that_of_all(self, value, randoms, better, data):
        """So looking after each random map, and stopping, makes no false alarm likelier."""
        count = data.draw(st.integers(2, len(randoms)))
        early = made(value, randoms[:count], better=better, planned=len(randoms))
        if early.needed:
            assert early.verdict == "undecided"
            assert early.needed == len(randoms) - count
        else:
            assert early.verdict == oracles.place(value, randoms, better)

    def test_fewer_than_19_cannot_make_a_map_better(self):
        number = made(1.0, [0.0] * 18)
        assert (number.verdict, number.needed, number.beaten) == ("undecided", 1, 18)
        assert made(1.0, [0.0] * 19).verdict == "better than random"
        assert made(0.5, [0.0, 1.0]).verdict == "no better than random"
        assert made(0.5, [0.0] * 99 + [1.0] * 4, planned=103).verdict == "better than random"  # 5 places of 104
        assert made(0.5, [0.0] * 98 + [1.0] * 5, planned=103).verdict == "no better than random"

    def test_rounding_is_no_verdict(self):
        assert made(0.1 + 0.2, [0.3] * 19).verdict == "no better than random"

    @pytest.mark.slow
    @pytest.mark.usefixtures("as_shipped")
    @pytest.mark.parametrize("n_random_maps", [19, 39])
    def test_drawing_until_it_stands_calls_one_random_map_in_twenty_better(self, n_random_maps):
        """500 random maps of an additive score, through the rounds: within four sigma, and far fewer draws for most."""
        rng = np.random.default_rng(n_random_maps)
        probe = additive(rng.exponential(size=36), (6, 6))
        deletion, found = BY_NAME["deletion"], []
        for seed in range(500):
            plan, values = MeasureSettings((6, 6), steps=6, seed=seed), rng.normal(size=(6, 6)).astype(np.float32)
            free = lambda _measure: (None, None)  # noqa: E731
            (number,), *_ = compare_scores(
                probe, values, [deletion], plan, n_random_maps, math.inf, free, lambda *_: None
            )
            found.append((number.verdict, number.draws))
        for verdict in ("better than random", "worse than random"):
            share = np.mean([one == verdict for one, _ in found])
            assert abs(share - 0.05) <= 4 * (0.05 * 0.95 / 500) ** 0.5, verdict
        assert "undecided" not in [one for one, _ in found]
        same = [draws for one, draws in found if one == "no better than random"]
        assert np.mean(same) < n_random_maps / 2

    def test_time_that_is_over_is_said_and_not_guessed(self):
        probe = additive(np.arange(36.0), (6, 6))
        right = np.arange(36, dtype=np.float32).reshape(6, 6)
        free = lambda _measure: (None, None)  # noqa: E731
        settled, late = (
            compare_scores(
                probe, right, [BY_NAME["deletion"]], MeasureSettings((6, 6)), 19, until, free, lambda *_: None
            )
            for until in (math.inf, 0.0)
        )
        assert (settled[0][0].verdict, settled[0][0].draws) == ("better than random", 19)
        assert (late[0][0].verdict, late[0][0].draws, late[0][0].needed) == ("undecided", 2, 17)
        assert late[2] < settled[2]


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
        first = self.plan.n_subsets  # maps before have the sets of sensitivity-n on top, and are no random maps to it
        randoms = shuffled_maps(one, first + DRAWS, 0, first)
        scores = self.scored(name, randoms, self.plan)
        assert many == [BY_NAME[name].value(m, s, self.plan).value for m, s in zip(randoms, scores, strict=True)]
        assert len(set(many)) > 0.3 * DRAWS  # infidelity is that of an even map for each that tells nothing

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
        one = rank_map(self.parts.reshape(6, 10).astype(np.float32), 0)
        maps = [one, *shuffled_maps(one, 5, 3)]
        scores = self.scored("saco", maps, self.plan)
        own = BY_NAME["saco"].value(one, scores[0], self.plan).value
        number = made(own, BY_NAME["saco"].random_values(maps, scores, self.plan), possible=(-1.0, 1.0))
        assert number.verdict == "better than random"
        assert number.high < number.value == pytest.approx(1)


class TestPossible:
    @pytest.mark.parametrize("better", ["lower", "higher"])
    def test_where_random_maps_are_as_good_as_can_be_there_is_no_verdict(self, better):
        best, worst = (0.0, 1.0) if better == "lower" else (1.0, 0.0)
        randoms = [best, *[0.5] * 17, worst]
        for value in (best, 0.5):
            number = made(value, randoms, better=better, possible=(0.0, 1.0))
            assert (number.beatable, number.verdict, number.needed) == (False, "undecided", 0)
        assert made(best, randoms, better=better).verdict == "no better than random"  # it could be better still
        assert made(best, [0.5] * 18 + [worst], better=better, possible=(0.0, 1.0)).verdict == "better than random"

    def test_worse_can_be_said_where_better_cannot(self):
        number = made(-0.9, [0.9] * 18 + [1.0], possible=(-1.0, 1.0))
        assert (number.beatable, number.verdict) == (False, "worse than random")

    def test_the_ends_of_each_number(self):
        vit, dino = scope_of("vit"), scope_of("dinov2")
        e = vit.explain(photo(), method="rollout")
        got = vit.measure(e, steps=3, n_random_maps=2, metrics=NAMES)
        share = (0.0, 1.0)
        assert {n.name: n.possible for n in got.numbers} == dict.fromkeys(NAMES, share) | {
            "aopc": (got.whole - 1, got.whole),
            "saco": (-1, 1),
            "sensitivity-n": (-1, 1),
        }
        for number in got.numbers:
            assert number.possible[0] - 1e-9 <= number.low <= number.high <= number.possible[1] + 1e-9
        logit = vit.measure(e, steps=3, n_random_maps=2, score="logit", metrics=["deletion", "aopc", "saco"])
        assert [n.possible for n in logit.numbers] == [(None, None), (None, None), (-1, 1)]
        cosine = dino.measure(
            dino.explain(photo(), method="rollout"), steps=3, n_random_maps=2, metrics=["deletion", "aopc"]
        )
        assert cosine["deletion"].possible == (-1, 1)
        assert cosine["aopc"].possible == pytest.approx((0, 2))


class TestAroundTheCurve:
    def test_the_mean_of_equal_numbers_is_that_number(self):
        assert sum([0.1] * 3) / 3 > 0.1
        assert random_range([0.1] * 3) == (0.1, 0.1, 0.1)

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
