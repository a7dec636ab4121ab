"""Heads of one's own and what is done to an answer; detectors, segmentation, depth and key points by their scores."""

from collections.abc import Callable
from typing import Any

import numpy as np
import timm
import torch
import transformers
from benchmarks.works_with.table import REFUSED, row
from PIL import Image
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTModel

import vitscope
from vitscope.errors import VitscopeError
from vitscope.models.answers.labels import read_labels

__all__: list[str] = []

KIND, NAMES, PLACES = "What a number means", "Classes by name", "Texts and boxes as targets"
REGION = "Where pixels come from"
ITS_OWN = "the model's own numbers on the same pixels"
HF = ("transformers", "torch")
_PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8))
_SMALL = {"hidden_size": 32, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
_LAYERS = {"num_hidden_layers": 2, "intermediate_size": 48}


def _backbone(classes: int = 0) -> Any:
    torch.manual_seed(0)
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", **small, num_classes=classes).eval()


class _Around(nn.Module):
    """A model, and what a user's own class does with its answer."""

    def __init__(self, inner: nn.Module, after: Callable[[Any, torch.Tensor], Any], **parts: nn.Module) -> None:
        super().__init__()
        self.inner, self.after = inner, after
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: torch.Tensor) -> Any:
        return self.after(self, self.inner(x))


def _refused(make: Callable[[], Any], code: str) -> str:
    try:
        make()
    except VitscopeError as error:
        return REFUSED if error.code == code else str(error)
    return "accepted"


def _pixels(scope: vitscope.Scope) -> torch.Tensor:
    return scope.prepare(_PHOTO).pixels[None]


@row(KIND, "the largest logit, `logits.max(-1).values`", libraries=("timm",), against="refused")
def _() -> str:
    model = _Around(_backbone(5), lambda own, logits: logits.max(-1).values)
    return _refused(lambda: vitscope.load(model), "tracing.ranked-answer")


@row(KIND, "a class number, `logits.argmax(-1)`", libraries=("timm",), against="refused")
def _() -> str:
    model = _Around(_backbone(5), lambda own, logits: logits.argmax(-1))
    return _refused(lambda: vitscope.load(model), "models.whole-numbers")


@row(KIND, "an energy, `logits.logsumexp(-1)`", libraries=("timm",), against=ITS_OWN)
def _() -> float:
    scope = vitscope.load(_Around(_backbone(5), lambda own, logits: logits.logsumexp(-1)).eval())
    (found,) = scope.explain(_PHOTO, method="rollout").predictions
    return abs(found[1] - float(scope.model(_pixels(scope))))


