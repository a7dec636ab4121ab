"""Ask a `serve` of its own for many things at once, in order and out of it."""

import random
import signal
import socket
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from benchmarks.soak.counts import Counts
from tests.helpers.tiny_folder import save_tiny
from tests.helpers.uploads import GOOD, HOSTILE, PROBLEM, map_of
from tests.helpers.webserver import TOKEN, entered, process

import vitscope
from vitscope.images import decode_image

__all__ = ["run"]

_Maps = dict[str, np.ndarray]
_CLIENTS, _PATIENCE = 60, 180.0
_BUSY = (429, 503)
_METHODS = ("rollout", "attention", "relevance")
_MALFORMED: tuple[tuple[str, str, Any], ...] = (
    ("POST", "/api/views", b"{"),
    ("POST", "/api/views", b"[" * 5000),
    ("POST", "/api/views", {"photo": "../../etc/passwd"}),
    ("POST", "/api/views", {"sample": "cat", "top": 10**30}),
    ("POST", "/api/views", b'{"sample": "cat", "size": NaN}'),
    ("POST", "/api/views", {"sample": "cat", "methods": []}),
    ("POST", "/api/views", {"sample": "cat", "model": "/etc/passwd"}),
    ("GET", "/api/views/none", None),
    ("GET", "/api/nothing", None),
    ("PUT", "/api/photos", b"x"),
    ("DELETE", "/api/photos/none", None),
)


