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
    MissingExtra,
    ModelError,
    ResultError,
    UnknownName,
    UsageError,
    VitscopeError,
)

if TYPE_CHECKING:
    from vitscope.capturing import capture
    from vitscope.geometry import Frame, TokenLayout
    from vitscope.options import Failure, Options
    from vitscope.pipeline import Scope, load
    from vitscope.result import Explanation
    from vitscope.store import AttentionStore
    from vitscope.targets import similar_to, text

_HOMES = {
    "AttentionStore": "store",
    "Explanation": "result",
    "Failure": "options",
    "Frame": "geometry",
    "Options": "options",
    "Scope": "pipeline",
    "TokenLayout": "geometry",
    "capture": "capturing",
    "load": "pipeline",
    "similar_to": "targets",
    "text": "targets",
}

__all__ = [
    "AttentionStore",
    "CaptureError",
    "Explanation",
    "Failure",
    "Frame",
    "ImageError",
    "LayoutError",
    "MethodError",
    "MissingExtra",
    "ModelError",
    "Options",
    "ResultError",
    "Scope",
    "TokenLayout",
    "UnknownName",
    "UsageError",
    "VitscopeError",
    "__version__",
    "capture",
    "load",
    "similar_to",
    "text",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vitscope' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"vitscope.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
