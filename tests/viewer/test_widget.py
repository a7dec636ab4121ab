"""The viewer as a notebook widget: what goes over the wire, what is there without it, and an executed notebook."""

import base64
import html
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers.errors import raises
from vitscope.errors import MissingDependencyError, UsageError
from vitscope.explanation import Explanation
from vitscope.viewer import widget as module
from vitscope.viewer.packed import Packed
from vitscope.viewer.page import page, script, styles
from vitscope.viewer.widget import widget_of

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def view(tiny_scope, photo):
    """A view of the cat by the tiny model."""
    return tiny_scope.view(photo, measure=False, methods=("rollout", "attention"))


@pytest.fixture
def asked(monkeypatch):
    """Ask a widget as its page does; what it sends back: the message and its buffers."""
    sent = []

    def ask(widget, **question):
        monkeypatch.setattr(type(widget), "send", lambda self, content, buffers=None: sent.append((content, buffers)))
        widget._answer(widget, question, [])
        return sent.pop()

    return ask


def array_of(about, buffers):
    """An answer's array, decoded by the packing's own definition."""
    return Packed(about["dtype"], tuple(about["shape"]), buffers[about["at"]], about["encoding"]).array()


def test_arrays_travel_as_bytes(view):
    document = view.widget()._document
    assert document["header"] == view.document()["header"]
    assert {name: array["data"] for name, array in document["arrays"].items()} == {
        name: packed.data for name, packed in view.arrays.items()
    }


def test_the_kernel_makes_one_more_map(view, asked, tiny_scope, photo):
    message, buffers = asked(
        view.widget(), id="a", kind="explain", method="rollout", target=None, method_options={"residual_weight": 0.3}
    )
    assert message["id"] == "a"
    entry, arrays = message["result"]["entry"], message["result"]["arrays"]
    found = array_of(arrays[f"map.{entry['id']}"], buffers).astype(np.float32) * entry["scale"]
    made = tiny_scope.explain(photo, method="rollout", residual_weight=0.3)
    np.testing.assert_allclose(found, made.map, rtol=1e-3)
    assert entry["options"]["residual_weight"] == 0.3


def test_the_kernel_answers_without_some_patches(view, asked, tiny_scope, photo):
    message, _ = asked(view.widget(), id="m", kind="mask", patches=[0, 5, 6], mode="fill")
    found = message["result"]
    whole = tiny_scope.explain(photo).predictions
    assert [label for label, _ in found["predictions"]] != []
    assert found["predictions"] != [[label, p] for label, p in whole]
    assert found["total_ms"] >= found["forward_ms"] > 0
    nothing, _ = asked(view.widget(), id="n", kind="mask", patches=[], mode="fill")
    assert nothing["result"]["score"] == pytest.approx(nothing["result"]["whole"])


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"kind": "explain", "method": "rolout"}, "did you mean 'rollout'"),
        (
            {"kind": "explain", "method": "rollout", "method_options": {"residual_weight": "x"}},
            "residual_weight is a number",
        ),
        ({"kind": "format-the-disk"}, "KeyError"),
    ],
)
def test_a_wrong_question_gets_an_answer(view, asked, question, said):
    message, buffers = asked(view.widget(), id="x", **question)
    assert message["id"] == "x"
    assert said in f"{message['error']} {message.get('hint')}"
    assert "\n" not in message["error"]
    assert buffers is None


def test_without_widgets_there_is_a_picture(view):
    data, _ = view.widget()._repr_mimebundle_()
    assert WIDGET in data
    assert '<img alt="rollout over chelsea"' in data["text/html"]
    assert "<script" not in data["text/html"]


