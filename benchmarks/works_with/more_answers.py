"""Heads written as sums and distances, answers beside other tensors, pipelines: against autograd and plain formulas."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from benchmarks.works_with.table import REFUSED, row
from timm.utils import ModelEmaV3
from torch import Tensor, nn

import vitscope
from vitscope.errors import VitscopeError

__all__: list[str] = []

KIND, READ, PLACES = "What a number means", "Which answer is read", "Texts and boxes as targets"
WRAPPED, FILES = "Wrapped and compiled models", "What people have on disk"
AUTOGRAD = "autograd on the library's own logits"
HF = ("transformers", "torch")
_PHOTO = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
_NAMES = {0: "sky", 1: "cat", 2: "dog", 3: "road"}
_SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1] * 4, "num_heads": [1, 1, 2, 2]}


def _backbone(classes: int = 0) -> Any:
    torch.manual_seed(0)
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", **small, num_classes=classes).eval()


class _Around(nn.Module):
    """A backbone, and what a user's own class makes of its features."""

    def __init__(self, after: Callable[[Any, Tensor], Any], **weights: Tensor | nn.Module) -> None:
        super().__init__()
        self.vit, self.after = _backbone(), after
        for name, weight in weights.items():
            setattr(self, name, weight if isinstance(weight, nn.Module) else nn.Parameter(weight))

    def forward(self, x: Tensor) -> Any:
        return self.after(self, self.vit(x))


def _numbers(scope: vitscope.Scope) -> Tensor:
    with torch.no_grad():
        made: Tensor = scope.model(scope.prepare(_PHOTO).pixels[None])
    return made.double().flatten()


def _predicted(scope: vitscope.Scope, expected: Tensor) -> float:
    found = dict(scope.explain(_PHOTO, method="rollout").predictions)
    return max(abs(found[f"class {number}"] - float(value)) for number, value in enumerate(expected))


def _gradients(scope: vitscope.Scope, score: Callable[[Any], Tensor], **options: Any) -> float:
    """Return the largest difference of pixels times gradient from plain autograd, as a share of the largest value."""
    found = scope.explain(_PHOTO, method="input-x-gradient", **options).map
    pixels = scope.prepare(_PHOTO).pixels[None].clone().requires_grad_()
    (grad,) = torch.autograd.grad(score(scope.model(pixels)), pixels)
    (rows, columns), (height, width) = found.shape, pixels.shape[2:]
    product = (grad * pixels).detach()[0].sum(0)
    expected = product.reshape(rows, height // rows, columns, width // columns).sum((1, 3)).numpy()
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _as_it_is(image: Any) -> Tensor:
    return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / 255)


@row(KIND, "`(features * w).sum(-1)`, one logit", libraries=("timm",), against="the logit's sigmoid, by NumPy")
def _() -> float:
    scope = vitscope.load(_Around(lambda own, f: (f * own.w).sum(-1), w=torch.randn(32)).eval())
    return _predicted(scope, 1 / (1 + np.exp(-_numbers(scope))))


@row(KIND, "`features @ w`, one logit", libraries=("timm",), against="the logit's sigmoid, by NumPy")
def _() -> float:
    scope = vitscope.load(_Around(lambda own, f: f @ own.w, w=torch.randn(32)).eval())
    return _predicted(scope, 1 / (1 + np.exp(-_numbers(scope))))


@row(KIND, "`torch.cat([1 - p, p], 1)` of one sigmoid", libraries=("timm",), against="the model's own answer")
def _() -> float:
    after = lambda own, f: torch.cat([1 - (p := own.fc(f).sigmoid()), p], 1)  # noqa: E731
    scope = vitscope.load(_Around(after, fc=nn.Linear(32, 1)).eval())
    return _predicted(scope, _numbers(scope))


@row(KIND, "ordinal regression, `sigmoid().cumprod(1)`", libraries=("timm",), against="the model's own answer")
def _() -> float:
    scope = vitscope.load(_Around(lambda own, f: own.fc(f).sigmoid().cumprod(1), fc=nn.Linear(32, 3)).eval())
    return _predicted(scope, _numbers(scope))


@row(READ, "prototypes, `-torch.cdist(features, w)`", libraries=("timm",), against=AUTOGRAD)
def _() -> float:
    scope = vitscope.load(_Around(lambda own, f: -torch.cdist(f, own.w), w=torch.randn(5, 32)).eval())
    return _gradients(scope, lambda out: out[0, 2], target=2)


@row(READ, "(logits, attention weights of each layer)", libraries=("timm",), against=AUTOGRAD)
def _() -> float:
    after = lambda own, f: (own.fc(f), [torch.rand(len(f), 2, 17, 17).softmax(-1)] * 2)  # noqa: E731
    with torch.random.fork_rng():
        scope = vitscope.load(_Around(after, fc=nn.Linear(32, 3)).eval(), labels=["a", "b", "c"])
        return _gradients(scope, lambda out: out[0][0, 2], target=2)


