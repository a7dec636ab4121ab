"""Rows: programs as people post them: ensembles, zero-shot heads, packed and padded models, sizes of their own."""

import copy
from typing import Any

import numpy as np
import timm
import torch
import transformers
from benchmarks.works_with.table import REFUSED, row
from PIL import Image
from torch import Tensor, nn

import vitscope
from vitscope.errors import VitscopeError

__all__: list[str] = []

_ANSWERS, _WRAPPED, _NUMBERS, _CHANNELS = (
    "Which answer is read",
    "Wrapped and compiled models",
    "What a number means",
    "Numbers of channels",
)
_SEEN, _SURROUNDED, _SIZES = (
    "Attention seen in part",
    "The caller's surroundings",
    "Input that is no multiple of the patch",
)
_BOTH = ("torch", "transformers")
_EAGER = "rollout of the eager attentions, in float64"
_PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
_PROCESSOR = transformers.ViTImageProcessor(size={"height": 32, "width": 32})


def _far_from_even(model: Any) -> Any:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                wide = any(part in name for part in ("query", "key", "q_proj", "k_proj", "qkv"))
                parameter.mul_(8 if wide else 2)
    return model.eval()


def _vit(**options: Any) -> Any:
    config = transformers.ViTConfig(**_SMALL | {"num_labels": 3} | options)
    return _far_from_even(transformers.ViTForImageClassification(config))


def _timm(**options: Any) -> Any:
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}
    return _far_from_even(timm.create_model("vit_tiny_patch16_224", **small | options))


def _rolled(model: Any, pixels: Tensor, start: np.ndarray | None = None) -> np.ndarray:
    """Return rollout by the attentions that the eager model returns."""
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        found = [a[0].mean(0).double().numpy() for a in eager(pixels, output_attentions=True).attentions]
    weights = np.eye(len(found[0]))[0] if start is None else start
    for a in reversed(found):
        weights = 0.5 * weights + 0.5 * weights @ a
    return weights


def _off(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _pixels(scope: Any) -> Tensor:
    pixels: Tensor = scope.prepare(_PHOTO).pixels[None]
    return pixels


def _by_gradient(function: Any, pixels: Tensor, patch: int = 8) -> np.ndarray:
    x = pixels.clone().requires_grad_()
    (grad,) = torch.autograd.grad(function(x), x)
    whole = (x * grad).detach()[0].sum(0).numpy()
    rows, columns = whole.shape[0] // patch, whole.shape[1] // patch
    cells: np.ndarray = whole.reshape(rows, patch, columns, patch).sum((1, 3))
    return cells


def _refusal(code: str, model: Any, **options: Any) -> str:
    try:
        vitscope.load(model, **options)
    except VitscopeError as error:
        return REFUSED if error.code == code else str(error)
    return "loaded"


class _Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = _vit(), _vit()

    def forward(self, x: Tensor) -> Tensor:
        mean: Tensor = (self.a(x).logits + self.b(x).logits) / 2
        return mean


@row(_ANSWERS, "the mean of two ViTs' logits", libraries=_BOTH, against=f"the mean of both: {_EAGER}")
def _ensemble() -> float:
    torch.manual_seed(0)
    model = _Mean().eval()
    scope = vitscope.load(model, processor=_PROCESSOR)
    expected = sum(_rolled(one, _pixels(scope))[1:] for one in (model.a, model.b)) / 2
    return _off(scope.explain(_PHOTO, method="rollout").map.ravel(), np.asarray(expected))


@row(_ANSWERS, "MAE's encoder, without its random mask", libraries=_BOTH, against=f"mask_ratio=0: {_EAGER}")
def _mae() -> float:
    torch.manual_seed(0)
    model = _far_from_even(transformers.ViTMAEModel(transformers.ViTMAEConfig(**_SMALL, mask_ratio=0.75)))
    scope = vitscope.load(model, processor=_PROCESSOR)
    e = scope.explain(_PHOTO, method="rollout")
    whole = copy.deepcopy(model)
    whole.config.mask_ratio = 0.0
    whole.embeddings.config.mask_ratio = 0.0
    whole.set_attn_implementation("eager")
    with torch.no_grad():
        order = torch.arange(16.0)[None]
        found = whole(_pixels(scope), noise=order, output_attentions=True).attentions
    weights = np.eye(17)[0]
    for a in reversed(found):
        weights = 0.5 * weights + 0.5 * weights @ a[0].mean(0).double().numpy()
    return _off(np.concatenate([e.prefix, e.map.ravel()]), weights)


def _zoo(what: str, make: Any, start: np.ndarray | None = None) -> None:
    @row(_ANSWERS, what, libraries=_BOTH, against=_EAGER)
    def _try_it() -> float:
        torch.manual_seed(0)
        model = _far_from_even(make())
        scope = vitscope.load(model, processor=_PROCESSOR)
        e = scope.explain(_PHOTO, method="rollout")
        return _off(np.concatenate([e.prefix, e.map.ravel()]), _rolled(model, _pixels(scope), start))


_PATCHES = np.concatenate([[0], np.full(16, 1 / 16)])
_BOTH_TOKENS = np.concatenate([[0.5, 0.5], np.zeros(16)])
_zoo(
    "BEiT, the mean of its patches",
    lambda: transformers.BeitForImageClassification(
        transformers.BeitConfig(**_SMALL, num_labels=3, attn_implementation="eager")
    ),
    _PATCHES,
)
_zoo(
    "DeiT with its teacher's head",
    lambda: transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**_SMALL, num_labels=3)),
    _BOTH_TOKENS,
)
_zoo(
    "DINOv3 with registers",
    lambda: transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**_SMALL, num_register_tokens=4)),
)
_zoo(
    "I-JEPA's classifier",
    lambda: transformers.IJepaForImageClassification(transformers.IJepaConfig(**_SMALL, num_labels=3)),
    np.full(16, 1 / 16),
)
_zoo(
    "ViT-MSN's classifier",
    lambda: transformers.ViTMSNForImageClassification(transformers.ViTMSNConfig(**_SMALL, num_labels=3)),
)


