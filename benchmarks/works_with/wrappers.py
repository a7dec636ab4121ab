"""Wrapped, compiled and changed models, threads and surroundings: each against the plain model run by hand."""

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
import timm
import torch
from benchmarks.works_with.table import REFUSED, row
from torch import nn
from torchvision.transforms import Normalize
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import vitscope
from vitscope.errors import ModelError

__all__: list[str] = []

KIND = "Wrapped and compiled models"
AROUND = "The caller's surroundings"
BY_HAND = "rollout of the attentions that the eager model returns, in float64"
_PHOTO = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
_NAMES = {0: "cat", 1: "dog", 2: "owl"}


def _model() -> Any:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        id2label=_NAMES,
        label2id={name: number for number, name in _NAMES.items()},
        hidden_dropout_prob=0.2,
    )
    return ViTForImageClassification(config).eval()


def _pixels() -> torch.Tensor:
    found: torch.Tensor = ViTImageProcessor(size={"height": 32, "width": 32})(_PHOTO, return_tensors="pt").pixel_values
    return found


def _by_hand(model: Any) -> np.ndarray:
    """Roll out the attentions that transformers returns: half attention, half identity, from the CLS token."""
    model = model.eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(_pixels().to(model.dtype), output_attentions=True).attentions
    rows = torch.eye(17, dtype=torch.float64)[:1]
    for attention in reversed(attentions):
        rows = rows @ (0.5 * attention[0].double().mean(0) + 0.5 * torch.eye(17, dtype=torch.float64))
    return rows[0, 1:].reshape(4, 4).numpy()


def _off(wrapped: nn.Module, plain: Any = None, **options: Any) -> float | str:
    scope = vitscope.load(wrapped, **options)
    explained = scope.explain(_PHOTO, method="rollout")
    plain = plain or _model()
    with torch.no_grad():
        right = plain(_pixels()).logits.softmax(-1)[0].numpy()
    said = dict(explained.predictions)
    if set(said) != set(_NAMES.values()):
        return f"classes {sorted(said)}"
    scores = max(abs(said[name] - right[number]) for number, name in _NAMES.items())
    return float(max(np.abs(explained.map - _by_hand(plain)).max(), scores))


