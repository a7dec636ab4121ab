"""Does a map change with the weights, and stay under noise? The model's own tensors are never written."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from skimage.metrics import structural_similarity
from torch import nn

import vitscope
from tests.helpers.errors import raises
from tests.helpers.faithfulness import photo, scope_of, state
from tests.models import toys_traced as zoo_traced
from tests.models import traced_row
from vitscope.attention.transformer_blocks import TransformerBlocks
from vitscope.errors import VitscopeError
from vitscope.images import load_image
from vitscope.metrics.perturb import BASELINES
from vitscope.metrics.ranking import moved_copies
from vitscope.metrics.sanity import WeightGroup, randomised_weights, sanity, weight_groups
from vitscope.metrics.stability import NOISE_SAMPLES, RADIUS, stability
from vitscope.models.weights.weights import hash_of


class Chain(nn.Module):
    """Three linear layers, one of them twice, and a tower that no forward comes to."""

    def __init__(self):
        super().__init__()
        self.tower = nn.Linear(4, 4)
        self.last = nn.Linear(6, 6)
        self.first = nn.Linear(6, 6)
        self.shift = nn.Parameter(torch.randn(6))
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.first.weight

    def run(self, x):
        return self.last(self.tied(self.first(x)))


class TestStages:
    def test_a_vit_from_its_embedding_to_its_head(self):
        scope = scope_of("vit")
        assert isinstance(scope.engine.blocks, TransformerBlocks)
        noise = torch.randn(1, 3, 32, 32).double()
        found = weight_groups(scope.model, lambda: scope.engine.answer(noise), scope.engine.blocks.blocks)
        assert [stage.name for stage in found] == ["embedding", "block 0", "block 1", "block 2", "head"]
        name_of = {id(p): name for name, p in scope.model.named_parameters()}
        names = [[name_of[id(p)] for p in stage.parameters] for stage in found]
        assert sorted(name for stage in names for name in stage) == sorted(name_of.values())
        assert "vit.embeddings.cls_token" in names[0]
        assert {"classifier.weight", "vit.layernorm.weight"} <= set(names[-1])
        for number in range(3):
            assert all(f"layers.{number}." in name for name in names[1 + number])

    def test_parts_of_a_model_without_blocks_in_the_order_of_its_forward(self):
        model = Chain()
        found = weight_groups(model, lambda: model.run(torch.zeros(1, 6)))
        assert [stage.name for stage in found] == ["part 1 of 3", "part 2 of 3", "part 3 of 3"]
        assert [{id(p) for p in stage.parameters} for stage in found] == [
            {id(model.first.weight), id(model.first.bias)},
            {id(model.tied.bias)},  # its weight was the first layer's
            {id(model.last.weight), id(model.last.bias)},
        ]

    def test_attention_that_uses_the_weights_of_a_module_it_does_not_call(self):
        model = nn.MultiheadAttention(8, 2, batch_first=True)
        x = torch.zeros(1, 3, 8)
        found = weight_groups(model, lambda: model(x, x, x))
        together = {id(p) for stage in found for p in stage.parameters}
        assert together == {id(p) for p in model.parameters()}

    def test_a_text_tower_is_left_out(self):
        row = next(row for row in zoo_traced.ROWS if row.name == "hf-clip")
        model = row.make().eval()
        found = weight_groups(model, lambda: model.get_image_features(pixel_values=torch.zeros(1, 3, *row.size)))
        name_of = {id(p): name for name, p in model.named_parameters()}
        names = {name_of[id(p)] for stage in found for p in stage.parameters}
        assert any(name.startswith("vision_model") for name in names)
        assert not any(name.startswith("text") for name in names)


class TestRedrawn:
    def test_other_values_of_the_same_mean_and_spread_and_the_own_ones_afterwards(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(200, 100), nn.LayerNorm(100), nn.Linear(100, 3))
        with torch.no_grad():
            model[0].weight.mul_(3).add_(0.7)
        before = state(model)
        own = model[0].weight
        with randomised_weights(model, [own, model[1].weight], 0):
            other = model[0].weight
            assert other is not own
            other, own = other.detach(), own.detach()
            assert float(other.mean()) == pytest.approx(float(own.mean()), abs=0.01)
            assert float(other.std()) == pytest.approx(float(own.std()), rel=0.02)
            assert abs(np.corrcoef(other.ravel(), own.ravel())[0, 1]) < 0.03
            assert model[1].weight.eq(1).all()  # no spread, nothing to draw
            assert id(model[2].weight) == before["2"][-2][0][0]
        assert state(model) == before

    def test_the_seed_draws_and_each_parameter_alike_whatever_is_drawn_beside_it(self):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        seen = []
        for which, seed in (([0], 0), ([0, 1], 0), ([0], 1)):
            with randomised_weights(model, [model[i].weight for i in which], seed):
                seen.append(model[0].weight.detach().clone())
                second = model[1].weight.detach().clone()
        assert torch.equal(seen[0], seen[1])
        assert not torch.equal(seen[0], seen[2])
        with randomised_weights(model, list(model.parameters()), 0):
            assert not torch.equal(model[0].weight, model[1].weight)
        assert torch.equal(second, model[1].weight)

    def test_tied_weights_stay_tied_and_errors_put_all_back(self):
        model = Chain()
        before = state(model)
        with pytest.raises(ZeroDivisionError), randomised_weights(model, [model.first.weight], 3):  # noqa: PT012
            assert model.tied.weight is model.first.weight
            assert state(model) != before
            raise ZeroDivisionError
        assert state(model) == before


def rank_correlation(a, b):
    return scipy.stats.spearmanr(a.ravel(), b.ravel()).statistic


def likeness(a, b):
    unit = [(x - x.min()) / (x.max() - x.min()) for x in (a.astype(float), b.astype(float))]
    return structural_similarity(*unit, win_size=3, data_range=1)


class TestSanity:
    parts = [WeightGroup("bottom", ()), WeightGroup("middle", ()), WeightGroup("top", ())]
    values = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)

    def test_a_map_that_never_changes_is_told(self):
        found = {n.name: n for n in sanity(self.values, lambda: self.values, nn.Linear(1, 1), self.parts)}
        assert set(found) == {
            f"sanity-{kind}{measure}{sign}"
            for kind in ("cascading", "independent")
            for measure in ("", "-ssim")
            for sign in ("", "-without-sign")
        }
        for number in found.values():
            assert number.value == pytest.approx(1)
            assert number.y == pytest.approx((1, 1, 1))
            assert number.verdict == "more alike than chance"
            assert number.better == "lower"
        assert found["sanity-cascading"].detail["stages"] == ["top", "middle", "bottom"]

    def test_a_map_that_turns_into_another_passes(self):
        rng = np.random.default_rng(1)
        new = sanity(self.values, lambda: rng.normal(size=(6, 6)).astype(np.float32), nn.Linear(1, 1), self.parts)
        assert {number.verdict for number in new} == {"as unlike as chance"}

    def test_with_and_without_sign(self):
        found = {n.name: n for n in sanity(self.values, lambda: -self.values, nn.Linear(1, 1), self.parts)}
        assert found["sanity-cascading"].value == pytest.approx(-1)
        assert found["sanity-cascading"].verdict == "more opposite than chance"
        assert found["sanity-cascading-without-sign"].value == pytest.approx(1)
        assert found["sanity-cascading-ssim-without-sign"].value == pytest.approx(1)
        unsigned = sanity(np.abs(self.values), lambda: self.values, nn.Linear(1, 1), self.parts)
        assert len(unsigned) == 4

    @pytest.mark.parametrize("method", ["rollout", pytest.param("gradcam", marks=pytest.mark.slow)])
    def test_against_a_second_model_that_is_really_changed(self, method):
        """The twin copies the model, writes new weights into the copy and explains with that; chance by hand, too."""
        scope = scope_of("vit", torch.float32)
        e = scope.explain(photo(), method=method, **({"target": 1} if method == "gradcam" else {}))
        got = scope.measure(e, metrics="sanity", seed=4)
        assert got.explanations == 2 * 5 - 1
        order = list(scope.model.named_parameters())
        groups = [("embed",), ("layers.0.",), ("layers.1.",), ("layers.2.",), ("classifier", "vit.layernorm")]

        def after(which):
            other = scope_of("vit", torch.float32)
            with torch.no_grad():
                for number, (name, p) in enumerate(order):
                    if any(part in name for group in which for part in groups[group]) and p.std() > 0:
                        draw = torch.Generator().manual_seed(4 * 1_000_003 + number)
                        drawn = torch.randn(p.shape, generator=draw, dtype=torch.float64)
                        other.model.get_parameter(name).copy_(p.double().mean() + p.double().std() * drawn)
            return other.explain(photo(), method=method, **({"target": 1} if method == "gradcam" else {})).map

        cascade = [after(range(start, 5)) for start in (4, 3, 2, 1, 0)]
        single = [after([number]) for number in (4, 3, 2, 1, 0)]
        for maps, kind in ((cascade, "cascading"), (single, "independent")):
            for alike, suffix in ((rank_correlation, ""), (likeness, "-ssim")):
                number = got[f"sanity-{kind}{suffix}"]
                with np.errstate(invalid="ignore"):
                    wanted = np.nan_to_num([alike(e.map, m) if np.ptp(m) else 0 for m in maps])
                flat = [not np.ptp(m) for m in maps]
                keep = [i for i in range(5) if not flat[i]]
                assert np.array(number.y)[keep] == pytest.approx(wanted[keep], abs=1e-4)
                assert number.value == pytest.approx(
                    number.y[-1] if kind == "cascading" else np.mean(number.y), abs=1e-9
                )
        assert not all(not np.ptp(m) for m in single)
        chance = [rank_correlation(other, cascade[-1]) for other in moved_copies(e.map, 99, 4)]
        number = got["sanity-cascading"]
        assert (number.low, number.high) == pytest.approx((sorted(chance)[1], sorted(chance)[-2]), abs=1e-4)
        assert number.random == pytest.approx(np.mean(chance), abs=1e-4)

    def test_a_random_map_does_not_know_the_model_and_is_told(self):
        scope = scope_of("vit", torch.float32)
        got = scope.measure(scope.explain(photo(), method="random", seed=2), metrics="sanity")
        assert got["sanity-cascading"].value == pytest.approx(1)
        assert "its map is more alike than chance" in got.sentence()

    def test_moved_maps_keep_their_values_and_neighbours(self):
        values = np.arange(12, dtype=np.float32).reshape(3, 4)
        others = moved_copies(values, 50, 0)
        assert len({other.tobytes() for other in others}) > 25
        for other in others:
            assert sorted(other.ravel()) == sorted(values.ravel())
            assert not np.array_equal(other, values)
            row, column = (int(x[0]) for x in np.where(other == 0))
            right = other[row, (column + 1) % 4] == 1 or other[row, (column - 1) % 4] == 1
            below = other[(row + 1) % 3, column] == 4 or other[(row - 1) % 3, column] == 4
            assert right
            assert below
        assert np.array_equal(moved_copies(values, 5, 3), moved_copies(values, 5, 3))


class TestStability:
    values = np.random.default_rng(0).random((5, 5)).astype(np.float32)
    pixels = torch.rand(3, 10, 10, dtype=torch.float64)

    def test_a_map_that_does_not_move(self):
        worst, mean = stability(self.values, lambda _: self.values, self.pixels, torch.ones_like(self.pixels))
        assert (worst.value, mean.value) == (0, pytest.approx(1))
        assert worst.verdict == mean.verdict == "better than random"

    def test_by_hand(self):
        maps = [self.values * (1 + i) for i in range(NOISE_SAMPLES - 1)] + [self.values[::-1].copy()]
        waiting, given = iter(maps), []

        def again(pixels):
            given.append(pixels)
            return next(waiting)

        span = torch.linspace(1, 3, 3, dtype=torch.float64)[:, None, None].expand(3, 10, 10)
        worst, mean = stability(self.values, again, self.pixels, span, seed=1)
        assert worst.value == pytest.approx(max(NOISE_SAMPLES - 2, 0))
        wanted = [rank_correlation(self.values, m) for m in maps]
        assert mean.value == pytest.approx(np.mean(wanted))
        for pixels in given:
            noise = (pixels - self.pixels) / span
            assert float(noise.abs().max()) <= RADIUS
            assert float(noise.std()) == pytest.approx(RADIUS / 3**0.5, rel=0.1)
            assert abs(float(noise.mean())) < RADIUS / 5
        assert len({float(pixels.sum()) for pixels in given}) == NOISE_SAMPLES

    def test_a_map_that_is_another_each_time_is_no_better_than_random(self):
        rng = np.random.default_rng(3)
        found = stability(
            self.values,
            lambda _: rng.permutation(self.values.ravel()).reshape(5, 5),
            self.pixels,
            torch.ones_like(self.pixels),
        )
        assert [number.verdict for number in found] == ["no better than random"] * 2

    @pytest.mark.slow
    def test_the_whole_way(self):
        """The noisy pixels are explained as the picture was: the same class, the same options."""
        scope = scope_of("vit", torch.float32)
        e = scope.explain(photo(), method="gradcam", target=3, layer=1)
        got = scope.measure(e, metrics="stability", seed=5)
        assert got.explanations == NOISE_SAMPLES
        assert (got.forwards, got.empty) == (0, None)
        pixels = scope.adapter.prepare(load_image(photo()))[0]
        span = torch.stack([scope.adapter.prepare(load_image(np.full((40, 40, 3), v, np.uint8)))[0] for v in (0, 255)])
        span = span[1] - span[0]
        draw = torch.Generator().manual_seed(5)
        changes, ranks = [], []
        for _ in range(NOISE_SAMPLES):
            noise = 2 * torch.rand(pixels.shape, generator=draw, dtype=torch.float64) - 1
            twin = scope_of("vit", torch.float32)
            noisy = pixels + (RADIUS * span * noise.float())
            twin.adapter.prepare = lambda *_, noisy=noisy: (noisy, e.region)
            other = twin.explain(photo(), method="gradcam", target=3, layer=1).map
            changes.append(np.linalg.norm((other - e.map).ravel()) / np.linalg.norm(e.map.ravel()))
            ranks.append(rank_correlation(other, e.map))
        assert max(changes) > 0
        assert got["max-sensitivity"].value == pytest.approx(max(changes), rel=1e-3)
        assert got["stability"].value == pytest.approx(np.mean(ranks), abs=1e-3)
        assert "under small noise" in got.sentence()


class TestLinear:
    """A linear score of 400 pixels, one a patch: the right map is weights times pixels, and follows both."""

    def setup_method(self):
        torch.manual_seed(1)
        self.bottom, self.top = (nn.Linear(400, 1, bias=False, dtype=torch.float64) for _ in range(2))
        self.both = nn.ModuleList([self.bottom, self.top])
        self.parts = [WeightGroup("bottom", (self.bottom.weight,)), WeightGroup("top", (self.top.weight,))]
        self.pixels = torch.rand(3, 20, 20, dtype=torch.float64) + 0.5

    def right(self, pixels=None):
        seen = (self.pixels if pixels is None else pixels)[0]
        return (self.top.weight.detach() * seen.flatten()).reshape(20, 20).float().numpy()

    def test_a_map_of_the_weights_goes_with_them_and_no_earlier(self):
        own = self.right()
        found = {n.name: n for n in sanity(own, self.right, self.both, self.parts, seed=3)}
        with randomised_weights(self.both, [self.top.weight], 3):
            drawn = rank_correlation(own, self.right())
        assert abs(drawn) < 0.2  # four standard deviations of independent maps
        assert found["sanity-cascading"].y == pytest.approx((drawn, drawn))
        assert found["sanity-independent"].y == pytest.approx((drawn, 1))  # the top, the bottom
        assert found["sanity-cascading"].verdict == "as unlike as chance"
        assert found["sanity-independent"].value == pytest.approx((drawn + 1) / 2)

    def test_a_map_of_the_picture_alone_stays(self):
        """Adebayo's own control: an edge detector knows no weights."""
        edges = np.abs(np.diff(self.pixels[0].numpy(), axis=0, append=0)).astype(np.float32)
        found = {n.name: n for n in sanity(edges, lambda: edges, self.both, self.parts, seed=3)}
        assert found["sanity-cascading"].value == pytest.approx(1)
        assert found["sanity-cascading"].verdict == "more alike than chance"

    @pytest.mark.slow
    def test_noise_goes_through_as_it_is(self):
        """m(x + e) - m(x) = w e: for equal weights and a picture of ones that is the noise's own size."""
        with torch.no_grad():
            self.top.weight.fill_(2)
        self.pixels = torch.ones_like(self.pixels)
        worst, _ = stability(self.right(), self.right, self.pixels, torch.ones_like(self.pixels), seed=1)
        assert RADIUS / 3**0.5 < worst.value < 1.1 * RADIUS / 3**0.5
        with torch.no_grad():
            self.top.weight.copy_(torch.arange(400.0))
        worst, mean = stability(self.right(), self.right, self.pixels, torch.ones_like(self.pixels), seed=1)
        assert worst.value < RADIUS
        assert mean.value > 0.99
        assert worst.verdict == mean.verdict == "better than random"


