"""Tiny random models that no table knows, one row for each family: what the contract tests run over.

Nothing is downloaded, and what is expected of each row is written down here, from the papers and the constructors'
arguments, not computed.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from tests.models.traced_row import CLS, G4, G8, SMALL, VIT, Row, named
from tests.models.traced_timm import TIMM
from tests.models.traced_transformers import TRANSFORMERS


def _torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=48, num_classes=5)


def _torchvision_swin(version: int) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from torchvision.models import swin_transformer as swin

        options: Any = (
            {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2} if version == 2 else {}
        )
        return swin.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=5, **options)

    return make


def _torchvision_maxvit() -> nn.Module:
    from torchvision.models import MaxVit

    return MaxVit((32, 32), 8, 4, [8, 8], [1, 1], 4, 0.0, num_classes=5)


def _clip(tower: bool = False, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

        vision = CLIPVisionCfg(layers=2, width=32, head_width=8, patch_size=8, image_size=32, **options)
        model = CLIP(16, vision, CLIPTextCfg(context_length=8, vocab_size=50, width=16, heads=2, layers=1))
        return model.visual if tower else model

    return make


def _coca() -> nn.Module:
    from open_clip.coca_model import CLIPTextCfg, CLIPVisionCfg, CoCa, MultimodalCfg

    small: Any = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    vision = CLIPVisionCfg(
        layers=2,
        width=32,
        head_width=8,
        patch_size=8,
        image_size=32,
        attentional_pool=True,
        attn_pooler_heads=4,
        attn_pooler_queries=4,
        output_tokens=True,
    )
    text = CLIPTextCfg(**small, embed_cls=True, output_tokens=True)
    return CoCa(16, MultimodalCfg(**small, dim_head=8, n_queries=4), text, vision)


def _clip_of_timm() -> nn.Module:
    """open_clip's wrapper of a timm tower, as SigLIP has it, around a tiny tower."""
    from open_clip.timm_model import TimmModel

    tower = TimmModel("test_vit", embed_dim=16, image_size=32, pool="", proj="none", pretrained=False)
    tower.trunk = named(
        "vit_tiny_patch16_224", **VIT | {"class_token": False, "global_pool": "map"}, img_size=32, patch_size=8
    )()
    return tower


OTHERS = [
    Row("torchvision-vit", _torchvision_vit, SMALL, CLS, G4, "cls", 2, bits=False),
    Row("torchvision-swin", _torchvision_swin(1), SMALL, (), G8, "mean", 4, False, other=((32, 64), (8, 16))),
    Row("torchvision-swin-v2", _torchvision_swin(2), SMALL, (), G8, "mean", 4, False),
    Row("torchvision-maxvit", _torchvision_maxvit, SMALL, (), G8, "mean", 4, False, stem="most"),
    Row("openclip-vit", _clip(), SMALL, CLS, G4, "cls", 2, bits=False),
    Row("openclip-tower", _clip(tower=True), SMALL, CLS, G4, "cls", 2, bits=False),
    Row("openclip-avg", _clip(pool_type="avg", final_ln_after_pool=True), SMALL, CLS, G4, "mean", 2, bits=False),
    Row(
        "openclip-pooler",
        _clip(attentional_pool=True, attn_pooler_heads=4, attn_pooler_queries=1),
        SMALL,
        CLS,
        G4,
        "map",
        2,
        bits=False,
    ),
    Row("openclip-coca", _coca, SMALL, CLS, G4, "map", 2, bits=False),
    Row("openclip-timm", _clip_of_timm, SMALL, (), G4, "map", 2),
]
ROWS = [*TRANSFORMERS, *TIMM, *OTHERS]


def row_of(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)
