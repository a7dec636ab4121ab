"""The viewer's page of a tiny model, open in a browser."""

import pytest

from tests.helpers.browser import CAPTION as WAIT
from tests.helpers.browser import VIEWER
from tests.helpers.browser import shown as opened
from vitscope.viewer.page import page


@pytest.fixture(scope="session")
def tiny_file(tiny_view, tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "tiny.html"
    path.write_text(page(tiny_view.document(), "en"))
    return path


@pytest.fixture(scope="module")
def tiny(browser, tiny_file):
    """One page for many tests; each sets the state that it needs."""
    with opened(browser, tiny_file.as_uri()) as made:
        yield made
        assert made.troubles == []


@pytest.fixture
def fresh(tiny):
    tiny.evaluate("() => document.activeElement.blur()")  # a cursor on the photo would stay there
    tiny.evaluate(f"() => {{ const {{ store, ctx }} = {VIEWER}; store.set({{ ...ctx.initial }}); }}")
    tiny.move(1, 1)
    tiny.wait(WAIT, "rollout")
    return tiny


@pytest.fixture(scope="session")
def pair_file(tiny_pair, tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "pair.html"
    path.write_text(page(tiny_pair.document(), "en"))
    return path


@pytest.fixture(scope="module")
def pair(browser, pair_file):
    """One page for many tests; each sets the state that it needs."""
    with opened(browser, pair_file.as_uri()) as made:
        yield made
        assert made.troubles == []


@pytest.fixture
def clean(pair):
    pair.evaluate(f"() => {{ const {{ store, ctx }} = {VIEWER}; store.set({{ ...ctx.initial }}); }}")
    pair.move(1, 1)
    pair.wait(WAIT, "rollout")
    return pair
