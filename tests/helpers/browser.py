"""Real browsers for tests of pages: Debian's Chromium, driven by Playwright, and Debian's Firefox, by WebDriver BiDi.

Both are cut off from the network, and give the same few things to do with a page (`Page`): one test runs in either.
"""

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = Path(__file__).parents[2] / ".cache" / "axe.min.js"  # put there by tests/helpers/browsers.sh
OWN = ("file:", "data:", "blob:", "about:", "resource:", "chrome:", "moz-")  # addresses that are no network
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
VIEWER = "document.querySelector('main').viewer"  # what `mount` returned
SET = f"(change) => {VIEWER}.store.set(change)"
SHOWN = f"() => [...{VIEWER}.ctx.scene.prefix, ...{VIEWER}.ctx.scene.values]"  # the numbers on the stage, all tokens
CAPTION = "(words) => document.querySelector('.vs-caption').textContent.includes(words)"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
VIOLATIONS = """async (values) => {
    const { violations, passes } = await window.axe.run(document, { runOnly: { type: 'tag', values } });
    const told = (one) => `${one.html.slice(0, 200)} | ${one.failureSummary}`;
    return { passes: passes.length, violations: violations.map(({ id, nodes }) => [id, nodes.map(told)]) };
}"""
_LOOK = """(found) => [...document.querySelectorAll(found.selector)].filter((one) => {
    const said = one.getAttribute('aria-label') ?? one.textContent;
    return one.offsetParent !== null && (found.text === null || said.trim().includes(found.text));
})"""
_WAIT = """async (arg) => {
    const end = performance.now() + 45000;
    for (;;) {
        const value = await (%s)(arg);
        if (value) return value;
        if (performance.now() > end) throw new Error('waited 45 s for ' + %s);
        await new Promise((resolve) => setTimeout(resolve, 15));
    }
}"""


class Page(ABC):
    """What a test does with a page; a browser gives `evaluate`, pointer, keys, size and pictures."""

    troubles: list[str]

    @abstractmethod
    def evaluate(self, function: str, arg: Any = None) -> Any:
        """Call a function of JavaScript in the page, with one argument; promises are awaited."""

    def wait(self, function: str, arg: Any = None) -> Any:
        """Call it until it gives something true."""
        return self.evaluate(_WAIT % (function, json.dumps(function)), arg)

    def box(self, selector: str, text: str | None = None) -> dict[str, float]:
        """Where the first visible element of that selector, and name, is: scrolled into the window first."""
        look = f"""(found) => {{
            const [one] = ({_LOOK})(found);
            if (!one) return null;
            one.scrollIntoView({{ block: 'center', behavior: 'instant' }});
            const {{ x, y, width, height }} = one.getBoundingClientRect();
            return {{ x, y, width, height }};
        }}"""
        return self.wait(look, {"selector": selector, "text": text})

    def click(self, selector: str, text: str | None = None) -> None:
        """The pointer goes to the middle of it, and presses."""
        box = self.box(selector, text)
        self.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self.down()
        self.up()

    def focus(self, selector: str, text: str | None = None) -> None:
        self.evaluate(f"(found) => ({_LOOK})(found)[0].focus()", {"selector": selector, "text": text})

    def text(self, selector: str) -> str:
        return self.evaluate("(one) => document.querySelector(one).textContent", selector)

    @abstractmethod
    def front(self) -> None: ...
    @abstractmethod
    def press(self, *keys: str) -> None: ...
    @abstractmethod
    def move(self, x: float, y: float) -> None: ...
    @abstractmethod
    def down(self) -> None: ...
    @abstractmethod
    def up(self) -> None: ...
    @abstractmethod
    def resize(self, width: int, height: int) -> None: ...
    @abstractmethod
    def picture(self, path: Path) -> None: ...
    @abstractmethod
    def saved(self, action: Callable[[], None]) -> tuple[str, bytes]:
        """Name and bytes of the file that the action downloads."""


