"""Beyond pictures: clips, volumes and sounds, against dense operators and hooks of the models' own attention."""

from functools import cache
from typing import Any

import numpy as np
import torch
import transformers
from benchmarks.works_with.table import REFUSED, row
from tests.models import toys_video
from tests.oracles import clips as twins

import vitscope
from vitscope.errors import VitscopeError

__all__: list[str] = []

CLIPS, VOLUMES, SOUNDS = "Video clips", "Volumes", "Sounds"
_VIDEO = ("torch", "transformers", "torchvision")
_CLIP = vitscope.Clip(toys_video.frames(), fps=10.0)
_NAMES = {"videomae": "VideoMAE", "vivit": "ViViT", "timesformer": "TimeSformer", "vjepa2": "V-JEPA 2"}
_SHAPE, _PATCH = (8, 16, 24), (4, 8, 6)
_VOXELS = np.random.default_rng(0).normal(size=_SHAPE).astype(np.float32)


@cache
def _video(kind: str) -> tuple[Any, Any, Any]:
    """Return a scope, its twin with eager attention, and the clip as the processor alone makes it."""
    scope = vitscope.load(toys_video.classifier(kind).double())
    sampled = np.stack([_CLIP.frames[n * 20 // 8] for n in range(8)])
    made = scope.adapter.processor(videos=[sampled], return_tensors="pt")
    twin = toys_video.classifier(kind, attention="eager").double()
    return scope, twin, next(iter(made.values())).double()


def _flat(e: Any) -> np.ndarray:
    return np.concatenate([e.prefix, e.map.ravel()])


def _off(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _rollout(kind: str) -> float:
    scope, twin, pixels = _video(kind)
    expected = twins.row(kind, twins.Attentions(twin, pixels), twins.mean_heads, 0.5, 0.5)
    return _off(_flat(scope.explain(_CLIP, method="rollout")), expected)


def _relevance(kind: str) -> float:
    scope, twin, pixels = _video(kind)
    expected = twins.row(kind, twins.Attentions(twin, pixels, target=1), twins.positive, 1.0, 1.0)
    return _off(_flat(scope.explain(_CLIP, method="relevance", target=1)), expected)


def _gradcam(kind: str) -> float:
    scope, twin, pixels = _video(kind)
    prefix = 1 if kind == "vivit" else 0
    maps = [twins.gradcam(kind, twin, pixels, target, prefix) for target in range(3)]
    target = next(n for n, values in enumerate(maps) if values.max() > 0)
    return _off(scope.explain(_CLIP, method="gradcam", target=target).map.ravel(), maps[target])


for _kind, _name in _NAMES.items():
    row(CLIPS, f"{_name}, rollout", libraries=_VIDEO, against="product of dense operators, float64")(
        lambda kind=_kind: _rollout(kind)
    )
    row(CLIPS, f"{_name}, relevance of a class", libraries=_VIDEO, against="dense operators, torch.autograd")(
        lambda kind=_kind: _relevance(kind)
    )
    row(CLIPS, f"{_name}, Grad-CAM", libraries=_VIDEO, against="hook on the norm, torch.autograd")(
        lambda kind=_kind: _gradcam(kind)
    )


@row(CLIPS, "a photo for a video model", libraries=_VIDEO, against="a refusal")
def _photo() -> str:
    try:
        _video("videomae")[0].explain(np.zeros((32, 32, 3), np.uint8))
    except VitscopeError as error:
        return REFUSED if error.code == "media.not-a-clip" else str(error)
    return "explained"


@row(CLIPS, "TimeSformer, space and time joined, rollout", libraries=_VIDEO, against="its own attentions, in float64")
def _joint() -> float:
    model = toys_video.classifier("timesformer", attention_type="joint_space_time").double()
    scope, sampled = vitscope.load(model), np.stack([_CLIP.frames[n * 20 // 8] for n in range(8)])
    pixels = scope.adapter.processor(videos=[sampled], return_tensors="pt")["pixel_values"].double()
    with torch.no_grad():
        attentions = [a[0].mean(0).numpy() for a in model(pixels, output_attentions=True).attentions]
    weights = np.eye(len(attentions[0]))[0]
    for a in reversed(attentions):
        weights = 0.5 * weights + 0.5 * weights @ a
    by_frame = weights[1:].reshape(16, 8).T.ravel()  # its tokens go through the frames of a place first
    return _off(_flat(scope.explain(_CLIP, method="rollout")), np.concatenate([weights[:1], by_frame]))


@row(CLIPS, "TimeSformer, space alone: a row for each frame", libraries=_VIDEO, against="a refusal")
def _space_only() -> str:
    return _refusal("models.answer-rows", toys_video.classifier("timesformer", attention_type="space_only"))


@row(CLIPS, "frames as a tensor (T, 3, H, W)", libraries=_VIDEO, against="the same frames as an array")
def _tensor_of_frames() -> float:
    scope, frames = _video("videomae")[0], torch.from_numpy(toys_video.frames()).permute(0, 3, 1, 2)
    return _off(scope.explain(vitscope.Clip(frames), method="rollout").map, scope.explain(_CLIP, method="rollout").map)


@row(CLIPS, "`window=` for a video model", libraries=_VIDEO, against="a refusal")
def _window_of_clips() -> str:
    return _refusal("models.options-of-images", toys_video.classifier("videomae"), window=(0, 100))


def _refusal(code: str, model: Any, **options: Any) -> str:
    try:
        vitscope.load(model, **options)
    except VitscopeError as error:
        return REFUSED if error.code == code else str(error)
    return "loaded"


def _vit(**options: Any) -> torch.nn.Module:
    from monai.networks.nets import ViT  # 2 s to import

    return ViT(1, **options).eval()


def _monai(classification: bool) -> float:
    torch.manual_seed(0)
    sizes = {
        "img_size": _SHAPE,
        "patch_size": _PATCH,
        "hidden_size": 32,
        "mlp_dim": 64,
        "num_layers": 2,
        "num_heads": 2,
    }
    model = _vit(**sizes, classification=classification, save_attn=True).double()
    model(torch.from_numpy(_VOXELS[None, None]).double())
    attentions = [block.attn.att_mat[0].mean(0).numpy() for block in model.blocks]
    count = len(attentions[0])
    weights = np.eye(count)[0] if classification else np.full(count, 1 / count)
    for a in reversed(attentions):
        weights = 0.5 * weights + 0.5 * weights @ a
    scope = vitscope.load(model, processor=vitscope.VolumeProcessor(_SHAPE))
    return _off(_flat(scope.explain(_VOXELS, method="rollout")), weights)


@row(VOLUMES, "MONAI ViT with a classifier, rollout", libraries=("torch", "monai"), against="dense operators, float64")
def _monai_classifier() -> float:
    return _monai(True)


@row(VOLUMES, "MONAI ViT without one, rollout", libraries=("torch", "monai"), against="dense operators, float64")
def _monai_features() -> float:
    return _monai(False)


@row(VOLUMES, "a volume of another size", libraries=("torch", "monai"), against="a refusal")
def _other_size() -> str:
    sizes = {"img_size": 16, "patch_size": 8, "hidden_size": 32, "mlp_dim": 64, "num_layers": 1, "num_heads": 2}
    try:
        vitscope.load(_vit(**sizes)).explain(_VOXELS)
    except VitscopeError as error:
        return REFUSED if error.code == "models.volume-size" else str(error)
    return "explained"


@cache
def _sound() -> tuple[Any, Any, Any, Any]:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ASTConfig(**sizes, max_length=96, num_mel_bins=48, num_labels=3)
    config._attn_implementation = "eager"
    model = transformers.ASTForAudioClassification(config).double().eval()
    time = np.arange(9600) / 16000
    sound = vitscope.Sound(np.sin(2 * np.pi * (300 + 2000 * time) * time).astype(np.float32), 16000)
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=48, max_length=96)
    values = extractor(sound.samples, sampling_rate=16000, return_tensors="pt")["input_values"].double()
    return vitscope.load(model), model, sound, values


@row(SOUNDS, "AST, rollout", libraries=("torch", "transformers"), against="dense operators, float64")
def _ast_rollout() -> float:
    scope, model, sound, values = _sound()
    with torch.no_grad():
        attentions = [a[0].mean(0).numpy() for a in model(values, output_attentions=True).attentions]
    weights = np.zeros(len(attentions[0]))
    weights[:2] = 0.5
    for a in reversed(attentions):
        weights = 0.5 * weights + 0.5 * weights @ a
    return _off(_flat(scope.explain(sound, method="rollout")), weights)


@row(SOUNDS, "AST, prediction", libraries=("torch", "transformers"), against="the model itself")
def _ast_prediction() -> float:
    scope, model, sound, values = _sound()
    with torch.no_grad():
        expected = model(values).logits.softmax(-1)[0].numpy()
    found = dict(scope.explain(sound, method="rollout").predictions)
    return max(abs(found[f"LABEL_{n}"] - p) for n, p in enumerate(expected))


@row(
    SOUNDS,
    "a pipeline with a feature extractor of its own",
    libraries=("torch", "transformers"),
    against="the pipeline",
)
def _pipeline() -> float:
    _, model, sound, _ = _sound()
    own = transformers.ASTFeatureExtractor(num_mel_bins=48, max_length=96, mean=-2.0, std=3.0)
    pipeline = transformers.pipeline("audio-classification", model=model, feature_extractor=own)
    found = dict(vitscope.load(pipeline).explain(sound, method="rollout").predictions)
    said = pipeline({"raw": sound.samples, "sampling_rate": 16000})
    return max(abs(found[one["label"]] - one["score"]) for one in said)


@row(SOUNDS, "samples of 32-bit integers", libraries=("torch", "transformers"), against="the same samples as floats")
def _integers() -> float:
    scope, _, sound, _ = _sound()
    whole = vitscope.Sound((sound.samples.astype(np.float64) * (2**31 - 1)).astype(np.int32), 16000)
    return _off(_flat(scope.explain(whole, method="rollout")), _flat(scope.explain(sound, method="rollout")))


@row(SOUNDS, "16-bit numbers as floats", libraries=("torch", "transformers"), against="a refusal")
def _unknown_scale() -> str:
    try:
        vitscope.Sound(_sound()[2].samples * 32767, 16000)
    except VitscopeError as error:
        return REFUSED if error.code == "media.samples-scale" else str(error)
    return "taken"


@row(SOUNDS, "wav2vec 2.0", libraries=("torch", "transformers"), against="a refusal that says what it takes")
def _other_sounds() -> str:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    shape = {"conv_dim": (16,), "conv_stride": (5,), "conv_kernel": (10,), "num_conv_pos_embedding_groups": 2}
    config = transformers.Wav2Vec2Config(**small, **shape, num_conv_pos_embeddings=4)
    return _refusal("models.takes-sounds", transformers.Wav2Vec2ForSequenceClassification(config).eval())
