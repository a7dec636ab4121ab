"""The viewer as one self-contained file: script, image, maps and attention, without any network.

The viewer is written as ES modules in `assets/`; `make bundle` joins those of each host (a page, a notebook, the web
app) into one script in `bundles/`. Nothing that comes from an image or a model is ever written into markup or script:
the document is a JSON island whose `<` are escaped, and the viewer sets it as text. A page that was damaged after it
was written says so and shows nothing: the document is checked by its CRC-32, the script by its hash.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from vitscope._catalogues import page_texts
from vitscope.render.html import render_template

_BODY = "html,body{margin:0}body>main{min-height:100vh}\n"


def page(document: Mapping[str, Any], lang: str | None = None) -> str:
    """Return one self-contained page, all of it ASCII.

    Args:
        document: `View.document()`.
        lang: `en` or `zh`; None is the reader's own.

    Returns:
        HTML whose content security policy allows its own script and style by their hashes, images of its own, and no
        connection.
    """
    code, style = script("page"), _BODY + styles()
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    title = f"{document['header']['photo']['name']} · vitscope"
    return render_template(
        "vitscope.viewer",
        "page.html",
        lang={"zh": "zh-Hans"}.get(lang or "en", "en"),
        language=lang,
        policy=Markup(
            f"default-src 'none'; script-src '{content_hash(code)}'; style-src '{content_hash(style)}'; "
            "img-src data: blob:; worker-src blob:; base-uri 'none'; form-action 'none'"
        ),
        title=Markup(Markup.escape(title).encode("ascii", "xmlcharrefreplace").decode()),
        style=Markup(style),
        document=Markup(text),
        crc=f"{zlib.crc32(text.encode('ascii')):08x}",
        script=Markup(code),
    )


@cache
def script(name: str, package: str = "vitscope.viewer", areas: tuple[str, ...] = ("viewer-page",)) -> str:
    """Return the script of a host: its texts in all languages, then its bundle; all of it ASCII.

    Args:
        name: of the bundle; `page` mounts the document of its page, `notebook` is a widget's module.
        package: where the bundle is.
        areas: catalogues of the host's texts.
    """
    texts: dict[str, dict[str, str]] = {}
    for area in areas:
        for language, more in page_texts(area).items():
            texts.setdefault(language, {}).update(more)
    return f"const TEXTS={json.dumps(texts, separators=(',', ':'))};\n{bundle(f'{name}.js', package)}"


def styles() -> str:
    """Return the viewer's style sheet."""
    return bundle("viewer.css")


@cache
def bundle(file: str, package: str = "vitscope.viewer") -> str:
    """Return what `make bundle` made of a host's modules or style sheet."""
    return (files(package) / "bundles" / file).read_text("utf-8")


def content_hash(text: str) -> str:
    """Return the hash by which a content security policy allows a script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
