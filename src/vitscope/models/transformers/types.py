"""Model types of transformers whose token layout is known by name; every other type is traced."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from vitscope.geometry import Pooling

CLASSIFIER = "ForImageClassification"
AUDIO_TYPES = ("audio-spectrogram-transformer",)
VIDEO_TYPES: Mapping[str, str] = {  # with the library's processor
    "timesformer": "TimesformerVideoProcessor",
    "videomae": "VideoMAEVideoProcessor",
    "vivit": "VivitVideoProcessor",
    "vjepa2": "VJEPA2VideoProcessor",
}


@dataclass(frozen=True)
class ModelType:
    """One model type.

    Attributes:
        prefix: names of the prefix tokens, from the config.
        pooling: `pooling` and `pool_prefix` of the layout, from the config and the name of the class.
        features_only: the row holds for feature models; classifiers of this type are traced.
    """

    prefix: Callable[[Any], tuple[str, ...]]
    pooling: Callable[[Any, str], tuple[Pooling, bool]]
    features_only: bool = False


def _cls(_config: Any) -> tuple[str, ...]:
    return ("cls",)


def _registers(config: Any) -> tuple[str, ...]:
    return ("cls", *(f"register {i + 1}" for i in range(config.num_register_tokens)))


def _pool_cls(_config: Any, _architecture: str) -> tuple[Pooling, bool]:
    return "cls", False


def _pool_mean_if_configured(config: Any, _architecture: str) -> tuple[Pooling, bool]:
    return ("mean" if config.use_mean_pooling else "cls"), False


_LIBRARIES = frozenset({"torch", "transformers", "accelerate", "peft", "torchao", "bitsandbytes", "vitscope"})
_TYPES: Mapping[str, ModelType] = {
    "vit": ModelType(_cls, _pool_cls),
    "deit": ModelType(
        lambda _config: ("cls", "distillation"),
        lambda _config, architecture: ("cls", architecture.endswith("WithTeacher")),
    ),
    "vit_msn": ModelType(_cls, _pool_cls),
    "dinov2": ModelType(_cls, _pool_cls, features_only=True),  # the classifier reads the mean patch beside CLS
    "dinov2_with_registers": ModelType(_registers, _pool_cls, features_only=True),
    "beit": ModelType(_cls, _pool_mean_if_configured),
    "ijepa": ModelType(lambda _config: (), lambda _config, _architecture: ("mean", False)),
}


def known_types() -> tuple[str, ...]:
    """Return the model types whose layout is known by name."""
    return tuple(_TYPES)


def find_type(model_type: str, architecture: str) -> ModelType | None:
    """Return the row of a model type, or None where the model must be traced: other heads read other tokens."""
    row = _TYPES.get(model_type)
    if CLASSIFIER not in architecture and not architecture.endswith("Model"):
        return None
    return None if row is None or (row.features_only and CLASSIFIER in architecture) else row


def is_altered(model: nn.Module, layers: int) -> bool:
    """Return whether somebody hooked into a model of the library, cut its layers or put parts of their own into it.

    Then its configuration no longer says what it does.
    """
    lists = [len(part) for part in model.modules() if isinstance(part, nn.ModuleList)]
    return layers not in lists or any(_has_foreign_code(part) for part in model.modules())


def _has_foreign_code(module: nn.Module) -> bool:
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    replaced = "forward" in vars(module) and not hasattr(module, "_hf_hook")  # that of accelerate moves weights
    code = (type(module), *hooks)
    return replaced or any(getattr(one, "__module__", "").partition(".")[0] not in _LIBRARIES for one in code)
