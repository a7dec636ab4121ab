"""A real browser for tests of pages: Debian's Chromium, driven by Playwright, cut off from the network."""

import os
import shutil
from contextlib import contextmanager

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@contextmanager
def chromium():
    """Chromium; tests are skipped only where there is none and this is no CI."""
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("no Chromium: apt-get install chromium, or run tests/browsers.sh")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM or "chromium", args=list(FLAGS))
        yield browser
        browser.close()


@contextmanager
def opened(browser, url, **options):
    """A page in a context without network; yields it with the list of troubles: requests, errors, console messages."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB", **options)
    context.set_offline(True)
    context.set_default_timeout(15_000)
    page, troubles = context.new_page(), []
    page.on(
        "request", lambda one: troubles.append(one.url) if not one.url.startswith(("file:", "data:", "blob:")) else 0
    )
    page.on("console", lambda one: troubles.append(one.text) if one.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto(url)
    page.wait_for_function("() => document.querySelector('main').viewer?.ctx.scene")
    yield page, troubles
    context.close()
