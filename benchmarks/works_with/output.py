"""Which answer is read, and targets that say where: against eager attention in float64 and plain autograd."""

from collections.abc import Callable
from typing import Any

import numpy as np
import open_clip
import timm
import torch
import transformers
from benchmarks.works_with.table import REFUSED, row
from torch import Tensor, nn

import vitscope
from vitscope.errors import LayoutError, UsageError

__all__: list[str] = []

READ = "Which answer is read"
PLACES = "Texts and boxes as targets"
HF = ("transformers", "torch")
EAGER = "rollout of the library's eager attention, written out in float64"
AUTOGRAD = "autograd on the library's own logits"

_PHOTO = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
_WORDS = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 100,
}
_CLS = np.eye(17)[0]
_PATCHES = np.r_[0, np.ones(16)] / 16
_ALL = np.ones(17) / 17


def _sharp(model: Any) -> Any:
    """Return a model whose attention is not nearly uniform."""
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("q_proj.w", "k_proj.w", "query.w", "key.w", "qkv.w")):
            parameter.data.mul_(20)
    return model.eval()


def _vision(kind: str, config: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return _sharp(getattr(transformers, kind)(getattr(transformers, config)(**_SMALL | options)))


def _llava(kind: str = "Llava", **options: Any) -> Any:
    torch.manual_seed(0)
    parts = {
        "vision_config": transformers.CLIPVisionConfig(**_SMALL),
        "text_config": transformers.LlamaConfig(**_WORDS),  # type: ignore[arg-type]
    }
    config = getattr(transformers, f"{kind}Config")(**parts, image_token_index=99, **options)
    return _sharp(getattr(transformers, f"{kind}ForConditionalGeneration")(config))


def _attention(tower: Any, scope: vitscope.Scope) -> list[np.ndarray]:
    """Return the eager attention `(N, N)` of each layer, heads averaged."""
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        out = tower(pixel_values=scope.prepare(_PHOTO).pixels[None], output_attentions=True)
    tower.set_attn_implementation("sdpa")
    return [layer[0].double().mean(0).numpy() for layer in out.attentions]


def _rolled(layers: list[np.ndarray], row_: np.ndarray) -> np.ndarray:
    for attention in reversed(layers):
        row_ = 0.5 * row_ + 0.5 * row_ @ attention
    return row_


def _off(scope: vitscope.Scope, expected: np.ndarray, **options: Any) -> float:
    found = scope.explain(_PHOTO, method="rollout", **options)
    whole = np.concatenate([found.prefix, found.map.ravel()])
    return float(np.abs(whole - expected).max())


def _read(model: Any, tower: Any, layers: int, row_: np.ndarray, **options: Any) -> float:
    scope = vitscope.load(model, **options)
    return _off(scope, _rolled(_attention(tower, scope)[:layers], row_))


@row(READ, "LLaVA: patches after the layer before the last", libraries=HF, against=EAGER)
def _() -> float | str:
    model = _llava()
    return _read(model, model.model.vision_tower, 3, _PATCHES)


@row(READ, "LLaVA, all tokens with CLS (strategy full)", libraries=HF, against=EAGER)
def _() -> float | str:
    model = _llava(vision_feature_select_strategy="full")
    return _read(model, model.model.vision_tower, 3, _ALL)


@row(READ, "LLaVA with two layers side by side", libraries=HF, against=EAGER)
def _() -> float | str:
    model = _llava(vision_feature_layer=[-3, -2])
    scope = vitscope.load(model)
    layers = _attention(model.model.vision_tower, scope)
    return _off(scope, (_rolled(layers[:2], _PATCHES) + _rolled(layers[:3], _PATCHES)) / 2)


@row(READ, "VipLLaVA: two layers side by side", libraries=HF, against=EAGER)
def _() -> float | str:
    model = _llava("VipLlava", vision_feature_layers=[-4, -2])
    scope = vitscope.load(model)
    layers = _attention(model.model.vision_tower, scope)
    return _off(scope, (_rolled(layers[:1], _PATCHES) + _rolled(layers[:3], _PATCHES)) / 2)


@row(READ, "PaliGemma: patches after the last layer", libraries=HF, against=EAGER)
def _() -> float | str:
    torch.manual_seed(0)
    vision = transformers.SiglipVisionConfig(**_SMALL, vision_use_head=False).to_dict()
    config = transformers.PaliGemmaConfig(
        vision_config=vision | {"model_type": "siglip_vision_model"},
        text_config=_WORDS | {"model_type": "gemma", "head_dim": 16},
        projection_dim=32,
        image_token_index=99,
    )
    model = _sharp(transformers.PaliGemmaForConditionalGeneration(config))
    return _read(model, model.model.vision_tower, 4, np.ones(16) / 16)


@row(READ, "LLaVA-NeXT, which needs the sizes of its tiles", libraries=HF, against="refused with the model's reason")
def _() -> float | str:
    try:
        vitscope.load(_llava("LlavaNext", image_grid_pinpoints=[[32, 32], [32, 64]]))
    except LayoutError as error:
        return REFUSED if "image_sizes" in str(error) else str(error)
    return "accepted"


@row(READ, "CLIP's image features", libraries=HF, against=EAGER)
def _() -> float | str:
    words = {name: value for name, value in _WORDS.items() if name != "num_key_value_heads"}
    torch.manual_seed(0)
    model = _sharp(transformers.CLIPModel(transformers.CLIPConfig(vision_config=dict(_SMALL), text_config=words)))
    return _read(model, model.vision_model, 4, _CLS)


@row(READ, "BLIP's image features", libraries=HF, against=EAGER)
def _() -> float | str:
    words = {name: value for name, value in _WORDS.items() if name != "num_key_value_heads"}
    torch.manual_seed(0)
    model = _sharp(transformers.BlipModel(transformers.BlipConfig(vision_config=_SMALL, text_config=words)))
    return _read(model, model.vision_model, 4, _CLS)


@row(READ, "DINOv2's classifier: CLS beside the mean patch", libraries=HF, against=EAGER)
def _() -> float | str:
    model = _vision("Dinov2ForImageClassification", "Dinov2Config", mlp_ratio=2, num_labels=5)
    return _read(model, model, 4, (_CLS + _PATCHES) / 2)


@row(READ, "hidden_states[2] of DINOv2, by output=", libraries=HF, against=EAGER)
def _() -> float | str:
    model = _vision("Dinov2ForImageClassification", "Dinov2Config", mlp_ratio=2, num_labels=5)
    return _read(model, model, 2, _CLS, output="hidden_states[2]")


@row(READ, "DINOv2 backbone with one stage", libraries=HF, against=EAGER)
def _() -> float | str:
    model = _vision("Dinov2Backbone", "Dinov2Config", mlp_ratio=2, out_indices=[3])
    return _read(model, model, 3, _PATCHES)


@row(READ, "DINOv2 backbone, the stage that output= names", libraries=HF, against=EAGER)
def _() -> float | str:
    model = _vision("Dinov2Backbone", "Dinov2Config", mlp_ratio=2, out_indices=[2, 4])
    return _read(model, model, 2, _PATCHES, output="feature_maps[0]")


def _refused(model: nn.Module, choice: str) -> str:
    try:
        vitscope.load(model)
    except UsageError as error:
        return REFUSED if choice in str(error) else str(error)
    return "accepted"


@row(READ, "DINOv2 backbone with two stages", libraries=HF, against="refused with each stage and its shape")
def _() -> float | str:
    model = _vision("Dinov2Backbone", "Dinov2Config", mlp_ratio=2, out_indices=[2, 4])
    return _refused(model, "'feature_maps[1]' (1 x 32 x 4 x 4)")


@row(READ, "timm features_only", libraries=("timm", "torch"), against="refused with each stage and its shape")
def _() -> float | str:
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", features_only=True, out_indices=(0, 2), **small)
    return _refused(model.eval(), "0 (1 x 32 x 4 x 4), 1 (1 x 32 x 4 x 4)")


class _Wrapped(nn.Module):
    """A ViT of timm whose output a function makes of its CLS token and logits."""

    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
        self.vit = timm.create_model("vit_tiny_patch16_224", num_classes=3, **small)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        tokens = self.vit.forward_features(x)
        return self.wrap(tokens[:, 0], self.vit.forward_head(tokens))


def _gradients(
    scope: vitscope.Scope, score: Callable[[Any], Tensor], before: int = 0, model: Any = None, **options: Any
) -> float:
    """Return the largest difference of pixels times gradient from plain autograd, as a share of the largest value.

    The cell of the first patch begins so many pixels `before` the input, where patches overlap.
    """
    found = scope.explain(_PHOTO, method="input-x-gradient", **options)
    pixels = scope.prepare(_PHOTO).pixels[None].clone().requires_grad_()
    (grad,) = torch.autograd.grad(score((model or scope.model)(pixels)), pixels)
    (rows, columns), (height, width) = found.map.shape, pixels.shape[2:]
    numbers = [
        np.minimum((np.arange(n) + before) * count // n, count - 1) for n, count in ((height, rows), (width, columns))
    ]
    expected = np.zeros((rows, columns))
    np.add.at(expected, tuple(np.ix_(*numbers)), (grad * pixels).detach()[0].sum(0).numpy())
    return float(np.abs(found.map - expected).max() / np.abs(expected).max())


@row(READ, "(loss, logits)", libraries=("timm", "torch"), against=AUTOGRAD)
def _() -> float | str:
    model = _Wrapped(lambda cls, logits: (cls.sum(), logits)).eval()
    return _gradients(vitscope.load(model), lambda out: out[1][0, 2], model=model, target=2)


@row(READ, "(features, logits)", libraries=("timm", "torch"), against="refused with both shapes")
def _() -> float | str:
    return _refused(_Wrapped(lambda cls, logits: (cls, logits)).eval(), "0 (1 x 32), 1 (1 x 3)")


@row(READ, "(features, logits) with output=1", libraries=("timm", "torch"), against=AUTOGRAD)
def _() -> float | str:
    scope = vitscope.load(_Wrapped(lambda cls, logits: (cls, logits)).eval(), output=1)
    return _gradients(scope, lambda out: out[1][0, 2], target=2)


@row(READ, "nested dictionaries with output='heads.scores'", libraries=("timm", "torch"), against=AUTOGRAD)
def _() -> float | str:
    model = _Wrapped(lambda cls, logits: {"x": cls, "heads": {"scores": logits, "aux": cls}}).eval()
    return _gradients(vitscope.load(model, output="heads.scores"), lambda out: out["heads"]["scores"][0, 2], target=2)


@row(READ, "one squeezed number for an image, (B,)", libraries=("timm", "torch"), against=AUTOGRAD)
def _() -> float | str:
    scope = vitscope.load(_Wrapped(lambda cls, logits: logits[:, 0]).eval())
    return _gradients(scope, lambda out: out[0], target=0)


_NAMES = {0: "sky", 1: "cat", 2: "dog", 3: "road"}


def _segmenter() -> vitscope.Scope:
    torch.manual_seed(0)
    sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "num_attention_heads": [1, 2, 2, 2]}
    config = transformers.SegformerConfig(**sizes, decoder_hidden_size=16, id2label=_NAMES)
    config.image_size = 64
    return vitscope.load(_sharp(transformers.SegformerForSemanticSegmentation(config)))


@row(PLACES, "Segformer, a class in a box", libraries=HF, against=AUTOGRAD, tolerance=1e-4)
def _() -> float | str:
    target = vitscope.region("cat", box=(8, 16, 32, 48))
    return _gradients(_segmenter(), lambda out: out.logits[0, 1, 4:12, 2:8].mean(), before=2, target=target)


@row(PLACES, "Segformer, a contrast in a mask", libraries=HF, against=AUTOGRAD, tolerance=1e-4)
def _() -> float | str:
    target = vitscope.region("cat - dog", mask=np.indices((64, 64))[1] >= 32)
    score = lambda out: (out.logits[0, 1] - out.logits[0, 2])[:, 8:].mean()  # noqa: E731
    return _gradients(_segmenter(), score, before=2, target=target)


@row(PLACES, "Segformer without a place", libraries=HF, against="refused: a target says where")
def _() -> float | str:
    try:
        _segmenter().explain(_PHOTO, method="relevance", target="cat")
    except UsageError as error:
        return REFUSED if error.code == "methods.many-places" else str(error)
    return "accepted"


def _yolos() -> vitscope.Scope:
    sizes = {"image_size": [32, 32], "num_detection_tokens": 5, "use_mid_position_embeddings": False}
    model = _vision("YolosForObjectDetection", "YolosConfig", **sizes, id2label=_NAMES)
    model.vit.embeddings.detection_tokens.data.normal_()
    return vitscope.load(model)


@row(PLACES, "YOLOS, the gradient of one query", libraries=HF, against=AUTOGRAD, tolerance=1e-4)
def _() -> float | str:
    return _gradients(_yolos(), lambda out: out.logits[0, 3, 1], target=vitscope.query(3, "cat"))


@row(PLACES, "YOLOS, rollout from one query", libraries=HF, against=EAGER)
def _() -> float | str:
    scope = _yolos()
    rolled = _rolled(_attention(scope.model.vit, scope), np.eye(22)[17 + 3])
    expected = np.concatenate([rolled[:1], rolled[17:], rolled[1:17]])
    return _off(scope, expected, target=vitscope.query(3, "cat"))


@row(PLACES, "DETR, rollout from one query through its decoder", libraries=HF, against=EAGER)
def _() -> float | str:
    torch.manual_seed(0)
    convolutions = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 16], depths=[1] * 4, layer_type="basic", out_features=["stage4"]
    )
    sides = ("encoder", "decoder")
    small = {f"{s}_{n}": v for s in sides for n, v in (("layers", 1), ("ffn_dim", 32), ("attention_heads", 2))}
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=convolutions,
        d_model=32,
        num_queries=4,
        **small,
    )
    model = _sharp(transformers.DetrForObjectDetection(config))
    scope = vitscope.load(model)
    found = scope.explain(_PHOTO, method="rollout", target=vitscope.query(2, 1))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(pixel_values=scope.prepare(_PHOTO).pixels[None], output_attentions=True)
    encoder, cross = (part[0][0].double().mean(0).numpy() for part in (out.encoder_attentions, out.cross_attentions))
    expected = _rolled([encoder], 0.5 * cross[2])
    return float(np.abs(found.map.ravel() - expected).max())


@row(PLACES, "open_clip, a text of 17 tokens for 16 positions", libraries=("open_clip_torch",), against="refused")
def _() -> float | str:
    tower = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    words = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    scope = vitscope.load(open_clip.CLIP(24, tower, words).eval())
    assert scope.explain(_PHOTO, method="relevance", target=vitscope.text("cat " * 14)).score
    try:
        scope.explain(_PHOTO, method="relevance", target=vitscope.text("cat " * 15))
    except UsageError as error:
        return REFUSED if "17 tokens, and this model reads 16" in error.message else str(error)
    return "accepted"


@row(PLACES, "classes as scalars of NumPy and torch", libraries=("torch", "numpy"), against="the plain number")
def _() -> float | str:
    scope = vitscope.load(_Wrapped(lambda cls, logits: logits).eval())
    numbers: list[Any] = [np.int64(2), np.array(2), torch.tensor(2), np.uint8(2)]
    maps = [scope.explain(_PHOTO, method="relevance", target=number).map for number in (2, *numbers)]
    return float(max(np.abs(maps[0] - other).max() for other in maps[1:]))
