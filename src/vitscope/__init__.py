"""vitscope: see where a Vision Transformer looks, and how far to believe the picture.

    import vitscope

    scope = vitscope.load("embedded:dinov2-small")
    scope.explain("dog.jpg").overlay().save("dog-attention.png")

Importing this package loads neither torch nor transformers: names are looked up where they live on first use.
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
    ResultError,
    UnknownNameError,
    UsageError,
    VitscopeError,
)

if TYPE_CHECKING:
    from vitscope.attention import AttentionStore
    from vitscope.attention.capture import capture
    from vitscope.engine.options import Failure, Options
    from vitscope.explanation import Explanation
    from vitscope.geometry import ImageRegion, TokenLayout
    from vitscope.methods.targets import similar_to, text
    from vitscope.scope import Scope, load
    from vitscope.viewer.widget import widget_of

_HOMES = {
    "AttentionStore": "attention",
    "Explanation": "explanation",
    "Failure": "engine.options",
    "ImageRegion": "geometry",
    "Options": "engine.options",
    "Scope": "scope",
    "TokenLayout": "geometry",
    "capture": "attention.capture",
    "load": "scope",
    "similar_to": "methods.targets",
    "text": "methods.targets",
    "widget_of": "viewer.widget",
}

__all__ = [
    "AttentionStore",
    "CaptureError",
    "Explanation",
    "Failure",
    "ImageError",
    "ImageRegion",
    "LayoutError",
    "MethodError",
    "MissingDependencyError",
    "ModelError",
    "Options",
    "ResultError",
    "Scope",
    "TokenLayout",
    "UnknownNameError",
    "UsageError",
    "VitscopeError",
    "__version__",
    "capture",
    "load",
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
