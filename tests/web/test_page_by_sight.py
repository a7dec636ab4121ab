"""A stranger who knows only what the page shows (texts, roles, places) gets to a map, a class, a mask and a file."""

import re

import pytest

from tests.helpers.webserver import TOKEN, serving

MOST = 12  # actions: clicks, moves, drags; scrolling to what is out of sight is one as well
ROLES = ("button", "radio", "checkbox", "tab", "application", "link")


class Stranger:
    """Looks for words among the visible controls, and counts what it does."""

    def __init__(self, page):
        self.page, self.done = page, []

    def find(self, *words, role=None):
        """The first visible control whose name has one of the words, in the order of the words."""
        for word in words:
            for kind in (role,) if role else ROLES:
                for one in self.page.get_by_role(kind, name=re.compile(word, re.I)).all():
                    if one.is_visible() and one.is_enabled():
                        return one
        raise AssertionError(f"nothing visible is called {words}")

    def at(self, control, across=0.5, down=0.5):
        """Where it is on the screen; scrolled into sight first where it is not."""
        height, box = self.page.viewport_size["height"], control.bounding_box()
        if box["y"] < 0 or box["y"] + box["height"] * down > height:
            self.page.mouse.wheel(0, box["y"] - height / 2)
            self.page.wait_for_timeout(300)
            self.done.append("scroll")
            box = control.bounding_box()
        return box["x"] + box["width"] * across, box["y"] + box["height"] * down

    def click(self, *words, role=None):
        self.page.mouse.click(*self.at(self.find(*words, role=role)))
        self.done.append(f"click {words[0]}")

    def move(self, place):
        self.page.mouse.move(*place)
        self.done.append("move")

    def drag(self, start, end):
        self.page.mouse.move(*start)
        self.page.mouse.down()
        self.page.mouse.move(*end)
        self.page.mouse.up()
        self.done.append("drag")

    def read(self, pattern):
        self.page.get_by_text(re.compile(pattern)).first.wait_for(state="visible")


@pytest.fixture(scope="module")
def address(tiny_scope):
    with serving(tiny_scope) as (made, _):
        yield made


@pytest.mark.slow
def test_hover_class_mask_and_file_within_twelve_actions(chromium, address):
    with chromium.opened(f"{address}/?token={TOKEN}", size=(1440, 900), own=address) as made:
        stranger = Stranger(made.page)
        made.page.get_by_role("button", name=re.compile("cat", re.I)).first.wait_for()
        stranger.click("cat")
        stranger.read("Point at any patch")
        made.page.get_by_text("Hide patches").first.wait_for()  # the model stands behind the page by now
        photo = stranger.find("photo", "picture", "image", role="application")
        stranger.move(stranger.at(photo))
        stranger.read(r"What patch \d+,\d+ looks at")
        made.page.get_by_role("button", name=re.compile(r"\d+ %")).nth(1).wait_for()
        second = made.page.get_by_role("button", name=re.compile(r"\d+ %")).nth(1)
        named = re.match(r"\s*(.*?)\s*[\d.]+ %", second.inner_text().replace("\n", " "))[1]
        made.page.mouse.click(*stranger.at(second))
        stranger.done.append("click a class")
        stranger.read(rf"· {named}")
        stranger.click("paint", "hide", role="checkbox")
        stranger.drag(stranger.at(photo, 0.15, 0.15), stranger.at(photo, 0.4, 0.15))
        stranger.read(r"\d+ patches hidden")
        stranger.click("^save", role="tab")
        with made.page.expect_download() as download:
            stranger.click("png", "picture", role="button")
        assert download.value.path().read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert len(stranger.done) <= MOST, stranger.done
        assert made.troubles == []