class _ChromiumPage(Page):
    def __init__(self, page: Any, own: str = "") -> None:
        self.page, self.troubles, near = page, [], (*OWN, own) if own else OWN
        page.on("request", lambda one: self.troubles.append(one.url) if not one.url.startswith(near) else 0)
        page.on("console", lambda one: self.troubles.append(one.text) if _is_trouble(one) else None)
        page.on("pageerror", lambda error: self.troubles.append(str(error)))

    def evaluate(self, function: str, arg: Any = None) -> Any:
        return self.page.evaluate(function, arg)

    def front(self) -> None:
        self.page.bring_to_front()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def move(self, x: float, y: float) -> None:
        self.page.mouse.move(x, y)

    def down(self) -> None:
        self.page.mouse.down()

    def up(self) -> None:
        self.page.mouse.up()

    def resize(self, width: int, height: int) -> None:
        self.page.set_viewport_size({"width": width, "height": height})

    def picture(self, path: Path) -> None:
        self.page.screenshot(path=path)

    def saved(self, action: Callable[[], None]) -> tuple[str, bytes]:
        with self.page.expect_download() as download:
            action()
        return download.value.suggested_filename, download.value.path().read_bytes()


class Chromium:
    """Chromium by Playwright; its own builds are never fetched."""

    name = "chromium"

    def __init__(self, playwright: Any) -> None:
        self.playwright = playwright.chromium.launch(executable_path=CHROMIUM or "chromium", args=list(FLAGS))

    @contextmanager
    def opened(self, url: str, size: tuple[int, int] = (1280, 900), own: str = "", **options: Any) -> Iterator[Page]:
        """A page in a context of its own, cut off but for the server `own`; `options` as Playwright's."""
        viewport = {"width": size[0], "height": size[1]}
        context = self.playwright.new_context(viewport=viewport, locale="en-GB", **options)
        context.set_offline(not own)
        context.set_default_timeout(45_000)
        page = _ChromiumPage(context.new_page(), own)
        page.page.goto(url)
        yield page
        context.close()

    def close(self) -> None:
        self.playwright.close()


@contextmanager
def browser_of(name: str, folder: Path, **preferences: Any) -> Iterator[Any]:
    """One of the two, Firefox with preferences; a test is skipped only where it is missing and this is no CI."""
    found = CHROMIUM if name == "chromium" else shutil.which("firefox-esr") or shutil.which("firefox")
    if found is None and not os.environ.get("CI"):
        pytest.skip(f"no {name} on this machine: run tests/helpers/browsers.sh")
    if name == "chromium":
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            made = Chromium(playwright)
            yield made
            made.close()
        return
    from tests.helpers.browser_firefox import Firefox

    other = Firefox(found or "firefox-esr", folder, preferences)
    try:
        yield other
    finally:
        other.close()


@contextmanager
def shown(browser: Any, url: str, **options: Any) -> Iterator[Page]:
    """A page of ours, once its viewer has drawn."""
    with browser.opened(url, **options) as page:
        page.wait("() => document.querySelector('main').viewer?.ctx.scene ? true : false")
        yield page


def _is_trouble(said: Any) -> bool:
    """Errors and warnings, but for what is said of pixels that a test reads: the viewer itself reads none back."""
    return said.type in ("error", "warning") and not said.text.startswith("Canvas2D: Multiple readback")


def texts(page: Page, selector: str) -> list[str]:
    """The text of each element of that selector."""
    return page.evaluate("(one) => [...document.querySelectorAll(one)].map((found) => found.textContent)", selector)


def axe_of(page: Page) -> dict[str, Any]:
    """What axe-core finds of WCAG 2.2 AA on the page as it is; skipped only where it is missing, outside CI."""
    if not AXE.exists() and not os.environ.get("CI"):
        pytest.skip("axe-core is not here: tests/helpers/browsers.sh fetches it where there is npm")
    if not page.evaluate("() => Boolean(window.axe)"):
        page.evaluate(f"() => {{ {AXE.read_text('utf-8')} }}")
    return page.evaluate(VIOLATIONS, RULES)
