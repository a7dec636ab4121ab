"""Record what made a map: the model, the options, the versions, and notes that a reader must know."""

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from typing import Any

import torch

from vitscope._messages import msg
from vitscope._version import __version__
from vitscope.engine.options import Options
from vitscope.engine.request import Request
from vitscope.images import Picture
from vitscope.methods.places import QueryTarget
from vitscope.methods.targets import Target
from vitscope.models.base import ModelAdapter

_OPTIONS = [
    name for name in Options.__dataclass_fields__ if name not in ("method", "target", "targets", "method_options")
]
_PACKAGES = {"open_clip": "open_clip_torch"}


def provenance(
    adapter: ModelAdapter,
    device: torch.device,
    dtype: torch.dtype,
    request: Request,
    picture: Picture,
    target: Target = None,
    size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Return what made one map, in plain values; with `size`, that of the model's input, also what holds there."""
    options, method, choice = request.options, request.method, request.choice
    record = {
        "source": picture.source,
        "model": adapter.reference,
        "adapter": adapter.name,
        "weights": adapter.weights,
        "output": adapter.reads(),
        **({"load": dict(adapter.options.said)} if adapter.options.said else {}),
        "options": {name: _plain(value) for name, value in request.method_options.items()},
        **{name: _plain(getattr(options, name)) for name in _OPTIONS},
        "target": _plain(target),
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "versions": {
            "vitscope": __version__,
            "python": platform.python_version(),
            **{name: found for name in ("torch", *_library(adapter), "numpy") if (found := _version(name))},
        },
        "notes": [*picture.notes, *notes_of(adapter, request, target, size)],
        **({"calibration": dict(choice.calibration)} if choice and choice.calibration else {}),
        **({"drawing": dict(choice.overlay_options)} if choice and choice.overlay_options else {}),
    }
    return record | ({"caveat": method.caveat} if method.caveat else {})


def notes_of(
    adapter: ModelAdapter, request: Request, target: Target = None, size: tuple[int, int] | None = None
) -> list[str]:
    """Return what a reader must know of every map that a request makes of inputs of that size."""
    options, method, choice = request.options, request.method, request.choice
    notes = [*adapter.notes, *(adapter.notes_at(size) if size is not None else ())]
    if choice is not None and choice.reason:
        notes.append(
            msg(
                "engine.chosen-because",
                "chosen by vitscope for this model: {choice} ({reason})",
                choice=str(choice),
                reason=choice.reason,
            )
        )
    elif choice is not None:
        notes.append(msg("engine.chosen", "chosen by vitscope for this model: {choice}", choice=str(choice)))
    if choice is not None and choice.note:
        notes.append(choice.note)
    if isinstance(target, QueryTarget) and "target" not in method.requires:
        notes.append(
            msg(
                "engine.reads-query",
                "{method} is class-agnostic: it reads from query {index}, whatever the class",
                method=method.name,
                index=target.index,
            )
        )
    elif target is not None and "target" not in method.requires:
        notes.append(
            msg(
                "engine.class-agnostic",
                "{method} is class-agnostic: the target {target} changes nothing",
                method=method.name,
                target=repr(target),
            )
        )
    if options.gradient_rule != "plain" and method.gradient_rule:
        notes.append(
            msg(
                "engine.own-rules",
                "{method} has its own rules, {own}: {@gradient_rule={rule}} changes nothing",
                method=method.name,
                own=method.gradient_rule,
                rule=options.gradient_rule,
            )
        )
    elif options.gradient_rule != "plain" and "gradient" not in method.requires:
        notes.append(
            msg(
                "engine.no-gradient",
                "{method} uses no gradient: {@gradient_rule={rule}} changes nothing",
                method=method.name,
                rule=options.gradient_rule,
            )
        )
    return notes


@cache
def _version(package: str) -> str:
    """Return a package's version, read once: parsing its file takes as long as explaining a small image."""
    try:
        return version(_PACKAGES.get(package, package))
    except PackageNotFoundError:  # a distribution of another name, as plug-ins may have, or none
        distributions = packages_distributions().get(package)
        return version(distributions[0]) if distributions else ""


def _library(adapter: ModelAdapter) -> tuple[str, ...]:
    library = adapter.library or adapter.name
    return (library,) if find_spec(library) else ()


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
