"""The site: links beyond docs/ lead somewhere, and no page fetches anything."""

import pytest
from tools import site_hooks


@pytest.mark.parametrize(
    ("page", "text", "led"),
    [
        ("serve.md", "[x](../SECURITY.md)", "[x](project/security.md)"),
        ("extend/a.md", "[x](../../CHANGELOG.md#new)", "[x](../project/changelog.md#new)"),
        ("serve.md", "[x](../NOTICE) ![y](images/y.jpg)", "x (`NOTICE`) ![y](images/y.jpg)"),
        ("how-to/a.md", "[x](../models.md#a) [z](https://z.org/../y)", "[x](../models.md#a) [z](https://z.org/../y)"),
    ],
)
def test_links_beyond_the_folder_lead_somewhere(page, text, led):
    assert site_hooks.from_docs(text, page) == led


def test_a_page_of_the_root_stands_in_the_site():
    text = (
        "[a](docs/models.md#x) [b](SECURITY.md) [c](README.md) [d](LICENSE) [e](https://e.org) ![f](docs/images/f.jpg)"
    )
    assert site_hooks.from_root(text, "project/changelog.md") == (
        "[a](../models.md#x) [b](security.md) [c](../index.md) d (`LICENSE`) [e](https://e.org) ![f](../images/f.jpg)"
    )


@pytest.mark.parametrize(
    ("html", "fetches"),
    [
        ('<script src="https://cdn.org/x.js">', True),
        ("<link rel=stylesheet href=//fonts.org/x.css>", True),
        ('<img alt="a" src="http://x.org/a.png">', True),
        ('<a href="https://x.org">', False),
        ('<script src="assets/x.js"><img src="images/a.png">', False),
    ],
)
def test_what_would_be_fetched_is_seen(html, fetches):
    assert bool(site_hooks._FETCHED.search(html)) == fetches
