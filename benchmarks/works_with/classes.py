"""What a number means: one logit, regressions, independent classes, features, names; each against NumPy."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from benchmarks.works_with.table import REFUSED, row
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

import vitscope
from vitscope.errors import UsageError, VitscopeError

__all__: list[str] = []

KIND = "What a number means"
NAMES = "Classes by name"
_PHOTO = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
_SIZE = {"image_size": 32, "patch_size": 8}
_PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32})
_TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def _vit(*names: str, **options: Any) -> Any:
    torch.manual_seed(0)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}
    config = ViTConfig(**_SMALL, **_SIZE, **{"num_labels": len(names), **labels, **options})
    return ViTForImageClassification(config).eval()


def _backbone(classes: int = 0) -> Any:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **_TIMM, num_classes=classes).eval()


class _After(nn.Module):
    """A user's own class around a model, and what it does to the answer."""

    def __init__(self, inner: nn.Module, *after: nn.Module) -> None:
        super().__init__()
        self.inner, self.after = inner, nn.Sequential(*after)

    def forward(self, x: torch.Tensor) -> Any:
        return self.after(self.inner(x))


def _answer(model: Any, scope: vitscope.Scope) -> np.ndarray:
    """Return the model's own answer to the photo, without vitscope's reading of it."""
    pixels, _ = scope.adapter.prepare(vitscope.images.load_image(_PHOTO))
    with torch.no_grad():
        found = model(pixels[None])
    return getattr(found, "logits", found)[0].double().numpy()


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def _difference(scope: vitscope.Scope, expected: np.ndarray) -> float:
    """Return the largest difference of predictions to the expected numbers, sorted as they are."""
    found = np.array([number for _, number in scope.explain(_PHOTO, method="rollout").predictions])
    ordered = np.sort(expected)[::-1][:5]
    return float(np.abs(found - ordered).max()) if len(found) == len(ordered) else float("inf")


def _none(scope: vitscope.Scope) -> float:
    """Return 0 where features are given no class, and a class is refused as a target."""
    e = scope.explain(_PHOTO, method="rollout")
    try:
        scope.explain(_PHOTO, method="relevance", target=1)
    except UsageError:
        return float(len(e.predictions))
    return float("inf")


@row(KIND, "one logit (BCEWithLogitsLoss)", libraries=("transformers",), against="the logit's sigmoid, by NumPy")
def _() -> float:
    model = _vit("pneumonia")
    scope = vitscope.load(model, processor=_PROCESSOR)
    return _difference(scope, _sigmoid(_answer(model, scope)))


@row(
    KIND, "one logit, `measure`", libraries=("transformers",), against="the sigmoid of the whole and of the mean image"
)
def _() -> float:
    model = _vit("pneumonia")
    scope = vitscope.load(model, processor=_PROCESSOR)
    m = scope.measure(scope.explain(_PHOTO, method="rollout"), metrics="saco", n_random_maps=2, baseline="mean")
    pixels = _PROCESSOR(_PHOTO, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        flat = model(pixels.mean((2, 3), keepdim=True).expand_as(pixels)).logits[0].double().numpy()
    expected = _sigmoid(np.concatenate([_answer(model, scope), flat]))
    return float(np.abs(expected - [m.whole, m.empty]).max()) if m.whole != m.empty else float("inf")


@row(KIND, "a regression (`problem_type`)", libraries=("transformers",), against="the model's own value")
def _() -> float:
    model = _vit("age", problem_type="regression")
    scope = vitscope.load(model, processor=_PROCESSOR)
    e = scope.explain(_PHOTO, method="rollout")
    return _difference(scope, _answer(model, scope)) + ("%" in e.prediction_texts()[0])


@row(KIND, "independent classes, stated by the config", libraries=("transformers",), against="sigmoids, by NumPy")
def _() -> float:
    model = _vit("a", "b", "c", problem_type="multi_label_classification")
    scope = vitscope.load(model, processor=_PROCESSOR)
    return _difference(scope, _sigmoid(_answer(model, scope)))


@row(KIND, "independent classes, `multi_label=True`", libraries=("timm",), against="sigmoids, by NumPy")
def _() -> float:
    model = _backbone(4)
    scope = vitscope.load(model, multi_label=True)
    return _difference(scope, _sigmoid(_answer(model, scope)))


@row(KIND, "a model that ends in its own softmax", libraries=("timm",), against="the model's own answer")
def _() -> float:
    model = _After(_backbone(4), nn.Softmax(-1))
    scope = vitscope.load(model)
    return _difference(scope, _answer(model, scope))


@row(KIND, "a model that ends in its own sigmoid", libraries=("timm",), against="the model's own answer")
def _() -> float:
    model = _After(_backbone(1), nn.Sigmoid())
    scope = vitscope.load(model)
    return _difference(scope, _answer(model, scope))


@row(KIND, "a backbone without a head in a class of one's own (DINO)", libraries=("timm",), against="no class")
def _() -> float:
    return _none(vitscope.load(_After(_backbone())))


@row(KIND, "`model.heads = nn.Identity()`", libraries=("torchvision",), against="no class")
def _() -> float:
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 48, num_classes=3).eval()
    model.heads = nn.Identity()
    return _none(vitscope.load(model))


