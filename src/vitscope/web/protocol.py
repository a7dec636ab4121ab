"""HTTP/1.1 connections that cannot keep others out: a time limit for headers, and few strangers at once.

A stranger is a connection without a session so far: it has not shown the token. Where one peer, or all peers together,
have too many of them open, the oldest is closed. Connections with a session are never closed for others' sake.
"""

import asyncio
import selectors
from collections import Counter
from typing import Any
from weakref import WeakKeyDictionary

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

_HEADER_SECONDS = 10.0  # within which a request's header must arrive
_GRACE_SECONDS = 0.2  # for which a connection is not yet a stranger, so that its first header can arrive
_OPEN: WeakKeyDictionary[ServerState, dict["HttpProtocol", str]] = WeakKeyDictionary()  # peers, the oldest first


class HttpProtocol(H11Protocol):
    """One connection; uvicorn itself limits idle connections only."""

    _timer: asyncio.TimerHandle | None = None
    _known = False

    def connection_made(self, transport: Any) -> None:
        """Register a connection; close another where strangers have too many."""
        super().connection_made(transport)
        _OPEN.setdefault(self.server_state, {})[self] = self.client[0] if self.client else ""
        self.loop.call_later(_GRACE_SECONDS, self._close_strangers)
        self._watch_header()

    def data_received(self, data: bytes) -> None:
        """Read bytes, within the time limit of headers."""
        super().data_received(data)
        self._watch_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._timer is not None:
            self._timer.cancel()
        _OPEN[self.server_state].pop(self, None)
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, unless bytes of a request wait in its socket: closing would reset it."""
        with selectors.DefaultSelector() as arrived:
            arrived.register(self.transport.get_extra_info("socket"), selectors.EVENT_READ)
            if not arrived.select(0):
                super().timeout_keep_alive_handler()

    def _close_strangers(self) -> None:
        """Close the oldest strangers of this one's peer, or of the peer with most of them, where there are too many."""
        connections, most = _OPEN[self.server_state], self.config.app.limits.strangers  # type: ignore[union-attr]
        if self not in connections or self._has_session():
            return
        strangers = {one: peer for one, peer in connections.items() if not one._has_session()}
        count = Counter(strangers.values())
        peer = strangers[self]
        if count[peer] <= most // 2 and len(strangers) > most:
            peer = max(count, key=lambda one: count[one])
        for one in [one for one, address in strangers.items() if address == peer][: max(0, count[peer] - most // 2)]:
            connections.pop(one)
            one.transport.abort()

    def _has_session(self) -> bool:
        """Return whether a request of this connection showed the token: the middleware records its session."""
        self._known = self._known or (self.scope is not None and bool(self.scope["state"].get("session")))
        return self._known

    def on_response_complete(self) -> None:
        """Remember who it was before the next request comes."""
        self._has_session()
        super().on_response_complete()

    def _watch_header(self) -> None:
        """Start the time limit with a header's first byte, and end it with the last."""
        if self.conn.their_state is not h11.IDLE:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
        elif self._timer is None:
            self._timer = self.loop.call_later(_HEADER_SECONDS, self._close)

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
