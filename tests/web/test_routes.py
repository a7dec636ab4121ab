"""The web app's routes: right answers, clear refusals, nothing of one user shown to another."""

import io
import json
import time

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.helpers.uploads import GOOD, HOSTILE, PROBLEM, map_of, same, uploaded
from tests.helpers.webserver import TOKEN, entered, explained
from vitscope.images import decode_image
from vitscope.web.samples import SAMPLES, sample_file

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_the_view_is_what_python_says(view, tiny_scope):
    _, _, document = view
    whole = decode_image(GOOD[0], "cat.png")
    for entry in document["header"]["maps"][:3]:
        target = {"target": entry["target"]} if entry["target"] else {}
        true = tiny_scope.explain(whole, method=entry["method"], **entry["options"], **target)
        np.testing.assert_allclose(map_of(document, entry), true.map, rtol=2e-3, atol=1e-3 * np.abs(true.map).max())
    same(document["header"]["predictions"], true.predictions)
    assert document["header"]["photo"]["name"] == "cat"


def test_a_measured_view_has_its_numbers(client):
    _, answer = explained(client, {"sample": "digits", "measure": True, "methods": ["rollout"], "top": 1})
    measured = [entry["measurement"] for entry in answer.json()["header"]["maps"]]
    assert {number["name"] for number in measured[0]["numbers"]} == {"deletion", "infidelity"}


def test_a_mask_is_answered_as_python_answers(view, tiny_scope):
    made, name, _ = view
    whole = decode_image(GOOD[0], "cat.png")
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
        true = tiny_scope.explain(decode_image(GOOD[0], "cat.png"), **options)
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


@pytest.mark.slow
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
