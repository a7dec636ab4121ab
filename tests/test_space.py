"""The Hugging Face Space: its files, and its one function, where gradio is installed (too heavy for the test group)."""

import html
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SPACE = Path(__file__).parent.parent / "examples" / "space"


def test_the_front_matter_names_what_is_there():
    words = (SPACE / "README.md").read_text("utf-8")
    (front,) = re.findall(r"\A---\n(.*?)\n---\n", words, re.DOTALL)
    told = dict(line.split(": ", 1) for line in front.splitlines())
    assert told["sdk"] == "gradio"
    assert (SPACE / told["app_file"]).is_file()
    assert re.fullmatch(r"\d+\.\d+\.\d+", told["sdk_version"])
    assert len(told["short_description"]) <= 60  # what the Hub takes
    assert (SPACE / "requirements.txt").read_text("utf-8").split() == ["vitscope"]


@pytest.fixture
def space(monkeypatch, tiny_folder):
    """The app, with a tiny model."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install gradio")
    monkeypatch.setenv("VITSCOPE_MODEL", str(tiny_folder))
    spec = importlib.util.spec_from_file_location("space_app", SPACE / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")
def test_a_photo_becomes_the_viewer_in_a_closed_frame(space):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))
    shown = space.look(photo)
    (inside,) = re.findall(r'srcdoc="([^"]*)"', shown)
    assert 'sandbox="allow-scripts allow-downloads"' in shown
    assert html.unescape(inside).lower().startswith("<!doctype html>")
    assert "tabby" in html.unescape(inside)
    assert space.demo.analytics_enabled is False
    with pytest.raises(space.gr.Error, match="photo first"):
        space.look(None)