@pytest.mark.spread
@pytest.mark.parametrize(
    "options", [{"layers": [0, 2]}, {"layers": "last2", "residual_weight": 0.25, "head_fusion": "max"}]
)
def test_the_map_is_made_again_with_its_own_options(options):
    scope = scope_of("vit", torch.float32)
    e = scope.explain(photo(), method="rollout", **options)
    told = scope.measure(e, metrics="stability")
    assert told["stability"].value > 0.9
    from vitscope.evaluation.remake import map_maker

    pixels, region = scope.adapter.prepare(load_image(photo()))
    assert np.array_equal(map_maker(scope.engine, e, None, e.picture, region)(pixels), e.map)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm-swin", "timm-vit-registers", "timm-cait"])
def test_other_families(name):
    """Pixels can be replaced everywhere, tokens left out only where that is possible; nothing is left behind."""
    row = next(row for row in zoo_traced.ROWS if row.name == name)
    torch.manual_seed(0)
    model = row.make().eval()
    scope = vitscope.load(model, processor=traced_row.as_it_is(row.size))
    picture = traced_row.picture(row.size)
    e = scope.explain(picture, method="rollout")
    before, values = state(model), e.map.copy()
    got = scope.measure(e, metrics="all", steps=4, n_random_maps=2, n_subsets=3, n_squares=3)
    assert all(np.isfinite([n.value, n.low, n.high]).all() for n in got.numbers)
    assert state(model) == before
    assert np.array_equal(scope.explain(picture, method="rollout").map, values)
    if not scope.supports("order-free"):
        with raises(VitscopeError, "evaluation.no-removal"):
            scope.measure(e, baseline="removal")
    else:
        assert scope.measure(e, baseline="removal", metrics="deletion", steps=4, n_random_maps=2)["deletion"].y[0] > 0


