"""Input gradients against captum, aggregated to patches by the stated rule; and the body of a model."""

import numpy as np
import pytest
import torch

import vitscope
from tests.models.toys import scope_of
from vitscope.attention.transformer_blocks import TransformerBlocks
from vitscope.errors import UsageError
from vitscope.images import load_image

PHOTOS = [np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8) for seed in range(3)]


def pixels_of(scope, photo):
    return scope.adapter.prepare(load_image(photo))[0][None].double()


def summed(attribution, grid=(4, 4)):
    """`(1, 3, H, W)` to patches: the sum over channels and pixels."""
    gh, gw = grid
    _, _, height, width = attribution.shape
    return attribution.sum(1).reshape(gh, height // gh, gw, width // gw).sum((1, 3)).detach().numpy()


class TestCaptum:
    def test_input_x_gradient(self):
        from captum.attr import InputXGradient

        scope = scope_of()
        pixels = pixels_of(scope, PHOTOS[0]).requires_grad_()
        theirs = InputXGradient(lambda x: scope.model(pixel_values=x).logits).attribute(pixels, target=2)
        e = scope.explain(PHOTOS[0], method="input-x-gradient", target=2)
        np.testing.assert_allclose(e.map, summed(theirs), rtol=1e-5, atol=1e-8)

    @pytest.mark.parametrize("baseline", [0.0, -1.0])
    def test_integrated_gradients(self, baseline):
        from captum.attr import IntegratedGradients

        scope = scope_of()
        pixels = pixels_of(scope, PHOTOS[0])
        made = IntegratedGradients(lambda x: scope.model(pixel_values=x).logits)
        theirs = made.attribute(pixels, baseline, target=2, n_steps=10, method="riemann_middle")
        options = {"steps": 10, "baseline": baseline, "batch_size": 3}
        e = scope.explain(PHOTOS[0], method="integrated-gradients", target=2, **options)
        np.testing.assert_allclose(e.map, summed(theirs), rtol=1e-5, atol=1e-8)

    def test_integrated_gradients_add_up(self):
        scope = scope_of()
        pixels = pixels_of(scope, PHOTOS[0])
        with torch.no_grad():
            ends = [scope.model(pixel_values=x).logits[0, 2].item() for x in (pixels, torch.zeros_like(pixels))]
        e = scope.explain(PHOTOS[0], method="integrated-gradients", target=2, steps=100)
        assert e.map.sum() == pytest.approx(ends[0] - ends[1], abs=1e-3)

    def test_smoothgrad(self):
        scope = scope_of()
        x = pixels_of(scope, PHOTOS[0])
        drawn = torch.randn(5, *x.shape[1:], generator=torch.Generator().manual_seed(7)).to(x)
        total = torch.zeros_like(x)
        for noise in drawn:
            noisy = (x + 0.2 * (x.max() - x.min()) * noise).requires_grad_()
            total += torch.autograd.grad(scope.model(pixel_values=noisy).logits[0, 2], noisy)[0]
        e = scope.explain(PHOTOS[0], method="smoothgrad", target=2, samples=5, noise=0.2, seed=7)
        np.testing.assert_allclose(e.map, summed(x * total / 5), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "options"),
    [("input-x-gradient", {}), ("integrated-gradients", {"steps": 5}), ("smoothgrad", {"samples": 5})],
)
class TestEach:
    @pytest.mark.spread
    def test_a_batch_is_its_singles(self, name, options):
        scope = scope_of()
        for photo, e in zip(PHOTOS, scope.explain(PHOTOS, method=name, batch_size=2, **options), strict=True):
            np.testing.assert_allclose(e.map, scope.explain(photo, method=name, **options).map, rtol=1e-5, atol=1e-9)

    @pytest.mark.spread
    def test_it_works_on_windows(self, name, options):
        from transformers import SwinConfig, SwinForImageClassification

        config = SwinConfig(image_size=32, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4)
        e = vitscope.load(SwinForImageClassification(config).eval()).explain(PHOTOS[0], method=name, **options)
        assert e.map.shape == (16, 16)
        assert np.abs(e.map).max() > 0


