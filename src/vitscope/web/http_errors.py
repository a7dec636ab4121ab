"""What is said when something is refused: a status, one line, and what to do about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitscope.errors import (
    CaptureError,
    ImageError,
    LayoutError,
    MethodError,
    ModelError,
    ResultError,
    UsageError,
    VitscopeError,
)

__all__ = ["HTTPError", "refused"]

_STATUS: tuple[tuple[type[VitscopeError], int], ...] = (
    (ImageError, 422),
    (UsageError, 422),
    (MethodError, 422),
    (LayoutError, 422),
    (CaptureError, 422),
    (ResultError, 422),
    (ModelError, 503),
)


@dataclass(eq=False)
class HTTPError(Exception):
    """A request that is not answered as asked.

    Attributes:
        status: of HTTP.
        detail: what was seen and what was expected, in one line.
        hint: what to do about it.
        headers: more headers of the answer.
    """

    status: int
    detail: str
    hint: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, str]:
        """What the client is told."""
        return {"detail": self.detail, "hint": self.hint}


def refused(error: VitscopeError) -> HTTPError:
    """An error of vitscope as the answer to a request."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 422)
    return HTTPError(status, error.message, error.hint)
