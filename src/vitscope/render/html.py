"""An explanation as HTML: the card that a notebook shows, and a page of several."""

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image

from vitscope._plugins import renderer
from vitscope.explanation import Explanation

__all__ = ["card", "page"]

_CARD = (
    '<figure class="vitscope" style="display:inline-block;margin:8px;font:13px/1.5 system-ui,sans-serif;'
    'max-width:{width}px;vertical-align:top"><img alt="{alt}" width="{width}" src="data:image/jpeg;base64,{data}">'
    '<figcaption style="padding:4px 0">{lines}</figcaption></figure>'
)
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1280px; margin: 2rem auto; padding: 0 1rem }}
h1 {{ font-weight: 600 }}
img {{ max-width: 100%; height: auto; border-radius: 6px }}
</style>
<h1>{title}</h1>
<p>{lead}</p>
{body}
</html>
"""


@renderer("card")
def card(explanation: Explanation, width: int = 448) -> str:
    """The overlay with what it is: method, model, predictions, caveat. Self-contained, nothing executable."""
    picture = explanation.overlay() if explanation.picture else Image.new("RGB", (1, 1))
    picture.thumbnail((width * 2, width * 2))
    told = explanation.provenance
    options = ", ".join(f"{k} {v}" for k, v in told.get("options", {}).items() if v is not None)
    lines = [f"<b>{_safe(explanation.method)}</b> ({_safe(options)})" if options else _safe(explanation.method)]
    lines += [f"{_safe(told.get('model', ''))} · {_safe(explanation.layout)}"]
    lines += [f"{_safe(label)} {p:.1%}" for label, p in explanation.predictions]
    if explanation.caveat:
        lines.append(f"<i>{_safe(explanation.caveat)}</i>")
    alt = f"{explanation.method} over {explanation.picture.name if explanation.picture else 'no photo'}"
    return _CARD.format(width=width, alt=_safe(alt), data=_jpeg(picture), lines="<br>".join(lines))


def page(title: str, lead: str, explanations: Sequence[Explanation], sheets: Sequence[tuple[str, Image.Image]]) -> str:
    """One self-contained page: a card for each explanation, then sheets with their captions."""
    body = [card(e, 380) for e in explanations]
    body += [
        f'<h2>{_safe(caption)}</h2><img alt="{_safe(caption)}" src="data:image/jpeg;base64,{_jpeg(picture)}">'
        for caption, picture in sheets
    ]
    return _PAGE.format(title=_safe(title), lead=_safe(lead), body="\n".join(body))


def _jpeg(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=90)
    return base64.b64encode(buffer.getvalue()).decode()


def _safe(text: object) -> str:
    return html.escape(str(text))
