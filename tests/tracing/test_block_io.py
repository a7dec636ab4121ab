"""Methods on models whose layers do not all see the same tokens: dense float64 twins, grad-cam, captum, and contracts.

The twins are whole matrices on the finest tokens. Of each layer the model's own attention and autograd's gradient of it
are taken at its dropout, and put where the windows, merges and reduced keys of the papers say.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import vitscope
from tests.helpers.errors import raises
from tests.models.toys_traced import ROWS
from tests.models.traced_row import as_it_is, picture
from vitscope.engine.engine import Engine
from vitscope.errors import MethodError, UnsupportedError, UsageError
from vitscope.images import load_image
from vitscope.methods.base import METHODS

BY_NAME = {row.name: row for row in ROWS}
QUICKER = {
    "rise": {"masks": 12},
    "integrated-gradients": {"steps": 4},
    "smoothgrad": {"samples": 3},
    "occlusion": {"window": 4, "stride": 4},
}
REFUSED = ("notebook-recipe", "attnlrp", "flow", "legrad", "logit-lens", "random-walk", "sink-rollout", "token-removal")
MODELS = ("timm-swin", "timm-twins-pcpvt", "timm-cait")
TWINNED = (*MODELS, "timm-pvt-v2")
every_model = pytest.mark.parametrize("name", MODELS)
_known = {}


def scope_of(name, eager=False):
    if (name, eager) not in _known:
        row = BY_NAME[name]
        model = row.model().double()
        for path, parameter in model.named_parameters():
            if "gamma" in path:  # CaiT starts its branches with 1e-5: nothing would be seen of them
                torch.nn.init.constant_(parameter, 0.5)
        for module in model.modules():
            if eager and hasattr(module, "fused_attn"):
                module.fused_attn = False
        _known[name, eager] = vitscope.load(model, processor=as_it_is(row.size))
    return _known[name, eager]


def explained(name, method, seeds=(0,), eager=False, **options):
    photos = [picture(BY_NAME[name].size, seed) for seed in seeds]
    return scope_of(name, eager).explain(photos, method=method, **QUICKER.get(method, {}), **options)


def values(e):
    return np.concatenate([e.prefix, e.map.ravel()])


def close(got, wanted, tolerance=2e-5):
    """To `tolerance` of the largest value: the chain and stored maps are float32, and small values cancel in it."""
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def pixels_of(name, seed=0):
    prepared, _ = scope_of(name).adapter.prepare(load_image(picture(BY_NAME[name].size, seed)))
    return prepared[None].double()


# dense twins


@dataclass
class Layer:
    """Attention `(H, n, m)`, its gradient, values' lengths `(H, m)`; where its queries and keys are among N tokens."""

    a: np.ndarray
    g: np.ndarray
    lengths: np.ndarray
    q: np.ndarray
    k: np.ndarray

    @property
    def positive(self):
        return np.maximum(self.a * self.g, 0).mean(0)


def recorded(name):
    """For each attention its matrices, their gradient for class 1, and `||v W||`, as the eager model has them."""
    model, seen, lengths = scope_of(name, eager=True).model, [], []

    def keep(module, args):
        args[0].retain_grad()
        seen.append((args[0], isinstance(module, torch.nn.Linear)))

    handles = []
    for path, module in model.named_modules():
        if path.endswith("attn_drop"):
            attn = model.get_submodule(path.rpartition(".")[0])
            before = getattr(attn, "proj_w", None)  # heads are mixed after the softmax: its own weights are what counts
            handles.append((before or module).register_forward_pre_hook(keep))
            source = next(getattr(attn, part) for part in ("qkv", "kv", "v") if hasattr(attn, part))

            def measure(_module, _args, out, attn=attn):
                width = attn.proj.weight.shape[1]
                v = out.detach()[..., -width:].unflatten(-1, (attn.num_heads, -1))
                w = attn.proj.weight.detach().unflatten(1, (attn.num_heads, -1))
                lengths.append(torch.einsum("bmhe,whe->bhmw", v, w).norm(dim=-1).numpy())

            handles.append(source.register_forward_hook(measure))
    model(pixels_of(name))[0, 1].backward()
    for handle in handles:
        handle.remove()
    model.zero_grad()
    found = [[x.permute(0, 3, 1, 2) if mixed else x for x in (a.detach(), a.grad)] for a, mixed in seen]
    return [(a.numpy(), g.numpy(), long) for (a, g), long in zip(found, lengths, strict=True)]