def test_the_models_hash_is_not_that_of_other_weights():
    """A map that does not say which model made it: the hash is first asked for here, and kept by the family."""
    row = next(row for row in zoo_traced.ROWS if row.name == "timm-vit-registers")
    torch.manual_seed(0)
    model, process = row.make().eval(), traced_row.as_it_is(row.size)
    picture = traced_row.picture(row.size)
    e = vitscope.load(model, processor=process).explain(picture, method="rollout")
    fresh = vitscope.load(model, processor=process)
    fresh.adapter.__dict__.pop("weights", None)
    got = fresh.measure(replace(e, provenance={"options": e.provenance["options"]}), metrics="sanity")
    assert got.options["weights"] == fresh.adapter.weights == e.provenance["weights"]
    assert hash_of(model) in fresh.adapter.weights


@pytest.mark.slow
def test_half_precision_and_every_baseline():
    scope = scope_of("vit", torch.bfloat16)
    e = scope.explain(photo(), method="rollout")
    wholes = {baseline: scope.measure(e, metrics="saco", baseline=baseline).whole for baseline in BASELINES}
    assert len(set(wholes.values())) == 1
    got = scope.measure(e, metrics="all", steps=3, n_random_maps=2)
    assert all(np.isfinite(number.value) for number in got.numbers)


def test_a_map_that_fails_under_other_weights_puts_them_back(monkeypatch):
    scope = scope_of("vit", torch.float32)
    e = scope.explain(photo(), method="rollout")
    before, calls = state(scope.model), []

    def broken(*args, **kwargs):
        calls.append(0)
        if len(calls) > 3:
            raise RuntimeError("broken on purpose")
        return copy.deepcopy(explained(*args, **kwargs))

    explained = scope.engine.explain_batch
    monkeypatch.setattr(scope.engine, "explain_batch", broken)
    with pytest.raises(RuntimeError, match="on purpose"):
        scope.measure(e, metrics="sanity")
    assert state(scope.model) == before


@pytest.mark.slow
@pytest.mark.weights
def test_a_real_map_follows_the_model_and_a_random_one_does_not():
    from skimage import data

    scope = vitscope.load()
    options = {"baseline": "removal", "metrics": "deletion", "steps": 6}
    real, *others = (
        scope.measure(scope.explain(data.astronaut(), size=196, **of), **options)["deletion"]
        for of in ({"method": "rollout", "layers": "last3"}, *({"method": "random", "seed": seed} for seed in (7, 8)))
    )
    assert real.verdict == "better than random"
    assert "no better than random" in [other.verdict for other in others]
