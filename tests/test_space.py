"""The Hugging Face Space: its files, and its one function, asked in a process of its own."""

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SPACE = Path(__file__).parent.parent / "examples" / "space"
GRADIO = Path(__file__).parent.parent / ".cache" / "gradio"


def test_the_front_matter_names_what_is_there():
    words = (SPACE / "README.md").read_text("utf-8")
    (front,) = re.findall(r"\A---\n(.*?)\n---\n", words, re.DOTALL)
    told = dict(line.split(": ", 1) for line in front.splitlines())
    assert told["sdk"] == "gradio"
    assert (SPACE / told["app_file"]).is_file()
    assert re.fullmatch(r"\d+\.\d+\.\d+", told["sdk_version"])
    assert len(told["short_description"]) <= 60  # what the Hub takes
    assert (SPACE / "requirements.txt").read_text("utf-8").split() == ["vitscope"]


def asked(script, what, told, **environment):
    """Run a script of the helpers with gradio on the path; what it wrote."""
    if not (GRADIO / "whole").exists() and not os.environ.get("CI"):
        pytest.skip("no gradio on this machine: run tests/helpers/beside.sh")
    paths = os.pathsep.join(filter(None, [str(GRADIO), os.environ.get("PYTHONPATH")]))
    subprocess.run(
        [sys.executable, "-P", Path(__file__).with_name("helpers") / script, what, told],
        check=True,
        env={**os.environ, "PYTHONPATH": paths, **environment},
        timeout=200,
    )
    return json.loads(told.read_text("utf-8"))


@pytest.mark.slow
def test_eight_clients_of_a_gradio_app_get_the_maps_of_one(tmp_path, tiny_folder):
    told = asked("gradio_asked.py", tiny_folder, tmp_path / "told.json")
    assert told == {"asked": 144, "wrong": [], "after": []}


@pytest.mark.slow
def test_a_photo_becomes_the_viewer_in_a_closed_frame(tmp_path, tiny_folder):
    told = asked("space_asked.py", SPACE / "app.py", tmp_path / "told.json", VITSCOPE_MODEL=str(tiny_folder))
    (inside,) = re.findall(r'srcdoc="([^"]*)"', told["shown"])
    assert 'sandbox="allow-scripts allow-downloads"' in told["shown"]
    assert html.unescape(inside).lower().startswith("<!doctype html>")
    assert "tabby" in html.unescape(inside)
    assert told["analytics"] is False
    assert told["nothing"] == "Give me a photo first."
    assert "pixels" in told["too small"]