@row(READ, "(logits, their softmax)", libraries=("timm",), against=AUTOGRAD)
def _() -> float:
    scope = vitscope.load(_Around(lambda own, f: (y := own.fc(f), y.softmax(1)), fc=nn.Linear(32, 3)).eval())
    return _gradients(scope, lambda out: out[0][0, 2], target=2)


@row(READ, "numbers of no image beside the features", libraries=("timm",), against="rollout without them")
def _() -> float:
    after = lambda own, f: own.fc(torch.cat([f, f.new_zeros(len(f), 2)], 1))  # noqa: E731
    found = vitscope.load(_Around(after, fc=nn.Linear(34, 3)).eval()).explain(_PHOTO, method="rollout")
    plain = vitscope.load(_backbone()).explain(_PHOTO, method="rollout")
    return float(np.abs(np.r_[found.prefix, found.map.ravel()] - np.r_[plain.prefix, plain.map.ravel()]).max())


def _masks_of_queries() -> vitscope.Scope:
    torch.manual_seed(0)
    decoder = {f"{s}_{n}": v for s in ("encoder", "decoder") for n, v in (("layers", 1), ("attention_heads", 2))}
    config = transformers.MaskFormerConfig(
        backbone_config=transformers.SwinConfig(
            **_SWIN, window_size=4, out_features=[f"stage{n}" for n in (1, 2, 3, 4)]
        ),
        decoder_config=transformers.DetrConfig(d_model=32, num_queries=5, **decoder),
        fpn_feature_size=32,
        mask_feature_size=32,
        id2label=_NAMES,
    )
    model = transformers.MaskFormerForInstanceSegmentation(config).eval()
    for name, weight in model.named_parameters():
        if "backbone" in name and weight.ndim > 1:
            weight.data.mul_(5)
    return vitscope.load(model, output="class_queries_logits", processor=_as_it_is)


@row(PLACES, "MaskFormer, a class at one query", libraries=HF, against=AUTOGRAD, tolerance=1e-3)
def _() -> float:
    scope = _masks_of_queries()
    return _gradients(scope, lambda out: out.class_queries_logits[0, 3, 1], target=vitscope.query(3, "cat"))


@row(PLACES, "UperNet on Swin, a class in a box", libraries=HF, against=AUTOGRAD, tolerance=1e-3)
def _() -> float:
    torch.manual_seed(0)
    swin = transformers.SwinConfig(**_SWIN, window_size=4, out_features=[f"stage{n}" for n in (1, 2, 3, 4)])
    small = {"hidden_size": 8, "pool_scales": [1, 2], "use_auxiliary_head": False, "id2label": _NAMES}
    model = transformers.UperNetForSemanticSegmentation(transformers.UperNetConfig(backbone_config=swin, **small))
    target = vitscope.region("cat", box=(8, 16, 32, 48))
    scope = vitscope.load(model.eval(), processor=_as_it_is)
    return _gradients(scope, lambda out: out.logits[0, 1, 16:48, 8:32].mean(), target=target)


@row(READ, "masks made of queries times pixels", libraries=HF, against="refused: tokens times tokens")
def _() -> str:
    scope = _masks_of_queries()
    try:
        vitscope.load(scope.model, output="masks_queries_logits", processor=_as_it_is)
    except VitscopeError as error:
        return REFUSED if "multiplied with numbers computed from tokens" in str(error) else str(error)
    return "accepted"


@row(WRAPPED, "a pipeline of transformers", libraries=HF, against="the pixels of its own processor")
def _() -> float:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**small, intermediate_size=48))
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.2] * 3)
    made = vitscope.load(transformers.pipeline("image-classification", model=model, image_processor=processor))
    expected = processor(_PHOTO, return_tensors="pt")["pixel_values"][0]
    return float((made.prepare(_PHOTO).pixels - expected).abs().max())


@row(WRAPPED, "timm's ModelEmaV3", libraries=("timm",), against="rollout of the model")
def _() -> float:
    model = _backbone(3)
    found, plain = (vitscope.load(one).explain(_PHOTO, method="rollout").map for one in (ModelEmaV3(model), model))
    return float(np.abs(found - plain).max())


@row(FILES, "names `backbone.*` and `fc.*`", libraries=("timm",), against="the class is named in the hint")
def _() -> str:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    state = {f"backbone.{name}": tensor for name, tensor in model.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state | {"fc.weight": torch.ones(3, 192)}, path := Path(folder) / "best.pth")
        try:
            vitscope.load("timm:vit_tiny_patch16_224", weights=path)
        except VitscopeError as error:
            named = "fc belongs to a class of your own" in (error.hint or "")
            return REFUSED if named else f"{error} {error.hint}"
    return "accepted"