def _unit_length(own: nn.Module, feature: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(feature, dim=-1)


@row(KIND, "`F.normalize(feature)`, gradients of its norm, which is 1", libraries=("timm",), against="refused")
def _() -> str:
    scope = vitscope.load(_Around(_backbone(), _unit_length))
    return _refused(lambda: scope.explain(_PHOTO, method="gradcam"), "engine.constant-norm")


@row(
    KIND, "`F.normalize(feature)`, the likeness to another photo", libraries=("timm",), against="the feature before it"
)
def _() -> float:
    models, target = (_Around(_backbone(), _unit_length), _backbone()), vitscope.similar_to(_PHOTO.rotate(90))
    maps = [vitscope.load(model).explain(_PHOTO, method="relevance", target=target).map for model in models]
    return float(np.abs(maps[0] - maps[1]).max() / np.abs(maps[1]).max())


@row(KIND, "`nn.Sequential(model, nn.ReLU())`, a number below zero", libraries=("timm",), against=ITS_OWN)
def _() -> float:
    model = _backbone(1)
    nn.init.constant_(model.head.bias, 5)
    scope = vitscope.load(nn.Sequential(model, nn.ReLU()).eval())
    nn.init.constant_(model.head.bias, -5)
    (found,) = scope.explain(_PHOTO, method="rollout").predictions
    return abs(found[1] - float(scope.model(_pixels(scope))))


@row(KIND, "a head of one's own on ViTModel, `labels=`", libraries=("transformers",), against="its processor's pixels")
def _() -> float:
    torch.manual_seed(0)
    inner = ViTModel(ViTConfig(**_SMALL, **_LAYERS))
    after = lambda own, out: own.head(out.last_hidden_state[:, 0])  # noqa: E731
    scope = vitscope.load(_Around(inner, after, head=nn.Linear(32, 3)).eval(), labels=["a", "b", "c"])
    expected = ViTImageProcessor(size={"height": 32, "width": 32})(_PHOTO, return_tensors="pt")["pixel_values"]
    e = scope.explain(_PHOTO, method="relevance", target="b")
    own = float(scope.model(expected)[0, 1])
    return max(float((_pixels(scope) - expected).abs().max()), abs((e.score or 0) - own))


@row(KIND, "a head of one's own on a model of timm, `labels=`", libraries=("timm",), against="timm's own transform")
def _() -> float:
    inner = _backbone()
    data = {**timm.data.resolve_model_data_config(inner), "input_size": (3, 32, 32)}
    expected = timm.data.create_transform(**data, is_training=False)(_PHOTO)[None]
    model = _Around(inner, lambda own, f: own.head(f), head=nn.Linear(32, 3)).eval()
    return float((_pixels(vitscope.load(model, labels=["a", "b", "c"])) - expected).abs().max())


@row(NAMES, "`id2label` of the numbers 1 to 3 for 3 outputs", libraries=("transformers",), against="no name")
def _() -> float:
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**_SMALL, **_LAYERS, num_labels=3)).eval()
    model.config.id2label = {1: "a", 2: "b", 3: "c"}
    e = vitscope.load(model).explain(_PHOTO, method="rollout")
    return float(sum(not label.startswith("class ") for label, _ in e.predictions))


@row(NAMES, "`class_to_idx` of the folders 0 to 10", libraries=("torch",), against="torchvision's order, of texts")
def _() -> float:
    folders = sorted(map(str, range(11)))
    found = read_labels({name: number for number, name in enumerate(folders)})
    return float(found != dict(enumerate(folders)))


