"""The server process: its socket, start and shutdown."""

import asyncio
import faulthandler
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from urllib.parse import quote

import uvicorn

from vitscope._messages import msg
from vitscope.errors import UsageError
from vitscope.scope import Scope
from vitscope.web.access import AccessPolicy
from vitscope.web.limits import Limits
from vitscope.web.middleware import LimitsMiddleware
from vitscope.web.protocol import HttpProtocol
from vitscope.web.routes import create_app


class Server(uvicorn.Server):
    """Uvicorn that calls `ready`, ends quietly on signals, and stops the model before it closes connections."""

    def __init__(self, config: uvicorn.Config, app: LimitsMiddleware, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.app, self.ready, self.ended_in_time = app, ready, True
        self.on_signal: Callable[[], None] = lambda: None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the server in order; a second signal ends it at once."""
        if not self.should_exit:
            self.on_signal()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and call `ready`."""
        await super().startup(sockets)
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, then end the model's work, which ends the event streams, then close the connections."""
        for server in self.servers:
            server.close()
        self.app.stop()
        self.ended_in_time = await asyncio.to_thread(self.app.close)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals as uvicorn does, but do not raise them again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in previous.items():
                signal.signal(one, handler)


@contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket bound to this address, and close it afterwards.

    Raises:
        UsageError: the port is in use, or the address does not belong to this machine.
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
        reason = (error.strerror or str(error)).lower()
        hint = (
            msg("web.port-in-use.hint", "--port 0 chooses a free port")
            if "in use" in reason
            else msg("web.cannot-listen.hint", "check --host and --port")
        )
        raise UsageError.coded(
            "web.cannot-listen", "cannot listen on {host}:{port}: {reason}", hint, host=host, port=port, reason=reason
        ) from None
    try:
        yield listener
    finally:
        with suppress(OSError):
            listener.close()


def url(host: str, port: int, policy: AccessPolicy) -> str:
    """Return the address that a user opens, with the token."""
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, f"[{host}]" if ":" in host else host)
    token = f"?token={quote(policy.token, safe='')}" if policy.token else ""
    return f"http://{name}:{port}/{token}"


def make_server(
    scopes: Mapping[str, Scope], policy: AccessPolicy, limits: Limits, ready: Callable[[], None] = lambda: None
) -> Server:
    """Make a server for a listening socket; it calls `ready` once it answers."""
    app = create_app(scopes, policy, limits)
    config = uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="none",
        lifespan="on",
        log_level="error",  # it warns of each request that is none, and strangers send as many as they like
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,  # after the work has ended
    )
    return Server(config, app, ready)


def serve(
    scopes: Mapping[str, Scope],
    policy: AccessPolicy,
    limits: Limits,
    listener: socket.socket,
    ready: Callable[[], None],
) -> bool:
    """Serve until a signal comes; return whether all work ended in time.

    The process ends within `limits.shutdown_seconds` after the signal, whatever still runs in its threads.
    """
    server = make_server(scopes, policy, limits, ready)
    server.on_signal = partial(_exit_after, 0.8 * limits.shutdown_seconds)
    with _killed_after(0.88 * limits.shutdown_seconds):
        asyncio.run(server.serve([listener]))
    if server.ended_in_time and not _threads_that_stay():  # all that is left is to take the interpreter down
        faulthandler.cancel_dump_traceback_later()
    return server.ended_in_time


def _threads_that_stay(seconds: float = 0.5) -> list[threading.Thread]:
    """Return the threads that Python would wait for at its end, and that have not ended within a moment."""
    others = [one for one in threading.enumerate() if one is not threading.main_thread() and not one.daemon]
    for thread in others:
        thread.join(seconds)
    return [thread for thread in others if thread.is_alive()]


# reads the numbers of signals until one of those that end the server, and kills it if it then lives for too long
_KILLER = """
import os, select, sys, time
server, seconds, signals = int(sys.argv[1]), float(sys.argv[2]), {int(one) for one in sys.argv[3:]}
while (told := os.read(0, 1)) and told[0] not in signals:
    pass
until = time.monotonic() + seconds
while told and select.select([0], [], [], max(0, until - time.monotonic()))[0]:
    told = os.read(0, 1)
if told:
    os.kill(server, 9)
"""


@contextmanager
def _killed_after(seconds: float) -> Iterator[None]:
    """Have this process killed so many seconds after a signal, also where a thread keeps Python's lock.

    While the lock is kept, no handler of Python's runs; the number of the signal is written to a pipe all the same, at
    whose other end a process of its own waits.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    code = [sys.executable, "-I", "-S", "-c", _KILLER, str(os.getpid()), str(seconds)]
    signals = [str(int(one)) for one in (signal.SIGINT, signal.SIGTERM)]
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(
        [*code, *signals], bufsize=0, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, start_new_session=True
    ) as killer:
        assert killer.stdin is not None
        os.set_blocking(killer.stdin.fileno(), False)
        before = signal.set_wakeup_fd(killer.stdin.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)


def _exit_after(seconds: float) -> None:
    """End this process after so many seconds, also where a thread keeps Python's lock in a decoder or a kernel."""
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115  until the process ends
    faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