def run(count: int, seed: int) -> Counts:
    """Make `count` exchanges, shared among 60 clients."""
    counts, lock = Counts(), threading.Lock()
    with tempfile.TemporaryDirectory(prefix="vitscope-requests-") as work:
        folder = Path(work) / "tiny"
        save_tiny(folder)
        scope = vitscope.load(folder)
        expected = [{m: scope.explain(decode_image(photo, "x"), method=m).map for m in _METHODS} for photo in GOOD]
        options = ("--port", 0, "--max-mb", 10, "--token", TOKEN)
        with process("-m", folder, *options, patience=60) as (server, printed):
            address = printed.partition("/?token=")[0]

            def one(number: int) -> None:
                chance = random.Random(f"{seed} {number}")
                with entered(address) as client:
                    for _ in range(count // _CLIENTS + (number < count % _CLIENTS)):
                        how, note = _exchange(chance, client, address, expected)
                        with lock:
                            counts.count(how, note)

            with ThreadPoolExecutor(_CLIENTS) as pool:
                list(pool.map(one, range(_CLIENTS)))
            counts.figures["MB at the end"] = round(psutil.Process(server.pid).memory_info().rss / 1e6, 1)
            server.send_signal(signal.SIGINT)
            try:
                code, said = server.wait(15), server.stderr.read()
            except subprocess.TimeoutExpired:
                counts.mark("hung", "the server did not end after SIGINT")
            else:
                if code or "Traceback" in said:
                    counts.mark("left_changed", f"the server ended with {code}: {said[-200:]}")
    return counts


def _exchange(chance: random.Random, client: httpx.Client, address: str, expected: list[_Maps]) -> tuple[str, str]:
    """Ask for one thing; return how it ended, as a field of Counts, and a note."""
    name, work = chance.choices(_KINDS, [4, 1, 4, 4, 2, 1, 2])[0]
    try:
        return work(chance, client, address, expected), ""
    except httpx.TimeoutException:
        return "hung", name
    except httpx.TransportError as error:
        return "lost", f"{name}: {error!r}"
    except AssertionError as error:
        return "wrong", f"{name}: {error}"


def _ask(client: httpx.Client, method: str, path: str, **content: Any) -> httpx.Response:
    """Ask until the server is not busy."""
    until = time.monotonic() + _PATIENCE
    while (answer := client.request(method, path, **content)).status_code in _BUSY:
        if time.monotonic() > until:
            raise httpx.ReadTimeout(f"busy for {_PATIENCE:g} s")
        time.sleep(min(0.3, int(answer.headers["retry-after"])))
    assert answer.status_code < 500, f"{answer.status_code} {answer.text[:200]}"
    return answer


def _explained(chance: random.Random, client: httpx.Client, _: str, expected: list[_Maps]) -> str:
    """Upload, explain, and ask for one more map: they are those of the library."""
    number = chance.randrange(len(GOOD))
    uploaded = _ask(client, "POST", "/api/photos", content=GOOD[number], params={"name": "x"})
    assert uploaded.status_code == 201, uploaded.text
    photo = uploaded.json()["id"]
    first, second = chance.sample(_METHODS, 2)
    view = _ask(client, "POST", "/api/views", json={"photo": photo, "methods": [first], "top": 1}).json()["id"]
    until = time.monotonic() + _PATIENCE
    while (answer := _ask(client, "GET", f"/api/views/{view}")).status_code == 202:
        if time.monotonic() > until:
            raise httpx.ReadTimeout("the view is not finished")
        time.sleep(0.05)
    document = answer.json()
    _compare(map_of(document, document["header"]["maps"][0]), expected[number][first])
    more = _ask(client, "POST", f"/api/views/{view}/maps", json={"method": second}).json()
    _compare(map_of(more, more["entry"]), expected[number][second])
    for path in (f"/api/views/{view}", f"/api/photos/{photo}"):
        assert _ask(client, "DELETE", path).status_code == 204
        assert _ask(client, "GET" if "views" in path else "DELETE", path).status_code == 404
    return "right"


def _compare(found: np.ndarray, expected: np.ndarray) -> None:
    near = found.shape == expected.shape and np.allclose(found, expected, rtol=2e-3, atol=1e-6)
    assert near, "another map than the library's"


def _cancelled(_: random.Random, client: httpx.Client, __: str, ___: list[_Maps]) -> str:
    """Begin something long and give it up."""
    view = _ask(client, "POST", "/api/views", json={"sample": "cat", "measure": True}).json()["id"]
    assert _ask(client, "DELETE", f"/api/views/{view}").status_code == 204
    assert _ask(client, "GET", f"/api/views/{view}").status_code == 404
    return "right"


def _hostile(chance: random.Random, client: httpx.Client, _: str, __: list[_Maps]) -> str:
    name = chance.choice(list(HOSTILE))
    return _refused(_ask(client, "POST", "/api/photos", content=HOSTILE[name], params={"name": "../" + name}), name)


def _malformed(chance: random.Random, client: httpx.Client, _: str, __: list[_Maps]) -> str:
    method, path, body = chance.choice(_MALFORMED)
    content = {"content": body} if isinstance(body, bytes) else {} if body is None else {"json": body}
    return _refused(_ask(client, method, path, **content), f"{method} {path} {body!r:.60}")


def _refused(answer: httpx.Response, note: str) -> str:
    problem = answer.headers["content-type"].startswith("application/json") and answer.json()
    assert 400 <= answer.status_code < 500, f"{note}: {answer.status_code} {answer.text[:200]}"
    one_line = bool(problem) and set(problem) == PROBLEM and "\n" not in problem["detail"]
    assert one_line, f"{note}: {answer.text[:200]}"
    return "refused"


def _stranger(chance: random.Random, _: httpx.Client, address: str, __: list[_Maps]) -> str:
    """Ask without the token, or by a name that is not the server's."""
    headers = chance.choice([{}, {"authorization": "Bearer wrong"}, {"host": "rebound.example"}, {"cookie": "a=b"}])
    with httpx.Client(base_url=address, timeout=60, trust_env=False, headers=headers) as client:
        return _refused(_ask(client, "POST", "/api/photos", content=GOOD[1]), f"{headers}")


def _hung_up(chance: random.Random, _: httpx.Client, address: str, __: list[_Maps]) -> str:
    """Send a part of a request and leave; right if the server still answers."""
    host, port = address.removeprefix("http://").split(":")
    lines = (
        "POST /api/photos HTTP/1.1",
        f"Host: {host}:{port}",
        f"Authorization: Bearer {TOKEN}",
        "Content-Length: 99",
    )
    text = "\r\n".join((*lines, "", ""))
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall((text + "x" * 50).encode()[: chance.randrange(1, len(text) + 50)])
    return _plain(chance, _, address, __)


def _plain(chance: random.Random, client: httpx.Client, _: str, __: list[_Maps]) -> str:
    answer = _ask(client, "GET", chance.choice(["/", "/api/health", "/api/models", "/api/samples", "/api/samples/cat"]))
    assert answer.status_code == 200, answer.text[:200]
    assert len(answer.content) > 10
    return "right"


_KINDS = tuple(
    (work.__name__.strip("_").replace("_", " "), work)
    for work in (_explained, _cancelled, _hostile, _malformed, _stranger, _hung_up, _plain)
)