def merged(side, k):
    """The mean over k x k tokens: `((side / k)^2, side^2)`."""
    matrix = np.zeros((side // k, side // k, side, side))
    for y in range(side):
        for x in range(side):
            matrix[y // k, x // k, y, x] = 1 / k**2
    return matrix.reshape(-1, side * side)


def overlapping(side):
    """The mean over 3 x 3 tokens in steps of 2, those beyond the edge left out: `((side / 2)^2, side^2)`."""
    matrix = np.zeros((side // 2, side // 2, side, side))
    for y in range(side // 2):
        for x in range(side // 2):
            matrix[y, x, max(2 * y - 1, 0) : 2 * y + 2, max(2 * x - 1, 0) : 2 * x + 2] = 1
    return rows_divided(matrix.reshape(-1, side**2))


def in_windows(a, g, lengths, side, window, shift):
    """A layer of windows on a map rolled by `shift`."""
    across, count = side // window, side**2
    dense = [np.zeros((a.shape[1], count, count)) for _ in (a, g)]
    long = np.zeros((a.shape[1], count))
    for number in range(across**2):
        top, left = number // across * window, number % across * window
        places = [
            (top + y + shift) % side * side + (left + x + shift) % side for y in range(window) for x in range(window)
        ]
        for whole, part in zip(dense, (a, g), strict=True):
            whole[:, np.array(places)[:, None], places] = part[number]
        long[:, places] = lengths[number]
    return Layer(*dense, long, np.eye(count), np.eye(count))


@functools.cache
def steps_of(name):
    """What happens to tokens, in order: layers, and matrices that merge them; and the readout row of the last ones."""
    seen = recorded(name)
    if name == "timm-swin":
        first, shifted, third, fourth = seen
        layers = [in_windows(*first, 8, 4, 0), in_windows(*shifted, 8, 4, 2), merged(8, 2)]
        return [*layers, in_windows(*third, 4, 4, 0), in_windows(*fourth, 4, 4, 0)], np.full(16, 1 / 16)
    if name in ("timm-twins-pcpvt", "timm-pvt-v2"):
        steps, side = [], 16
        for number, (a, g, long) in enumerate(seen):
            if number:
                steps.append(merged(2 * side, 2) if name == "timm-twins-pcpvt" else overlapping(2 * side))
            steps.append(Layer(a[0], g[0], long[0], np.eye(side**2), merged(side, side // 2)))
            side //= 2
        return steps, np.full(4, 1 / 4)
    cls, patches = np.eye(17)[:, :1], np.eye(17)[:, 1:]
    layers = [Layer(a[0], g[0], long[0], patches, patches.T) for a, g, long in seen[:2]]
    return [*layers, *(Layer(a[0], g[0], long[0], cls, np.eye(17)) for a, g, long in seen[2:])], cls[:, 0]


def through(name, step):
    """`readout @ R`, where R goes from layer to layer by `step(layer, R)`, and through merges."""
    steps, readout = steps_of(name)
    tokens = next(s for s in steps if isinstance(s, Layer)).q.shape[0]
    result = np.eye(tokens)
    for one in steps:
        result = step(one, result) if isinstance(one, Layer) else one @ result
    return readout @ result


def placed(name, weights):
    """`weights(layer, readout)` of each layer's keys, shared among the finest tokens."""
    steps, readout = steps_of(name)
    result, maps = np.eye(next(s for s in steps if isinstance(s, Layer)).q.shape[0]), []
    for one in steps:
        if isinstance(one, Layer):
            maps.append(weights(one, readout @ one.q if len(readout) == len(one.q) else None) @ one.k @ result)
        else:
            result = one @ result
    return maps


def on_tokens(layer, matrix):
    return layer.q @ matrix @ layer.k


def rows_divided(matrix):
    return matrix / matrix.sum(-1, keepdims=True)


def dense_value_rollout(name):
    def step(layer, result):
        asked = np.minimum(layer.q.sum(1), 1)
        weighed = rows_divided((layer.a * layer.lengths[:, None]).sum(0))
        return np.diag(1 - asked / 2) @ result + on_tokens(layer, weighed / 2) @ result

    return through(name, step)


def dense_attention_gradcam(name):
    def weights(layer, readout):
        if readout is None:
            return np.zeros(layer.a.shape[2])
        heads = (readout @ layer.g).mean(-1)
        return np.maximum((heads[:, None] * (readout @ layer.a)).sum(0), 0)

    return placed(name, weights)[-1]


TWINS = {
    "relevance": lambda name: through(name, lambda layer, r: r + on_tokens(layer, layer.positive) @ r),
    "grad-rollout": lambda name: through(
        name, lambda layer, r: rows_divided(np.eye(len(layer.q)) + on_tokens(layer, layer.positive)) @ r
    ),
    "value-rollout": dense_value_rollout,
    "grad-sam": lambda name: np.mean(placed(name, lambda layer, _: layer.positive.mean(0)), 0),
    "attention-received": lambda name: placed(name, lambda layer, _: layer.a.mean((0, 1)))[-1],
    "attention-gradcam": dense_attention_gradcam,
}


@pytest.mark.spread
@pytest.mark.parametrize("method", TWINS)
@pytest.mark.parametrize("name", TWINNED)
def test_each_method_through_windows_and_merges_is_its_dense_twin(name, method, monkeypatch):
    if (name, method) == ("timm-cait", "value-rollout"):
        with raises(MethodError, "engine.method"):  # heads are mixed before them
            explained(name, method)
        return
    wanted, forward = TWINS[method](name), Engine.forward
    for chunk in (1, 7, 1000):

        def in_chunks(self, *args, chunk=chunk, **kwargs):
            made = forward(self, *args, **kwargs)
            return replace(made, store=made.store.in_chunks(chunk))

        monkeypatch.setattr(Engine, "forward", in_chunks)
        (e,) = explained(name, method, target=1)
        if np.abs(wanted).max() == 0:
            assert not values(e).any()
        else:
            close(values(e), wanted)


@pytest.mark.slow
def test_what_gradients_say_is_more_than_where_the_answer_starts():
    """The twins above would agree on maps that are flat but for rounding: these are not."""
    for name in TWINNED:
        _, readout = steps_of(name)
        alone = placed(name, lambda layer, _: layer.positive.mean(0))
        assert all(np.ptp(one) > 0.05 * np.abs(one).max() for one in alone)
        assert readout.sum() == pytest.approx(1)


@pytest.mark.slow
def test_what_goes_around_a_layer_is_not_what_it_received():
    """VOLO's head also reads patches that its last layer, a class attention, passes by; CrossViT has two branches."""
    for name in ("timm-volo", "timm-crossvit"):
        (e,) = explained(name, "attention-received")
        assert values(e).sum() == pytest.approx(1, abs=1e-5 if name == "timm-crossvit" else 0.1)
        small, large = (
            explained(name, "attention-gradcam", target=lambda answer, by=by: answer[:, 1] * by)[0] for by in (1, 1024)
        )
        np.testing.assert_allclose(large.map, 1024 * small.map, rtol=0, atol=1e-4 * np.abs(large.map).max())


def test_attention_that_is_in_no_residual_is_gone_through_as_it_is():
    """LeViT's between its stages: it knows no gradient, and needs none."""
    (e,) = explained("hf-levit", "relevance", target=1)
    assert np.isfinite(values(e)).all()
    assert values(e).sum() > 0.5


# class activation maps and features


def last_block(name):
    """The first norm of the last block, what that block hands patches on by, and how both lie in `(B, gh, gw, D)`."""
    model = scope_of(name).model
    if name == "timm-swin":
        return model.layers[-1].blocks[-1].norm1, model.layers[-1].blocks[-1], lambda x: x
    if name == "timm-twins-pcpvt":
        return model.blocks[-1][-1].norm1, model.blocks[-1][-1], lambda x: x.reshape(len(x), 2, 2, -1)
    return model.blocks_token_only[-1].norm1, model.blocks[-1], lambda x: x[:, -16:].reshape(len(x), 4, 4, -1)


def drawn(coarse, grid):
    """Each token repeated on the patches it stands for."""
    coarse = np.asarray(coarse)
    gh, gw = grid[0] // coarse.shape[0], grid[1] // coarse.shape[1]
    return coarse.repeat(gh, 0).repeat(gw, 1)


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam", "gradcam++"])
@every_model
def test_activation_maps_are_the_grad_cam_packages_on_the_last_grid(name, method):
    """Its recipe: `reshape_transform` lays the tokens of the last block's first norm out as channels first."""
    import pytorch_grad_cam as peer
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    norm, _, laid = last_block(name)
    made = {"gradcam": peer.GradCAM, "hirescam": peer.HiResCAM, "layercam": peer.LayerCAM}
    made["gradcam++"] = peer.GradCAMPlusPlus
    model, pixels = scope_of(name).model, pixels_of(name)
    large = 1e10 if method == "gradcam++" else 1.0  # the package adds 1e-6 to the square of the gradients

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner(x) * large

    for target in (0, 3):
        with made[method](Scaled(), [norm], reshape_transform=lambda x: laid(x).permute(0, 3, 1, 2)) as cam:
            (cam.activations_and_grads(pixels)[0, target]).backward()
            z, g = (
                part[0].numpy() for part in (cam.activations_and_grads.activations, cam.activations_and_grads.gradients)
            )
            theirs = cam.get_cam_image(pixels, norm, [ClassifierOutputTarget(target)], z, g, eigen_smooth=False)[0]
        (e,) = explained(name, method, target=lambda answer, target=target: answer[:, target] * large)
        theirs = drawn(np.maximum(theirs, 0), e.map.shape)
        np.testing.assert_allclose(e.map, theirs, rtol=0, atol=1e-5 * max(theirs.max(), 1e-30))
    assert "activations taken at the first norm of block 3 (" in e.provenance["notes"][-1]
    if name != "timm-cait":
        gh, gw = e.map.shape
        assert f"patches of the {gh} x {gw} grid" in e.provenance["notes"][-1]
    model.zero_grad()


def after_last(name):
    """Patch tokens `(gh, gw, D)` after the last block that changes them."""
    _, block, laid = last_block(name)
    kept = []
    handle = block.register_forward_hook(lambda _module, _args, out: kept.append(laid(out.detach())[0].numpy()))
    with torch.no_grad():
        scope_of(name).model(pixels_of(name))
    handle.remove()
    return kept[0]


@every_model
def test_features_are_those_of_the_last_grid(name):
    z = after_last(name)
    flat = z.reshape(-1, z.shape[-1])
    e_pca, e_cut = (explained(name, method)[0] for method in ("pca", "ncut"))
    u, s, _ = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    first = drawn((u[:, 0] * s[0]).reshape(z.shape[:2]), e_pca.map.shape)
    close(e_pca.map * np.sign((e_pca.map * first).sum()), first)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    w = np.where(unit @ unit.T > 0.2, 1.0, 1e-5)
    d = np.diag(w.sum(1))
    found = e_cut.map[:: e_cut.map.shape[0] // z.shape[0], :: e_cut.map.shape[1] // z.shape[1]]
    assert np.array_equal(drawn(found, e_cut.map.shape), e_cut.map)
    level, vectors = np.linalg.eig(np.linalg.solve(d, d - w))
    order = np.argsort(level.real)
    if level.real[order[2]] - level.real[order[1]] > 1e-6:  # else any vector of a plane is right
        v = vectors.real[:, order[1]]
        v = v - v.mean()
        v = (v / np.abs(v).max()).reshape(z.shape[:2])
        close(found * np.sign((found * v).sum()), v, 1e-5)


def cosines(z, q):
    return (z @ q) / np.linalg.norm(z, axis=-1) / np.linalg.norm(q)


@every_model
def test_similarity_to_what_is_read_and_to_a_patch(name):
    z = after_last(name)
    (asked,) = explained(name, "similarity", query="3,2")
    gh, gw = asked.map.shape
    cell = z[3 * z.shape[0] // gh, 2 * z.shape[1] // gw]
    close(asked.map, drawn(cosines(z, cell), (gh, gw)))
    assert asked.map[3, 2] == pytest.approx(1)
    (read_out,) = explained(name, "similarity")
    if name != "timm-cait":
        close(read_out.map, drawn(cosines(z, z.mean((0, 1))), (gh, gw)))
        return
    norm, _, _ = last_block(name)  # the last block changes CLS alone: both as its first norm has them
    kept = []
    handle = norm.register_forward_hook(lambda _module, _args, out: kept.append(out.detach()[0].numpy()))
    with torch.no_grad():
        scope_of(name).model(pixels_of(name))
    handle.remove()
    close(values(read_out), cosines(kept[0], kept[0][0]))


def test_an_earlier_layer_has_its_own_grid():
    (e,) = explained("timm-twins-pcpvt", "eigencam", layer=1)
    assert "computed on 8 x 8 tokens" in e.provenance["notes"][-1]
    assert np.array_equal(drawn(e.map[::2, ::2], (16, 16)), e.map)
    assert len(np.unique(e.map)) == 64
    (fine,) = explained("timm-twins-pcpvt", "eigencam", layer=0)
    assert not any("computed on" in note for note in fine.provenance["notes"])


def test_where_a_block_hands_on_cls_alone_its_output_has_no_map():
    with raises(UsageError, "tracing.output-without-patches"):
        explained("timm-cait", "gradcam", at="output")


def test_windows_unrolled_in_another_order_are_put_back():
    """Hiera keeps tokens unit by unit: a bright corner must come out in its corner."""
    row = BY_NAME["hf-hiera"]
    scope = row.scope(row.model())
    height, width = row.size
    for number in range(2):
        photo = np.zeros((*row.size, 3), np.uint8)
        photo[number * height // 2 :][: height // 2, : width // 2] = 255
        e = scope.explain(photo, method="similarity", layer=0, query=f"{4 + 8 * number},4")
        assert e.map[8 * number : 8 * number + 8, :8].mean() > e.map.mean() + 0.05


# pixel methods


@every_model
def test_pixel_methods_are_captums(name):
    from captum.attr import InputXGradient, IntegratedGradients, Occlusion

    model, pixels = scope_of(name).model, pixels_of(name)
    (gh, gw), (height, width) = BY_NAME[name].grid, BY_NAME[name].size

    def summed(x):
        return x.sum(1).reshape(gh, height // gh, gw, width // gw).sum((1, 3)).detach().numpy()

    (ours,) = explained(name, "input-x-gradient", target=2)
    close(ours.map, summed(InputXGradient(model).attribute(pixels.clone().requires_grad_(), target=2)))
    (ours,) = explained(name, "integrated-gradients", target=2)
    theirs = IntegratedGradients(model).attribute(pixels, 0.0, target=2, n_steps=4, method="riemann_middle")
    close(ours.map, summed(theirs))
    (ours,) = explained(name, "occlusion", target=2)
    shape = (3, 4 * height // gh, 4 * width // gw)
    with torch.no_grad():
        theirs = Occlusion(model).attribute(pixels, shape, strides=shape, target=2, baselines=0.0)
    close(ours.map, theirs[0, 0, :: height // gh, :: width // gw].numpy(), 1e-5)


# contracts


WORKING = [method.name for method in scope_of("timm-cait").methods() if method.name not in REFUSED]


@every_model
def test_just_those_are_refused_that_need_the_same_tokens_everywhere(name):
    refused = {method.name: method.reason for method in scope_of(name).methods() if not method}
    mixed = refused.pop("value-rollout", "")
    assert ("the lengths of its values are not known" in mixed) == (name == "timm-cait")
    assert set(refused) == set(REFUSED)
    tokens = scope_of(name).layout.tokens
    for method, reason in refused.items():
        assert f"expected {tokens} queries x {tokens} keys in each, found " in reason
        with pytest.raises(UnsupportedError):
            explained(name, method)


@pytest.mark.spread
@pytest.mark.covering
@pytest.mark.parametrize("method", WORKING)
@every_model
def test_a_fused_batch_is_its_eager_singles_and_classes_count_where_they_should(name, method):
    if (name, method) == ("timm-cait", "value-rollout"):
        return  # refused, see above
    (first, other), (second, _) = explained(name, method, (0, 1), targets=[0, 3])
    singles = [explained(name, method, (seed,), eager=True, target=0)[0] for seed in (0, 1)]
    largest = max(np.abs(values(e)).max() for e in (first, second, other))
    for got, wanted in zip((first, second), singles, strict=True):
        np.testing.assert_allclose(values(got), values(wanted), rtol=0, atol=1e-5 * largest)
    uses = "target" in METHODS.get(method).requires
    assert np.array_equal(values(first), values(other)) != uses
    if method not in ("random", "rise") and (name, method) != (
        "timm-twins-pcpvt",
        "ncut",
    ):  # its 2 x 2 tokens are alike
        assert np.abs(first.map - second.map).max() > 1e-4 * largest
