"""Jobs of the web app: cancelled, bounded, limited in time."""

import json
import time
from types import SimpleNamespace

import pytest

from tests.helpers.webserver import entered, explained, serving
from vitscope.web.samples import sample_picture

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


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


def test_measuring_ends_with_what_it_has_when_its_time_is_over(tiny_scope):
    """Progress is what time is looked at in: a clock that a test turns."""
    seen = []

    def ticked(stage, done, total):
        if stage == "faithfulness":
            seen.append(done)

    whole = tiny_scope.view(sample_picture("cat"), methods=("rollout", "attention"), top=1, progress=ticked).header
    measured = [one["measurement"] is not None for one in whole["maps"]]
    assert all(measured)
    none = tiny_scope.view(sample_picture("cat"), methods=("rollout", "attention"), top=1, seconds=0).header
    assert [one["measurement"] for one in none["maps"]] == [None] * len(measured)
    assert {"what": "measurement", "why": f"0 seconds were enough for 0 of {len(measured)} maps"} in none["missing"]
    first = next(at for at in range(1, len(seen)) if seen[at] < seen[at - 1])  # the forwards of the first map
    now = [0.0]

    def late(stage, done, total):
        now[0] += stage == "faithfulness"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitscope.viewer.map_metrics.time", SimpleNamespace(monotonic=lambda: now[0]))
        some = tiny_scope.view(
            sample_picture("cat"), methods=("rollout", "attention"), top=1, seconds=first, progress=late
        ).header
    found = [one["measurement"] is not None for one in some["maps"]]
    assert found[0]
    assert not found[-1]
    assert some["maps"][0]["measurement"] == whole["maps"][0]["measurement"]
