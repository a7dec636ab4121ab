"""DINOv2 in plain PyTorch: the model and the image processor of embedded weights, without importing transformers.

Importing transformers' own class takes longer than explaining a photo with it. Parameters, modules and outputs have the
names that transformers gives them, and every number is the same to the last bit; the tests compare both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, scaled_dot_product_attention

from vitscope.models.bundled.catalogue import WheelWeights
from vitscope.models.bundled.checkpoint import dinov2_config, dinov2_processor


class Dinov2Model(nn.Module):
    """The backbone, from pixels `(B, 3, Hi, Wi)` to its tokens after the last norm, and CLS among them.

    Args:
        config: the fields of transformers' `Dinov2Config`.
    """

    main_input_name = "pixel_values"

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = SimpleNamespace(**config, id2label={}, _attn_implementation="sdpa")
        self.embeddings = _Embeddings(self.config)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(_Layer(self.config) for _ in range(self.config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(self.config.hidden_size, eps=self.config.layer_norm_eps)

    def forward(self, pixel_values: Float[Tensor, "B C Hi Wi"]) -> "Dinov2Output":
        """Return `last_hidden_state` `(B, N, D)` and `pooler_output` `(B, D)`."""
        tokens = self.embeddings(pixel_values)
        for layer in self.encoder.layer:  # type: ignore[union-attr]
            tokens = layer(tokens)
        tokens = self.layernorm(tokens)
        return Dinov2Output(last_hidden_state=tokens, pooler_output=tokens[:, 0, :])


class Dinov2Output(dict[str, Tensor]):
    """Tensors by name, also as attributes."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class _Embeddings(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.grid = config.image_size // patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # used in pretraining only
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + self.grid**2, width))
        self.patch_embeddings = nn.Module()
        self.patch_embeddings.projection = nn.Conv2d(config.num_channels, width, patch, patch)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embeddings.projection(pixels)  # type: ignore[operator]
        grid = patches.shape[2:]
        tokens = torch.cat((self.cls_token.expand(len(pixels), -1, -1), patches.flatten(2).transpose(1, 2)), dim=1)
        return tokens + self._positions(grid)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the positions of CLS and of a grid of patches, resized in float32."""
        if tuple(grid) == (self.grid, self.grid):
            return self.position_embeddings
        cls, patches = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        square = patches.reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        resized = interpolate(square.float(), size=tuple(grid), mode="bicubic", align_corners=False)
        return torch.cat((cls, resized.to(patches.dtype).permute(0, 2, 3, 1).flatten(1, 2)), dim=1)


class _Layer(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = _Attention(config)
        self.layer_scale1 = _LayerScale(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = _MLP(config)
        self.layer_scale2 = _LayerScale(config)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.layer_scale1(self.attention(self.norm1(tokens))) + tokens
        return self.layer_scale2(self.mlp(self.norm2(tokens))) + tokens  # type: ignore[no-any-return]


class _Attention(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.heads, width = config.num_attention_heads, config.hidden_size
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            self.add_module(name, nn.Linear(width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        q, k, v = (
            project(tokens).view(batch, count, self.heads, -1).transpose(1, 2)  # type: ignore[operator]
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = scaled_dot_product_attention(q, k, v, scale=(width // self.heads) ** -0.5)
        return self.o_proj(out.transpose(1, 2).reshape(batch, count, width))  # type: ignore[operator,no-any-return]


class _LayerScale(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.zeros(config.hidden_size))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.lambda1


class _MLP(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.hidden_size * config.mlp_ratio)
        self.fc2 = nn.Linear(config.hidden_size * config.mlp_ratio, config.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(tokens)))  # type: ignore[no-any-return]


@dataclass
class Dinov2Processor:
    """Resize by torch's bicubic filter, crop from the middle, normalise: as transformers' `BitImageProcessor` does.

    Attributes:
        size, crop_size, image_mean, image_std, rescale_factor: as in `preprocessor_config.json`.
    """

    size: Mapping[str, int]
    crop_size: Mapping[str, int]
    image_mean: list[float]
    image_std: list[float]
    rescale_factor: float
    resample: int = 3
    do_resize: bool = True
    do_center_crop: bool = True
    do_rescale: bool = True
    do_normalize: bool = True
    model_input_names: tuple[str, ...] = ("pixel_values",)

    def __call__(
        self,
        images: UInt8[np.ndarray, "H W 3"],
        *,
        size: Mapping[str, int] | None = None,
        do_center_crop: bool | None = None,
        **_: Any,
    ) -> dict[str, Float[Tensor, "1 3 Hi Wi"]]:
        """Return `pixel_values` of one photo."""
        pixels = torch.from_numpy(images).permute(2, 0, 1).contiguous()
        pixels = interpolate(pixels[None], size=self.resized(pixels.shape[1:], size), mode="bicubic", antialias=True)
        if self.do_center_crop if do_center_crop is None else do_center_crop:
            height, width = self.crop_size["height"], self.crop_size["width"]
            top, left = (pixels.shape[2] - height) // 2, (pixels.shape[3] - width) // 2
            pixels = pixels[..., top : top + height, left : left + width]
        mean, std = (
            torch.tensor(v)[:, None, None] * (1.0 / self.rescale_factor) for v in (self.image_mean, self.image_std)
        )
        return {"pixel_values": pixels.float().sub_(mean).div_(std)}

    def resized(self, photo: tuple[int, ...], size: Mapping[str, int] | None = None) -> tuple[int, int]:
        """Return the height and width to which a photo of `(H, W)` pixels is resized."""
        size = self.size if size is None else size
        if "shortest_edge" not in size:
            return size["height"], size["width"]
        short, long = min(photo), max(photo)
        edges = size["shortest_edge"], int(size["shortest_edge"] * long / short)
        return edges if photo[0] == short else edges[::-1]


def load_dinov2(entry: WheelWeights, folder: Path) -> tuple[Dinov2Model, Dinov2Processor]:
    """Load embedded weights from their folder in the cache: the model in float32, and its image processor."""
    from safetensors.torch import load_file

    with torch.device("meta"):
        model = Dinov2Model(dinov2_config(entry))
    model.load_state_dict(load_file(folder / "model.safetensors"), assign=True)
    written = dinov2_processor(entry)
    names = ("size", "crop_size", "image_mean", "image_std", "rescale_factor")
    return model.eval(), Dinov2Processor(**{name: written[name] for name in names})
