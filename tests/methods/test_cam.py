"""The CAM family against the grad-cam package and against twins written out in float64."""

import numpy as np
import pytest
import torch

import vitscope
from tests.helpers.errors import raises
from tests.models.toys import scope_of
from tests.models.traced_row import as_it_is, picture
from tests.oracles.activations import activations
from vitscope.errors import UsageError
from vitscope.images import load_image

PHOTOS = [np.random.default_rng(seed).integers(0, 256, (40, 56, 3), dtype=np.uint8) for seed in range(3)]
NAMES = ["gradcam", "gradcam++", "hirescam", "layercam"]


def dense(name, z, g):
    if name == "gradcam":
        m = (z * g.mean((0, 1))).sum(-1)
    elif name == "hirescam":
        m = (z * g).sum(-1)
    elif name == "layercam":
        m = (z * np.maximum(g, 0)).sum(-1)
    else:
        total = z.sum((0, 1))
        weights = np.zeros(z.shape[-1])
        for d in range(z.shape[-1]):
            for i in range(z.shape[0]):
                for j in range(z.shape[1]):
                    x = g[i, j, d]
                    if x != 0:
                        weights[d] += x**2 / (2 * x**2 + total[d] * x**3) * max(x, 0)
        m = (z * weights).sum(-1)
    return np.maximum(m, 0)


@pytest.mark.covering
@pytest.mark.parametrize("at", ["norm", "input", "output"])
@pytest.mark.parametrize("layer", [-1, 0])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("row", ["vit", "deit-teacher", "beit"])
def test_each_is_its_dense_twin(row, name, layer, at):
    scope = scope_of(row)
    if at == "output" and layer == -1 and scope.layout.pooling == "cls":
        with raises(UsageError, "methods.no-patch-gradient"):
            scope.explain(PHOTOS[0], method=name, layer=layer, at=at, target=2)
        return
    e = scope.explain(PHOTOS[0], method=name, layer=layer, at=at, target=2)
    wanted = dense(name, *activations(scope, PHOTOS[0], 2, layer, at))
    np.testing.assert_allclose(e.map, wanted, rtol=1e-5, atol=1e-9)
    assert e.map.max() > 0
    assert not e.prefix.any()
    assert (e.provenance["options"]["layer"], e.provenance["options"]["at"]) == (layer, at)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_the_grad_cam_packages(name):
    import pytorch_grad_cam as peer
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    made = {"gradcam": peer.GradCAM, "gradcam++": peer.GradCAMPlusPlus, "hirescam": peer.HiResCAM}
    made["layercam"] = peer.LayerCAM
    scope = scope_of()
    model, block = scope.model, next(m for m in scope.model.modules() if isinstance(m, torch.nn.ModuleList))[-1]
    if name == "gradcam++":  # the package adds 1e-6 to the square of the gradients
        with torch.no_grad():
            model.classifier.weight.mul_(1e6)

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, pixels):
            return self.inner(pixel_values=pixels).logits

    def grid(x):
        return x[:, 1:].reshape(len(x), 4, 4, -1).permute(0, 3, 1, 2)

    pixels = scope.adapter.prepare(load_image(PHOTOS[0]))[0][None].double()
    with made[name](Logits(), [block.layernorm_before], reshape_transform=grid) as cam:
        targets = [ClassifierOutputTarget(1)]
        outputs = cam.activations_and_grads(pixels)
        sum(t(o) for t, o in zip(targets, outputs, strict=True)).backward()
        z = cam.activations_and_grads.activations[0].numpy()
        g = cam.activations_and_grads.gradients[0].numpy()
        theirs = cam.get_cam_image(pixels, block.layernorm_before, targets, z, g, eigen_smooth=False)[0]
    e = vitscope.load(model).explain(PHOTOS[0], method=name, target=1)
    np.testing.assert_allclose(e.map, np.maximum(theirs, 0), rtol=0, atol=1e-5 * e.map.max())
    assert e.map.max() > 1e-6
    assert "activations taken at the first norm of block 2" in e.provenance["notes"]


