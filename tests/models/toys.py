"""Tiny random models, one row for each family: what the contract tests run over. Nothing is downloaded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from vitscope.models.transformers.adapter import TransformersAdapter
from vitscope.scope import Scope

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
PHOTOS = [np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8) for seed in range(2)]


@dataclass(frozen=True)
class Row:
    """One model: how to make it, at which input size, and what its tokens are (written down here, not computed)."""

    name: str
    make: Callable[[], nn.Module]
    size: tuple[int, int]
    prefix: tuple[str, ...]
    grid: tuple[int, int]
    readout: str  # "cls", "both", "mean"
    classes: int = 0

    def model(self) -> Any:
        torch.manual_seed(sum(map(ord, self.name)))
        model: Any = self.make().eval()
        with torch.no_grad():  # attention of freshly made weights is nearly uniform: sharpen it
            for name, parameter in model.named_parameters():
                if any(part in name for part in ("q_proj.weight", "k_proj.weight")):
                    parameter.mul_(12)
                if "register" in name or "position_embed" in name or "cls_token" in name:
                    parameter.normal_()
                if (
                    name == "layernorm.weight"
                ):  # the last of a feature model: as training leaves it, or all norms are equal
                    parameter.uniform_(0.5, 1.5)
        return model


def _transformers(architecture: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        made = getattr(transformers, config)(**SMALL | options)
        return getattr(transformers, architecture)(made)

    return make


_square = {"image_size": 32, "patch_size": 8}
_classifier = _square | {"num_labels": 5}
_dino = {"image_size": 28, "patch_size": 7, "mlp_ratio": 2}
_registers = ("cls", "register 1", "register 2", "register 3")
_vit = _transformers("ViTForImageClassification", "ViTConfig", **_classifier)
_deit = _transformers("DeiTForImageClassification", "DeiTConfig", **_classifier)
_deit_teacher = _transformers("DeiTForImageClassificationWithTeacher", "DeiTConfig", **_classifier)
_dinov2 = _transformers("Dinov2Model", "Dinov2Config", **_dino)
_dinov2_registers = _transformers(
    "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", num_register_tokens=3, **_dino
)
_msn = _transformers("ViTMSNModel", "ViTMSNConfig", **_square)
_ijepa = _transformers("IJepaModel", "IJepaConfig", **_square)
_beit = _transformers("BeitForImageClassification", "BeitConfig", use_relative_position_bias=True, **_classifier)

ROWS = [
    Row("vit", _vit, (32, 32), ("cls",), (4, 4), "cls", 5),
    Row("vit-wide", _vit, (32, 56), ("cls",), (4, 7), "cls", 5),
    Row("deit", _deit, (32, 32), ("cls", "distillation"), (4, 4), "cls", 5),
    Row("deit-teacher", _deit_teacher, (32, 32), ("cls", "distillation"), (4, 4), "both", 5),
    Row("dinov2", _dinov2, (28, 28), ("cls",), (4, 4), "cls"),
    Row("dinov2-tall", _dinov2, (42, 21), ("cls",), (6, 3), "cls"),
    Row("dinov2-registers", _dinov2_registers, (28, 42), _registers, (4, 6), "cls"),
    Row("vit-msn", _msn, (32, 32), ("cls",), (4, 4), "cls"),
    Row("ijepa", _ijepa, (32, 32), (), (4, 4), "mean"),
    Row("beit", _beit, (32, 32), ("cls",), (4, 4), "mean", 5),
]


def pixels(row: Row, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """Random pixels of the row's size."""
    return torch.randn(batch, 3, *row.size, generator=torch.Generator().manual_seed(seed))


def row_of(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)


def scope_of(name: str = "vit", dtype: torch.dtype = torch.float64) -> Scope:
    """One of the models, loaded as a model of transformers."""
    return Scope(TransformersAdapter(row_of(name).model().to(dtype), weights="none"), torch.device("cpu"), dtype)
