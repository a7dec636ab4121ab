"""The server: slow clients, signals, many clients at once."""

import json
import select
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import psutil
import pytest

from tests.helpers.uploads import GOOD, HOSTILE, PROBLEM, map_of, same, uploaded
from tests.helpers.webserver import TOKEN, entered, explained
from vitscope.images import decode_image
from vitscope.web.access import make_access_policy
from vitscope.web.limits import Limits
from vitscope.web.server import make_server

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_a_head_that_does_not_come_is_given_up(address, client, monkeypatch):
    """A byte now and then keeps no connection open; one that sends nothing neither."""
    monkeypatch.setattr("vitscope.web.protocol._HEADER_SECONDS", 0.3)
    host, port = address.removeprefix("http://").split(":")
    for more in (b"x", b""):
        begun = time.monotonic()
        with socket.create_connection((host, int(port)), timeout=20) as line:
            line.sendall(b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
            with suppress(OSError):
                while not select.select([line], [], [], 0.05)[0]:
                    line.sendall(more)
            with suppress(ConnectionError):
                assert line.recv(100) == b""
        assert 0.2 < time.monotonic() - begun < 10
    assert client.get("/api/health").status_code == 200


def test_both_signals_are_heeded_and_given_back(tiny_scope):
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    for one in (signal.SIGINT, signal.SIGTERM):
        server = make_server({"tiny": tiny_scope}, make_access_policy("127.0.0.1", 1, TOKEN), Limits())
        with server.capture_signals():
            signal.raise_signal(one)
            assert server.should_exit
        assert server.app.close()
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def slow(address):
    """A body that comes a byte at a time and then not at all; the status in the end."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=40) as line:
        head = f"Host: {host}:{port}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 5000\r\n\r\n"
        line.sendall(f"POST /api/photos HTTP/1.1\r\n{head}".encode())
        for _ in range(5):
            line.sendall(b"x")
            time.sleep(0.1)
        return int(line.recv(4000).split()[1])


def endless():
    for _ in range(200):
        yield bytes(1_000_000)


@pytest.mark.slow
def test_fifty_at_once_a_third_of_them_hostile(own, tiny_scope):
    server, address = own
    process_of = psutil.Process(server.pid)
    expected = {photo: tiny_scope.explain(decode_image(photo, "x"), method="rollout") for photo in GOOD}
    hostile = [
        *(
            (kind, HOSTILE[kind])
            for kind in ("bomb", "too many pixels", "half", "head", "text", "drawing", "wide", "nothing")
        ),
        ("200 MB", None),
        ("200 MB", None),
        ("200 MB, said", bytes(200_000_000)),
        ("slow", None),
        ("slow", None),
        ("slow", None),
        ("../../../etc/passwd", HOSTILE["half"]),
        ("archive", HOSTILE["archive"]),
        ("page", HOSTILE["page"]),
    ]
    most = before = process_of.memory_info().rss

    def one(number):
        kind, body = hostile[number // 3] if number % 3 == 2 or number >= 49 else ("good", GOOD[number % len(GOOD)])
        if number >= 49:
            kind, body = hostile[-1]
        if kind == "slow":
            return kind, slow(address), None
        with entered(address) as made:
            if kind != "good":
                content = endless() if body is None else body
                answer = made.post("/api/photos", content=content, params={"name": kind})
                assert set(answer.json()) == PROBLEM
                return kind, answer.status_code, None
            _, answer = explained(made, {"photo": uploaded(made, body), "methods": ["rollout"], "top": 1}, 120)
            return kind, answer.status_code, (body, answer.json())

    with ThreadPoolExecutor(50) as pool:
        waiting = [pool.submit(one, number) for number in range(50)]
        while not all(future.done() for future in waiting):
            most = max(most, process_of.memory_info().rss)
            time.sleep(0.05)
    found = [future.result() for future in waiting]
    good = [told for kind, status, told in found if kind == "good" and status == 200]
    bad = [(kind, status) for kind, status, _ in found if kind != "good"]
    assert len(good) == 33
    assert len(bad) == 17
    assert all(400 <= status < 500 for _, status in bad), bad
    assert {status for kind, status in bad if kind.startswith("200 MB")} == {413}
    assert {status for kind, status in bad if kind == "slow"} == {408}
    for photo, document in good:
        entry = document["header"]["maps"][0]
        np.testing.assert_allclose(map_of(document, entry), expected[photo].map, rtol=2e-3, atol=1e-6)
        same(document["header"]["predictions"], expected[photo].predictions[:1])
    print(f"resident: {before / 1e6:.0f} MB before, {most / 1e6:.0f} MB at most")
    assert most - before < 400e6


@pytest.mark.slow
def test_a_signal_ends_it_in_order_while_it_works(own):
    server, address = own
    with entered(address) as made:
        view = made.post("/api/views", json={"sample": "cat", "measure": True, "top": 10}).json()["id"]
        with made.stream("GET", f"/api/views/{view}/events") as stream:
            lines = stream.iter_lines()
            next(lines)
            begun = time.monotonic()
            server.send_signal(signal.SIGINT)
            told = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert told[-1]["state"] == "cancelled"
    assert told[-1]["code"] == "web.stopping"
    assert server.wait(15) == 0
    assert time.monotonic() - begun < 10
    said = server.stderr.read()
    assert "Traceback" not in said
    assert [line for line in said.splitlines() if "pytree" not in line] == ["vitscope: listening; Ctrl-C stops it"]