def test_pca_is_the_grad_cam_packages_eigencam():
    """The package takes the mean off before it decomposes, which the paper does not: that is `pca`."""
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

    scope = scope_of("dinov2")
    blocks, kept = next(m for m in scope.model.modules() if isinstance(m, torch.nn.ModuleList)), []
    with torch.no_grad(), blocks[1].register_forward_hook(lambda _m, _args, out: kept.append(out)):
        scope.model(pixel_values=scope.adapter.prepare(load_image(PHOTOS[0]))[0][None].double())
    theirs = get_2d_projection(kept[0][:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2).numpy())[0]
    ours = scope.explain(PHOTOS[0], method="pca", layer=1).map
    np.testing.assert_allclose(
        ours * np.sign((ours * theirs).sum()), theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max()
    )


def test_a_block_without_a_norm_is_said():
    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = torch.nn.Conv2d(3, 16, 8, 8), torch.nn.Linear(16, 5)
            self.blocks = torch.nn.ModuleList(_BareBlock() for _ in range(2))

        def forward(self, x):
            x = self.stem(x).flatten(2).mT
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean(1))

    torch.manual_seed(0)
    scope = vitscope.load(Bare().eval(), processor=as_it_is((32, 32)))
    e = scope.explain(picture((32, 32)), method="gradcam", layer=1, target=0)
    assert "activations taken at the input of block 1, which has no norm" in e.provenance["notes"]
    e = scope.explain(picture((32, 32)), method="gradcam", layer=0, at="output", target=0)
    assert "activations taken at the output of block 0" in e.provenance["notes"]


class _BareBlock(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = torch.nn.Linear(16, 48), torch.nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)
        return x + self.out(torch.nn.functional.scaled_dot_product_attention(q, k, v)[:, 0])


def test_eigencam_is_the_first_singular_vector():
    scope = scope_of("dinov2")
    kept = {}
    for layer, at in ((-1, "output"), (1, "norm"), (0, "input")):
        e = scope.explain(PHOTOS[0], method="eigencam", layer=layer, at=at)
        blocks = next(m for m in scope.model.modules() if isinstance(m, torch.nn.ModuleList))
        place = blocks[layer].norm1 if at == "norm" else blocks[layer]
        handle = place.register_forward_hook(
            lambda _m, args, out, at=at: kept.update(z=args[0] if at == "input" else out)
        )
        with torch.no_grad():
            scope.model(pixel_values=scope.adapter.prepare(load_image(PHOTOS[0]))[0][None].double())
        handle.remove()
        z = kept["z"][0] if kept["z"].ndim == 3 else kept["z"]
        z = z[1:].numpy()
        u, s, _ = np.linalg.svd(z, full_matrices=False)
        wanted = (u[:, 0] * s[0]).reshape(scope.layout.grid)
        np.testing.assert_allclose(e.map, wanted * np.sign(wanted.mean()), rtol=1e-4, atol=1e-6)
    other = scope.explain(PHOTOS[0], method="eigencam", target=lambda answer: answer[:, 3])
    np.testing.assert_array_equal(other.map, scope.explain(PHOTOS[0], method="eigencam").map)


@pytest.mark.spread
@pytest.mark.parametrize("name", [*NAMES, "eigencam"])
def test_a_batch_is_its_singles(name):
    scope = scope_of()
    for photo, e in zip(PHOTOS, scope.explain(PHOTOS, method=name), strict=True):
        np.testing.assert_allclose(e.map, scope.explain(photo, method=name).map, rtol=1e-5, atol=1e-9)


def test_windowed_models_have_theirs_on_the_last_grid():
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(image_size=32, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4)
    e = vitscope.load(SwinModel(config).eval()).explain(PHOTOS[0], method="hirescam")
    assert e.map.shape == (16, 16)
    assert np.array_equal(e.map, e.map[::2, ::2].repeat(2, 0).repeat(2, 1))
    assert "computed on 8 x 8 tokens" in e.provenance["notes"][-1]