@pytest.fixture(scope="module")
def growing(tiny_scope, photo):
    """What a cell shows while a view is made: its display, and each state of what came later, with the maps by then."""
    from IPython import display

    shown, grown = [], []
    cell = module.InCell.show

    def show(self, made):
        cell(self, made)
        grown.append((len(made.header["maps"]), dict(shown[0]._grown)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(display, "display", shown.append)
        patch.setattr(module.InCell, "show", show)
        made = tiny_scope.view(photo, methods=("rollout", "attention"), top=2, in_cell=True)
    return made, shown, grown


@pytest.mark.slow
def test_a_cell_shows_the_first_map_and_then_what_comes_later(growing):
    made, (widget,), grown = growing
    maps = [count for count, _ in grown]
    assert maps[:3] == [1, 2, 4]  # a map, another, those of two classes
    assert grown[0][1] == {}
    assert len(widget._document["header"]["maps"]) == 1
    measured = [sum(one["measurement"] is not None for one in each["header"]["maps"]) for _, each in grown[1:]]
    assert measured == [0, 0, 1, 2, 3, 4]
    final = grown[-1][1]
    assert final["header"] == made.document()["header"]
    together = {**widget._document["arrays"], **final["arrays"]}
    assert {name: one["data"] for name, one in together.items()} == {
        name: one.data for name, one in made.arrays.items()
    }
    assert {name.partition(".")[0] for name in final["arrays"]} == {"map", "order"}  # attention travels once


RENDERED = """async ([url, styles, first, grown]) => {
    document.head.append(Object.assign(document.createElement("style"), { textContent: styles }));
    const bytes = (document) => {
        const arrays = Object.entries(document.arrays).map(([name, array]) => {
            const data = Uint8Array.from(atob(array.data), (one) => one.charCodeAt(0));
            return [name, { ...array, data: new DataView(data.buffer) }];
        });
        return { ...document, arrays: Object.fromEntries(arrays) };
    };
    const heard = {}, values = { _document: bytes(first), _grown: {}, _answers: [] };
    const model = {
        get: (name) => values[name], on: (name, listener) => { heard[name] = listener; }, off() {}, send() {},
    };
    const { default: widget } = await import(url), el = document.body;
    widget.render({ model, el });
    window.grow = () => { values._grown = bytes(grown); heard["change:_grown"](); };
}"""


def test_what_comes_later_appears_in_the_cell_and_the_choice_stays(browser, growing):
    made, (widget,), _ = growing
    known = set(widget._document["arrays"])
    whole = made.document()
    first = {**whole, "header": widget._document["header"]}
    first["arrays"] = {name: one for name, one in whole["arrays"].items() if name in known}
    rest = {**whole, "arrays": {name: one for name, one in whole["arrays"].items() if name not in known}}
    url = "data:text/javascript;base64," + base64.b64encode(script("notebook").encode()).decode()
    with browser.opened("about:blank") as opened:
        opened.evaluate(RENDERED, [url, styles(), first, rest])
        opened.wait("() => document.querySelectorAll('.vs-methods button').length === 1")
        opened.click("[role=radio]", "Looks at")
        opened.wait("() => /looks at/.test(document.querySelector('.vs-caption').textContent)")  # in a later frame
        opened.click("[role=tab]", "About")
        caption = opened.text(".vs-caption")
        opened.evaluate("() => grow()")
        opened.wait("() => document.querySelectorAll('.vs-methods button').length === 2")
        assert opened.text(".vs-caption") == caption
        assert opened.evaluate("() => document.querySelector('[role=tab][aria-selected=true]').textContent") == "About"
        opened.click("[role=tab]", "Numbers")
        assert "deletion" in opened.text(".vs-methods")
        opened.click(".vs-methods button", "attention")
        opened.wait("() => /^attention/.test(document.querySelector('.vs-caption').textContent)")
        numbers = made.header["maps"][1]["measurement"]["numbers"]
        curves = sum(bool(one["x"]) for one in numbers)  # of some measures there is none
        assert opened.evaluate("() => document.querySelectorAll('.vs-curve').length") == curves > 0


def test_a_view_shows_itself_in_a_closed_frame(view):
    shown = view._repr_html_()
    (inside,) = re.findall(r'srcdoc="([^"]*)"', shown)
    assert 'sandbox="allow-scripts allow-downloads"' in shown
    assert html.unescape(inside) == page(view.document())


def test_a_view_in_one_line(view):
    assert re.fullmatch(r"<View chelsea: \d+ maps, 3 layers, 0\.\d MB>", repr(view))


def test_a_missing_anywidget_is_one_line(view, monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    module._widget_class.cache_clear()
    try:
        with pytest.raises(MissingDependencyError, match=r"vitscope\[notebook\]") as error:
            view.widget()
    finally:
        module._widget_class.cache_clear()
    assert "\n" not in str(error.value)


def test_an_explanation_without_its_photo_has_nothing_to_show(explained):
    with raises(UsageError, "explanation.no-photo"):
        widget_of(explained([[1.0, 2.0], [3.0, 4.0]], (32, 32), pixels=None))


@pytest.mark.slow
def test_a_saved_map_is_shown_without_torch(tiny_scope, photo, tmp_path):
    made = tiny_scope.explain(photo, method="rollout")
    made.save(tmp_path / "cat")
    code = (
        "import sys; from vitscope import Explanation, widget_of\n"
        f"widget = widget_of(Explanation.load({str(tmp_path / 'cat')!r}))\n"
        "arrays = widget._document['arrays']\n"
        "print(sorted(arrays), arrays['map.rollout']['shape'], widget._answers, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['map.rollout', 'order.rollout'] [4, 4] [] False"
    document = widget_of(Explanation.load(tmp_path / "cat"))._document
    packed, scale = document["arrays"]["map.rollout"], document["header"]["maps"][0]["scale"]
    values = Packed(packed["dtype"], tuple(packed["shape"]), packed["data"]).array().astype(np.float32) * scale
    np.testing.assert_allclose(values, made.map, rtol=1e-3)


@pytest.mark.slow
def test_a_notebook_runs(tmp_path, tiny_folder, photo):
    import nbformat

    cells = [
        f"import vitscope\nscope = vitscope.load({str(tiny_folder)!r})",
        f"view = scope.view({str(photo)!r}, measure=False, methods=('rollout',))\nview.widget()",
        f"vitscope.widget_of(scope.explain({str(photo)!r}, method='attention'))",
        "view",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(notebook, tmp_path / "look.ipynb")
    places = {"IPYTHONDIR": "ipython", "JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime"}
    here = os.environ | {name: str(tmp_path / place) for name, place in places.items()}
    command = [sys.executable, "-c", "from nbclient.cli import main; main()", "--inplace", "look.ipynb"]
    done = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = nbformat.read(tmp_path / "look.ipynb", 4)
    shown = [cell.outputs[-1].data for cell in found.cells[1:]]
    assert [WIDGET in data for data in shown] == [True, True, False]
    assert all("<img" in data["text/html"] for data in shown[:2])
    assert "srcdoc=" in shown[2]["text/html"]
