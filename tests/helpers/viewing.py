"""The viewer's page in tests: pointing at patches, and what it shows."""

import numpy as np

from tests.helpers.browser import CAPTION as WAIT
from tests.helpers.browser import SET, SHOWN, VIEWER
from vitscope.geometry import TokenLayout


def shown(made, words, change=None):
    if change is not None:
        made.evaluate(SET, change)
    made.wait(WAIT, words)
    made.wait(f"() => Boolean({VIEWER}.ctx.scene.prefix)")  # until then, its title stands over "busy"
    return np.array(made.evaluate(SHOWN))


def hover(made, layout, row, column):
    bounds, (rows, columns) = made.box(".vs-stage"), layout.grid
    made.move(
        bounds["x"] + bounds["width"] * (column + 0.5) / columns, bounds["y"] + bounds["height"] * (row + 0.5) / rows
    )


def layout_of(view):
    layout = view.header["layout"]
    return TokenLayout(tuple(layout["prefix"]), tuple(layout["grid"]))


def near_at_the_top(drawn, true):
    top = np.argsort(-true)[:20]
    assert np.abs(drawn[top] / true[top] - 1).max() < 1e-2


def free(made):
    """The focus is on nothing in particular, the photo in view."""
    made.front()
    made.box(".vs-stage")
    made.evaluate("() => document.activeElement.blur()")


def layer_of(made):
    return made.evaluate(f"() => {VIEWER}.state.layer")


KEY = """(how) => {
    const event = new KeyboardEvent('keydown', { bubbles: true, cancelable: true, ...how });
    document.body.dispatchEvent(event);
    return event.defaultPrevented;
}"""