class _Tasks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vit, self.age, self.sex = _timm(num_classes=0), nn.Linear(32, 1), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.vit(x)
        return {"age": self.age(features), "sex": self.sex(features)}


@row(_ANSWERS, "two heads, output='sex'", libraries=("torch", "timm"), against="autograd on that head", tolerance=2e-5)
def _two_heads() -> float:
    torch.manual_seed(0)
    model = _Tasks().eval()
    scope = vitscope.load(model, output="sex", labels=["f", "m"])
    found = scope.explain(_PHOTO, method="input-x-gradient", target="m").map
    return _off(found, _by_gradient(lambda x: model(x)["sex"][0, 1], _pixels(scope)))


class _Cosine(nn.Module):
    """The head of ArcFace."""

    def __init__(self) -> None:
        super().__init__()
        self.vit, self.weight = _timm(num_classes=0), nn.Parameter(torch.randn(5, 32))

    def forward(self, x: Tensor) -> Tensor:
        features, classes = nn.functional.normalize(self.vit(x)), nn.functional.normalize(self.weight)
        return 30 * nn.functional.linear(features, classes)


@row(_NUMBERS, "ArcFace: 30 cos", libraries=("torch", "timm"), against="its softmax, by torch")
def _arcface() -> float:
    torch.manual_seed(0)
    model = _Cosine().eval()
    scope = vitscope.load(model)
    found = sorted(share for _, share in scope.explain(_PHOTO, method="rollout").predictions)
    with torch.no_grad():
        return _off(np.array(found), np.sort(model(_pixels(scope)).softmax(1)[0].numpy()))


@row(_NUMBERS, "logits through LogSigmoid", libraries=("torch", "timm"), against="the model's own numbers")
def _logsigmoid() -> float:
    torch.manual_seed(0)
    model = nn.Sequential(_timm(), nn.LogSigmoid()).eval()
    scope = vitscope.load(model)
    found = [number for _, number in scope.explain(_PHOTO, method="rollout").predictions]
    with torch.no_grad():
        return _off(np.array(found), model(_pixels(scope))[0].numpy())


@row(_SIZES, "timm: img_size=96 with dynamic_img_size", libraries=("torch", "timm"), against="timm's transform at 96")
def _dynamic() -> float:
    torch.manual_seed(0)
    return _at_its_size(_timm(img_size=96, dynamic_img_size=True), 96)


