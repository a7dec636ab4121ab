"""The viewer as a notebook widget: the page's own code, its arrays as binary, its questions answered by the kernel."""

import base64
import html
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeAlias

from vitscope._catalogues import page_messages
from vitscope.errors import MissingDependencyError, VitscopeError
from vitscope.explanation import Explanation
from vitscope.viewer.saved_map import document_of

__all__ = ["Answer", "framed", "widget", "widget_of"]

Answer: TypeAlias = Callable[..., Mapping[str, Any]]
_FRAME = (
    '<iframe title="vitscope" sandbox="allow-scripts allow-downloads" style="width:100%;height:{height}px;border:0" '
    'srcdoc="{page}"></iframe>'
)


def widget(document: Mapping[str, Any], answers: Mapping[str, Answer] | None = None, fallback: str = "") -> Any:
    """The viewer in a notebook (Jupyter, VS Code, Colab, marimo): an `anywidget.AnyWidget`.

    Args:
        document: header and arrays, as `View.document()` gives them.
        answers: what the kernel can do for the viewer, `mask` and `explain`, each called with what was asked.
        fallback: HTML shown where widgets are not supported, and in a notebook that is read without its kernel.

    Raises:
        MissingDependencyError: anywidget is not installed.
    """
    return _kind()(document, dict(answers or {}), fallback)


def widget_of(explanation: Explanation) -> Any:
    """Return the viewer on one finished map as a notebook widget; `Scope.view(image).widget()` has the model as well.

    Raises:
        MissingDependencyError: anywidget is not installed.
        UsageError: an explanation without its photo.
    """
    return widget(document_of(explanation), fallback=explanation.card().html())


def framed(page: str, height: int = 760) -> str:
    """A page of ours within a page of others: it may run its own script, and reach nothing."""
    return _FRAME.format(height=height, page=html.escape(page, quote=True))


@cache
def _kind() -> Any:
    """The widget's class, made on first use: anywidget is an extra."""
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
        _answers = List().tag(sync=True)

        def __init__(self, document: Mapping[str, Any], answers: Mapping[str, Answer], fallback: str) -> None:
            super().__init__(_document=_with_bytes(document), _answers=sorted(answers))
            self._answering, self._fallback = answers, fallback
            self.on_msg(self._asked)

        def _asked(self, _: Any, question: dict[str, Any], __: list[Any]) -> None:
            asked = dict(question)
            number, kind = asked.pop("id"), asked.pop("kind")
            try:
                result, buffers = _packed(self._answering[kind](**asked))
            except VitscopeError as error:
                words = {"error": error.message, "hint": error.hint}
                self.send({"id": number, **words, "messages": page_messages(words)})
            except Exception as error:  # the page waits for an answer, whatever happened
                self.send({"id": number, "error": f"{type(error).__name__}: {error}"})
            else:
                self.send({"id": number, "result": result}, buffers)

        def _repr_mimebundle_(self, **asked: Any) -> Any:
            shown = super()._repr_mimebundle_(**asked)
            if shown and self._fallback:
                shown[0]["text/html"] = self._fallback
            return shown

    return Viewer


def _with_bytes(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with its arrays' data as bytes, which travel beside the JSON; likewise that of a second photo."""
    arrays = {name: {**array, "data": _bytes(array["data"])} for name, array in document["arrays"].items()}
    other = {"other": _with_bytes(document["other"])} if document.get("other") else {}
    return {**document, "header": dict(document["header"]), "arrays": arrays, **other}


def _packed(result: Mapping[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """The result with its arrays' bytes apart, each array saying which buffer is its own."""
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
