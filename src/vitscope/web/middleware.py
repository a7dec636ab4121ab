"""ASGI middleware in front of the app: access control, request limits and security headers.

Plain ASGI, because a request must be checked before any of its body is read, and frameworks spool a body first.
"""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitscope._messages import msg
from vitscope.web.access import AccessPolicy
from vitscope.web.http_errors import HTTPError, stopping
from vitscope.web.limits import Limits
from vitscope.web.page import tokenless_page

log = logging.getLogger(__name__)

_HEADERS = {
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_DRAINING = 32  # rejected bodies that are read at once
_DRAIN_SECONDS = 1.0  # for which the rest of a rejected body is read and dropped, so that the client reads the answer


class LimitsMiddleware:
    """Checks every request before the app and every response after it.

    Args:
        app: gets `scope["state"]["session"]` and bodies within the limits.
        policy: the access rules.
        limits: of bodies and requests.
        close: ends the work behind the app; returns whether it ended in time.
    """

    def __init__(
        self, app: ASGIApp, policy: AccessPolicy, limits: Limits, close: Callable[[], bool] = lambda: True
    ) -> None:
        self.app, self.policy, self.limits, self.close = app, policy, limits, close
        self.requests: Counter[str] = Counter()  # in progress, by session
        self.body_bytes = 0  # of these
        self.draining = 0  # rejected requests whose bodies still arrive
        self.receiving: set[asyncio.Timeout] = set()
        self.stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or reject a request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._respond(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def stop(self) -> None:
        """Reject the bodies that are arriving."""
        self.stopping = True
        for waiting in self.receiving:
            waiting.reschedule(0)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = _Response(send)
        body = _Body(receive, self)
        session, headers = None, _headers(scope)
        try:
            session, new = self.policy.authorize(scope["method"], scope["path"], scope["query_string"], headers)
            self.requests[session] += 1
            self._check_limits(session, headers)
            response.cookie = self.policy.session_cookie(session) if new else ""
            scope.setdefault("state", {})["session"] = session
            response.body = body
            with suppress(HTTPError):  # `body.error` has why the body was rejected
                await self.app(scope, body.receive, response.send)
            if body.error is not None and not response.started:
                raise body.error
        except HTTPError as error:
            response.cookie, response.body = "", None
            await self._reject(error, body, response.send, page=error.status == 401 and _opens_page(scope, headers))
        except ClientDisconnect:
            body.disconnected = True
        finally:
            if session is not None:
                self.requests[session] -= 1
                self.requests += Counter()  # forget sessions without requests
            self.body_bytes -= body.size
            if body.disconnected:
                log.debug("%s %s: the client hung up", scope["method"], scope["path"])

    async def _reject(self, error: HTTPError, body: "_Body", send: Send, *, page: bool) -> None:
        """Send an error; read the rest of the body for a moment, unless many others are being rejected, too."""
        if body.complete or self.draining >= _DRAINING:
            await _send_error(error, None, send, close=not body.complete, page=page)
            return
        self.draining += 1
        try:
            await _send_error(error, body.source, send, close=True, page=page)
        finally:
            self.draining -= 1

    def _check_limits(self, session: str, headers: Mapping[str, str]) -> None:
        if self.requests[session] > self.limits.requests_per_session:
            raise HTTPError(
                429,
                msg(
                    "web.session-requests",
                    "{count} of your requests are already in progress",
                    count=self.limits.requests_per_session,
                ),
                msg("web.session-requests.hint", "wait for one of them"),
                {"retry-after": "1"},
            )
        if self.requests.total() > self.limits.requests:
            raise HTTPError(
                503,
                msg("web.too-many-requests", "the server is busy: too many requests at once"),
                msg("web.too-many-requests.hint", "try again soon"),
                {"retry-after": "1"},
            )
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            raise HTTPError(400, msg("web.bad-content-length", "the content length is not a number"))
        if int(length) > self.limits.body_bytes:
            raise _body_too_long(self.limits)


@dataclass
class _Body:
    """A request's body, counted as it arrives."""

    source: Receive
    middleware: LimitsMiddleware
    size: int = 0
    complete: bool = False
    error: HTTPError | None = None
    deadline: float = 0.0
    disconnected: bool = False

    async def receive(self) -> Message:
        """Return the next part.

        Raises:
            HTTPError: the body is too long or too slow.
        """
        if self.error is not None:
            raise self.error
        if self.complete:
            message = await self.source()
            self.disconnected = message["type"] == "http.disconnect"
            return message
        limits, now = self.middleware.limits, asyncio.get_running_loop().time()
        self.deadline = self.deadline or now + limits.body_seconds
        waiting = asyncio.timeout_at(0 if self.middleware.stopping else self.deadline)
        try:
            async with waiting:
                self.middleware.receiving.add(waiting)
                message = await self.source()
        except TimeoutError:
            self.error = HTTPError(503, stopping()) if self.middleware.stopping else _body_too_slow(limits)
            raise self.error from None
        finally:
            self.middleware.receiving.discard(waiting)
        self.disconnected = message["type"] == "http.disconnect"
        self._count(len(message.get("body", b"")), limits)
        self.complete = not message.get("more_body", False)
        return message

    def _count(self, size: int, limits: Limits) -> None:
        self.size += size
        self.middleware.body_bytes += size
        if self.size > limits.body_bytes:
            self.error = _body_too_long(limits)
        elif self.middleware.body_bytes > limits.total_body_bytes:
            self.error = HTTPError(
                503,
                msg("web.too-many-bytes", "the server is busy: it is receiving too much at once"),
                msg("web.too-many-bytes.hint", "try again soon"),
                {"retry-after": "2"},
            )
        if self.error is not None:
            raise self.error


@dataclass
class _Response:
    """A response with the common headers; dropped where the body was rejected before it started."""

    out: Send
    cookie: str = ""
    body: _Body | None = None
    started: bool = False

    async def send(self, message: Message) -> None:
        """Send a part."""
        if not self.started and self.body is not None and self.body.error is not None:
            return
        if message["type"] == "http.response.start":
            self.started = True
            headers = list(message.get("headers", []))
            present = {name.lower() for name, _ in headers}
            headers += [(n.encode(), v.encode()) for n, v in _HEADERS.items() if n.encode() not in present]
            if self.cookie and message["status"] < 400:
                headers.append((b"set-cookie", self.cookie.encode()))
            message = {**message, "headers": headers}
        await self.out(message)


def _opens_page(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Tell whether a person in a browser asks for the start page."""
    return scope["method"] == "GET" and scope["path"] == "/" and "text/html" in headers.get("accept", "")


async def _send_error(error: HTTPError, rest: Receive | None, send: Send, *, close: bool, page: bool) -> None:
    """Send an error and drain `rest`, what the client still sends: closing at once would cut the answer off.

    A `page` says without the token what to do, in words for people.
    """
    text = json.dumps(error.document(), allow_nan=False).encode()
    headers = {"content-type": "application/json", **error.headers}
    if page:
        html, policy = tokenless_page()
        text = html.encode()
        headers |= {"content-type": "text/html; charset=utf-8", "content-security-policy": policy}
    headers["content-length"] = str(len(text))
    if close:
        headers["connection"] = "close"
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    start = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": start})
    await send({"type": "http.response.body", "body": text, "more_body": rest is not None})
    if rest is None:
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while (await rest()).get("more_body", False):
                pass
    await send({"type": "http.response.body", "body": b""})


def _headers(scope: Scope) -> dict[str, str]:
    found: dict[str, Any] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return {name: (";" if name == "cookie" else ",").join(values) for name, values in found.items()}


def _body_too_slow(limits: Limits) -> HTTPError:
    problem = msg(
        "web.body-too-slow",
        "the body did not arrive within {seconds} seconds",
        seconds=format(limits.body_seconds, "g"),
    )
    return HTTPError(408, problem, msg("web.body-too-slow.hint", "send it faster, or a smaller photo"))


def _body_too_long(limits: Limits) -> HTTPError:
    return HTTPError(
        413,
        msg("web.body-too-long", "the body is longer than {most} MB", most=format(limits.body_bytes / 1e6, "g")),
        msg("web.body-too-long.hint", "send a smaller photo"),
    )
