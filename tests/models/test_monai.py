"""MONAI's Vision Transformer of volumes: maps against slow twins, patches on their own voxels, refusals."""

import numpy as np
import pytest
import torch

import vitscope
from tests.helpers.errors import raises
from vitscope.errors import ImageError, LayoutError, UnsupportedError, UsageError
from vitscope.images import Picture
from vitscope.media.volume import Volume, VolumeProcessor
from vitscope.media.volume_explanation import VolumeExplanation

SIZE, PATCH = (8, 16, 24), (4, 8, 6)
GRID = (2, 2, 4)
PROCESSOR = VolumeProcessor(SIZE)


def vit(classification=True, size=SIZE, patch=PATCH, channels=1, **changes):
    from monai.networks.nets import ViT

    torch.manual_seed(0)
    model = ViT(
        in_channels=channels,
        img_size=size,
        patch_size=patch,
        hidden_size=32,
        mlp_dim=64,
        num_layers=2,
        num_heads=2,
        classification=classification,
        num_classes=3,
        save_attn=True,
        **{"post_activation": "none", **changes},
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.mul_(10 if "qkv" in name else 3)
            if "cls_token" in name or name.endswith("bias"):
                parameter.normal_(0, 0.3)
    return model.double()


def voxels(seed=0, size=SIZE, channels=1):
    return np.random.default_rng(seed).normal(size=(channels, *size)).astype(np.float32)


def flat(e):
    return np.concatenate([e.prefix, e.map.ravel()])


@pytest.fixture(scope="module", params=["conv", "perceptron"])
def model(request):
    return vit(proj_type=request.param)


@pytest.fixture(scope="module")
def scope(model):
    return vitscope.load(model, processor=PROCESSOR)


@pytest.mark.spread
def test_the_layout_has_three_axes(scope):
    assert scope.layout.shape == GRID
    assert scope.layout.prefix == ("cls",)


@pytest.mark.parametrize("classification", [True, False])
@pytest.mark.parametrize("projection", ["conv", "perceptron"])
def test_rollout_is_the_product_of_dense_operators(classification, projection):
    model = vit(classification, proj_type=projection)
    model(torch.from_numpy(voxels()[None]).double())
    attentions = [block.attn.att_mat[0].mean(0).numpy() for block in model.blocks]
    count = attentions[0].shape[0]
    row = np.eye(count)[0] if classification else np.full(count, 1 / count)
    for a in reversed(attentions):
        row = 0.5 * row + 0.5 * row @ a
    e = vitscope.load(model, processor=PROCESSOR).explain(voxels()[0], method="rollout")
    assert isinstance(e, VolumeExplanation)
    assert np.ptp(e.map) > 0.05 * e.map.mean()
    np.testing.assert_allclose(flat(e), row, atol=1e-6)


def test_gradcam_is_that_of_a_hook(model, scope):
    seen = []
    handle = model.blocks[1].norm1.register_forward_hook(lambda m, args, out: seen.append(out))
    x = torch.from_numpy(voxels()[None]).double().requires_grad_()
    scores = model(x)[0]
    handle.remove()
    maps = []
    for target in range(3):
        (grad,) = torch.autograd.grad(scores[0, target], seen, retain_graph=True)
        z, g = seen[0][0, 1:].detach().numpy(), grad[0, 1:].numpy()
        maps.append((z @ g.mean(0)).clip(0))
    target = int(np.argmax([m.max() for m in maps]))
    e = scope.explain(voxels(), method="gradcam", target=target)
    np.testing.assert_allclose(e.map.ravel(), maps[target], atol=1e-6 * maps[target].max())
    assert e.score == pytest.approx(float(scores[0, target].detach()), abs=1e-5)


def test_input_x_gradient_sums_over_each_patch(model, scope):
    x = torch.from_numpy(voxels()[None]).double().requires_grad_()
    (grad,) = torch.autograd.grad(model(x)[0][0, 1], x)
    product = (x * grad)[0, 0].detach().numpy()
    expected = product.reshape(2, 4, 2, 8, 4, 6).sum((1, 3, 5))
    e = scope.explain(voxels(), method="input-x-gradient", target=1)
    np.testing.assert_allclose(e.map, expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("place", [(0, 0, 0), (1, 0, 2), (1, 1, 3)])
def test_each_cell_of_the_map_is_the_token_of_its_voxels(model, scope, place):
    seen = []
    handle = model.patch_embedding.register_forward_hook(lambda m, args, out: seen.append(out))
    changed = voxels()
    d, h, w = (slice(n * p, (n + 1) * p) for n, p in zip(place, PATCH, strict=True))
    changed[0, d, h, w] += 1
    for one in (voxels(), changed):
        scope.engine.answer(scope.engine.prepare(one).pixels[None])
    handle.remove()
    moved = (seen[0] != seen[1]).any(-1)[0].nonzero()[:, 0].tolist()
    assert moved == [np.ravel_multi_index(place, GRID)]
    e = scope.explain(voxels(), method="rollout")
    assert (e.heat(smooth=False)[d, h, w] == e.map[place]).all()


@pytest.mark.spread
def test_every_method_that_applies_gives_a_map(scope):
    for support in scope.methods():
        if not support:
            assert support.reason
            continue
        options = {"steps": 2} if support.name == "integrated-gradients" else {}
        options |= {"samples": 4} if support.name in ("smoothgrad", "token-removal") else {}
        assert scope.explain(voxels(), method=support.name, **options).map.shape == GRID


def test_a_cube_needs_no_processor_and_says_so():
    scope = vitscope.load(vit(size=(16, 16, 16), patch=(8, 8, 8)))
    e = scope.explain(voxels(size=(16, 16, 16)), method="rollout")
    assert e.map.shape == (2, 2, 2)
    assert "models.volume-cube" in [note.code for note in e.provenance["notes"]]
    with raises(UsageError, "models.volume-size", "models.volume-size.hint"):
        scope.explain(voxels(size=(16, 16, 32)))


def test_a_size_that_nothing_states_is_asked_for():
    with raises(LayoutError, "models.volume-unknown-size"):
        vitscope.load(vit(size=(8, 16, 48)))
    with raises(LayoutError, "models.volume-tokens"):
        vitscope.load(vit(), processor=VolumeProcessor((8, 16, 48)))


def test_scores_behind_a_tanh_are_shown_as_they_are():
    model = vit(post_activation="Tanh")
    expected = model(torch.from_numpy(voxels()[None]).double())[0][0].detach().numpy()
    e = vitscope.load(model, processor=PROCESSOR).explain(voxels(), method="rollout")
    assert dict(e.predictions) == pytest.approx({f"class {n}": v for n, v in enumerate(expected)}, abs=1e-6)


def test_two_channels():
    scope = vitscope.load(vit(channels=2), processor=PROCESSOR)
    assert scope.explain(voxels(channels=2), method="rollout").map.shape == GRID
    with raises(UsageError, "models.volume-channels"):
        scope.explain(voxels())


def test_what_is_no_volume_is_refused(scope, tmp_path):
    with raises(ImageError, "media.not-a-volume"):
        scope.explain(Picture(np.zeros((8, 8, 3), np.uint8)))
    with raises(ImageError, "media.no-such-file"):
        scope.explain(tmp_path / "none.nii.gz")
    with raises(UsageError, "models.volume-of-size"):
        scope.explain(voxels(), size=64)
    with raises(UnsupportedError, "explanation.images-only"):
        scope.measure(scope.explain(voxels(), method="rollout"))


def test_volumes_of_other_sizes_are_resampled(scope):
    twice = voxels().repeat(2, 1).repeat(2, 2).repeat(2, 3)
    e = scope.explain(Volume(twice), method="rollout")
    assert e.heat().shape == (16, 32, 48)
    assert e.map.shape == GRID
