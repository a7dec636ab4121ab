"""Why one class and not another: two maps of one method side by side, and the one minus the other."""

import numpy as np

from tests.helpers.browser import SET, VIEWER

SHOWN = (
    "() => !document.querySelector('.vs-contrast')?.hidden && document.querySelector('.vs-contrast strong').textContent"
)
MIDDLES = """([rows, columns]) => {
    const canvas = document.querySelector('.vs-contrast canvas'), context = canvas.getContext('2d'), out = [];
    for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) {
        const x = ((c + .5) * canvas.width) / columns, y = ((r + .5) * canvas.height) / rows;
        out.push([...context.getImageData(x, y, 1, 1).data].slice(0, 3));
    }
    return out;
}"""


def values_of(view, entry):
    return view.arrays[f"map.{entry['id']}"].array().astype(float).ravel() * entry["scale"]


def classes_of(view):
    return [entry for entry in view.header["maps"] if entry["label"]]


def drawn_as(made, grid, difference):
    """The difference is drawn on its own scale with zero in the middle: red where it is above, blue where below."""
    end = max(abs(np.percentile(difference, q, method="lower")) for q in (1, 99))
    low, high = (float(one) for one in made.evaluate(ENDS))
    np.testing.assert_allclose([-low, high], [end, end], rtol=1e-2)
    shown = np.array(made.evaluate(MIDDLES, list(grid)), float)
    clear = np.abs(difference) > 0.2 * end
    assert clear.sum() >= 4
    np.testing.assert_array_equal(np.sign(shown[clear, 0] - shown[clear, 2]), np.sign(difference[clear]))


ENDS = "() => [...document.querySelectorAll('.vs-contrast .vs-ends span')].map((one) => one.textContent)"


def test_the_difference_of_two_classes_is_one_map_minus_the_other(fresh, tiny_view, tiny_scope):
    first, second, third = classes_of(tiny_view)[:3]
    fresh.evaluate(SET, {"smooth": False, "opacity": 1})
    fresh.click(".vs-section .vs-quiet", f"Why {first['label']} and not {second['label']}")
    fresh.wait(f"() => ({SHOWN})()?.includes?.('{first['label']} minus {second['label']}')")
    drawn_as(fresh, tiny_scope.layout.grid, values_of(tiny_view, first) - values_of(tiny_view, second))
    change = {"left": f"own:{third['id']}", "right": f"own:{first['id']}", "at": 50, "beside": True}
    fresh.evaluate(SET, {"compare": change})
    fresh.wait(f"() => ({SHOWN})()?.includes?.('{third['label']} minus {first['label']}')")
    drawn_as(fresh, tiny_scope.layout.grid, values_of(tiny_view, third) - values_of(tiny_view, first))
    assert f'--target "{third["label"]} - {first["label"]}"' in fresh.text(".vs-contrast .vs-note")


def test_maps_of_other_methods_are_not_subtracted(fresh, tiny_view):
    label = classes_of(tiny_view)[0]["id"]
    plain = next(entry["id"] for entry in tiny_view.header["maps"] if not entry["label"])
    change = {"left": f"own:{label}", "right": f"own:{plain}", "at": 50, "beside": True}
    fresh.evaluate(SET, {"panel": "compare", "compare": change})
    fresh.wait("() => document.querySelector('.vs-contrast')?.hidden === true")


def test_the_class_that_is_shown_is_the_one_that_is_asked_of(fresh, tiny_view):
    first, second = classes_of(tiny_view)[:2]
    fresh.evaluate(SET, {"map": second["id"], "source": "map"})
    fresh.wait(
        "(words) => [...document.querySelectorAll('.vs-section .vs-quiet')].some((one) => one.textContent === words)",
        f"Why {second['label']} and not {first['label']}",
    )
    assert fresh.evaluate(f"() => {VIEWER}.state.compare") is None
