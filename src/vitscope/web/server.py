"""The server's life: a socket that is there or one clear line, start, and an end that waits for nobody too long."""

import asyncio
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from vitscope.errors import UsageError
from vitscope.scope import Scope
from vitscope.web.access import AccessPolicy
from vitscope.web.limits import Limits
from vitscope.web.middleware import LimitsMiddleware
from vitscope.web.routes import create_app

__all__ = ["Server", "address", "listening", "made", "run"]

_HEADERS_WITHIN = 10.0  # seconds in which a request's head must have arrived


class _Patient(H11Protocol):
    """HTTP/1.1 that does not wait forever for a request's head; uvicorn limits idle connections only."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """A head that is not whole has from its first byte on so long."""
        if self.conn.their_state is not h11.IDLE:
            if self._late is not None:
                self._late.cancel()
            self._late = None
        elif self._late is None:
            self._late = self.loop.call_later(_HEADERS_WITHIN, self._give_up)

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """Uvicorn that says when it is ready, ends quietly on signals, and ends the model's work before its connections."""

    def __init__(self, config: uvicorn.Config, guard: LimitsMiddleware, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.guard, self.ready, self.clean = guard, ready, True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin, and say so."""
        await super().startup(sockets)
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let nobody in, end the model's work, which ends the streams of its progress, then the connections."""
        for server in self.servers:
            server.close()
        self.clean = await asyncio.to_thread(self.guard.close)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but the signal is not raised again afterwards: it has been heeded."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket bound to this address, closed in the end.

    Raises:
        UsageError: the port is taken, or the address is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets NODELAY where TCP is said
    try:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        words = error.strerror or str(error)
        hint = "--port 0 takes a free one" if "in use" in words.lower() else "check --host and --port"
        raise UsageError(f"{host}:{port} cannot be listened on: {words.lower()}", hint) from None
    try:
        yield listener
    finally:
        with suppress(OSError):
            listener.close()


def address(host: str, port: int, door: AccessPolicy) -> str:
    """What a person opens."""
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(
        host, f"[{host}]" if ":" in host else host
    )
    token = f"?token={quote(door.token, safe='')}" if door.token else ""
    return f"http://{shown}:{port}/{token}"


def made(
    scopes: Mapping[str, Scope], door: AccessPolicy, limits: Limits, ready: Callable[[], None] = lambda: None
) -> Server:
    """A server that is yet to be run on a listening socket; `ready` is called once it answers."""
    guard = create_app(scopes, door, limits)
    config = uvicorn.Config(
        guard,
        http=_Patient,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=max(1, round(limits.farewell)),
    )
    return Server(config, guard, ready)


def run(
    scopes: Mapping[str, Scope], door: AccessPolicy, limits: Limits, listener: socket.socket, ready: Callable[[], None]
) -> bool:
    """Serve until a signal comes; did everything end in time?"""
    server = made(scopes, door, limits, ready)
    asyncio.run(server.serve([listener]))
    return server.clean