@row(_SIZES, "timm's Hiera made for 96 pixels", libraries=("torch", "timm"), against="timm's transform at 96")
def _hiera() -> float:
    torch.manual_seed(0)
    return _at_its_size(timm.create_model("hiera_tiny_224", img_size=96, stages=(1, 1, 1, 1), num_classes=3).eval(), 96)


@row(_SIZES, "timm's Twins made for 128 pixels", libraries=("torch", "timm"), against="timm's transform at 128")
def _twins() -> float:
    torch.manual_seed(0)
    small = {"depths": (1, 1, 1, 1), "embed_dims": (16, 16, 32, 32)}
    return _at_its_size(timm.create_model("twins_svt_small", img_size=128, num_classes=3, **small).eval(), 128)


@row(_SIZES, "timm's MViTv2 made for 256 pixels", libraries=("torch", "timm"), against="timm's transform at 256")
def _mvit() -> float:
    torch.manual_seed(0)
    return _at_its_size(timm.create_model("mvitv2_tiny", img_size=256, num_classes=3).eval(), 256)


def _at_its_size(model: Any, size: int) -> float:
    from timm.data import create_transform, resolve_model_data_config

    transform = create_transform(**resolve_model_data_config(model) | {"input_size": (3, size, size)})
    with torch.no_grad():
        expected = model(transform(_PHOTO)[None]).softmax(1)[0].numpy()
    found = [share for _, share in vitscope.load(model).explain(_PHOTO, method="rollout").predictions]
    return _off(np.sort(found), np.sort(expected))


@row(
    _SEEN,
    "NaViT by nested tensors of vit-pytorch",
    libraries=("torch", "vit-pytorch"),
    against="the reason by its code",
)
def _nested() -> str:
    from vit_pytorch.na_vit_nested_tensor import NaViT

    return _refusal(
        "tracing.nested",
        NaViT(image_size=32, patch_size=8, num_classes=3, dim=32, depth=1, heads=2, mlp_dim=32).eval(),
    )


@row(_SURROUNDED, "in a training loop, before and after a step", libraries=_BOTH, against=_EAGER)
def _training() -> float:
    torch.manual_seed(0)
    model = _vit().train()
    optimiser, scope, worst = torch.optim.SGD(model.parameters(), 1.0), vitscope.load(model, processor=_PROCESSOR), 0.0
    for _ in range(2):
        optimiser.zero_grad()
        model(pixel_values=torch.rand(2, 3, 32, 32), labels=torch.tensor([0, 1])).loss.backward()
        e = scope.explain(_PHOTO, method="rollout")
        expected = _rolled(copy.deepcopy(model).eval(), _pixels(scope))
        worst = max(worst, _off(np.concatenate([e.prefix, e.map.ravel()]), expected))
        optimiser.step()
    return worst


@row(_WRAPPED, "SWA's AveragedModel", libraries=_BOTH, against=_EAGER)
def _averaged() -> float:
    torch.manual_seed(0)
    model = _vit()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    scope = vitscope.load(averaged, processor=_PROCESSOR)
    e = scope.explain(_PHOTO, method="rollout")
    return _off(np.concatenate([e.prefix, e.map.ravel()]), _rolled(model, _pixels(scope)))


@row(_CHANNELS, "13 planes of int16, -9999 for no data", libraries=("timm", "tifffile"), against="autograd in float32",
     tolerance=2e-5)  # fmt: skip
def _no_data() -> float:
    import io

    import tifffile

    torch.manual_seed(0)
    bands = np.random.default_rng(0).integers(0, 3000, (13, 32, 32)).astype(np.int16)
    bands[:, :4, :4] = -9999
    file = io.BytesIO()
    tifffile.imwrite(file, bands, planarconfig="separate", photometric="minisblack")
    model = _timm(in_chans=13, pretrained_cfg_overlay={"crop_pct": 1.0})
    e = vitscope.load(model, window=(0, 3000)).explain(file.getvalue(), method="input-x-gradient", target=1)
    x = (torch.from_numpy((bands.astype(np.float32) / 3000).clip(0, 1)) - 0.5) / 0.5
    return _off(e.map, _by_gradient(lambda x: model(x)[0, 1], x[None]))
