"""The web app over a real socket: right answers, clear refusals, nothing of one user shown to another."""

import base64
import io
import json
import os
import select
import signal
import socket
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from skimage import data

from tests.helpers.webserver import TOKEN, entered, explained, process, serving
from vitscope.cli.main import main
from vitscope.images import decoded
from vitscope.viewer.packed import Packed
from vitscope.web.access import make_access_policy
from vitscope.web.limits import Limits
from vitscope.web.samples import SAMPLES, sample_file, sample_picture
from vitscope.web.server import make_server

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def bomb(width, height, mode=6):
    """A PNG of a few hundred bytes that says it is huge."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, mode, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100_000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


PROBLEM = {"detail", "hint", "code", "messages"}
CAT = data.chelsea()
GOOD = [
    encoded(CAT),
    encoded(CAT[:200, :180], "JPEG"),
    encoded(CAT[50:, 100:], "WEBP"),
    encoded(CAT[:120, :160, :1].repeat(3, 2), "GIF"),
    encoded(CAT[:90, :70], "BMP"),
]
HOSTILE = {
    "nothing": b"",
    "text": b"hello, I am no picture" * 50,
    "page": b"<html><script>alert(1)</script></html>",
    "drawing": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "half": encoded(CAT)[:40_000],
    "head": encoded(CAT, "JPEG")[:300],
    "bomb": bomb(60_000, 60_000),
    "wide": bomb(2**31 - 1, 1),
    "too many pixels": encoded(np.zeros((5001, 5000, 3), np.uint8)),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "photoshop": b"8BPS" + bytes(200),
    "archive": b"PK\x03\x04" + bytes(500),
    "one pixel": encoded(np.zeros((1, 1, 3), np.uint8)),
}


def uploaded(client, photo, name="cat.png"):
    answer = client.post("/api/photos", content=photo, params={"name": name})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def map_of(document, entry):
    """A map's numbers out of a document or of an answer."""
    told = document["arrays"][f"map.{entry['id']}"]
    packed = Packed(told["dtype"], tuple(told["shape"]), base64.b64decode(told["data"]))
    return packed.array().astype(np.float32) * np.float32(entry["scale"])


def same(predictions, others):
    """Labels alike, and probabilities up to what batching does to the last digits."""
    assert [label for label, _ in predictions] == [label for label, _ in others]
    assert [p for _, p in predictions] == pytest.approx([p for _, p in others], rel=1e-4)


@pytest.fixture(scope="module")
def address(tiny_scope):
    with serving(tiny_scope, body_bytes=3_000_000) as (made, _):
        yield made


@pytest.fixture
def client(address):
    with entered(address) as made:
        yield made


@pytest.fixture(scope="module")
def view(address):
    """A client and a finished view of the cat."""
    with entered(address) as made:
        name, answer = explained(made, {"photo": uploaded(made, GOOD[0])})
        yield made, name, answer.json()


def test_the_view_is_what_python_says(view, tiny_scope):
    _, _, document = view
    whole = decoded(GOOD[0], "cat.png")
    for entry in document["header"]["maps"][:3]:
        target = {"target": entry["target"]} if entry["target"] else {}
        true = tiny_scope.explain(whole, method=entry["method"], **entry["options"], **target)
        np.testing.assert_allclose(map_of(document, entry), true.map, rtol=2e-3, atol=1e-3 * np.abs(true.map).max())
    same(document["header"]["predictions"], true.predictions)
    assert document["header"]["photo"]["name"] == "cat"


def test_a_measured_view_has_its_numbers(client):
    _, answer = explained(client, {"sample": "digits", "measure": True, "methods": ["rollout"], "top": 1})
    measured = [entry["measurement"] for entry in answer.json()["header"]["maps"]]
    assert {number["name"] for number in measured[0]["numbers"]} == {"deletion", "insertion"}


def test_a_mask_is_answered_as_python_answers(view, tiny_scope):
    made, name, _ = view
    whole = decoded(GOOD[0], "cat.png")
    for mode in ("fill", "drop"):
        told = made.post(f"/api/views/{name}/mask", json={"patches": [0, 5, 6], "mode": mode}).json()
        true = tiny_scope.predict_without(whole, [0, 5, 6], mode)
        same(told["predictions"], true.predictions)
        assert (told["score"], told["whole"]) == pytest.approx((true.score, true.whole))


