"""Images as HTML: the card that a notebook shows, a page of several, and the templates of all pages."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from PIL import Image

from vitscope._messages import visible


@dataclass(frozen=True, eq=False)
class Card:
    """An image with its caption.

    Attributes:
        image: what to show.
        alt: the image in words, for those who cannot see it.
        title: printed bold; detail: in brackets after it.
        lines: below the title.
        note: last, in italics.
    """

    image: Image.Image
    alt: str
    title: str
    detail: str = ""
    lines: Sequence[str] = field(default_factory=list)
    note: str = ""

    def html(self, width: int = 448) -> str:
        """Return a self-contained HTML figure, `width` CSS pixels wide, with nothing executable in it."""
        image = data_url(self.image, longest=2 * width, quality=90)
        return render_template("vitscope.render", "card.html", card=self, image=image, width=width)


def page(title: str, lead: str, cards: Sequence[Card], sheets: Sequence[tuple[str, Image.Image]]) -> str:
    """Return one self-contained page: the cards, then the sheets with their captions."""
    from markupsafe import Markup

    return render_template(
        "vitscope.render",
        "page.html",
        title=title,
        lead=lead,
        cards=[Markup(card.html(380)) for card in cards],
        sheets=[(caption, data_url(image, quality=90)) for caption, image in sheets],
    )


def numbers_html(
    title: str, rows: Sequence[Mapping[str, object]], image: Image.Image | None = None, alt: str = ""
) -> str:
    """Return a plot with the table of its numbers, as a notebook shows them.

    Args:
        title: above both.
        rows: one mapping for each line, all with the same keys; floats are shown with three digits.
        image: the plot, drawn at twice its size on the page.
        alt: the plot in words.
    """
    return render_template(
        "vitscope.render",
        "numbers.html",
        title=title,
        columns=list(rows[0]) if rows else [],
        rows=[map(_cell, row.values()) for row in rows],
        image=data_url(image, "PNG", optimize=True) if image else "",
        alt=alt,
        width=image.width // 2 if image else 0,
    )


def _cell(value: object) -> object:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else value


def render_template(package: str, name: str, **values: Any) -> str:
    """Fill in a template of a package's folder `templates`; every value is escaped unless it is `Markup`."""
    return str(_templates(package).get_template(name).render(values))


@cache
def _templates(package: str) -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_shown,
    )


def _shown(value: object) -> object:
    """Return a value with its control characters visible, unless it is `Markup` or no text."""
    return visible(value, "\n\t") if isinstance(value, str) and not hasattr(value, "__html__") else value


def data_url(image: Image.Image, kind: str = "JPEG", *, longest: int | None = None, **options: Any) -> str:
    """Return an image as a `data:` URL.

    Args:
        image: any mode for PNG; JPEG is made from RGB.
        kind: `JPEG` or `PNG`.
        longest: shrink the image to this longest side, in pixels, where it is larger.
        options: how Pillow writes it, such as `quality`.
    """
    if longest is not None and longest < max(image.size):
        image = image.copy()
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    (image.convert("RGB") if kind == "JPEG" else image).save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
