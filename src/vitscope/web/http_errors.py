"""Errors of the web app: an HTTP status, a code, one line and a hint."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vitscope._catalogues import page_messages
from vitscope._messages import Message, msg
from vitscope.errors import ModelError, VitscopeError


@dataclass(eq=False)
class HTTPError(Exception):
    """A request that the web app rejects, or a job that it could not finish.

    Attributes:
        status: the HTTP status.
        detail: what was seen and what was expected, in one line.
        hint: what to do about it.
        headers: further headers of the response.
        code: identifies the error for programs; by default the code of `detail`.
    """

    status: int
    detail: str
    hint: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    code: str = ""

    def __post_init__(self) -> None:
        self.code = self.code or getattr(self.detail, "code", "http")

    def document(self) -> dict[str, Any]:
        """Return the body of the response."""
        sentences = {"detail": self.detail, "hint": self.hint}
        return {**sentences, "code": self.code, "messages": page_messages(sentences)}


def to_http_error(error: VitscopeError) -> HTTPError:
    """Return the response to an error of vitscope: the request is at fault, unless a model is out of reach."""
    return HTTPError(503 if isinstance(error, ModelError) else 422, error.message, error.hint, code=error.code)


def internal_error(error: BaseException) -> HTTPError:
    """Return the response to an error that nobody expected; it names the error's type and nothing else."""
    return HTTPError(
        500,
        msg("web.internal-error", "internal error: {kind}", kind=type(error).__name__),
        msg("web.internal-error.hint", "the server's log has the details"),
    )


def stopping() -> Message:
    """Return why requests and jobs end when the server does."""
    return msg("web.stopping", "the server is stopping")
