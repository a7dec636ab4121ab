"""The models of the web app, and what is asked of them: all of it runs in the worker's thread."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitscope.errors import UsageError
from vitscope.images import Picture
from vitscope.methods.base import METHODS
from vitscope.methods.targets import text
from vitscope.scope import Scope
from vitscope.viewer.live import Live
from vitscope.viewer.map_entries import finite
from vitscope.web.http_errors import HTTPError
from vitscope.web.jobs import Job

__all__ = ["Models", "Viewed", "made_view", "one_more", "without"]

_MOST_TIMES, _MOST = 10, 64
_MEASURING = 0.6  # of the time for a question
_ROOM = 24.0  # megabytes of a view: it goes no further than this machine, and fitting it into less takes the longest


class _Watched(Scope):
    """A scope that looks up before each forward, so that a question can be ended between two of them."""

    look_up: Callable[[], None] = staticmethod(lambda: None)

    def _forward(self, *args: Any, **options: Any) -> Any:
        self.look_up()
        return super()._forward(*args, **options)

    def _answer(self, pixels: Any) -> Any:
        self.look_up()
        return super()._answer(pixels)


@dataclass(frozen=True, eq=False)
class Viewed:
    """A finished view.

    Attributes:
        document: its JSON.
        live: the model and the photo behind it.
    """

    document: bytes
    live: Live

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        pixels: int = self.live.masking.pixels.nbytes
        return len(self.document) + self.live.picture.pixels.nbytes + 3 * pixels


class Models:
    """The models that were named at launch; a client chooses among them and names no others.

    Args:
        scopes: by reference; the first is taken where none is chosen.
    """

    def __init__(self, scopes: Mapping[str, Scope]) -> None:
        self._scopes = {name: _Watched(one.adapter, one.device, one.dtype) for name, one in scopes.items()}
        self._told = [_about(name, one) for name, one in self._scopes.items()]

    @property
    def names(self) -> tuple[str, ...]:
        """Their references, the first one first."""
        return tuple(self._scopes)

    def pick(self, name: str | None) -> _Watched:
        """The model of this name.

        Raises:
            HTTPError: 422: it was not named at launch.
        """
        if name is None:
            name = self.names[0]
        if name not in self._scopes:
            raise HTTPError(422, "the server was not started with this model", f"choices: {', '.join(self.names)}")
        return self._scopes[name]

    def about(self) -> list[dict[str, Any]]:
        """What each model is, and its methods, with the reason where one cannot fit; no forward is made to find out."""
        return self._told


def watched(scope: _Watched, job: Job) -> _Watched:
    """The scope, heeding this job from now on."""
    scope.look_up = job.look_up
    return scope


def made_view(scope: _Watched, picture: Picture, asked: Mapping[str, Any], job: Job) -> Viewed:
    """The view document of a photo, and the photo made ready for masks."""
    options = {name: value for name, value in asked.items() if value is not None}
    left = _MEASURING * job.seconds  # then the view comes with what has been measured, before the limit ends all of it
    view = watched(scope, job).view(picture, progress=job.tick, seconds=left, max_mb=_ROOM, **options)
    assert view.live is not None
    live = view.live
    live.masking  # noqa: B018  made now, so that the first mask waits for one forward only
    return Viewed(json.dumps(view.document(), separators=(",", ":"), allow_nan=False).encode(), live)


def without(viewed: Viewed, patches: Sequence[int], how: str, job: Job) -> dict[str, Any]:
    """The model's answer without these patches."""
    _watch(viewed.live, job)
    found: dict[str, Any] = finite(viewed.live.mask(patches, how))
    return found


def one_more(viewed: Viewed, method: str, target: Any, params: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """One more map of a view's photo."""
    _watch(viewed.live, job)
    _modest(method, params)
    wanted = text(target["text"]) if isinstance(target, Mapping) else target
    try:
        return viewed.live.explain(method, wanted, params, progress=job.tick)
    except (ArithmeticError, IndexError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        if not params:
            raise
        told = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(f"the method '{method}' fails with these options: {told}", "leave them out") from error


def _watch(live: Live, job: Job) -> None:
    assert isinstance(live.scope, _Watched)
    watched(live.scope, job)


def _modest(method: str, params: Mapping[str, Any]) -> None:
    """Options that count something may not be far beyond what they usually are: memory grows with them."""
    for name, value in params.items():
        option = METHODS.get(method).options.get(name)
        usual = option.default if option and isinstance(option.default, (int, float)) else 0
        most = max(_MOST, _MOST_TIMES * abs(usual))
        if isinstance(value, (int, float)) and abs(value) > most:
            raise UsageError(f"{name} is {most:g} at most here, not {value:g}", "the command line has no such limit")


def _about(name: str, scope: Scope) -> dict[str, Any]:
    layout = scope.layout
    labels = list(scope.adapter.labels.values())
    methods = [
        {
            "name": method.name,
            "summary": method.summary,
            "passes": method.passes,
            "uses_target": method.uses_target,
            "reason": method.excuse(scope.adapter),
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
