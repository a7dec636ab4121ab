"""Rows: borders that a model makes, layouts from the caller, sizes of position embeddings, heads on other media."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from benchmarks.works_with.table import REFUSED, row
from tests.models import toys_video
from tests.models.sabotaged import D, Tiny
from tests.models.traced_row import as_it_is
from torch import Tensor, nn
from torch.nn import functional

import vitscope
from vitscope.errors import LayoutError, VitscopeError
from vitscope.geometry import TokenLayout
from vitscope.media.volume import VolumeProcessor

__all__: list[str] = []

_CUT, _WRAPPED = "Input that is no multiple of the patch", "Wrapped and compiled models"
_CLIPS, _VOLUMES, _SOUNDS, _SEEN = "Video clips", "Volumes", "Sounds", "Attention seen in part"
_ARITHMETIC = "where the padding puts patches of 8 pixels, in pixels"
_EAGER = "the eager attentions of a twin, multiplied in float64"


class _Bordered(Tiny):
    """A Vision Transformer that widens its image of 32 x 32 pixels by itself."""

    def __init__(self, mode: str, pads: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.mode, self.pads = mode, pads
        self.grid = (32 + pads[2] + pads[3]) // 8, (32 + pads[0] + pads[1]) // 8
        self.places = nn.Parameter(torch.randn(1, self.grid[0] * self.grid[1], D) / 2)

    def embed(self, x: Tensor) -> Tensor:
        return self.stem(functional.pad(x, self.pads, mode=self.mode)).flatten(2).mT + self.places


def _cells(mode: str, pads: tuple[int, int, int, int], follow: bool = False, **options: Any) -> float:
    """Return how far the cells are from the padding's arithmetic; `follow` states those that a refusal names."""
    torch.manual_seed(0)
    model = _Bordered(mode, pads).eval()
    wanted = (-pads[0], -pads[2], 8 * model.grid[1] - pads[0], 8 * model.grid[0] - pads[2])
    layout = TokenLayout(("cls",), model.grid)
    given: dict[str, Any] = {"layout": layout} if options.get("given") else {}
    if follow:
        try:
            vitscope.load(model, processor=as_it_is(model.size), layout=layout)
        except LayoutError as error:
            found = str(getattr(error.hint, "params", {})["found"]).strip("()").split(",")
            left, top, right, bottom = (float(end) for end in found)
            given = {"layout": TokenLayout(("cls",), model.grid, cells=(left, top, right, bottom))}
    scope = vitscope.load(model, processor=as_it_is(model.size), **given)
    cells = scope.layout.cells
    assert cells is not None
    return float(np.abs(np.array(cells) - wanted).max())


for _mode, _words in (("reflect", "mirrors"), ("replicate", "repeats"), ("constant", "pads")):
    row(_CUT, f"a model that {_words} its border by half a patch", against=_ARITHMETIC)(
        lambda mode=_mode: _cells(mode, (4, 4, 4, 4))
    )
    row(_CUT, f"the same with `layout=`: a model that {_words} its border", against=_ARITHMETIC)(
        lambda mode=_mode: _cells(mode, (3, 5, 3, 5), given=True)
    )
row(_CUT, "whole patches of padding, and `layout=` as the refusal says", against=_ARITHMETIC)(
    lambda: _cells("constant", (8, 8, 8, 8), given=True)
)
for _mode in ("reflect", "circular"):
    row(_CUT, f"whole patches of a border ({_mode}), and `cells=` as the refusal says", against=_ARITHMETIC)(
        lambda mode=_mode: _cells(mode, (8, 8, 8, 8), follow=True)
    )


@row(_CUT, "`layout=` for a border that is mirrored by a whole patch", against="refused with the box to state")
def _stated() -> str:
    torch.manual_seed(0)
    model = _Bordered("reflect", (8, 8, 8, 8)).eval()
    try:
        vitscope.load(model, processor=as_it_is(model.size), layout=TokenLayout(("cls",), model.grid))
    except VitscopeError as error:
        return REFUSED if error.code == "tracing.other-cells" else str(error)
    return "loaded"


@row(
    _CUT,
    "ViT of 32 pixels with a processor of 48: what the notes say",
    libraries=("transformers",),
    against="the patches along each side, by hand",
)
def _interpolated() -> float:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = transformers.ViTModel(transformers.ViTConfig(**small, image_size=32, patch_size=8)).eval()
    scope = vitscope.load(model, processor=transformers.ViTImageProcessor(size={"height": 48, "width": 48}))
    notes = scope.explain(np.zeros((48, 48, 3), np.uint8), method="rollout").provenance["notes"]
    said = [note.params for note in notes if note.code == "tracing.note-interpolated"]
    return 0.0 if said == [{"own": "4 x 4", "used": "6 x 6"}] else 1.0