def _scored(
    model: nn.Module, target: Any, score: Callable[[Any], torch.Tensor], *, before: int = 0, **options: Any
) -> float:
    """Return how far the target's score and its gradient times the input are from the model's own and autograd's.

    Args:
        model: the model.
        target: as for `explain`.
        score: the same number of the model's own output.
        before: pixels before the image that the first patches reach to.
        options: of `load`.
    """
    scope = vitscope.load(model.eval(), **options)
    e = scope.explain(_PHOTO, method="input-x-gradient", target=target)
    pixels = _pixels(scope).requires_grad_()
    own = score(model(pixels))
    (gradient,) = torch.autograd.grad(own, pixels)
    rows, columns = e.map.shape
    made = (gradient * pixels)[0].sum(0).detach()
    made = nn.functional.pad(made, (before, 0, before, 0))[: made.shape[0], : made.shape[1]]
    expected = made.reshape(rows, made.shape[0] // rows, columns, made.shape[1] // columns).sum((1, 3)).numpy()
    scale = float(np.abs(expected).max()) or 1.0
    return max(abs((e.score or 0) - float(own)) / abs(float(own)), float(np.abs(e.map - expected).max()) / scale)


def _sized(height: int, width: int) -> Callable[[Image.Image], torch.Tensor]:
    def process(image: Image.Image) -> torch.Tensor:
        found = np.asarray(image.convert("RGB").resize((width, height)), np.float32) / 255
        return torch.from_numpy(found).permute(2, 0, 1)

    return process


@row(PLACES, "ViTPose, a key point in a box", libraries=HF, against="autograd on its heat maps", tolerance=1e-4)
def _() -> float:
    torch.manual_seed(0)
    tall = {**_SMALL, "image_size": [64, 48], "patch_size": [16, 16]}
    backbone = transformers.VitPoseBackboneConfig(**tall, num_hidden_layers=2, out_indices=[2])
    model = transformers.VitPoseForPoseEstimation(transformers.VitPoseConfig(backbone_config=backbone, num_labels=5))
    target = vitscope.region(3, box=(0, 0, 96, 48))
    score = lambda out: out.heatmaps[0, 3, :8].mean()  # noqa: E731
    return _scored(model, target, score, before=2, processor=_sized(64, 48))


@row(PLACES, "DPT, depth in a box", libraries=HF, against="autograd on its depth", tolerance=1e-3)
def _() -> float:
    torch.manual_seed(0)
    neck = {"backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8}
    config = transformers.DPTConfig(**_SMALL, num_hidden_layers=4, intermediate_size=48, **neck)
    model = transformers.DPTForDepthEstimation(config)
    for weight in model.parameters():  # freshly made, its depth is 1e-10
        weight.data.mul_(3).add_(0.02)
    target = vitscope.region(0, box=(0, 0, 48, 96))
    return _scored(model, target, lambda out: out.predicted_depth[0, :, :32].mean(), processor=_sized(32, 32))


@row(PLACES, "BEiT, a class over the whole photo", libraries=HF, against="autograd on its logits", tolerance=1e-3)
def _() -> float:
    torch.manual_seed(0)
    sizes = {**_SMALL, "image_size": 64, "patch_size": 16, "num_hidden_layers": 4, "intermediate_size": 48}
    config = transformers.BeitConfig(**sizes, out_indices=[1, 2, 3, 4], num_labels=3)
    target = vitscope.region(2, box=(0, 0, 96, 96))
    model = transformers.BeitForSemanticSegmentation(config)
    return _scored(model, target, lambda out: out.logits[0, 2].mean(), processor=_sized(64, 64))


@row(PLACES, "EoMT, a class at one query", libraries=HF, against="autograd on its logits", tolerance=1e-3)
def _() -> float:
    torch.manual_seed(0)
    config = transformers.EomtConfig(
        **_SMALL, num_hidden_layers=3, num_queries=4, num_blocks=1, num_labels=3, mlp_ratio=2
    )
    model = transformers.EomtForUniversalSegmentation(config)
    score = lambda out: out.class_queries_logits[0, 3, 2]  # noqa: E731
    options = {"output": "class_queries_logits", "processor": _sized(32, 32)}
    return _scored(model, vitscope.query(3, 2), score, **options)


@row(PLACES, "Conditional DETR, a class at one query", libraries=HF, against=ITS_OWN)
def _() -> float:
    torch.manual_seed(0)
    convolutions = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 16], depths=[1] * 4, layer_type="basic", out_features=["stage4"]
    )
    sides = ("encoder", "decoder")
    small = {f"{s}_{n}": v for s in sides for n, v in (("layers", 1), ("ffn_dim", 32), ("attention_heads", 2))}
    own = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    config = transformers.ConditionalDetrConfig(**own, backbone_config=convolutions, d_model=32, num_queries=4, **small)
    scope = vitscope.load(transformers.ConditionalDetrForObjectDetection(config).eval(), processor=_sized(96, 96))
    e = scope.explain(_PHOTO, method="relevance", target=vitscope.query(2, 1))
    return abs((e.score or 0) - float(scope.model(_pixels(scope)).logits[0, 2, 1]))


@row(REGION, "a keystone distortion of 3 %", libraries=("torch",), against="refused: no box has these edges")
def _() -> str:
    across, down = np.meshgrid(np.linspace(-1, 1, 224), np.linspace(-1, 1, 224))
    columns = (across * (1 - 0.03 * (1 - down) / 2) + 1) / 2

    def process(image: Image.Image) -> torch.Tensor:
        rows, places = (down + 1) / 2 * (image.height - 1), columns * (image.width - 1)
        found = np.asarray(image)[rows.round().astype(int), places.round().astype(int)]
        return torch.from_numpy(found / 255.0).permute(2, 0, 1).float()

    scope = vitscope.load(nn.Sequential(_Around(_backbone(3), lambda own, out: out)), processor=_sized(32, 32))
    assert scope.explain(_PHOTO, method="rollout").region.box == (0, 0, 96, 96)
    from vitscope.models.pixels.preprocessing import Preprocessing

    photo = vitscope.images.load_image(_PHOTO.resize((400, 300)))
    return _refused(lambda: Preprocessing(process)(photo), "models.processor-region")
