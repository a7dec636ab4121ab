"""The start page: it uploads a photo, shows the progress and then the viewer in the same page."""

from functools import cache

from markupsafe import Markup

from vitscope._catalogues import page_texts
from vitscope.render.html import render_template
from vitscope.viewer.page import bundle, content_hash, script, styles

_PLAIN = (
    ":root{color-scheme:light dark}body{margin:0;font:17px/1.55 system-ui,sans-serif}"
    "main{max-width:620px;margin:0 auto;padding:12vh 24px}h1{font-size:30px;margin:0 0 32px}"
    "h2{font-size:20px;margin:32px 0 4px}p{margin:0;opacity:.85}"
)


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


@cache
def tokenless_page() -> tuple[str, str]:
    """Return the page for a browser that comes without the token, and its content security policy."""
    texts = [
        ({"zh": "zh-Hans"}.get(language, language), found["no_token"], found["no_token_hint"])
        for language, found in page_texts("web-page").items()
    ]
    policy = f"default-src 'none'; style-src '{content_hash(_PLAIN)}'; base-uri 'none'; form-action 'none'"
    page = render_template("vitscope.web", "refused.html", style=Markup(_PLAIN), texts=texts)
    return page, f"{policy}; img-src data:; frame-ancestors 'none'"


def _script() -> str:
    return script("app", "vitscope.web", ("viewer-page", "web-page"))


def _style() -> str:
    return styles() + bundle("app.css", "vitscope.web")
