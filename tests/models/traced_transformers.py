"""Tiny random models of transformers that no table knows."""

from collections.abc import Callable
from typing import Any

from torch import nn

from tests.models.traced_row import CLS, G4, G8, G16, MEDIUM, REGISTERS, SMALL, WIDE, Row


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


_H: Any = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_SQUARE: Any = {"image_size": 32, "patch_size": 8}
_HF_SWIN: Any = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32}
_HF_FOUR: Any = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 32], "num_attention_heads": [1, 2, 2, 4]}
_COLLECT: Any = {"num_labels": 5}
_YOLOS_ORDER = (0, 17, 18, 19, *range(1, 17))
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
        SMALL,
        CLS,
        G4,
        "mean",
        2,
    ),
    Row(
        "hf-clip-vision",
        _hf("CLIPVisionModel", "CLIPVisionConfig", **_H, **_SQUARE),
        SMALL,
        CLS,
        G4,
        "cls",
        2,
        other=WIDE,
    ),
    Row("hf-clip", _hf_clip, SMALL, CLS, G4, "cls", 2),
    Row(
        "hf-siglip",
        _hf("SiglipVisionModel", "SiglipVisionConfig", **_H, **_SQUARE),
        SMALL,
        (),
        G4,
        "map",
        2,
        bits=False,
        other=WIDE,
    ),
    Row(
        "hf-siglip2",
        _hf("Siglip2VisionModel", "Siglip2VisionConfig", num_patches=16, patch_size=8, **_H),
        SMALL,
        (),
        G4,
        "map",
        2,
        bits=False,
        other=WIDE,
    ),
    Row(
        "hf-dinov3",
        _hf("DINOv3ViTModel", "DINOv3ViTConfig", num_register_tokens=2, **_H, **_SQUARE),
        SMALL,
        REGISTERS,
        G4,
        "cls",
        2,
        other=WIDE,
    ),
    Row("hf-vit-mae", _hf("ViTMAEModel", "ViTMAEConfig", **_H, **_SQUARE), SMALL, CLS, G4, "cls", 2),
    Row(
        "hf-yolos",
        _hf("YolosModel", "YolosConfig", num_detection_tokens=3, **_H, image_size=[32, 32], patch_size=8),
        SMALL,
        ("cls", "detection 1", "detection 2", "detection 3"),
        G4,
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
    Row(
        "hf-aimv2",
        _hf("Aimv2VisionModel", "Aimv2VisionConfig", use_head=True, **_H, **_SQUARE),
        SMALL,
        (),
        G4,
        "map",
        2,
    ),
    Row(
        "hf-aimv2-no-head",
        _hf("Aimv2VisionModel", "Aimv2VisionConfig", use_head=False, **_H, **_SQUARE),
        SMALL,
        (),
        G4,
        "mean",
        2,
    ),
    Row("hf-owlvit", _hf("OwlViTVisionModel", "OwlViTVisionConfig", **_H, **_SQUARE), SMALL, CLS, G4, "cls", 2),
    Row(
        "hf-internvl",
        _hf("InternVLVisionModel", "InternVLVisionConfig", **_H, image_size=[32, 32], patch_size=[8, 8]),
        SMALL,
        CLS,
        G4,
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
        SMALL,
        (),
        G4,
        "mean",
        2,
        isotropic=False,
    ),
    Row(
        "hf-pixtral",
        _hf("PixtralVisionModel", "PixtralVisionConfig", **_H, **_SQUARE),
        SMALL,
        (),
        G4,
        "mean",
        2,
        isotropic=False,
        ask=32,
    ),
    Row(
        "hf-swin",
        _hf("SwinForImageClassification", "SwinConfig", patch_size=4, **_COLLECT, **_HF_SWIN),
        SMALL,
        (),
        G8,
        "mean",
        4,
        False,
    ),
    Row(
        "hf-swinv2",
        _hf("Swinv2ForImageClassification", "Swinv2Config", patch_size=4, **_COLLECT, **_HF_SWIN),
        SMALL,
        (),
        G8,
        "mean",
        4,
        False,
    ),
    Row(
        "hf-pvt-v2",
        _hf("PvtV2ForImageClassification", "PvtV2Config", image_size=64, **_COLLECT, **_HF_FOUR),
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
        MEDIUM,
        (),
        G16,
        "mean",
        4,
        False,
        stem="most",
    ),
    Row(
        "hf-segformer",
        _hf("SegformerForImageClassification", "SegformerConfig", image_size=64, **_COLLECT, **_HF_FOUR),
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
        MEDIUM,
        (),
        G4,
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
        MEDIUM,
        (),
        G8,
        "mean",
        9,
        False,
        stem="most",
    ),
]
