"""One map as a page carries it."""

import math
import re
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vitscope.engine.engine import Engine
from vitscope.explanation import Explanation
from vitscope.methods.base import METHODS
from vitscope.metrics.concentration import concentration
from vitscope.metrics.ranking import rank_map
from vitscope.viewer.packed import Packed, scaled

if TYPE_CHECKING:
    from vitscope.metrics.measurement import Measurement

__all__ = ["command_of", "entry_of", "finite"]


def entry_of(
    engine: Engine,
    explanation: Explanation,
    measurement: "Measurement | None" = None,
    *,
    name: str | None = None,
    label: str | None = None,
) -> tuple[dict[str, Any], dict[str, Packed]]:
    """A map's place in the header and its arrays.

    Args:
        engine: the model that made it.
        explanation: the map.
        measurement: how far it can be believed, where that was measured.
        name: what its arrays are called by, unique in a page; None is the method and the target.
        label: the class that it is of, as the predictions call it, where it is one of theirs.

    Returns:
        The entry, and `map.NAME` (float16, to be multiplied by `scale`) and `order.NAME` (patches, hottest first).
    """
    told = explanation.provenance
    name = name or "-".join(filter(None, (explanation.method, explanation.target)))
    values, scale = scaled(explanation.map)
    seed = int(told.get("seed", 0))
    order = rank_map(explanation.map, seed).order.astype(np.uint16)
    entry = {
        "id": name,
        "method": explanation.method,
        "options": told.get("options", {}),
        "target": explanation.target,
        "label": label,
        "score": explanation.score,
        "scale": scale,
        "prefix": [float(value) for value in explanation.prefix],
        "signed": bool(explanation.map.min() < 0 < explanation.map.max()),
        "norm": told.get("drawing", {}).get("norm"),
        "notes": list(told.get("notes", [])),
        "caveat": explanation.caveat,
        "source": METHODS.get(explanation.method).source,
        "passes": METHODS.get(explanation.method).passes,
        "sums_to_one": METHODS.get(explanation.method).sums_to_one,
        "statistics": concentration(explanation),
        "command": command_of(engine, explanation),
        "measurement": None if measurement is None else measurement.to_dict(),
    }
    return entry, {f"map.{name}": Packed.of(values), f"order.{name}": Packed.of(order)}


def command_of(engine: Engine, explanation: Explanation) -> str:
    """The command line that makes this map again."""
    told = explanation.provenance
    words = ["vitscope", "explain", str(told.get("source", "photo.jpg")), "--model", engine.adapter.reference]
    words += ["--method", explanation.method]
    usual = {name: option.default for name, option in METHODS.get(explanation.method).options.items()}
    for option, value in told.get("options", {}).items():
        if value is not None and value != usual.get(option):
            words += ["-O", f"{option}={value}"]
    if target := _asked(explanation):
        words += ["--target", target]
    for name, default in (("gradient_rule", "plain"), ("refine", "none"), ("seed", 0), ("size", None)):
        if told.get(name, default) != default:
            words += [f"--{name.replace('_', '-')}", str(told[name])]
    return shlex.join(words)


def _asked(explanation: Explanation) -> str:
    """The target as the command line says it; empty where it is the usual one."""
    words = explanation.target or ""
    if text := re.fullmatch("the text '(.*)'", words, re.DOTALL):
        return f"text:{text[1]}"
    if words.startswith("similar to "):
        return f"image:{words.removeprefix('similar to ')}"
    return words if explanation.predictions else ""


def finite(value: Any) -> Any:
    """JSON knows neither infinity nor NaN: None stands for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): finite(one) for key, one in value.items()}
    return [finite(one) for one in value] if isinstance(value, (list, tuple)) else value
