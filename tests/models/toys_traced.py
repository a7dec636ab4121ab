"""Tiny random models that no table knows, one row for each family: what the contract tests run over.

Nothing is downloaded, and what is expected of each row is written down here, from the papers and the constructors'
arguments, not computed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import vitscope

_QUERIES_AND_KEYS = (
    "qkv",
    "q_proj",
    "k_proj",
    "query",
    "key",
    "in_proj",
    "to_q",
    "to_k",
    "linear_q",
    "linear_k",
    "queries",
)
_SHORT = {"q", "k", "kv", "qk", "proj_q", "proj_k", "q_global", "q_norm_k"}
_BIASES = ("bias_table", "attention_bias", "rel_pos")
_TOKENS = ("cls", "class_token", "class_embedding", "reg_token", "register", "pos_embed", "position_embed", "latent")


@dataclass(frozen=True)
class Row:
    """One model, and what its tokens are.

    Attributes:
        name: library and family.
        make: the model.
        size: height and width of its input.
        prefix: names of the prefix tokens; grid: rows and columns of the finest tokens.
        readout: "cls" the first prefix token, "both" all prefix tokens, "mean" the patches, "all" everything, "map"
            attention pooling.
        layers: attention calls inside a residual.
        isotropic: each layer sees all tokens.
        oracle: where an independent forward sees the matrices: "softmax" at softmax and the fused kernel, "dropout" at
            the modules called attn_drop.
        stem: "alone" where a token is made of its own pixels only, "most" where neighbours have a share in it, "none"
            where nothing can be said about single tokens of the first layer.
        other: another input size that the model takes, and the grid it has then.
        bits: the same kernels run with and without capture.
        padding: how much of rollout's weight lies beyond the picture, at most.
        order: for a model whose prefix does not come first, where the layout's tokens are among the model's own.
        ask: `size=` to ask for, where the model's own processor pads.
        sharper: what the weights of queries and keys are multiplied by.
        merged: how many of the finest tokens one key of the first layer is made of.
    """

    name: str
    make: Callable[[], nn.Module]
    size: tuple[int, int]
    prefix: tuple[str, ...]
    grid: tuple[int, int]
    readout: str
    layers: int
    isotropic: bool = True
    oracle: str = "softmax"
    stem: str = "alone"
    other: tuple[tuple[int, int], tuple[int, int]] | None = None
    bits: bool = True
    padding: float = 0.0
    order: tuple[int, ...] | None = None
    ask: int | None = None
    sharper: float = 1.5
    merged: int = 1

    @property
    def pooling(self) -> tuple[str, bool]:
        """The layout's `pooling` and `pool_prefix`."""
        return {
            "cls": ("cls", False),
            "both": ("cls", True),
            "mean": ("mean", False),
            "all": ("mean", True),
            "map": ("map", False),
        }[self.readout]

    def model(self) -> Any:
        """The model, with attention that is far from uniform."""
        torch.manual_seed(sum(map(ord, self.name)))
        model: Any = self.make().eval()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.ones_(module.weight)
            for name, parameter in model.named_parameters():
                last = name.rpartition(".")[0].rpartition(".")[2]
                token = any(part in name for part in _TOKENS) and "bias" not in name
                if token or any(part in name for part in _BIASES):
                    parameter.normal_()
                elif parameter.ndim > 1:
                    nn.init.kaiming_normal_(parameter, nonlinearity="linear")
                    if any(part in name for part in _QUERIES_AND_KEYS) or last in _SHORT:
                        parameter.mul_(self.sharper)
        return model

    def scope(self, model: nn.Module | None = None, size: tuple[int, int] | None = None) -> Any:
        """The model, loaded; pictures of its size go in as they are, and others are resized to it."""
        model = model or self.model()
        if type(model).__module__.startswith("transformers."):
            return vitscope.load(model)
        return vitscope.load(model, processor=as_it_is(size or self.size))