class _Headed(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.backbone(x)[0].mean(1))


def _rolled(attentions: list[Tensor]) -> np.ndarray:
    weights = np.full(attentions[0].shape[-1], 1 / attentions[0].shape[-1])
    for matrix in reversed(attentions):
        weights = 0.5 * weights + 0.5 * weights @ matrix.mean(0).detach().numpy()
    return weights


def _off(e: Any, expected: np.ndarray) -> float:
    return float(np.abs(np.concatenate([e.prefix, e.map.ravel()]) - expected).max() / expected.max())


@row(_CLIPS, "a head of one's own behind VideoMAE, rollout", libraries=("transformers",), against=_EAGER)
def _video() -> float:
    def inside(attention: str) -> Any:
        return toys_video.classifier("videomae", attention=attention).double().videomae

    scope = vitscope.load(_Headed(inside("sdpa")).double().eval())
    frames = toys_video.frames()
    sampled = np.stack([frames[n * 20 // 8] for n in range(8)])
    made = scope.adapter.processor(videos=[sampled], return_tensors="pt")
    pixels = next(iter(made.values())).double()
    attentions = [one[0] for one in inside("eager")(pixels, output_attentions=True).attentions]
    return _off(scope.explain(frames, method="rollout"), _rolled(attentions))


@row(_VOLUMES, "a head of one's own behind MONAI's ViT, rollout", libraries=("monai",), against=_EAGER)
def _volume() -> float:
    from monai.networks.nets import ViT

    torch.manual_seed(0)
    sizes = {"img_size": (8, 16, 24), "patch_size": (4, 8, 6), "hidden_size": 32, "mlp_dim": 64, "num_heads": 2}
    model = _Headed(ViT(1, **sizes, num_layers=2, save_attn=True)).double().eval()
    voxels = np.random.default_rng(0).normal(size=(8, 16, 24)).astype(np.float32)
    e = vitscope.load(model, processor=VolumeProcessor((8, 16, 24))).explain(voxels, method="rollout")
    model(torch.from_numpy(voxels[None, None]).double())
    return _off(e, _rolled([block.attn.att_mat[0] for block in model.backbone.blocks]))


@row(_SOUNDS, "a head of one's own behind AST, rollout", libraries=("transformers",), against=_EAGER)
def _sound() -> float:
    def inside(attention: str) -> Any:
        torch.manual_seed(0)
        small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = transformers.ASTConfig(**small, max_length=96, num_mel_bins=48)
        config._attn_implementation = attention
        return transformers.ASTModel(config).double().eval()

    time = np.arange(9600) / 16000
    tone = vitscope.Sound((0.4 * np.sin(2 * np.pi * 500 * time)).astype(np.float32), 16000)
    extractor: Any = transformers.ASTFeatureExtractor(num_mel_bins=48, max_length=96)
    values = extractor(tone.samples, sampling_rate=16000, return_tensors="pt")["input_values"].double()
    attentions = [one[0] for one in inside("eager")(values, output_attentions=True).attentions]
    return _off(
        vitscope.load(_Headed(inside("sdpa")).double().eval()).explain(tone, method="rollout"), _rolled(attentions)
    )


def _captured(model: nn.Module, images: Tensor, expected: Callable[[], list[Tensor]]) -> float:
    """Return how far `capture` is from other attention of the same forward."""
    with torch.no_grad(), vitscope.capture(model) as recorder:
        model(images)
    found, wanted = [block.rows() for block in recorder.attention.blocks], expected()
    assert len(found) == len(wanted)
    return max(float((one.ravel() - other.ravel()).abs().max()) for one, other in zip(found, wanted, strict=True))


@row(
    _SEEN,
    "NaViT by nested tensors, by `vitscope.capture` as the refusal says",
    libraries=("torch", "vit-pytorch"),
    against="the plain formula of the queries and keys that reach the kernel",
)
def _nested() -> float:
    from vit_pytorch.na_vit_nested_tensor import NaViT

    torch.manual_seed(0)
    model = NaViT(image_size=32, patch_size=8, num_classes=3, dim=32, depth=1, heads=2, mlp_dim=32).eval()
    images, made, kernel = torch.randn(2, 3, 32, 32), [], functional.scaled_dot_product_attention

    def by_hand(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        made.append(
            torch.stack(
                [(a @ b.mT / a.shape[-1] ** 0.5).softmax(-1) for a, b in zip(q.unbind(), k.unbind(), strict=True)]
            )
        )
        return kernel(q, k, v, **options)

    functional.scaled_dot_product_attention = by_hand  # type: ignore[assignment]
    try:
        with torch.no_grad():
            model(list(images))
    finally:
        functional.scaled_dot_product_attention = kernel
    return _captured(_Listed(model), images, lambda: made)


class _Listed(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model(list(x))
