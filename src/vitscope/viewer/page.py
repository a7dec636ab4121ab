"""The viewer's page: one file that holds the viewer, the photo, the maps and the attention, and asks no network.

The viewer is written as ES modules in `assets/viewer`; `bundle` joins them into one, so that a page, a notebook and a
web app run the same text. Nothing that comes from a photo or a model is ever written into markup or script: the
document is a JSON island whose `<` are escaped, and the viewer sets it as text.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

from vitscope._catalogues import page_texts

__all__ = ["bundle", "lean", "page", "page_bytes", "styles"]

_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";\n', re.M)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class) (\w+))", re.M)
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_COMMENT = re.compile(r"^ *// .*\n|(?<=;) // .*$", re.M)
_INDENT = re.compile(r"^\s+", re.M)
_ROOM = re.compile(r"(?<=[:;]) ")
_BOOT = """
const root = document.querySelector("main");
const given = JSON.parse(document.querySelector('script[type="application/json"]').textContent);
const raw = document.querySelector('script[type="application/octet-stream"]');
if (raw) unwrap(given, raw.textContent);
raw?.remove();
const viewer = mount(root, given, fileHost, { lang: root.dataset.lang, fragment: location.hash });
root.viewer = viewer;
let waiting = 0;
viewer.store.subscribe((state) => {
  clearTimeout(waiting);
  waiting = setTimeout(() => history.replaceState(null, "", `#${toFragment(state, viewer.ctx.initial)}`), 250);
});
"""
_PAGE = """<!doctype html>
<html lang="{lang}">
<head>
<meta charset="{charset}">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main{attributes}></main>
<noscript>This page draws attention in the browser: it needs JavaScript, and no network.</noscript>
<script type="application/json">{document}</script>{raw}
<script type="module">{script}</script>
</body>
</html>
"""
_HERE = "<!-- arrays -->"
_RAW = b'<script type="application/octet-stream">%s</script>'
_MARK = ord("=")
_BODY = "html, body { margin: 0 } body > main { min-height: 100vh }\n"


def page(document: Mapping[str, Any], lang: str | None = None) -> str:
    """One self-contained page, its arrays in base64.

    Args:
        document: `View.document()`.
        lang: `en` or `zh`; None is the reader's own.

    Returns:
        HTML whose content security policy allows its own script and style by their hashes, pictures of its own, and no
        connection.
    """
    return _page(document, lang, "utf-8", "")


def page_bytes(document: Mapping[str, Any], lang: str | None = None) -> bytes:
    r"""The same page a quarter smaller, as the bytes of a file.

    Base64 spends 4 characters on 3 bytes. Here the page is in windows-1252, where every byte is a character, and arrays
    stand in it as they are, but for the four bytes that HTML does not leave alone (NUL, CR, `<`) or that mark them
    (`=`): those are `=` and the byte with its seventh bit turned. All else on the page is ASCII.
    """
    blocks: list[bytes] = []
    text = _page(_lifted(document, blocks), lang, "windows-1252", _HERE)
    return text.encode("ascii").replace(_HERE.encode(), _RAW % _escaped(b"".join(blocks)), 1)


def _page(document: Mapping[str, Any], lang: str | None, charset: str, raw: str) -> str:
    script, style = bundle() + _BOOT, _BODY + styles()
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data: blob:; "
        "worker-src blob:; base-uri 'none'; form-action 'none'"
    )
    title = html.escape(f"{document['header']['photo']['name']} · vitscope")
    return _PAGE.format(
        lang={"zh": "zh-Hans"}.get(lang or "en", "en"),
        charset=charset,
        policy=policy,
        title=title.encode("ascii", "xmlcharrefreplace").decode(),
        style=style,
        attributes=f' data-lang="{html.escape(lang)}"' if lang else "",
        document=json.dumps(document, separators=(",", ":")).replace("<", "\\u003c"),
        raw=raw,
        script=script,
    )


def _lifted(document: Mapping[str, Any], blocks: list[bytes]) -> dict[str, Any]:
    """The document with the lengths of its arrays for their data, which go to `blocks` in the document's order."""
    arrays = {}
    for name, one in document["arrays"].items():
        blocks.append(base64.b64decode(one["data"]))
        arrays[name] = {**one, "data": len(blocks[-1])}
    more = {"other": _lifted(document["other"], blocks)} if "other" in document else {}
    return {**document, "arrays": arrays, **more}


def _escaped(block: bytes) -> bytes:
    for byte in b"=\0\r<":  # the mark itself first
        block = block.replace(bytes([byte]), bytes([_MARK, byte ^ 64]))
    return block


@lru_cache(maxsize=2)
def bundle(escaped: bool = True) -> str:
    """The viewer as one ES module; it exports `mount`, `fileHost`, `toFragment`, `fromFragment`, and `createStore`.

    Args:
        escaped: spell what is not ASCII as escapes, for a page in windows-1252.
    """
    done: list[str] = []
    parts: list[str] = []

    def add(name: str) -> None:
        if name in done:
            return
        done.append(name)
        text = _texts() if name == "texts" else _text(f"{name}.js")
        for _, needed in _IMPORT.findall(text):
            add(needed)
        names = _EXPORT.findall(text)
        text = _IMPORT.sub(lambda found: f"const {{{found[1].replace(' as ', ': ')}}} = ${found[2]};\n", text)
        text = lean(_EXPORT.sub("", text))
        parts.append(f"const ${name} = (() => {{\n{text}return {{ {', '.join(names)} }};\n}})();\n")

    add("main")
    out = "export const { mount, fileHost } = $main;\n"
    out += "export const { createStore, fromFragment, toFragment } = $store;\nexport const { unwrap } = $data;\n"
    whole = "".join(parts) + out
    return _NOT_ASCII.sub(_spelled, whole) if escaped else whole


def lean(text: str) -> str:
    """A script without what is for readers of its source: comments, empty lines, and spaces that lines begin with."""
    return _INDENT.sub("", _COMMENT.sub("", text))


@lru_cache(maxsize=1)
def styles() -> str:
    """The viewer's style sheet, without the spaces that are for readers of its source."""
    return _ROOM.sub("", _INDENT.sub("", _text("viewer.css")))


def _texts() -> str:
    """Make the module of the viewer's texts from the catalogues."""
    return f"export const TEXTS = {json.dumps(page_texts('viewer-page'), ensure_ascii=False, separators=(',', ':'))};\n"


def _spelled(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _text(name: str) -> str:
    return (files("vitscope.viewer") / "assets" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
