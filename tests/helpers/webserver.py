"""The web app on a real socket, in this process or in its own, for tests."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx

from vitscope.web.access import make_access_policy
from vitscope.web.limits import Limits
from vitscope.web.server import listen, make_server

TOKEN = "a-token-for-tests-0123456789"


@contextmanager
def serving(scope, *, use_token=True, **limits):
    """The app on a free port of loopback, in a thread; yields the address and the server."""
    with listen("127.0.0.1", 0) as listener:
        port, ready = listener.getsockname()[1], threading.Event()
        policy = make_access_policy("127.0.0.1", port, TOKEN if use_token else None, use_token=use_token)
        server = make_server({"tiny": scope}, policy, Limits(**{"shutdown_seconds": 5.0, **limits}), ready.set)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        try:
            assert ready.wait(20)
            yield f"http://127.0.0.1:{port}", server
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@contextmanager
def entered(address, token=TOKEN):
    """A browser that came in by the printed address; it keeps its cookie."""
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
        assert client.get("/", params={"token": token}).status_code == 200
        yield client


def explained(client, asked, patience=60):
    """The view of what was asked for, once it is there; busy is waited out as the server says."""
    until = time.monotonic() + patience
    while (answer := client.post("/api/views", json=asked)).status_code in (429, 503):
        assert time.monotonic() < until
        time.sleep(min(0.3, int(answer.headers["retry-after"])))
    assert answer.status_code == 202, answer.text
    view = answer.json()["id"]
    while (answer := client.get(f"/api/views/{view}")).status_code == 202:
        assert time.monotonic() < until
        time.sleep(0.02)
    return view, answer


@contextmanager
def process(*arguments, patience=12.0, first=""):
    """`vitscope serve` as its own process, less patient with slow bodies, after the code `first`; and its address."""
    here = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    code = f"""
from dataclasses import dataclass
from vitscope.web import limits

@dataclass(frozen=True)
class Hasty(limits.Limits):
    body_seconds: float = {patience}

limits.Limits = Hasty
{first}
from vitscope.cli.main import run
run()
"""
    command = [sys.executable, "-c", code, "serve", *map(str, arguments)]
    server = subprocess.Popen(command, env=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield server, server.stdout.readline().strip()
    finally:
        if server.poll() is None:
            server.kill()
        server.communicate()
