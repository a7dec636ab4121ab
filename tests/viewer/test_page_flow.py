"""Arcs of a patch's sources: they are rollout's own over the last layers, and follow the pointer."""

import json

import numpy as np

from tests.helpers.browser import SET, VIEWER
from tests.helpers.viewing import hover, layout_of

SOURCES = f"() => {VIEWER}.ctx.flow.get()"
READY = f"() => {VIEWER}.ctx.flow.get().sources.length === 5"


def true_sources(scope, photo, token):
    """By Python: the query's rollout over all three layers, its strongest patches but for itself."""
    shares = scope.queries(photo, method="rollout")[token]
    order = [one for one in np.argsort(-shares) if one >= 1 and one != token][:5]
    return [(int(one), float(shares[one])) for one in order]


def test_arcs_come_from_the_strongest_sources(fresh, tiny_scope, photo):
    fresh.evaluate(SET, {"source": "query", "query": 7, "layer": 2, "flow": True})
    fresh.wait(READY)
    found = fresh.evaluate(SOURCES)
    assert found["asked"] == 7
    true = true_sources(tiny_scope, photo, 7)
    assert np.allclose([one["share"] for one in found["sources"]], [share for _, share in true], rtol=1e-2)
    assert {one["token"] for one in found["sources"][:3]} <= {token for token, _ in true}
    told = fresh.text(".vs-below")
    assert "Over the last 3 layers patch 1,2 is fed by patch" in told


def test_arcs_follow_the_pointer_and_go_with_the_switch(fresh, tiny_view):
    fresh.evaluate(SET, {"source": "query", "query": 7, "flow": True})
    fresh.wait(READY)
    bare = "() => document.querySelector('.vs-marks').toDataURL()"
    with_arcs = fresh.evaluate(bare)
    hover(fresh, layout_of(tiny_view), 3, 0)
    fresh.wait(f"() => {{ const {{ asked, sources }} = ({SOURCES})(); return asked === 13 && sources.length === 5; }}")
    fresh.move(1, 1)
    fresh.evaluate(SET, {"flow": False})
    fresh.wait(f"() => ({SOURCES})().asked === null")
    assert fresh.evaluate(bare) != with_arcs
    assert "is fed by" not in fresh.evaluate("() => document.querySelector('.vs-below').innerText")


def test_the_switch_asks_of_a_patch(fresh):
    fresh.click(".vs-toggle", "Flow")
    fresh.wait(READY)
    state = json.loads(fresh.evaluate(f"() => JSON.stringify({VIEWER}.state)"))
    assert (state["source"], state["flow"]) == ("query", True)
    assert state["query"] >= 1
