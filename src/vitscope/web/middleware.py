"""What stands before the app: who comes in, how much and how slowly they may send, and what every answer carries.

Plain ASGI, because nothing of a request may be read before it is counted: frameworks spool a body first.
"""

import asyncio
import json
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitscope.web.access import AccessPolicy
from vitscope.web.http_errors import HTTPError
from vitscope.web.limits import Limits

__all__ = ["LimitsMiddleware"]

_HEADERS = {
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_LINGER = 1.0  # seconds in which what a refused client still sends is thrown away, so that it reads why


class LimitsMiddleware:
    """The app behind its door.

    Args:
        app: gets `scope["state"]["session"]`, and bodies within the limits.
        door: who comes in.
        limits: how much and how slowly.
        close: ends what works behind the app; did it end in time?
    """

    def __init__(
        self, app: ASGIApp, door: AccessPolicy, limits: Limits, close: Callable[[], bool] = lambda: True
    ) -> None:
        self.app, self.door, self.limits, self.close = app, door, limits, close
        self.requests = self.bodies = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Answer(send)
        body = _Body(receive, self)
        self.requests += 1
        try:
            headers = _headers(scope)
            session, new = self.door.admit(scope["method"], scope["path"], scope["query_string"], headers)
            self._not_too_much(headers)
            answer.cookie = self.door.ticket(session) if new else ""
            scope.setdefault("state", {})["session"] = session
            answer.body = body
            with suppress(HTTPError):  # what the body was refused for is in `body.refusal`
                await self.app(scope, body.receive, answer.send)
            if body.refusal is not None and not answer.begun:
                raise body.refusal
        except HTTPError as refusal:
            answer.cookie, answer.body = "", None
            await _refuse(refusal, receive if not body.whole else None, answer.send)
        finally:
            self.requests -= 1
            self.bodies -= body.held

    def _not_too_much(self, headers: MutableMapping[str, str]) -> None:
        if self.requests > self.limits.requests:
            raise HTTPError(
                503, "the server is busy: too many requests at once", "try again soon", {"retry-after": "1"}
            )
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            raise HTTPError(400, "the length of the body is not a number")
        if int(length) > self.limits.body:
            raise _too_long(self.limits)


@dataclass
class _Body:
    """A request's body, counted while it comes."""

    source: Receive
    guard: LimitsMiddleware
    held: int = 0
    whole: bool = False
    refusal: HTTPError | None = None
    until: float = field(default=0.0)

    async def receive(self) -> Message:
        """The next part.

        Raises:
            HTTPError: too much of it, or too slowly.
        """
        if self.refusal is not None:
            raise self.refusal
        if self.whole:
            return await self.source()
        limits, now = self.guard.limits, asyncio.get_running_loop().time()
        self.until = self.until or now + limits.patience
        try:
            async with asyncio.timeout_at(self.until):
                message = await self.source()
        except TimeoutError:
            words = f"the body did not arrive within {limits.patience:g} seconds"
            self.refusal = HTTPError(408, words, "send it faster, or a smaller photo")
            raise self.refusal from None
        self._count(len(message.get("body", b"")), limits)
        self.whole = not message.get("more_body", False)
        return message

    def _count(self, size: int, limits: Limits) -> None:
        self.held += size
        self.guard.bodies += size
        if self.held > limits.body:
            self.refusal = _too_long(limits)
        elif self.guard.bodies > limits.bodies:
            again = {"retry-after": "2"}
            self.refusal = HTTPError(503, "the server is busy: too much is being sent to it", "try again soon", again)
        if self.refusal is not None:
            raise self.refusal


@dataclass
class _Answer:
    """An answer on its way out: with the headers that all carry; swallowed where the body was refused meanwhile."""

    out: Send
    cookie: str = ""
    body: _Body | None = None
    begun: bool = False

    async def send(self, message: Message) -> None:
        """Pass a part on."""
        if not self.begun and self.body is not None and self.body.refusal is not None:
            return
        if message["type"] == "http.response.start":
            self.begun = True
            headers = list(message.get("headers", []))
            present = {name.lower() for name, _ in headers}
            headers += [(n.encode(), v.encode()) for n, v in _HEADERS.items() if n.encode() not in present]
            if self.cookie and message["status"] < 400:
                headers.append((b"set-cookie", self.cookie.encode()))
            message = {**message, "headers": headers}
        await self.out(message)


async def _refuse(refusal: HTTPError, rest: Receive | None, send: Send) -> None:
    """Say why; `rest` is what the client still sends, thrown away for a while: closing at once would cut it off."""
    text = json.dumps(refusal.document()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(text)), **refusal.headers}
    if rest is not None:
        headers["connection"] = "close"
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    start = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": start})
    await send({"type": "http.response.body", "body": text, "more_body": rest is not None})
    if rest is None:
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER):
            while (await rest()).get("more_body", False):
                pass
    await send({"type": "http.response.body", "body": b""})


def _headers(scope: Scope) -> dict[str, str]:
    found: dict[str, Any] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return {name: (";" if name == "cookie" else ",").join(values) for name, values in found.items()}


def _too_long(limits: Limits) -> HTTPError:
    return HTTPError(413, f"the body is longer than {limits.body / 1e6:g} MB", "send a smaller photo")
