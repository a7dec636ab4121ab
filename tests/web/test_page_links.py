"""Addresses of the web app: a link opens its state, a reload keeps it, one without its token says what to do."""

import urllib.error
import urllib.request

import numpy as np
import pytest

from tests.helpers.browser import CAPTION, SET, SHOWN, VIEWER
from tests.helpers.webpage import CAT, DROP, READY, START, moved
from tests.helpers.webserver import TOKEN, serving

LINK = "() => document.querySelector('textarea[aria-label*=link]').value"


@pytest.fixture(scope="module")
def address(tiny_scope):
    with serving(tiny_scope) as (made, _):
        yield made


@pytest.fixture(scope="module")
def app(chromium, address):
    with chromium.opened(f"{address}/?token={TOKEN}", own=address) as made:
        made.wait(START)
        made.evaluate(DROP, moved(CAT))
        made.wait(READY)
        yield made
        assert [one for one in made.troubles if "404" not in one] == []


def test_a_link_opens_its_state_in_another_tab(app):
    app.evaluate(SET, {"source": "query", "query": 7, "layer": 1, "head": 0, "panel": "save"})
    app.wait(CAPTION, "What patch 1,2 looks at · layer 1, head 0")
    other = app.page.context.new_page()
    other.goto(app.evaluate(LINK))
    other.wait_for_selector(".vs-caption >> text=What patch 1,2 looks at · layer 1, head 0")
    assert np.allclose(other.evaluate(SHOWN), app.evaluate(SHOWN))
    other.close()


@pytest.mark.slow
def test_back_and_forward_lead_through_start_page_and_views(chromium, address):
    with chromium.opened(f"{address}/?token={TOKEN}", own=address) as made:
        seen, start = made.page.wait_for_selector, ".vw-samples button"
        made.wait(START)
        made.evaluate(DROP, moved(CAT))
        made.wait(READY)
        made.evaluate(SET, {"source": "query", "query": 7, "layer": 1})
        made.wait("() => location.hash.includes('layer')")
        made.page.go_back()
        seen(start)
        made.page.go_forward()
        seen(".vs-caption >> text=What patch 1,2 looks at · layer 1")
        made.click(".vw-above button", "Another photo")
        seen(start)
        made.page.go_back()
        seen(".vs-caption >> text=What patch 1,2 looks at · layer 1")
        made.page.go_forward()
        seen(start)
        assert made.evaluate("() => document.querySelector('main').hidden")
        assert made.troubles == []


def test_a_reload_keeps_layer_mask_and_a_further_map(app):
    app.evaluate("""() => {
        const [method, target] = document.querySelectorAll('.vs-more select');
        [method.value, target.value] = ['gradcam', 'kite'];
        method.dispatchEvent(new Event('change'));
    }""")
    app.click(".vs-more button")
    app.wait(f"() => {VIEWER}.ctx.scene.entry?.target === 'kite' && {VIEWER}.ctx.scene.entry.more")
    drawn = app.evaluate(SHOWN)
    app.evaluate(SET, {"hidden": [3, 4], "layer": 1})
    app.wait("() => location.hash.includes('hidden') && location.hash.includes('more')")
    app.page.reload()
    app.wait(READY)
    app.wait(f"() => {VIEWER}.ctx.scene.entry?.target === 'kite'")
    assert np.allclose(app.evaluate(SHOWN), drawn)
    assert app.evaluate(f"() => [{VIEWER}.state.hidden, {VIEWER}.state.layer]") == [[3, 4], 1]
    app.wait("() => /2 patches hidden/.test(document.querySelector('.vs-masked').textContent)")
    app.evaluate(SET, {"hidden": []})


def test_a_link_to_a_view_that_is_gone_says_so(app, address):
    other = app.page.context.new_page()
    other.goto(f"{address}/#view=nothing&layer=1")
    assert "not on the server" in other.wait_for_selector(".vw-error").inner_text()
    other.close()


@pytest.mark.slow
def test_an_address_without_its_token_is_a_page_that_says_what_to_do(chromium, address):
    with chromium.opened(f"{address}/", own=address) as made:
        assert "This address needs its token" in made.text("main")
        assert "terminal where vitscope serve runs" in made.text("main")
        assert made.evaluate("() => getComputedStyle(document.querySelector('main')).maxWidth") == "620px"
    request = urllib.request.Request(f"{address}/", headers={"accept": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    with refused.value as answer:
        assert answer.code == 401
        assert answer.headers["content-type"] == "application/json"