@pytest.mark.parametrize("bad", [("integrated-gradients", {"steps": 0}), ("smoothgrad", {"samples": 0})])
def test_options_out_of_range(bad):
    with pytest.raises(UsageError, match="at least 1"):
        scope_of().explain(PHOTOS[0], method=bad[0], **bad[1])


def timm_model(**options):
    import timm

    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    return timm.models.VisionTransformer(**sizes | options).eval()


class TestBody:
    def test_tokens_are_the_librarys_hidden_states(self):
        scope = scope_of("dinov2-registers")
        pixels = pixels_of(scope, PHOTOS[0])
        forward = scope.engine.forward(pixels, tokens=True)
        with torch.no_grad():
            wanted = scope.model(pixel_values=pixels, output_hidden_states=True).hidden_states
        assert len(forward.states.tokens) == len(wanted) == 4
        for layer, tokens in enumerate(wanted):
            torch.testing.assert_close(forward.states.at(layer), tokens)
        with torch.no_grad():
            block = scope.engine.blocks.blocks[1]
            torch.testing.assert_close(forward.states.normed[1], block.norm1(wanted[1]))

    @pytest.mark.parametrize(
        "make", [timm_model, lambda: timm_model(reg_tokens=2), lambda: timm_model(global_pool="avg")]
    )
    def test_fewer_tokens_and_other_tokens(self, make):
        model = make()
        scope = vitscope.load(model)
        assert isinstance(scope.engine.blocks, TransformerBlocks)
        assert scope.supports("order-free")
        prefix = len(scope.layout.prefix)
        pixels = torch.randn(2, 3, 32, 32)
        kept = torch.zeros(2, 16, dtype=torch.bool)
        kept[0, [1, 5, 6]] = kept[1, [0, 2, 15]] = True
        with torch.no_grad():
            with scope.engine.blocks.keep_patches(kept):
                fewer = model(pixels)
            tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(pixels))))
            chosen = torch.stack([torch.cat([t[:prefix], t[prefix:][k]]) for t, k in zip(tokens, kept, strict=True)])
            wanted = model.forward_head(model.norm(model.blocks(chosen)))
            torch.testing.assert_close(fewer, wanted)
            other = torch.randn(2, 16 + prefix, 32)
            with scope.engine.blocks.skip(other):
                read_out = model(pixels)
            torch.testing.assert_close(read_out, model.forward_head(model.norm(other)))

    def test_all_is_undone_after_an_exception(self):
        scope = scope_of()
        pixels, body = pixels_of(scope, PHOTOS[0]), scope.engine.blocks
        with torch.no_grad():
            before = scope.model(pixel_values=pixels).logits
        for entered in (
            body.record_states(),
            body.keep_patches(torch.ones(1, 16, dtype=torch.bool)),
            body.skip(torch.zeros(1, 17, 32).double()),
        ):
            with pytest.raises(RuntimeError, match="on purpose"), entered:
                raise RuntimeError("on purpose")
        with torch.no_grad():
            torch.testing.assert_close(scope.model(pixel_values=pixels).logits, before, rtol=0, atol=0)
        for module in scope.model.modules():
            assert "forward" not in module.__dict__
            assert not module._forward_hooks
            assert not module._forward_pre_hooks

    def test_torchvisions_blocks(self):
        from torchvision.models import VisionTransformer

        torch.manual_seed(0)
        scope = vitscope.load(VisionTransformer(32, 8, 2, 4, 32, 48, num_classes=5).eval())
        assert isinstance(scope.engine.blocks, TransformerBlocks)
        assert len(scope.engine.blocks.blocks) == 2
        assert scope.supports("order-free")

    def test_places_inside_the_blocks_are_noticed(self):
        import timm

        torch.manual_seed(0)
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
        rotated = timm.models.eva.Eva(**sizes, use_rot_pos_emb=True).eval()
        with torch.no_grad():
            for p in rotated.parameters():
                p.add_(torch.randn_like(p) * 0.3)
        assert vitscope.load(rotated).supports("order-free").reason.code == "engine.positions-in-blocks"
