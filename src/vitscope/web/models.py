"""The models of the web app and the work that jobs do with them, all of it in the worker's thread."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitscope._messages import msg
from vitscope.errors import UsageError, first_line
from vitscope.images import Picture
from vitscope.methods.base import METHODS
from vitscope.methods.class_names import class_name
from vitscope.methods.targets import text
from vitscope.scope import Scope
from vitscope.viewer.document import json_safe
from vitscope.viewer.live import LiveModel
from vitscope.viewer.view import View
from vitscope.web.http_errors import HTTPError
from vitscope.web.jobs import Job

_LARGEST_FACTOR, _LARGEST = 10, 64  # an option may be so many times its default, or this
_MEASURING_SHARE = 0.6  # of a job's time


@dataclass(frozen=True, eq=False)
class FinishedView:
    """A finished view, and the model and the photo behind it."""

    view: View
    live: LiveModel

    @property
    def size(self) -> int:
        """Approximate bytes in memory."""
        pixels: int = self.live.masking.pixels.nbytes
        return self.view.nbytes + self.live.picture.nbytes + 3 * pixels


class Models:
    """The models that the server was started with.

    Args:
        scopes: by reference; the first is the default.
    """

    def __init__(self, scopes: Mapping[str, Scope]) -> None:
        # scopes of its own, since jobs set `on_forward`
        self._scopes = {name: Scope(one.adapter, one.device, one.dtype) for name, one in scopes.items()}
        self._descriptions = [_description(name, one) for name, one in self._scopes.items()]

    @property
    def names(self) -> tuple[str, ...]:
        """Their references, the default first."""
        return tuple(self._scopes)

    def get(self, name: str | None) -> Scope:
        """Return the model of this name, or the default; raise an HTTPError (422) for one that is not offered."""
        if name is None:
            name = self.names[0]
        if name not in self._scopes:
            raise HTTPError(
                422,
                msg("web.no-such-model", "the server was not started with this model"),
                msg("web.no-such-model.hint", "choices: {choices}", choices=", ".join(self.names)),
            )
        return self._scopes[name]

    def describe(self) -> list[dict[str, Any]]:
        """Return each model and its methods, with the reason where a method does not apply; runs no forward."""
        return self._descriptions


def make_view(scope: Scope, picture: Picture, request: Mapping[str, Any], job: Job) -> FinishedView:
    """Return the view of a photo, ready for masks."""
    options = {name: value for name, value in request.items() if value is not None}
    scope.engine.on_forward = job.check
    measuring = _MEASURING_SHARE * job.seconds  # a view with some measurements is better than none at the time limit
    view = scope.view(picture, progress=job.report, seconds=measuring, show=job.show, **options)
    assert view.live is not None
    live = view.live
    live.masking  # noqa: B018  computed now, so that the first mask costs one forward only
    job.show(view)
    return FinishedView(view, live)


def document_of(view: View, first: View | None = None) -> bytes:
    """Return a view's document as JSON: the whole of it, or what it has beyond an earlier one."""
    return json.dumps(view.document(first), separators=(",", ":"), allow_nan=False).encode()


def predict_without(view: FinishedView, patches: Sequence[int], mode: str, job: Job) -> dict[str, Any]:
    """Return the model's prediction without these patches."""
    view.live.engine.on_forward = job.check
    found: dict[str, Any] = json_safe(view.live.mask(patches, mode))
    return found


def make_map(
    view: FinishedView, method: str, target: Any, method_options: Mapping[str, Any], job: Job
) -> dict[str, Any]:
    """Return a further map of a view's photo."""
    view.live.engine.on_forward = job.check
    _check_options(method, method_options)
    goal = text(target["text"]) if isinstance(target, Mapping) else target
    try:
        return view.live.explain(method, goal, method_options, progress=job.report)
    except (ArithmeticError, IndexError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        if not method_options:
            raise
        problem = msg(
            "web.options-fail",
            "method '{method}' fails with these options: {reason}",
            method=method,
            reason=first_line(error),
        )
        raise UsageError(problem, msg("web.options-fail.hint", "leave the options out")) from error


def _check_options(method: str, method_options: Mapping[str, Any]) -> None:
    """Reject numbers far beyond an option's default: memory grows with them."""
    for name, value in method_options.items():
        option = METHODS.get(method).options.get(name)
        default = option.default if option and isinstance(option.default, (int, float)) else 0
        most = max(_LARGEST, _LARGEST_FACTOR * abs(default))
        if isinstance(value, (int, float)) and abs(value) > most:
            problem = msg(
                "web.option-too-large",
                "{name} must be at most {most} here, not {value}",
                name=name,
                most=format(most, "g"),
                value=format(value, "g"),
            )
            raise UsageError(problem, msg("web.option-too-large.hint", "the command line has no such limit"))


def _description(name: str, scope: Scope) -> dict[str, Any]:
    layout = scope.layout
    labels = [class_name(number, scope.adapter.labels) for number in scope.adapter.labels]
    methods = [
        {
            "name": method.name,
            "summary": method.summary,
            "passes": method.passes,
            "uses_target": "target" in method.requires,
            "reason": method.supports(scope.adapter).reason,
            "options": {option.name: option.default for option in method.options.values()},
        }
        for _, method in METHODS
    ]
    return {
        "reference": name,
        "adapter": scope.adapter.name,
        "tokens": layout.tokens,
        "grid": list(layout.grid),
        "labels": labels,
        "methods": methods,
    }