def test_a_mask_costs_little_more_than_its_forward(view):
    """Within 300 ms beyond the forward; the median of ten, the whole way over HTTP."""
    made, name, _ = view
    beyond = []
    for patch in range(10):
        begun = time.perf_counter()
        told = made.post(f"/api/views/{name}/mask", json={"patches": [patch]}).json()
        beyond.append((time.perf_counter() - begun) * 1000 - told["forward_ms"])
    assert np.median(beyond) < 300


def test_any_other_map_is_made_on_demand(view, tiny_scope):
    made, name, _ = view
    for asked in (
        {"method": "gradcam", "target": "kite"},
        {"method": "rollout", "method_options": {"residual_weight": 0.3}},
    ):
        told = made.post(f"/api/views/{name}/maps", json=asked).json()
        options = {key: value for key, value in asked.items() if key != "method_options"} | asked.get(
            "method_options", {}
        )
        true = tiny_scope.explain(decoded(GOOD[0], "cat.png"), **options)
        np.testing.assert_allclose(map_of(told, told["entry"]), true.map, rtol=2e-3, atol=1e-6)
        assert told["entry"]["target"] == true.target


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"method": "rolout"}, "errors.unknown-name"),
        ({"method": "gradcam", "target": "dog"}, ""),
        ({"method": "gradcam", "target": {"text": "a cat"}}, ""),
        ({"method": "rise", "method_options": {"masks": 10**6}}, "web.option-too-large"),
        ({"method": "rise", "method_options": {"cells": 0}}, ""),
        ({"method": "occlusion", "method_options": {"stride": 0}}, ""),
        ({"method": "rollout", "method_options": {"layers": "../../etc/passwd"}}, ""),
        ({"method": "rollout", "method_options": {"query": "999,999"}}, ""),
        ({"method": "rollout", "target": "\ud800"}, "web.invalid-request"),
        ({"method": "rollout", "image": "/etc/passwd"}, "web.invalid-request"),
    ],
)
def test_what_cannot_be_made_is_one_line(view, asked, code):
    made, name, _ = view
    answer = made.post(
        f"/api/views/{name}/maps", content=json.dumps(asked), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422, answer.text
    assert set(answer.json()) == PROBLEM
    assert answer.json()["code"].startswith(code)
    assert "\n" not in answer.json()["detail"]


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_photo_is_refused_in_one_line(client, kind):
    answer = client.post("/api/photos", content=HOSTILE[kind])
    assert answer.status_code == 422
    assert set(answer.json()) == PROBLEM
    assert "\n" not in answer.json()["detail"]


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "..\\..\\boot.ini",
        "/abs.png",
        "C:\\x.png",
        "\\\\host\\share",
        "a\0b",
        "--out",
        "<img src=x>",
        "x" * 900,
        "",
        "%2e%2e%2f",
        "'; rm -rf ~",
        "\u202egnp.exe",
        "CON",
    ],
)
def test_a_name_is_words_to_show_and_nothing_more(client, name):
    answer = client.post("/api/photos", content=GOOD[4], params={"name": name})
    assert answer.status_code == 201
    assert not set(answer.json()["name"]) & set("/\\<>:'\0\u202e;%")
    assert 0 < len(answer.json()["name"]) <= 80
    assert not answer.json()["name"].startswith(("-", "."))


def test_nothing_is_fetched_or_opened_for_a_client(client):
    for asked in ({"photo": "http://127.0.0.1:1/x.png"}, {"photo": "/etc/passwd"}, {"photo": "../x"}):
        assert client.post("/api/views", json=asked).status_code == 404
    for asked in ({"sample": "cat", "model": "/etc"}, {"sample": "cat", "model": "timm:vit_tiny_patch16_224"}):
        answer = client.post("/api/views", json=asked)
        assert (answer.status_code, answer.json()["code"]) == (422, "web.no-such-model")
    for path in ("/api/samples/..%2f..%2fpyproject.toml", "/api/samples/cat.jpg", "/static/x", "/../../etc/passwd"):
        assert client.get(path).status_code == 404
    for asked in ({}, {"sample": "cat", "photo": "x"}, {"sample": "cat", "size": 5000}, {"sample": "cat", "size": 3}):
        assert client.post("/api/views", json=asked).status_code == 422