def as_it_is(size: tuple[int, int]) -> Callable[[Any], Tensor]:
    """A processor: the whole photo at `size`, from -1 to 1."""

    def process(image: Any) -> Tensor:
        image = image if image.size == size[::-1] else image.resize(size[::-1], 2)
        return torch.from_numpy(np.array(image, np.float32) / 127.5 - 1).permute(2, 0, 1)

    return process


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """A photo of noise, `(H, W, 3)`."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def _hf(architecture: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        return getattr(transformers, architecture)(getattr(transformers, config)(**options))

    return make


def _hf_clip() -> nn.Module:
    import transformers

    text = _H | {"vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
    return transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=_H | _SQUARE, projection_dim=16)
    )


def _named(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=5, **options)

    return make


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
    tower.trunk = _named(
        "vit_tiny_patch16_224", **_VIT | {"class_token": False, "global_pool": "map"}, img_size=32, patch_size=8
    )()
    return tower


_H: Any = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_SQUARE: Any = {"image_size": 32, "patch_size": 8}
_VIT: Any = {"embed_dim": 32, "depth": 2, "num_heads": 4}
_V: Any = _VIT | {"img_size": 32, "patch_size": 8}
_SWIN: Any = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
_HF_SWIN: Any = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32}
_FOUR: Any = {"depths": (1, 1, 1, 1), "embed_dims": (8, 16, 16, 32), "num_heads": (1, 2, 2, 4)}
_HF_FOUR: Any = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 32], "num_attention_heads": [1, 2, 2, 4]}
_SAM: Any = {"patch_size": 8, "num_heads": 4, "window_size": 4}
_COLLECT: Any = {"num_labels": 5}
_WIDE = ((32, 56), (4, 7))
_CLS = ("cls",)
_REGISTERS = ("cls", "register 1", "register 2")
_YOLOS_ORDER = (0, 17, 18, 19, *range(1, 17))

_S, _M = (32, 32), (64, 64)
_4, _8, _16 = (4, 4), (8, 8), (16, 16)

TRANSFORMERS = [
    Row(
        "hf-data2vec",
        _hf(
            "Data2VecVisionForImageClassification",
            "Data2VecVisionConfig",
            use_relative_position_bias=True,
            **_COLLECT,
            **_H,
            **_SQUARE,
        ),
        _S,
        _CLS,
        _4,
        "mean",
        2,
    ),
    Row(
        "hf-clip-vision",
        _hf("CLIPVisionModel", "CLIPVisionConfig", **_H, **_SQUARE),
        _S,
        _CLS,
        _4,
        "cls",
        2,
        other=_WIDE,
    ),
    Row("hf-clip", _hf_clip, _S, _CLS, _4, "cls", 2),
    Row(
        "hf-siglip",
        _hf("SiglipVisionModel", "SiglipVisionConfig", **_H, **_SQUARE),
        _S,
        (),
        _4,
        "map",
        2,
        bits=False,
        other=_WIDE,
    ),
    Row(
        "hf-siglip2",
        _hf("Siglip2VisionModel", "Siglip2VisionConfig", num_patches=16, patch_size=8, **_H),
        _S,
        (),
        _4,
        "map",
        2,
        bits=False,
        other=_WIDE,
    ),
    Row(
        "hf-dinov3",
        _hf("DINOv3ViTModel", "DINOv3ViTConfig", num_register_tokens=2, **_H, **_SQUARE),
        _S,
        _REGISTERS,
        _4,
        "cls",
        2,
        other=_WIDE,
    ),
    Row("hf-vit-mae", _hf("ViTMAEModel", "ViTMAEConfig", **_H, **_SQUARE), _S, _CLS, _4, "cls", 2),
    Row(
        "hf-yolos",
        _hf("YolosModel", "YolosConfig", num_detection_tokens=3, **_H, image_size=[32, 32], patch_size=8),
        _S,
        ("cls", "detection 1", "detection 2", "detection 3"),
        _4,
        "cls",
        2,
        order=_YOLOS_ORDER,
        ask=32,
    ),
    Row(
        "hf-sam",
        _hf(
            "SamVisionModel",
            "SamVisionConfig",
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=48,
            patch_size=8,
            window_size=4,
            global_attn_indexes=[2],
            initializer_range=0.02,
            output_channels=16,
            mlp_dim=48,
        ),
        (48, 48),
        (),
        (6, 6),
        "mean",
        3,
        isotropic=False,
        padding=0.5,
    ),
    Row("hf-aimv2", _hf("Aimv2VisionModel", "Aimv2VisionConfig", use_head=True, **_H, **_SQUARE), _S, (), _4, "map", 2),
    Row(
        "hf-aimv2-no-head",
        _hf("Aimv2VisionModel", "Aimv2VisionConfig", use_head=False, **_H, **_SQUARE),
        _S,
        (),
        _4,
        "mean",
        2,
    ),
    Row("hf-owlvit", _hf("OwlViTVisionModel", "OwlViTVisionConfig", **_H, **_SQUARE), _S, _CLS, _4, "cls", 2),
    Row(
        "hf-internvl",
        _hf("InternVLVisionModel", "InternVLVisionConfig", **_H, image_size=[32, 32], patch_size=[8, 8]),
        _S,
        _CLS,
        _4,
        "cls",
        2,
    ),
    Row(
        "hf-vitdet",
        _hf(
            "VitDetModel",
            "VitDetConfig",
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
            pretrain_image_size=32,
        ),
        _S,
        (),
        _4,
        "mean",
        2,
        isotropic=False,
    ),
    Row(
        "hf-pixtral",
        _hf("PixtralVisionModel", "PixtralVisionConfig", **_H, **_SQUARE),
        _S,
        (),
        _4,
        "mean",
        2,
        isotropic=False,
        ask=32,
    ),
    Row(
        "hf-swin",
        _hf("SwinForImageClassification", "SwinConfig", patch_size=4, **_COLLECT, **_HF_SWIN),
        _S,
        (),
        _8,
        "mean",
        4,
        False,
    ),
    Row(
        "hf-swinv2",
        _hf("Swinv2ForImageClassification", "Swinv2Config", patch_size=4, **_COLLECT, **_HF_SWIN),
        _S,
        (),
        _8,
        "mean",
        4,
        False,
    ),
    Row(
        "hf-pvt-v2",
        _hf("PvtV2ForImageClassification", "PvtV2Config", image_size=64, **_COLLECT, **_HF_FOUR),
        _M,
        (),
        _16,
        "mean",
        4,
        False,
        stem="most",
        merged=64,
    ),
    Row(
        "hf-hiera",
        _hf(
            "HieraForImageClassification",
            "HieraConfig",
            image_size=[64, 64],
            embed_dim=16,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 4, 8],
            **_COLLECT,
        ),
        _M,
        (),
        _16,
        "mean",
        4,
        False,
        stem="most",
    ),
    Row(
        "hf-segformer",
        _hf("SegformerForImageClassification", "SegformerConfig", image_size=64, **_COLLECT, **_HF_FOUR),
        _M,
        (),
        _16,
        "mean",
        4,
        False,
        stem="most",
        merged=64,
    ),
    Row(
        "hf-levit",
        _hf(
            "LevitForImageClassification",
            "LevitConfig",
            image_size=64,
            hidden_sizes=[16, 32, 32],
            num_attention_heads=[2, 4, 4],
            depths=[1, 1, 1],
            key_dim=[8, 8, 8],
            **_COLLECT,
        ),
        _M,
        (),
        _4,
        "mean",
        3,
        False,
        stem="most",
    ),
    Row(
        "hf-mobilevit",
        _hf(
            "MobileViTForImageClassification",
            "MobileViTConfig",
            image_size=64,
            hidden_sizes=[16, 16, 32],
            neck_hidden_sizes=[8, 8, 8, 16, 16, 16, 32],
            num_attention_heads=2,
            **_COLLECT,
        ),
        _M,
        (),
        _8,
        "mean",
        9,
        False,
        stem="most",
    ),
]

TIMM = [
    Row("timm-vit", _named("vit_tiny_patch16_224", **_V), _S, _CLS, _4, "cls", 2),
    Row("timm-vit-unfused", _unfused(_named("vit_tiny_patch16_224", **_V)), _S, _CLS, _4, "cls", 2),
    Row("timm-vit-registers", _named("vit_tiny_patch16_224", reg_tokens=2, **_V), _S, _REGISTERS, _4, "cls", 2),
    Row(
        "timm-vit-avg",
        _named("vit_tiny_patch16_224", class_token=False, global_pool="avg", **_V),
        _S,
        (),
        _4,
        "mean",
        2,
    ),
    Row("timm-vit-cls-avg", _named("vit_tiny_patch16_224", global_pool="avg", **_V), _S, _CLS, _4, "mean", 2),
    Row(
        "timm-vit-avgmax",
        _named("vit_tiny_patch16_224", class_token=False, global_pool="avgmax", **_V),
        _S,
        (),
        _4,
        "mean",
        2,
    ),
    Row(
        "timm-vit-map", _named("vit_tiny_patch16_224", class_token=False, global_pool="map", **_V), _S, (), _4, "map", 2
    ),
    Row(
        "timm-vit-dynamic",
        _named("vit_tiny_patch16_224", dynamic_img_size=True, **_V),
        _S,
        _CLS,
        _4,
        "cls",
        2,
        other=_WIDE,
    ),
    Row("timm-eva02", _named("eva02_tiny_patch14_224", **_V), _S, _CLS, _4, "mean", 2),
    Row(
        "timm-dinov3",
        _named("vit_small_patch16_dinov3", **_V),
        _S,
        ("cls", *(f"register {i}" for i in (1, 2, 3, 4))),
        _4,
        "mean",
        2,
    ),
    Row(
        "timm-rope-registers", _named("vit_medium_patch16_rope_reg1_gap_256", **_V), _S, ("register 1",), _4, "mean", 2
    ),
    Row("timm-pe", _named("vit_pe_core_tiny_patch16_384", **_V), _S, _CLS, _4, "map", 2),
    Row("timm-beit", _named("beit_base_patch16_224", **_V), _S, _CLS, _4, "mean", 2),
    Row(
        "timm-deit-distilled",
        _named("deit_tiny_distilled_patch16_224", **_V),
        _S,
        ("cls", "distillation"),
        _4,
        "both",
        2,
    ),
    Row("timm-deit3", _named("deit3_small_patch16_224", **_V), _S, _CLS, _4, "cls", 2),
    Row("timm-flexivit", _named("flexivit_small", **_V), _S, _CLS, _4, "cls", 2),
    Row(
        "timm-naflexvit",
        _named("naflexvit_base_patch16_gap", **_VIT),
        _M,
        tuple(f"register {i}" for i in (1, 2, 3, 4)),
        _4,
        "mean",
        2,
        other=((64, 112), (4, 7)),
    ),
    Row("timm-relpos", _named("vit_relpos_small_patch16_224", **_V), _S, (), _4, "mean", 2),
    Row("timm-relpos-cls", _named("vit_relpos_base_patch16_cls_224", **_V), _S, _CLS, _4, "cls", 2),
    Row("timm-cait", _named("cait_xxs24_224", **_V), _S, _CLS, _4, "cls", 4, False),
    Row(
        "timm-convit",
        _built("convit", "ConVit", depth=3, local_up_to_layer=2, **{k: v for k, v in _V.items() if k != "depth"}),
        _S,
        _CLS,
        _4,
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
        _S,
        _CLS,
        _8,
        "cls",
        4,
        False,
        stem="most",
    ),
    Row(
        "timm-pit",
        _named("pit_ti_224", img_size=64, base_dims=[8, 8, 8], heads=[2, 4, 4], depth=[1, 1, 1]),
        _M,
        _CLS,
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
        _S,
        ("cls", "cls 2"),
        _4,
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
        _M,
        _CLS,
        _8,
        "all",
        6,
        False,
        stem="most",
        padding=0.1,
    ),
    Row("timm-xcit", _named("xcit_nano_12_p16_224", img_size=64, **_VIT), _M, _CLS, _4, "cls", 2, False, stem="none"),
    Row("timm-swin", _named("swin_tiny_patch4_window7_224", img_size=32, **_SWIN), _S, (), _8, "mean", 4, False),
    Row(
        "timm-swin-padded",
        _named("swin_tiny_patch4_window7_224", img_size=40, **_SWIN),
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
        _named("swin_tiny_patch4_window7_224", img_size=(32, 64), **_SWIN),
        (32, 64),
        (),
        (8, 16),
        "mean",
        4,
        False,
    ),
    Row("timm-swinv2", _named("swinv2_tiny_window8_256", img_size=32, **_SWIN), _S, (), _8, "mean", 4, False),
    Row("timm-swinv2-cr", _named("swinv2_cr_tiny_224", img_size=32, **_SWIN), _S, (), _8, "mean", 4, False),
    Row("timm-maxvit", _maxvit("maxvit"), _M, (), _16, "mean", 4, False, stem="most"),
    Row(
        "timm-maxvit-mlp-bias",
        _maxvit("maxvit", rel_pos_type="mlp", rel_pos_dim=16),
        _M,
        (),
        _16,
        "mean",
        4,
        False,
        stem="most",
    ),
    Row("timm-coatnet", _maxvit("coatnet"), _M, (), _4, "mean", 2, False, stem="most"),
    Row(
        "timm-pvt-v2",
        _built("pvt_v2", "PyramidVisionTransformerV2", **_FOUR),
        _M,
        (),
        _16,
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
        _M,
        (),
        _16,
        "mean",
        4,
        False,
        stem="most",
        merged=9,
    ),
    Row(
        "timm-twins-svt",
        _named("twins_svt_small", img_size=64, wss=[4, 4, 4, 2], **_FOUR | {"depths": (2, 2, 2, 2)}),
        _M,
        (),
        _16,
        "mean",
        8,
        False,
    ),
    Row(
        "timm-twins-pcpvt",
        _named("twins_pcpvt_small", img_size=64, **_FOUR),
        _M,
        (),
        _16,
        "mean",
        4,
        False,
        stem="most",
        merged=64,
    ),
    Row(
        "timm-hiera",
        _named("hiera_tiny_224", img_size=_M, embed_dim=16, num_heads=1, stages=(1, 1, 1, 1)),
        _M,
        (),
        _16,
        "mean",
        4,
        False,
        stem="most",
    ),
    Row("timm-mvitv2", _mvit(), _S, (), _8, "mean", 2, False, stem="most", merged=9),
    Row("timm-mvitv2-cls", _mvit(use_cls_token=True), _S, _CLS, _8, "cls", 2, False, stem="most", merged=9),
    Row(
        "timm-levit",
        _built("levit", "Levit", img_size=64, embed_dim=(16, 32, 32), key_dim=8, num_heads=(2, 4, 4), depth=(1, 1, 1)),
        _M,
        (),
        _4,
        "mean",
        3,
        False,
        stem="most",
    ),
    Row(
        "timm-tiny-vit",
        _built("tiny_vit", "TinyVit", window_sizes=(7, 4, 4, 2), **_FOUR),
        _M,
        (),
        _8,
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
        _S,
        (),
        _16,
        "mean",
        3,
        False,
    ),
    Row(
        "timm-samvit",
        _named(
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
        _built("gcvit", "GlobalContextVit", img_size=_M, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4)),
        _M,
        (),
        _16,
        "mean",
        4,
        False,
        stem="most",
    ),
    Row(
        "timm-davit",
        _built("davit", "DaVit", window_size=4, **_FOUR),
        _M,
        (),
        _16,
        "mean",
        4,
        False,
        stem="most",
        padding=0.6,
    ),
    Row(
        "timm-visformer",
        _built("visformer", "Visformer", img_size=64, embed_dim=32, depth=(1, 1, 1), num_heads=2, init_channels=8),
        _M,
        (),
        _8,
        "mean",
        3,
        False,
        stem="most",
    ),
]

OTHERS = [
    Row("torchvision-vit", _torchvision_vit, _S, _CLS, _4, "cls", 2, bits=False),
    Row("torchvision-swin", _torchvision_swin(1), _S, (), _8, "mean", 4, False, other=((32, 64), (8, 16))),
    Row("torchvision-swin-v2", _torchvision_swin(2), _S, (), _8, "mean", 4, False),
    Row("torchvision-maxvit", _torchvision_maxvit, _S, (), _8, "mean", 4, False, stem="most"),
    Row("openclip-vit", _clip(), _S, _CLS, _4, "cls", 2, bits=False),
    Row("openclip-tower", _clip(tower=True), _S, _CLS, _4, "cls", 2, bits=False),
    Row("openclip-avg", _clip(pool_type="avg", final_ln_after_pool=True), _S, _CLS, _4, "mean", 2, bits=False),
    Row(
        "openclip-pooler",
        _clip(attentional_pool=True, attn_pooler_heads=4, attn_pooler_queries=1),
        _S,
        _CLS,
        _4,
        "map",
        2,
        bits=False,
    ),
    Row("openclip-coca", _coca, _S, _CLS, _4, "map", 2, bits=False),
    Row("openclip-timm", _clip_of_timm, _S, (), _4, "map", 2),
]

ROWS = [*TRANSFORMERS, *TIMM, *OTHERS]