@row(KIND, "`model.classifier = nn.Identity()`", libraries=("transformers",), against="no class")
def _() -> float:
    model = _vit("a", "b", "c")
    model.classifier = nn.Identity()
    return _none(vitscope.load(model, processor=_PROCESSOR))


@row(KIND, "CLIP's image embeddings in a class of one's own", libraries=("transformers",), against="no class")
def _() -> float:
    class Embeds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**_SMALL, **_SIZE, projection_dim=16)).eval()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.clip(x).image_embeds

    return _none(vitscope.load(Embeds().eval()))


@row(
    KIND, "vit_base_patch16_clip_224.openai: CLIP's projection as timm's head", libraries=("timm",), against="no class"
)
def _() -> float:
    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch16_clip_224.openai", **_TIMM).eval()
    return _none(vitscope.load(model))


@row(KIND, "infinite weights", libraries=("timm",), against="an error that names the layer")
def _() -> float | str:
    model = _After(_backbone(3))
    scope = vitscope.load(model)
    with torch.no_grad():
        model.inner.blocks[1].mlp.fc1.weight[0, 0] = torch.inf
    try:
        scope.explain(_PHOTO, method="rollout")
    except VitscopeError as error:
        return REFUSED if "blocks.1.mlp.fc1" in error.message else 1.0
    return 1.0


def _class_of(scope: vitscope.Scope, target: Any, number: int) -> float:
    """Return the largest difference of the map of a class by name to that by number."""
    named, numbered = (scope.explain(_PHOTO, method="gradcam", target=one) for one in (target, number))
    return float(np.abs(named.map - numbered.map).max())


@row(NAMES, "cardigan, beside Cardigan, Cardigan Welsh corgi", libraries=("transformers",), against="its number's map")
def _() -> float:
    model = _vit("Cardigan, Cardigan Welsh corgi", "cardigan", "crane", "crane")
    return _class_of(vitscope.load(model, processor=_PROCESSOR), "cardigan", 1)


@row(NAMES, "one of two cranes", libraries=("transformers",), against="a refusal that lists both numbers")
def _() -> float | str:
    scope = vitscope.load(_vit("ant", "bee", "crane", "crane"), processor=_PROCESSOR)
    try:
        scope.explain(_PHOTO, method="gradcam", target="crane")
    except UsageError as error:
        return REFUSED if "2 (crane); 3 (crane)" in error.message else 1.0
    return 1.0


@row(NAMES, "folders 1, 10, 2, 3 in ImageFolder's order", libraries=("transformers",), against="its number's map")
def _() -> float:
    return _class_of(vitscope.load(_vit("1", "10", "2", "3"), processor=_PROCESSOR), "2", 2)


@row(NAMES, "1,000 classes of one's own in timm", libraries=("timm",), against="no name of ImageNet's")
def _() -> float:
    e = vitscope.load(_backbone(1000)).explain(_PHOTO, method="rollout")
    return float(sum(not label.startswith("class ") for label, _ in e.predictions))


@row(NAMES, "a head of 4 outputs, a config of 6 labels", libraries=("transformers",), against="none of the six names")
def _() -> float:
    model = _vit(*"abcdef")
    model.classifier = nn.Linear(32, 4)
    e = vitscope.load(model, processor=_PROCESSOR).explain(_PHOTO, method="rollout")
    return float(len(e.predictions) - 4 + sum(label in "abcdef" for label, _ in e.predictions))


@row(NAMES, "`labels=` a JSON file", libraries=("timm",), against="its number's map")
def _() -> float:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps({"id2label": {"0": "ant", "1": "bee", "2": "cat"}}))
        return _class_of(vitscope.load(_backbone(3), labels=file), "cat", 2)


@row(NAMES, "`labels=` of 4 names for 3 outputs", libraries=("timm",), against="a refusal that names both")
def _() -> float | str:
    try:
        vitscope.load(_backbone(3), labels=["a", "b", "c", "d"])
    except UsageError as error:
        return REFUSED if "4 class names" in error.message and "3 numbers" in error.message else 1.0
    return 1.0
