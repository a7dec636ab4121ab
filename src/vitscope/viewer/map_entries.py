"""One map as a page carries it, with what its method and model add."""

import re
import shlex
from typing import TYPE_CHECKING, Any

from vitscope.engine.engine import Engine
from vitscope.explanation import Explanation
from vitscope.methods.base import METHODS
from vitscope.viewer.document import map_entry
from vitscope.viewer.packed import Packed

if TYPE_CHECKING:
    from vitscope.metrics.measurement import Measurement


def full_entry(
    engine: Engine,
    explanation: Explanation,
    measurement: "Measurement | None" = None,
    *,
    name: str | None = None,
    label: str | None = None,
) -> tuple[dict[str, Any], dict[str, Packed]]:
    """Return a map's entry in the header and its arrays.

    Args:
        engine: the model that made it.
        explanation: the map.
        measurement: how far it can be believed, where that was measured.
        name: what its arrays are called by, unique in a page; None is the method and the target.
        label: the class that it is of, as the predictions call it, where it is one of theirs.

    Returns:
        As `vitscope.viewer.document.map_entry`.
    """
    entry, arrays = map_entry(explanation, name or "-".join(filter(None, (explanation.method, explanation.target))))
    method = METHODS.get(explanation.method)
    about = {
        "label": label,
        "source": method.source,
        "passes": method.passes,
        "sums_to_one": method.sums_to_one,
        "uses_target": "target" in method.requires,
        "command": command_line(engine, explanation),
        "measurement": None if measurement is None else measurement.to_dict(),
    }
    return entry | about, arrays


def command_line(engine: Engine, explanation: Explanation) -> str:
    """Return the command line that makes this map again."""
    provenance = explanation.provenance
    words = ["vitscope", "explain", str(provenance.get("source", "photo.jpg")), "--model", engine.adapter.reference]
    words += [*engine.adapter.options.flags(), "--method", explanation.method]
    defaults = {name: option.default for name, option in METHODS.get(explanation.method).options.items()}
    for option, value in provenance.get("options", {}).items():
        if value is not None and value != defaults.get(option):
            words += ["-O", f"{option}={value}"]
    if target := _target_option(explanation):
        words += ["--target", target]
    for name, default in (("gradient_rule", "plain"), ("refine", "none"), ("seed", 0), ("size", None)):
        if provenance.get(name, default) != default:
            words += [f"--{name.replace('_', '-')}", str(provenance[name])]
    return shlex.join(words)


def _target_option(explanation: Explanation) -> str:
    """Return the target as `--target` takes it; empty for the default one."""
    words = explanation.target or ""
    if text := re.fullmatch("the text '(.*)'", words, re.DOTALL):
        return f"text:{text[1]}"
    if words.startswith("similar to "):
        return f"image:{words.removeprefix('similar to ')}"
    return words if explanation.predictions else ""
