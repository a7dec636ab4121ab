"""Measures of faithfulness: known answers, slow twins, properties."""

import contextlib

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.helpers.faithfulness import additive, numbers_of, photo, scope_of
from tests.oracles import faithfulness as oracles
from vitscope.images import load_image
from vitscope.metrics.faithfulness import MEASURES, MeasureSettings
from vitscope.metrics.perturb import BASELINES, Probe
from vitscope.metrics.ranking import rank_map, shuffled_maps, spearman, ssim, step_counts


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
    }

    def test_the_right_map(self):
        got = numbers_of(self.parts, additive(self.parts, (4, 4)), steps=16)
        assert got == pytest.approx(self.right, abs=1e-9)

    def test_the_reversed_map(self):
        probe = additive(self.parts, (4, 4))
        even = numbers_of(np.ones(16), probe, steps=16)["infidelity"]  # what the area of a square says
        assert even > 0.01
        assert numbers_of(-self.parts, probe, steps=16) == pytest.approx(
            {**self.reversed, "infidelity": even}, abs=1e-9
        )

    @pytest.mark.parametrize("other", [lambda m: 3 * m, lambda m: m - 40, lambda m: m / 7 + 2])
    def test_scale_and_zero_are_no_matter(self, other):
        probe = additive(self.parts, (2, 8))
        got, changed = (numbers_of(m, probe, steps=16) for m in (self.parts, other(self.parts)))
        assert got == pytest.approx(changed, abs=1e-9)

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

    plan = MeasureSettings(grid, steps, n_subsets=7, n_squares=6, seed=3)
    one = rank_map(values.reshape(grid), plan.seed)
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
    plan = MeasureSettings((5, 9), n_squares=30)
    one = rank_map(np.zeros((5, 9), np.float32), 0)
    masks = next(m for m in MEASURES if m.name == "infidelity").masks(one, plan)
    assert not masks[0].any()
    sides, begun = [], []
    for mask in masks[1:].reshape(-1, 5, 9):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == rows.size * columns.size == rows.size**2
        assert np.ptp(rows) == np.ptp(columns) == rows.size - 1
        sides.append(rows.size)
        begun.append([rows[0] / (6 - rows.size), columns[0] / (10 - rows.size)])
    assert sorted(sides) == [1] * 15 + [2] * 15  # a Latin hypercube: as many of each, and all over the grid
    for places in np.sort(begun, axis=0).T:
        assert (places <= np.arange(1, 31) / 30).all()
        assert (places + 1 / 4 > np.arange(30) / 30).all()
    sets = next(m for m in MEASURES if m.name == "sensitivity-n").masks(one, plan)
    assert len(np.unique(sets[1 + 24 :], axis=0)) > 0.9 * (len(sets) - 25)
    assert sets[1:].any(0).all()


@pytest.mark.covering
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
            block = scope.engine.blocks.blocks[0]
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


def test_sensitivity_n_takes_no_forward_that_deletion_does_not():
    """Its sets are the tops of the random maps of deletion, which stay random maps: none of its own is one of them."""
    plan = MeasureSettings((6, 10), steps=10, n_subsets=19, seed=4)
    by_name = {one.name: one for one in MEASURES}
    one = rank_map(np.random.default_rng(5).normal(size=(6, 10)).astype(np.float32), plan.seed)
    of_deletion = {m.tobytes() for r in shuffled_maps(one, 19, plan.seed) for m in by_name["deletion"].masks(r, plan)}
    sets = by_name["sensitivity-n"].masks(one, plan)
    assert {mask.tobytes() for mask in sets} <= of_deletion
    assert sorted(set(sets.sum(1))) == [0, 6, 12, 18, 24, 30, 36, 42, 48]
    assert len(np.unique(sets, axis=0)) == 1 + 8 * 19
