"""The gallery's live viewers: three frames in one page, from disk, without a network."""

import importlib.util
import re
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "viewers.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("viewers", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_three_viewers_live_in_one_page(example, chromium, tiny_scope, tmp_path):
    index = example.build(tiny_scope, tmp_path)
    text = index.read_text("utf-8")
    assert "http" not in text
    frames = re.findall(r'<iframe title="([^"]+)" src="(\w+\.html)#', text)
    assert len(frames) == 3
    with chromium.opened(index.as_uri()) as made:
        for region in made.page.frames[1:]:
            region.wait_for_function("() => document.querySelector('main')?.viewer?.ctx.scene")
        kind = "() => document.querySelector('main').viewer.ctx.scene.kind"
        scenes = [one.evaluate(kind) for one in made.page.frames[1:]]
        other = made.page.frames[-1].evaluate("() => document.querySelectorAll('.vs-half').length")
        assert (scenes, other, made.troubles) == (["map", "query", "map"], 2, [])
