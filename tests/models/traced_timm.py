"""Tiny random models of timm that no table knows."""

from collections.abc import Callable
from typing import Any

from torch import nn

from tests.models.traced_row import CLS, G4, G8, G16, MEDIUM, REGISTERS, SMALL, VIT, WIDE, Row, named


def _unfused(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        model = make()
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
        return model

    return made


def _built(module: str, name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import importlib

        made: nn.Module = getattr(importlib.import_module(f"timm.models.{module}"), name)(num_classes=5, **options)
        return made

    return make


def _maxvit(kind: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from timm.models.maxxvit import MaxxVit, MaxxVitCfg, MaxxVitTransformerCfg

        windows = {"window_size": (4, 4), "grid_size": (4, 4)} if kind == "maxvit" else {}
        sizes: Any = (
            {"embed_dim": (16, 16), "depths": (1, 1), "block_type": ("M", "M")}
            if kind == "maxvit"
            else {"embed_dim": (8, 8, 16, 16), "depths": (1, 1, 1, 1)}
        )
        attention = MaxxVitTransformerCfg(dim_head=8, **windows, **options)
        return MaxxVit(MaxxVitCfg(stem_width=8, transformer_cfg=attention, **sizes), img_size=64, num_classes=5)

    return make


def _mvit(**options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

        config = MultiScaleVitCfg(depths=(1, 1), embed_dim=(8, 16), num_heads=(1, 2), stride_kv_adaptive=(2, 2))
        for name, value in options.items():
            setattr(config, name, value)
        return MultiScaleVit(config, img_size=32, num_classes=5)

    return make


_V: Any = VIT | {"img_size": 32, "patch_size": 8}
_SWIN: Any = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
_FOUR: Any = {"depths": (1, 1, 1, 1), "embed_dims": (8, 16, 16, 32), "num_heads": (1, 2, 2, 4)}
_SAM: Any = {"patch_size": 8, "num_heads": 4, "window_size": 4}
TIMM = [
    Row("timm-vit", named("vit_tiny_patch16_224", **_V), SMALL, CLS, G4, "cls", 2),
    Row("timm-vit-unfused", _unfused(named("vit_tiny_patch16_224", **_V)), SMALL, CLS, G4, "cls", 2),
    Row("timm-vit-registers", named("vit_tiny_patch16_224", reg_tokens=2, **_V), SMALL, REGISTERS, G4, "cls", 2),
    Row(
        "timm-vit-avg",
        named("vit_tiny_patch16_224", class_token=False, global_pool="avg", **_V),
        SMALL,
        (),
        G4,
        "mean",
        2,
    ),
    Row("timm-vit-cls-avg", named("vit_tiny_patch16_224", global_pool="avg", **_V), SMALL, CLS, G4, "mean", 2),
    Row(
        "timm-vit-avgmax",
        named("vit_tiny_patch16_224", class_token=False, global_pool="avgmax", **_V),
        SMALL,
        (),
        G4,
        "mean",
        2,
    ),
    Row(
        "timm-vit-map",
        named("vit_tiny_patch16_224", class_token=False, global_pool="map", **_V),
        SMALL,
        (),
        G4,
        "map",
        2,
    ),
    Row(
        "timm-vit-dynamic",
        named("vit_tiny_patch16_224", dynamic_img_size=True, **_V),
        SMALL,
        CLS,
        G4,
        "cls",
        2,
        other=WIDE,
    ),
    Row("timm-eva02", named("eva02_tiny_patch14_224", **_V), SMALL, CLS, G4, "mean", 2),
    Row(
        "timm-dinov3",
        named("vit_small_patch16_dinov3", **_V),
        SMALL,
        ("cls", *(f"register {i}" for i in (1, 2, 3, 4))),
        G4,
        "mean",
        2,
    ),
    Row(
        "timm-rope-registers",
        named("vit_medium_patch16_rope_reg1_gap_256", **_V),
        SMALL,
        ("register 1",),
        G4,
        "mean",
        2,
    ),
    Row("timm-pe", named("vit_pe_core_tiny_patch16_384", **_V), SMALL, CLS, G4, "map", 2),
    Row("timm-beit", named("beit_base_patch16_224", **_V), SMALL, CLS, G4, "mean", 2),
    Row(
        "timm-deit-distilled",
        named("deit_tiny_distilled_patch16_224", **_V),
        SMALL,
        ("cls", "distillation"),
        G4,
        "both",
        2,
    ),
    Row("timm-deit3", named("deit3_small_patch16_224", **_V), SMALL, CLS, G4, "cls", 2),
    Row("timm-flexivit", named("flexivit_small", **_V), SMALL, CLS, G4, "cls", 2),
    Row(
        "timm-naflexvit",
        named("naflexvit_base_patch16_gap", **VIT),
        MEDIUM,
        tuple(f"register {i}" for i in (1, 2, 3, 4)),
        G4,
        "mean",
        2,
        other=((64, 112), (4, 7)),
    ),
    Row("timm-relpos", named("vit_relpos_small_patch16_224", **_V), SMALL, (), G4, "mean", 2),
    Row("timm-relpos-cls", named("vit_relpos_base_patch16_cls_224", **_V), SMALL, CLS, G4, "cls", 2),
    Row("timm-cait", named("cait_xxs24_224", **_V), SMALL, CLS, G4, "cls", 4, False),
    Row(
        "timm-convit",
        _built("convit", "ConVit", depth=3, local_up_to_layer=2, **{k: v for k, v in _V.items() if k != "depth"}),
        SMALL,
        CLS,
        G4,
        "cls",
        3,
        False,
        oracle="dropout",
        stem="most",
    ),
    Row(
        "timm-tnt",
        _built(
            "tnt",
            "TNT",
            img_size=32,
            patch_size=8,
            embed_dim=32,
            inner_dim=16,
            depth=2,
            num_heads_inner=2,
            num_heads_outer=4,
        ),
        SMALL,
        CLS,
        G8,
        "cls",
        4,
        False,
        stem="most",
    ),
    Row(
        "timm-pit",
        named("pit_ti_224", img_size=64, base_dims=[8, 8, 8], heads=[2, 4, 4], depth=[1, 1, 1]),
        MEDIUM,
        CLS,
        (7, 7),
        "cls",
        3,
        False,
        stem="most",
    ),
    Row(
        "timm-crossvit",
        _built(
            "crossvit",
            "CrossVit",
            img_size=32,
            patch_size=[8, 16],
            embed_dim=(16, 32),
            depth=[[1, 1, 0], [1, 1, 0]],
            num_heads=(2, 2),
            mlp_ratio=(2, 2, 1),
        ),
        SMALL,
        ("cls", "cls 2"),
        G4,
        "both",
        8,
        False,
    ),
    Row(
        "timm-volo",
        _built(
            "volo",
            "VOLO",
            img_size=64,
            embed_dims=(16, 32, 32, 32),
            num_heads=(2, 4, 4, 4),
            layers=(1, 1, 1, 1),
            stem_hidden_dim=8,
        ),
        MEDIUM,
        CLS,
        G8,
        "all",
        6,
        False,
        stem="most",
        padding=0.1,
    ),
    Row("timm-xcit", named("xcit_nano_12_p16_224", img_size=64, **VIT), MEDIUM, CLS, G4, "cls", 2, False, stem="none"),
    Row("timm-swin", named("swin_tiny_patch4_window7_224", img_size=32, **_SWIN), SMALL, (), G8, "mean", 4, False),
    Row(
        "timm-swin-padded",
        named("swin_tiny_patch4_window7_224", img_size=40, **_SWIN),
        (40, 40),
        (),
        (10, 10),
        "mean",
        4,
        False,
        padding=0.9,
    ),
    Row(
        "timm-swin-wide",
        named("swin_tiny_patch4_window7_224", img_size=(32, 64), **_SWIN),
        (32, 64),
        (),
        (8, 16),
        "mean",
        4,
        False,
    ),
    Row("timm-swinv2", named("swinv2_tiny_window8_256", img_size=32, **_SWIN), SMALL, (), G8, "mean", 4, False),
    Row("timm-swinv2-cr", named("swinv2_cr_tiny_224", img_size=32, **_SWIN), SMALL, (), G8, "mean", 4, False),
    Row("timm-maxvit", _maxvit("maxvit"), MEDIUM, (), G16, "mean", 4, False, stem="most"),
    Row(
        "timm-maxvit-mlp-bias",
        _maxvit("maxvit", rel_pos_type="mlp", rel_pos_dim=16),
        MEDIUM,
        (),
        G16,
        "mean",
        4,
        False,
        stem="most",
    ),
    Row("timm-coatnet", _maxvit("coatnet"), MEDIUM, (), G4, "mean", 2, False, stem="most"),
    Row(
        "timm-pvt-v2",
        _built("pvt_v2", "PyramidVisionTransformerV2", **_FOUR),
        MEDIUM,
        (),
        G16,
        "mean",
        4,
        False,
        stem="most",
        merged=64,
        other=((64, 96), (16, 24)),
    ),
    Row(
        "timm-pvt-v2-linear",
        _built("pvt_v2", "PyramidVisionTransformerV2", linear=True, **_FOUR),
        MEDIUM,
        (),
        G16,
        "mean",
        4,
        False,
        stem="most",
        merged=9,
    ),
    Row(
        "timm-twins-svt",
        named("twins_svt_small", img_size=64, wss=[4, 4, 4, 2], **_FOUR | {"depths": (2, 2, 2, 2)}),
        MEDIUM,
        (),
        G16,
        "mean",
        8,
        False,
    ),
    Row(
        "timm-twins-pcpvt",
        named("twins_pcpvt_small", img_size=64, **_FOUR),
        MEDIUM,
        (),
        G16,
        "mean",
        4,
        False,
        stem="most",
        merged=64,
    ),
    Row(
        "timm-hiera",
        named("hiera_tiny_224", img_size=MEDIUM, embed_dim=16, num_heads=1, stages=(1, 1, 1, 1)),
        MEDIUM,
        (),
        G16,
        "mean",
        4,
        False,
        stem="most",
    ),
    Row("timm-mvitv2", _mvit(), SMALL, (), G8, "mean", 2, False, stem="most", merged=9),
    Row("timm-mvitv2-cls", _mvit(use_cls_token=True), SMALL, CLS, G8, "cls", 2, False, stem="most", merged=9),
    Row(
        "timm-levit",
        _built("levit", "Levit", img_size=64, embed_dim=(16, 32, 32), key_dim=8, num_heads=(2, 4, 4), depth=(1, 1, 1)),
        MEDIUM,
        (),
        G4,
        "mean",
        3,
        False,
        stem="most",
    ),
    Row(
        "timm-tiny-vit",
        _built("tiny_vit", "TinyVit", window_sizes=(7, 4, 4, 2), **_FOUR),
        MEDIUM,
        (),
        G8,
        "mean",
        3,
        False,
        stem="most",
    ),
    Row(
        "timm-nest",
        _built(
            "nest", "Nest", img_size=32, embed_dims=(16, 16, 32), num_heads=(2, 2, 4), depths=(1, 1, 1), patch_size=2
        ),
        SMALL,
        (),
        G16,
        "mean",
        3,
        False,
    ),
    Row(
        "timm-samvit",
        named(
            "samvit_base_patch16", img_size=48, embed_dim=32, depth=3, global_attn_indexes=(2,), neck_chans=16, **_SAM
        ),
        (48, 48),
        (),
        (6, 6),
        "mean",
        3,
        False,
        padding=0.5,
    ),
    Row(
        "timm-gcvit",
        _built(
            "gcvit", "GlobalContextVit", img_size=MEDIUM, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4)
        ),
        MEDIUM,
        (),
        G16,
        "mean",
        4,
        False,
        stem="most",
    ),
    Row(
        "timm-davit",
        _built("davit", "DaVit", window_size=4, **_FOUR),
        MEDIUM,
        (),
        G16,
        "mean",
        4,
        False,
        stem="most",
        padding=0.6,
    ),
    Row(
        "timm-visformer",
        _built("visformer", "Visformer", img_size=64, embed_dim=32, depth=(1, 1, 1), num_heads=2, init_channels=8),
        MEDIUM,
        (),
        G8,
        "mean",
        3,
        False,
        stem="most",
    ),
]
