"""The plan's methods with their targets and options, checked against the model before any image is read."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitscope._messages import msg
from vitscope._version import __version__
from vitscope.batch.types import SCHEMA, BatchPlan
from vitscope.engine.options import Failure
from vitscope.errors import (
    MethodError,
    OutOfMemoryError,
    UnknownNameError,
    VitscopeError,
    first_line,
    is_out_of_memory,
)
from vitscope.methods.base import METHODS
from vitscope.methods.targets import parse_target

if TYPE_CHECKING:
    from vitscope.engine.prepared import Prepared
    from vitscope.explanation import Explanation
    from vitscope.scope import Scope

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class MethodRequest:
    """One method with its targets, run on every image.

    Attributes:
        method: the method's name in the plan.
        name: the name of the method that runs; another one where the plan says `auto`.
        targets: the targets as text, a row for each; None where the plan has none or the method uses none.
        options: keywords of `Scope.explain`.
    """

    method: str
    name: str
    targets: tuple[str | None, ...]
    options: Mapping[str, Any]


def method_requests(scope: "Scope", plan: BatchPlan, *, validate: bool = True) -> tuple[MethodRequest, ...]:
    """Return the requests of a plan; `validate` checks each against the model.

    Raises:
        UsageError: a method, option or target that does not exist or does not fit the model.
        MethodError: a method that does not apply to this model.

    Cost: with `validate`, one forward for each target.
    """
    requests, used = [], set()
    for name in plan.methods:
        target = plan.targets[0] if plan.targets else None
        resolved = scope.recommend(target=target, method_options=plan.method_options).method if name == "auto" else name
        method = METHODS.get(resolved)
        own = {key: value for key, value in plan.method_options.items() if key in method.options}
        used |= {*own}
        targets = plan.targets if plan.targets and "target" in method.requires else (None,)
        parsed = [None if text is None else parse_target(text) for text in targets]
        options: dict[str, Any] = {
            "method": name,
            **({"targets": parsed} if len(parsed) > 1 else {"target": parsed[0]}),
            "gradient_rule": plan.gradient_rule,
            "refine": plan.refine,
            "size": plan.size,
            "seed": plan.seed,
            "method_options": own,
        }
        if validate:
            scope.validate(**options)
        requests.append(MethodRequest(name, resolved, targets, options))
    for key in plan.method_options:
        if key not in used:
            available = sorted({option for request in requests for option in METHODS.get(request.name).options})
            raise UnknownNameError("option of these methods", key, available)
    return tuple(requests)


def explain_batch(
    scope: "Scope", request: MethodRequest, prepared: Sequence["Prepared"]
) -> "list[list[Explanation] | VitscopeError]":
    """Return for each of some images of one input size an explanation per target, or its error.

    Where a batch fails as a whole (out of memory, a model that takes no batches), each image is tried alone.
    """
    options = {**request.options, "batch_size": len(prepared)}
    found: list[Any] = []
    try:
        outcomes = list(scope.explain_many(prepared, **options))
    except Exception as error:  # whatever a model raises costs rows, never the run
        log.debug("%s failed on %d images: %s", request.name, len(prepared), first_line(error))
        if len(prepared) > 1:
            return [explain_batch(scope, request, [one])[0] for one in prepared]
        return [error if isinstance(error, VitscopeError) else _as_image_error(error, prepared[0])]
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            found.append(outcome.error)
        else:
            found.append(outcome if isinstance(outcome, list) else [outcome])
    return found


def fingerprint(scope: "Scope", plan: BatchPlan, source: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that rows depend on, and the versions, as plain JSON values."""
    fields = plan.identity() | {"model": scope.adapter.reference, "weights": scope.adapter.weights}
    if plan.labels is not None:  # what the names are counts, not only where they are written
        names = repr(sorted(scope.adapter.labels.items()))
        fields["labels"] = f"{plan.labels} {hashlib.sha256(names.encode()).hexdigest()[:16]}"
    targets = [_with_hash(text) for text in plan.targets]
    if "auto" in plan.methods and (calibration := scope.engine.calibration.of(scope.adapter)) is not None:
        fields["calibration"] = f"{calibration.made} {calibration.digest}"
    return {
        "schema": SCHEMA,
        **{name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()},
        "targets": targets,
        "dtype": str(scope.dtype).removeprefix("torch."),
        **{f"source_{name}": value for name, value in source.items()},
        "versions": {"vitscope": __version__},
    }


def _with_hash(text: str) -> str:
    """Return a target's text; that of an image gets a hash of the file's bytes."""
    kind, _, path = text.partition(":")
    if kind != "image" or not Path(path.strip()).is_file():
        return text
    return f"{text} {hashlib.sha256(Path(path.strip()).read_bytes()).hexdigest()[:16]}"


def _as_image_error(error: Exception, image: "Prepared") -> VitscopeError:
    if is_out_of_memory(error):
        return OutOfMemoryError.of(error, image.picture.source)
    kind = type(error).__name__
    return MethodError(msg("batch.model-failed", "{kind}: {reason}", kind=kind, reason=first_line(error)))