class _Own(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.loss = model, nn.CrossEntropyLoss()

    def forward(self, x: torch.Tensor) -> Any:
        return self.model(x)


@row(KIND, "nn.DataParallel around a ViT of transformers", libraries=("torch", "transformers"), against=BY_HAND)
def _data_parallel() -> float | str:
    return _off(nn.DataParallel(_model()))


@row(KIND, "a module of one's own around it", libraries=("torch", "transformers"), against=BY_HAND)
def _own() -> float | str:
    return _off(_Own(_model()))


@row(KIND, "nn.Sequential of it alone", libraries=("torch", "transformers"), against=BY_HAND)
def _sequential() -> float | str:
    return _off(nn.Sequential(_model()))


@row(KIND, "its own normalisation in front of it", libraries=("torchvision", "transformers"), against=BY_HAND)
def _normalised() -> float | str:
    return _off(nn.Sequential(Normalize([0.5] * 3, [0.5] * 3), _model()))


@row(KIND, "another normalisation in front of it", libraries=("torchvision", "transformers"), against="a refusal")
def _other() -> float | str:
    try:
        vitscope.load(nn.Sequential(Normalize([0.1] * 3, [0.2] * 3), _model()))
    except ModelError as error:
        return REFUSED if error.code == "models.wrapper-changes-pixels" else str(error)
    return "explained"


@row(KIND, "a LightningModule with a forward", libraries=("lightning", "transformers"), against=BY_HAND)
def _lightning() -> float | str:
    import lightning

    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = _model()

        def forward(self, x: torch.Tensor) -> Any:
            return self.net(x)

    return _off(Lit())


@row(KIND, "a LightningModule without a forward", libraries=("lightning", "transformers"), against=BY_HAND)
def _lightning_without() -> float | str:
    import lightning

    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = _model()

    return _off(Lit())


@row(KIND, "prepared by accelerate", libraries=("accelerate", "transformers"), against=BY_HAND)
def _accelerate() -> float | str:
    from accelerate import Accelerator

    return _off(Accelerator(cpu=True).prepare(_model()))


@row(KIND, "a PeftModel with LoRA weights", libraries=("peft", "transformers"), against="the merged model, by hand")
def _peft() -> float | str:
    import peft

    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    made, other = peft.get_peft_model(_model(), config), peft.get_peft_model(_model(), config)
    other.load_state_dict(made.state_dict())
    return _off(made, other.merge_and_unload())


def _compiled(where: Callable[[Any], Any]) -> float | str:
    model = where(_model())
    with torch.no_grad():
        model(_pixels())
    return _off(model)


@row(KIND, "model.vit = torch.compile(model.vit)", libraries=("torch", "transformers"), against=BY_HAND)
def _compiled_part() -> float | str:
    def change(model: Any) -> Any:
        model.vit = torch.compile(model.vit, backend="eager")
        return model

    return _compiled(change)


@row(KIND, "torch.compile(model) in a wrapper", libraries=("torch", "transformers"), against=BY_HAND)
def _compiled_whole() -> float | str:
    return _compiled(lambda model: _Own(torch.compile(model, backend="eager")))


@row(KIND, "model.compile() in place", libraries=("torch", "transformers"), against=BY_HAND)
def _compiled_in_place() -> float | str:
    def change(model: Any) -> Any:
        model.compile(backend="eager")
        return model

    return _compiled(change)


def _gradient(model: Any, target: int = 1) -> np.ndarray:
    """Return input times gradient of a class, summed over each patch, with autograd alone."""
    pixels = _pixels().double().requires_grad_()
    (grad,) = torch.autograd.grad(model.double()(pixels).logits[0, target], pixels)
    found: np.ndarray = (pixels * grad).detach().sum(1).reshape(4, 8, 4, 8).sum((1, 3)).numpy()
    return found


def _gradient_off(make: Callable[[], Any], around: Callable[[], Any]) -> float:
    right = _gradient(_model())
    with around():
        found = vitscope.load(make()).explain(_PHOTO, method="input-x-gradient", target=1).map
    return float(np.abs(found - right).max() / np.abs(right).max())


for _name, _around in {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast to bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
}.items():

    @row(AROUND, f"{_name} around load and call", libraries=("torch", "transformers"), against="autograd in float64")
    def _with(around: Any = _around) -> float:
        return _gradient_off(_model, around)


@row(AROUND, "weights made in inference_mode", libraries=("torch", "transformers"), against="autograd in float64")
def _inference_weights() -> float:
    with torch.inference_mode():
        model = _model()
    return _gradient_off(lambda: model, nullcontext)


@row(AROUND, "gradient checkpointing of timm", libraries=("torch", "timm"), against="autograd in float64")
def _timm_checkpointing() -> float:
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", **options).eval()
    scope = vitscope.load(model)
    pixels = scope.prepare(_PHOTO).pixels[None].double().requires_grad_()
    model.double()
    (grad,) = torch.autograd.grad(model(pixels)[0, 1], pixels)
    right = (pixels * grad).detach().sum(1).reshape(4, 8, 4, 8).sum((1, 3)).numpy()
    model.float().set_grad_checkpointing(True)
    found = scope.explain(_PHOTO, method="input-x-gradient", target=1).map
    return float(np.abs(found - right).max() / np.abs(right).max())


@row(AROUND, "training mode, 8 threads on one model", libraries=("torch", "transformers"), against=BY_HAND)
def _threads() -> float | str:
    model = _model().train()
    scope, barrier = vitscope.load(model), threading.Barrier(8)

    def one(_: int) -> np.ndarray:
        barrier.wait()
        scope.explain(_PHOTO, method="logit-lens")
        return scope.explain(_PHOTO, method="rollout").map

    with ThreadPoolExecutor(8) as pool:
        maps = list(pool.map(one, range(8)))
    if not all(module.training for module in model.modules()):
        return "left in evaluation mode"
    right = _by_hand(_model())
    return float(max(np.abs(found - right).max() for found in maps))


@row(AROUND, "weights that changed after load", libraries=("torch", "transformers"), against=BY_HAND)
def _stale() -> float | str:
    model = _model()
    scope = vitscope.load(model)
    first = scope.explain(_PHOTO, method="rollout").provenance["weights"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    explained = scope.explain(_PHOTO, method="rollout")
    if explained.provenance["weights"] == first:
        return "the hash stayed"
    return float(np.abs(explained.map - _by_hand(model)).max())


class _Parts(nn.Module):
    """A model's backbone, called by its parts, and another head behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.vit, self.head = _model(), nn.Linear(32, 3, bias=False)
        self.head.weight.data.copy_(self.vit.classifier.weight)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.vit.vit(x).last_hidden_state[:, 0])


@row(KIND, "a head of one's own behind its backbone", libraries=("torch", "transformers"), against=BY_HAND)
def _own_head() -> float:
    found = vitscope.load(_Parts().eval()).explain(_PHOTO, method="rollout").map
    return float(np.abs(found - _by_hand(_model())).max())


@row(KIND, "averaged over the photo and its mirror image", libraries=("torch", "transformers"), against=BY_HAND)
def _mirrored_too() -> float:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = _model()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            one, other = (self.model(given).logits for given in (x, x.flip(-1)))
            return (one + other) / 2

    scope = vitscope.load(Twice().eval())
    pixels = scope.prepare(_PHOTO).pixels[None]
    plain = vitscope.load(_model())
    one, other = (plain.attribute(given, method="rollout").maps[0] for given in (pixels, pixels.flip(-1)))
    found = scope.attribute(pixels, method="rollout").maps[0]
    return float((found - (one + other.flip(-1)) / 2).abs().max())


@row(KIND, "shifted by a random number of pixels", libraries=("torch", "transformers"), against="two runs differ")
def _shifted() -> float | str:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = _model()

        def forward(self, x: torch.Tensor) -> Any:
            return self.model(x.roll(int(torch.randint(0, 4, ())), -1))

    try:
        vitscope.load(Shifted().eval(), processor=lambda image: torch.ones(3, 32, 32), region="whole")
    except vitscope.errors.LayoutError as error:
        return REFUSED if error.code == "tracing.random-model" else error.code
    return "accepted"


@row(AROUND, "a scope from a pickle", libraries=("torch", "transformers"), against=BY_HAND)
def _pickled() -> float:
    found = pickle.loads(pickle.dumps(vitscope.load(_model()))).explain(_PHOTO, method="rollout").map
    return float(np.abs(found - _by_hand(_model())).max())


@row(
    AROUND, "bfloat16 as the default dtype", libraries=("torch", "timm"), against="the same under float32", tolerance=0
)
def _default_dtype() -> float:
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", **options).eval()
    right = vitscope.load(model).explain(_PHOTO, method="rollout").map
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = vitscope.load(model).explain(_PHOTO, method="rollout").map
    finally:
        torch.set_default_dtype(torch.float32)
    return float(np.abs(found - right).max())
