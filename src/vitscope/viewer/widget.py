"""The viewer as a notebook widget: its arrays travel as bytes, the kernel answers its requests."""

import base64
import html
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeAlias

from vitscope._catalogues import page_messages
from vitscope.errors import MissingDependencyError, VitscopeError
from vitscope.explanation import Explanation
from vitscope.viewer.saved_map import document_of

Handler: TypeAlias = Callable[..., Mapping[str, Any]]
_FRAME = (
    '<iframe title="vitscope" sandbox="allow-scripts allow-downloads" style="width:100%;height:{height}px;border:0" '
    'srcdoc="{page}"></iframe>'
)


def widget(document: Mapping[str, Any], handlers: Mapping[str, Handler] | None = None, fallback: str = "") -> Any:
    """Return the viewer for a notebook (Jupyter, VS Code, Colab, marimo): an `anywidget.AnyWidget`.

    Args:
        document: header and arrays, as `View.document()` gives them.
        handlers: what the kernel can do for the viewer, `mask` and `explain`, called with the request's fields.
        fallback: HTML shown where widgets are not supported, and in a notebook that is read without its kernel.

    Raises:
        MissingDependencyError: anywidget is not installed.
    """
    return _widget_class()(document, dict(handlers or {}), fallback)


def widget_of(explanation: Explanation) -> Any:
    """Return the viewer on one finished map as a notebook widget; `Scope.view(image).widget()` has the model as well.

    Raises:
        MissingDependencyError: anywidget is not installed.
        UsageError: an explanation without its photo.
    """
    return widget(document_of(explanation), fallback=explanation.card().html())


class InCell:
    """Shows a view in the running cell of a notebook as soon as there is one, and adds to it what comes later."""

    def __init__(self) -> None:
        self._first: Any = None
        self._widget: Any = None

    def show(self, made: Any) -> None:
        """Show a `View`, or what it has beyond the first one.

        Raises:
            MissingDependencyError: anywidget or IPython is not installed.
        """
        if self._first is None:
            try:
                from IPython.display import display
            except ImportError:
                raise MissingDependencyError("IPython", "notebook") from None
            self._first, self._widget = made, made.widget()
            display(self._widget)
        else:
            self._widget.grow(made.document(self._first))


def iframe(page: str, height: int = 760) -> str:
    """Return a page inside another: it may run its own script, and reach nothing."""
    return _FRAME.format(height=height, page=html.escape(page, quote=True))


@cache
def _widget_class() -> Any:
    """Make the widget's class, on first use: anywidget is an extra."""
    try:
        import anywidget
        from traitlets import Dict, List
    except ImportError:
        raise MissingDependencyError("anywidget", "notebook") from None

    from vitscope.viewer.page import script, styles

    class Viewer(anywidget.AnyWidget):  # type: ignore[misc]
        """One viewer; its state lives in the page, so that several in one notebook do not meet."""

        _esm = script("notebook")
        _css = styles()
        _document = Dict().tag(sync=True)
        _grown = Dict().tag(sync=True)
        _answers = List().tag(sync=True)

        def __init__(self, document: Mapping[str, Any], handlers: Mapping[str, Handler], fallback: str) -> None:
            super().__init__(_document=_with_bytes(document), _answers=sorted(handlers))
            self._handlers, self._fallback = handlers, fallback
            self.on_msg(self._answer)

        def grow(self, document: Mapping[str, Any]) -> None:
            """Show what was made since: `View.document(first)`; the page keeps its state."""
            self._grown = _with_bytes(document)

        def _answer(self, _: Any, request: dict[str, Any], __: list[Any]) -> None:
            fields = dict(request)
            number, kind = fields.pop("id"), fields.pop("kind")
            try:
                result, buffers = _packed(self._handlers[kind](**fields))
            except VitscopeError as error:
                words = {"error": error.message, "hint": error.hint}
                self.send({"id": number, **words, "messages": page_messages(words)})
            except Exception as error:  # the page waits for an answer, whatever happened
                self.send({"id": number, "error": f"{type(error).__name__}: {error}"})
            else:
                self.send({"id": number, "result": result}, buffers)

        def _repr_mimebundle_(self, **options: Any) -> Any:
            shown = super()._repr_mimebundle_(**options)
            if shown and self._fallback:
                shown[0]["text/html"] = self._fallback
            return shown

    return Viewer


def _with_bytes(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document with its arrays' data as bytes, which travel beside the JSON."""
    arrays = {name: {**array, "data": _bytes(array["data"])} for name, array in document["arrays"].items()}
    other = {"other": _with_bytes(document["other"])} if document.get("other") else {}
    return {**document, "header": dict(document["header"]), "arrays": arrays, **other}


def _packed(result: Mapping[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """Split a result from its arrays' bytes; each array says which buffer is its own."""
    arrays = result.get("arrays")
    if arrays is None:
        return dict(result), []
    about = {
        name: {**{k: v for k, v in array.items() if k != "data"}, "at": at}
        for at, (name, array) in enumerate(arrays.items())
    }
    return {**result, "arrays": about}, [_bytes(array["data"]) for array in arrays.values()]


def _bytes(data: str | bytes) -> bytes:
    return base64.b64decode(data) if isinstance(data, str) else data
