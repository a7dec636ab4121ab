"""Clients that would keep others out: strangers with slow bodies, one session with everything, some that hang up."""

import json
import logging
import signal
import socket
import time
from contextlib import ExitStack, suppress
from threading import Event

import httpx
import pytest

from tests.helpers.webserver import TOKEN, entered, explained, process, serving


def connected(address):
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def head(address, path="/api/photos", method="POST", token=None, length=5000):
    lines = [f"{method} {path} HTTP/1.1", f"Host: {address.removeprefix('http://')}", f"Content-Length: {length}"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    return "\r\n".join([*lines, "", ""]).encode()


def wait_until(condition, seconds=10):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("words", ["no header", pytest.param("no token", marks=pytest.mark.slow)])
def test_strangers_with_slow_bodies_keep_nobody_out(tiny_scope, words):
    """250 of them, ever again; each request of somebody with the token is answered at once."""
    with serving(tiny_scope, strangers=64) as (address, server), ExitStack() as stack, entered(address) as client:
        crowd = []
        for number in range(250):
            line = stack.enter_context(connected(address))
            with suppress(OSError):
                line.sendall(head(address) + b"x" if words == "no token" else b"POST /api/photos HTTP/1.1\r\nHos")
            crowd.append(line)
            if number % 25 == 0:
                begun = time.monotonic()
                assert client.get("/api/models").status_code == 200
                assert time.monotonic() - begun < 2
        with entered(address) as other:  # nor a new browser
            assert other.get("/api/models").status_code == 200
        wait_until(lambda: len(server.server_state.connections) < 80)
        for line in crowd:
            with suppress(OSError):
                line.sendall(b"x")
        assert client.post("/api/photos", content=b"nothing").status_code == 422


def test_one_session_holds_a_part_of_all_requests(tiny_scope):
    with serving(tiny_scope, requests_per_session=3, requests=6) as (address, server), ExitStack() as stack:
        greedy = stack.enter_context(entered(address))
        cookie = "; ".join(f"{name}={value}" for name, value in greedy.cookies.items())
        for _ in range(3):
            line = stack.enter_context(connected(address))
            line.sendall(head(address).replace(b"\r\n\r\n", f"\r\nCookie: {cookie}\r\n\r\n".encode()))
        wait_until(lambda: server.app.requests.total() == 3)
        answer = greedy.get("/api/models")
        assert (answer.status_code, answer.json()["code"]) == (429, "web.session-requests")
        with entered(address) as other:
            assert other.get("/api/models").status_code == 200


def test_the_oldest_event_stream_of_a_session_ends_for_a_new_one(tiny_scope, monkeypatch):
    with serving(tiny_scope, streams_per_session=2) as (address, _), ExitStack() as stack:
        client = stack.enter_context(entered(address))
        monkeypatch.setattr("vitscope.web.models.make_view", lambda scope, picture, request, job: waits(job))
        view = client.post("/api/views", json={"sample": "cat"}).json()["id"]
        streams = [stack.enter_context(client.stream("GET", f"/api/views/{view}/events")) for _ in range(2)]
        lines = [stream.iter_lines() for stream in streams]
        assert all(next(one).startswith("event") for one in lines)
        third = stack.enter_context(client.stream("GET", f"/api/views/{view}/events")).iter_lines()
        assert next(third).startswith("event")
        rest = [line for line in lines[0] if line.startswith("data")]  # ends
        assert json.loads(rest[-1][6:])["state"] in ("waiting", "running")
        client.delete(f"/api/views/{view}")
        for one in (lines[1], third):
            assert json.loads([line for line in one if line.startswith("data")][-1][6:])["state"] == "cancelled"


def waits(job):
    while True:
        time.sleep(0.01)
        job.check()


def test_a_client_that_hangs_up_is_one_line_for_debugging(tiny_scope, caplog, monkeypatch):
    monkeypatch.setattr("vitscope.web.models.make_map", lambda *view_and_options: waits(view_and_options[-1]))
    caplog.set_level(logging.DEBUG)
    with serving(tiny_scope) as (address, server), entered(address) as client:
        with connected(address) as line:  # while it uploads
            line.sendall(head(address, token=TOKEN) + b"some bytes")
            time.sleep(0.1)
        view, _ = explained(client, {"sample": "cat", "methods": ["rollout"], "top": 1})
        body = json.dumps({"method": "rollout"}).encode()
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        with connected(address) as line:  # while the model works
            text = head(address, f"/api/views/{view}/maps", length=len(body))
            extra = f"\r\nContent-Type: application/json\r\nCookie: {cookie}\r\n\r\n".encode()
            line.sendall(text.replace(b"\r\n\r\n", extra) + body)
            time.sleep(0.5)
        wait_until(lambda: not server.app.requests.total())
    told = [one for one in caplog.records if one.name.startswith(("vitscope.web", "uvicorn"))]
    assert [(one.levelname, one.getMessage()) for one in told] == [
        ("DEBUG", "POST /api/photos: the client hung up"),
        ("DEBUG", f"POST /api/views/{view}/maps: the client hung up"),
    ]


@pytest.mark.parametrize(
    "words", [b"\x16\x03\x01 no HTTP\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n"]
)
def test_a_stranger_writes_nothing_on_the_terminal(tiny_scope, capfd, words):
    with serving(tiny_scope) as (address, _), connected(address) as line:
        line.sendall(words)
        assert line.recv(4096).startswith(b"HTTP/1.1 4")
    assert capfd.readouterr().err == ""


def test_a_request_that_comes_as_the_connection_is_to_be_closed_is_answered(tiny_scope):
    """The time of an idle connection is over, and the request has come, but the loop was too busy to read it."""
    with serving(tiny_scope) as (address, server), connected(address) as line:
        asked = head(address, "/api/models", "GET", TOKEN, 0)
        line.sendall(asked)
        wait_until(lambda: server.server_state.total_requests == 1)
        first = line.recv(100_000)
        (connection,) = server.server_state.connections
        asking = Event()

        def busy():  # the request comes meanwhile, and the next callback, of the same round, is the time limit's
            line.sendall(asked)
            connection.timeout_keep_alive_handler()
            asking.set()

        connection.loop.call_soon_threadsafe(busy)
        assert asking.wait(20)
        assert line.recv(100_000)[:15] == first[:15] == b"HTTP/1.1 200 OK"


STUCK = """
import time
from vitscope.web import models

def stuck(scope, picture, request, job):
    time.sleep(60)

models.make_view = stuck
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_within_five_seconds_while_a_thread_keeps_pythons_lock(tiny_folder, number):
    keeps = STUCK.replace("time.sleep(60)", "print('begun', flush=True), sum(range(10**10))")
    with process("-m", tiny_folder, "--port", 0, "--token", TOKEN, first=keeps) as (server, printed):
        address = printed.partition("/?token=")[0]
        with entered(address) as client, suppress(OSError, httpx.HTTPError):
            client.post("/api/views", json={"sample": "cat"}, timeout=0.5)
        assert server.stdout.readline() == "begun\n"
        begun = time.monotonic()
        server.send_signal(number)
        assert server.wait(15) == -signal.SIGKILL
        assert time.monotonic() - begun < 6  # 5, and a second for a busy machine


TEARDOWN = """
import atexit, time

class Large:
    def __del__(self, sleep=time.sleep):
        sleep(20)

large = Large()
models = __import__("vitscope.web.server").web.server.make_server

def late(*given):
    atexit.register(print, "registered later", flush=True)
    return models(*given)

__import__("vitscope.web.server").web.server.make_server = late
"""


@pytest.mark.slow
def test_it_does_not_wait_for_python_to_destroy_its_modules(tiny_folder):
    with process("-m", tiny_folder, "--port", 0, "--token", TOKEN, first=TEARDOWN) as (server, _):
        begun = time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        assert time.monotonic() - begun < 15
        assert server.stdout.read() == "registered later\n"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_within_five_seconds_whatever_runs(tiny_folder, number):
    """Work that cannot be cancelled, an upload in progress, an event stream and an idle connection."""
    arguments = ("-m", tiny_folder, "--port", 0, "--token", TOKEN)
    with process(*arguments, first=STUCK) as (server, printed), ExitStack() as stack:
        address = printed.partition("/?token=")[0]
        client = stack.enter_context(entered(address))
        view = client.post("/api/views", json={"sample": "cat"}).json()["id"]
        stream = stack.enter_context(client.stream("GET", f"/api/views/{view}/events"))
        next(stream.iter_lines())
        line = stack.enter_context(connected(address))
        line.sendall(head(address, token=TOKEN) + b"some bytes")
        stack.enter_context(connected(address))
        begun = time.monotonic()
        server.send_signal(number)
        assert server.wait(15) == 1
        assert time.monotonic() - begun < 6  # 5, and a second for a busy machine
        said = server.stderr.read()
        assert "Traceback" not in said
        assert "ERROR" not in said
