"""The start page: it uploads a photo, shows the progress and then the viewer in the same page."""

import base64
import hashlib
from functools import lru_cache
from importlib.resources import files

from vitscope.viewer.page import bundle, styles

__all__ = ["content_security_policy", "start_page"]

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>vitscope</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<div class="vw"></div>
<main hidden></main>
<noscript>This page needs JavaScript. `vitscope explain` does not.</noscript>
<script type="module">{script}</script>
</body>
</html>
"""


@lru_cache(maxsize=1)
def start_page() -> str:
    """Return the page, which is static: nothing of an image or a model is written into it."""
    return _PAGE.format(style=_style(), script=_script())


@lru_cache(maxsize=1)
def content_security_policy() -> str:
    """Return the page's policy: its own script and style by hash, images and requests of this server only."""
    return (
        f"default-src 'none'; script-src '{_hash(_script())}'; style-src '{_hash(_style())}'; "
        "img-src 'self' data: blob:; connect-src 'self'; worker-src blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _script() -> str:
    return bundle(escaped=False) + _asset("app.js")


def _style() -> str:
    return styles() + _asset("app.css")


def _asset(name: str) -> str:
    return (files("vitscope.web") / "assets" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