def test_one_user_never_sees_what_is_anothers(view, address):
    made, name, _ = view
    photo = uploaded(made, GOOD[1])
    with entered(address) as other:
        asked = [
            other.get(f"/api/views/{name}"),
            other.get(f"/api/views/{name}/events"),
            other.delete(f"/api/views/{name}"),
            other.post(f"/api/views/{name}/mask", json={"patches": [1]}),
            other.post(f"/api/views/{name}/maps", json={"method": "rollout"}),
            other.post("/api/views", json={"photo": photo}),
            other.delete(f"/api/photos/{photo}"),
        ]
        assert [answer.status_code for answer in asked] == [404] * len(asked)
    assert made.get(f"/api/views/{name}").status_code == 200
    bare = httpx.get(f"{address}/api/views/{name}", headers={"authorization": f"Bearer {TOKEN}"})
    assert bare.status_code == 404


def test_progress_comes_as_events_and_ends(client):
    view = client.post("/api/views", json={"sample": "cat", "measure": True}).json()["id"]
    with client.stream("GET", f"/api/views/{view}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        told = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
    assert told[-1]["state"] == "done"
    assert any(one["stage"] == "faithfulness" and 0 < one["done"] <= one["total"] for one in told)


def test_a_view_is_cancelled_and_the_next_one_answered(client):
    view = client.post("/api/views", json={"sample": "cat", "measure": True, "top": 10}).json()["id"]
    with client.stream("GET", f"/api/views/{view}/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        begun = time.monotonic()
        assert client.delete(f"/api/views/{view}").status_code == 204
        last = [json.loads(line[6:]) for line in lines if line.startswith("data: ")][-1]
    assert (last["state"], last["code"]) == ("cancelled", "web.cancelled")
    assert time.monotonic() - begun < 2
    assert client.get(f"/api/views/{view}").status_code == 404
    assert explained(client, {"sample": "cat"})[1].status_code == 200


def test_the_queue_is_bounded_for_each_and_for_all(tiny_scope):
    long = {"sample": "cat", "measure": True, "top": 10}
    with (
        serving(tiny_scope, queue=3, queue_per_session=2) as (address, _),
        entered(address) as ann,
        entered(address) as bob,
    ):
        first = [ann.post("/api/views", json=long) for _ in range(4)]
        assert [one.status_code for one in first[:2]] == [202, 202]
        assert first[-1].status_code == 429
        assert int(first[-1].headers["retry-after"]) >= 1
        second = [bob.post("/api/views", json=long) for _ in range(3)]
        assert second[-1].status_code in (429, 503)
        assert {one.json()["code"] for one in (first[-1], second[-1])} <= {
            "web.session-queue-full",
            "web.queue-full",
        }


def test_the_model_works_only_so_long_on_one_question(tiny_scope):
    with serving(tiny_scope, job_seconds=0.05) as (address, _), entered(address) as made:
        answer = explained(made, {"sample": "cat", "measure": True})[1]
        assert answer.status_code == 422
        assert answer.json()["code"] == "web.out-of-time"
        assert "0.05 seconds" in answer.json()["detail"]
    assert tiny_scope.explain(sample_picture("cat")).map.shape == (4, 4), "the model is as it was"


def test_a_head_that_does_not_come_is_given_up(address, client, monkeypatch):
    """A byte now and then keeps no connection open; one that sends nothing neither."""
    monkeypatch.setattr("vitscope.web.server._HEADER_SECONDS", 0.3)
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


def test_measuring_ends_with_what_it_has_when_its_time_is_over(tiny_scope):
    """Progress is what time is looked at in: a clock that a test turns."""
    seen = []

    def ticked(stage, done, total):
        seen.append(stage)

    whole = tiny_scope.view(sample_picture("cat"), methods=("rollout", "attention"), top=1, progress=ticked).header
    measured = [one["measurement"] is not None for one in whole["maps"]]
    assert all(measured)
    none = tiny_scope.view(sample_picture("cat"), methods=("rollout", "attention"), top=1, seconds=0).header
    assert [one["measurement"] for one in none["maps"]] == [None] * len(measured)
    assert {"what": "measurement", "why": f"0 seconds were enough for 0 of {len(measured)} maps"} in none["missing"]
    half = seen.count("faithfulness") // 2
    now = [0.0]

    def late(stage, done, total):
        now[0] += stage == "faithfulness"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitscope.viewer.map_metrics.time", SimpleNamespace(monotonic=lambda: now[0]))
        some = tiny_scope.view(
            sample_picture("cat"), methods=("rollout", "attention"), top=1, seconds=half, progress=late
        ).header
    found = [one["measurement"] is not None for one in some["maps"]]
    assert found[0]
    assert not found[-1]
    assert some["maps"][0]["measurement"] == whole["maps"][0]["measurement"]


def test_the_samples_are_photos(client):
    told = client.get("/api/samples").json()
    assert [one["name"] for one in told] == list(SAMPLES)
    for name in SAMPLES:
        answer = client.get(f"/api/samples/{name}")
        assert answer.content == sample_file(name)[0]
        assert answer.headers["x-content-type-options"] == "nosniff"
        Image.open(io.BytesIO(answer.content)).verify()


def test_a_wrong_host_and_a_foreign_page_are_refused_over_the_wire(client):
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert client.request(method, "/api/models", headers={"host": "evil.example"}).status_code == 403
        assert client.request(method, "/api/models", headers={"origin": "http://evil.example"}).status_code == 403
    assert client.get("/docs").status_code == 404


@pytest.mark.filterwarnings("ignore")
def test_its_own_openapi_document_finds_no_fault(address):
    """Schemathesis asks whatever the document allows; no answer is a 5xx, or unlike what the document says."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
    with entered(address) as made:
        view, _ = explained(made, {"sample": "digits"})
        schema = schemathesis.openapi.from_dict(made.get("/openapi.json").json())
        asked = set()

        def ask(case):
            if "view" in (case.path_parameters or {}) and case.method == "POST":
                case.path_parameters["view"] = view
            kept = dict(made.cookies.items())
            answer = case.call(base_url=address, cookies=kept, timeout=30)
            asked.add((case.method, case.path))
            case.validate_response(answer, checks=checks)

        for operation in schema.get_all_operations():
            made_case = operation.ok().as_strategy()
            run = settings(
                max_examples=12,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            from hypothesis import given

            run(given(case=made_case)(ask))()
        assert len(asked) >= 11


# As its own process.


@pytest.fixture(scope="module")
def own(tiny_folder):
    with process("-m", tiny_folder, "--port", 0, "--queue", 8, "--max-mb", 10, "--token", TOKEN) as (server, printed):
        assert printed.startswith("http://127.0.0.1:"), server.stderr.read()
        yield server, printed.partition("/?token=")[0]


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


def test_fifty_at_once_a_third_of_them_hostile(own, tiny_scope):
    server, address = own
    process_of = psutil.Process(server.pid)
    expected = {photo: tiny_scope.explain(decoded(photo, "x"), method="rollout") for photo in GOOD}
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
    assert len(said.splitlines()) == 1


@pytest.fixture
def line(monkeypatch, capsys):
    """`vitscope serve ARGUMENTS` that is not to start: the exit code and the one line that it says."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["vitscope", "serve", *map(str, arguments)])
        with pytest.raises(SystemExit) as info:
            main()
        [said] = capsys.readouterr().err.splitlines()
        return info.value.code, said

    return run


def test_a_port_in_use_is_one_line(line, tiny_folder):
    with socket.create_server(("127.0.0.1", 0)) as path_exists:
        code, said = line("--port", path_exists.getsockname()[1], "-m", tiny_folder)
    assert (code, "address already in use" in said, "--port 0" in said) == (2, True, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0", "--no-token"], "can be reached from other machines"),
        (["--token", "short"], "at least 16"),
        (["--host", "203.0.113.77", "--port", 0], "cannot listen on 203.0.113.77"),
        (["--queue", 0], "above zero"),
        (["-m", "no-such-folder/x/y", "--port", 0], "no-such-folder"),
    ],
)
def test_what_cannot_be_served_is_one_line(line, arguments, words, monkeypatch):
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    code, said = line(*arguments)
    assert code in (1, 2)
    assert words in said


def test_a_missing_extra_is_named(line, monkeypatch):
    import sys

    for name in [name for name in sys.modules if name.startswith("vitscope.web")]:
        monkeypatch.delitem(sys.modules, name)
    import vitscope.cli

    monkeypatch.delattr(vitscope.cli, "web", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.setitem(sys.modules, "starlette.types", None)
    assert "vitscope[serve]" in line()[1]
