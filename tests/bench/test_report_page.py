"""The report of a bench as a person opens it: a file in a browser without a network, nothing loaded, nothing broken."""

import os

import pytest

from tests.helpers.benchmarks import pair
from tests.helpers.browser import AXE, RULES, VIOLATIONS, texts
from vitscope.bench.benchmark import make_benchmark, run_benchmark
from vitscope.bench.runner import PRIORS, method_specs

pytestmark = pytest.mark.slow  # test_report.py looks at the same page without a browser
METHODS = ("attention", "rollout:layers=last2")
IMAGES = """async () => Promise.all([...document.images].map(async (one) => {
    await one.decode();
    const surface = new OffscreenCanvas(one.naturalWidth, one.naturalHeight);
    const context = surface.getContext('2d');
    context.drawImage(one, 0, 0);
    const { data } = context.getImageData(0, 0, surface.width, surface.height);
    const { x, right, width } = one.getBoundingClientRect();
    return { alt: one.alt, plot: one.className === 'plot', colours: new Set(new Uint32Array(data.buffer)).size,
        width, inside: x >= 0 && right <= document.documentElement.clientWidth };
}))"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
LEAVING = """() => [...performance.getEntriesByType('resource').map((one) => one.name),
    ...[...document.querySelectorAll('script, link, iframe, object, embed')].map((one) => one.outerHTML)]
    .filter((one) => !one.startsWith('data:'))"""


@pytest.fixture(scope="module")
def made(tiny_scope, tmp_path_factory):
    """Three scenes, four rows, cost included: the longest page there is."""
    out = tmp_path_factory.mktemp("bench")
    benchmark = make_benchmark(tiny_scope, "speed", count=3, size=64)
    return run_benchmark(tiny_scope, benchmark, method_specs(tiny_scope, METHODS, pair), out), out / "report.html"


@pytest.fixture
def page(browser, made):
    with browser.opened(made[1].as_uri(), size=(1280, 900)) as page:
        yield page
        assert page.troubles == []


def test_tables_plots_and_worst_cases_are_there(page, made):
    summary, _ = made
    assert page.evaluate(LEAVING) == []
    rows = texts(page, "table:first-of-type tbody tr td:first-child")[: len(summary.scores)]
    assert sorted(rows) == sorted(
        {s.method if s.resolved in ("", s.method) else s.method + s.resolved for s in summary.scores}
    )
    assert {row for row in rows if row in PRIORS} == set(PRIORS)
    cells = [" ".join(cell.split()) for cell in texts(page, "table:first-of-type tbody td")]
    for score in summary.scores:
        ap = f"{score.numbers['ap'].value:.3f}".removeprefix("0")
        assert any(cell.startswith(ap) for cell in cells), f"{score.method}: {ap}"
    images = page.evaluate(IMAGES)
    plots, worst = ([one for one in images if one["plot"] is kind] for kind in (True, False))
    assert [one["alt"] for one in plots] == ["every number with its interval", "accuracy against cost"]
    assert len(worst) == 3 * len(texts(page, "h3")) == 9
    assert all(one["colours"] > 50 and one["width"] > 150 for one in images)
    assert [one["alt"].split(":")[0] for one in worst[:2]] == ["the right answer, outlined", METHODS[0]]
    assert f"Lowest scores of {METHODS[0]}" in texts(page, "h2")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out(page, width):
    page.resize(width, 800)
    assert page.evaluate(OVERFLOW) == 0
    assert all(one["inside"] for one in page.evaluate(IMAGES))


def test_axe_finds_nothing(page):
    if not AXE.exists() and not os.environ.get("CI"):
        pytest.skip("axe-core is not here: tests/helpers/browsers.sh fetches it where there is npm")
    page.evaluate(f"() => {{ {AXE.read_text('utf-8')} }}")
    found = page.evaluate(VIOLATIONS, RULES)
    assert found["violations"] == []
    assert found["passes"] > 5
