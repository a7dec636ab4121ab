"""A row of the zoo of traced models: a model, and what its tokens are."""

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


def named(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=5, **options)

    return make


VIT: Any = {"embed_dim": 32, "depth": 2, "num_heads": 4}
WIDE = ((32, 56), (4, 7))
CLS = ("cls",)
REGISTERS = ("cls", "register 1", "register 2")
SMALL, MEDIUM = (32, 32), (64, 64)
G4, G8, G16 = (4, 4), (8, 8), (16, 16)
