"""The start page: it uploads a photo, shows the progress and then the viewer in the same page."""

from functools import cache

from markupsafe import Markup

from vitscope.render.html import render_template
from vitscope.viewer.page import bundle, content_hash, script, styles


@cache
def start_page() -> str:
    """Return the page, which is static: nothing of an image or a model is written into it."""
    return render_template("vitscope.web", "start.html", style=Markup(_style()), script=Markup(_script()))


@cache
def content_security_policy() -> str:
    """Return the page's policy: its own script and style by hash, images and requests of this server only."""
    return (
        f"default-src 'none'; script-src '{content_hash(_script())}'; style-src '{content_hash(_style())}'; "
        "img-src 'self' data: blob:; connect-src 'self'; worker-src blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _script() -> str:
    return script("app", "vitscope.web", ("viewer-page", "web-page"))


def _style() -> str:
    return styles() + bundle("app.css", "vitscope.web")
