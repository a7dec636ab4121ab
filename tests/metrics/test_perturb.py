"""The order of patches and the probe that replaces them."""

import numpy as np
import pytest
import torch

from tests.helpers.errors import raises
from vitscope.errors import MethodError
from vitscope.metrics.perturb import Probe, baseline_fill
from vitscope.metrics.ranking import rank_map, shuffled_maps, top_masks


class TestOrder:
    def test_equal_values_stand_in_an_order_that_the_seed_draws(self):
        values = np.array([[1, 2, 2], [1, 1, 3]], np.float32)
        orders = {tuple(rank_map(values, seed).order.tolist()) for seed in range(60)}
        assert {order[0] for order in orders} == {5}
        assert {order[1:3] for order in orders} == {(1, 2), (2, 1)}
        assert len({order[3:] for order in orders}) == 6
        assert (rank_map(values, 7).order == rank_map(values, 7).order).all()

    def test_random_maps_have_the_maps_values_and_orders_of_their_own(self):
        values = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
        one = rank_map(values, 0)
        others = shuffled_maps(one, 4, 0)
        for other in others:
            assert sorted(other.values) == sorted(one.values)
            assert (np.diff(other.values[other.order]) <= 0).all()
        assert len({tuple(o.order.tolist()) for o in others}) == 4
        flat = shuffled_maps(rank_map(np.ones((6, 5), np.float32), 0), 4, 0)
        assert [o.order.tolist() for o in flat] == [o.order.tolist() for o in others]

    def test_a_mask_covers_the_first_of_the_order(self):
        assert top_masks(np.array([2, 0, 1]), np.array([0, 1, 3])).tolist() == [
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

    @pytest.mark.parametrize(("removed", "most"), [(False, 2), (True, 4)])
    def test_many_tokens_go_through_in_small_batches(self, removed, most):
        rows = []

        def run(pixels, kept):
            rows.append(len(pixels))
            return pixels.mean((1, 2, 3)) if kept is None else kept.double() @ torch.arange(1600).double()

        masks = np.zeros((8, 1600), bool)
        for number, mask in enumerate(masks):
            mask[number : number + 600] = True
        pixels = torch.ones(3, 40, 40)
        probe = Probe(run, pixels, None if removed else torch.zeros_like(pixels), (40, 40), batch=8, most_tokens=4096)
        (scores,), forwards = probe.scores([masks])
        assert rows == [most] * (8 // most)
        assert forwards == 8
        if removed:
            assert scores.tolist() == [(~mask @ np.arange(1600)) for mask in masks]

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
        with raises(MethodError, "metrics.score-not-finite"):
            probe.scores([np.ones((1, 4), bool)])

    def test_blur_keeps_a_flat_picture_and_a_sum_of_weights(self):
        flat = torch.full((3, 12, 20), 0.7, dtype=torch.float64)
        torch.testing.assert_close(baseline_fill("blur", flat, flat, (3, 4)), flat)
