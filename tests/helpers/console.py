"""The command line in tests: what it writes, and inputs that go wrong."""

import json
import os
import subprocess
import sysconfig
import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitscope.methods.base import METHODS

Ran = namedtuple("Ran", "code out err")
SCRIPT = Path(sysconfig.get_path("scripts")) / "vitscope"
FILES = {"manifest.json", "arrays.npz", "overlay.png", "heat.png", "map.png", "photo.jpg"}
LABELS = {"tabby", "<b>hound</b>", "teapot", "kite", "[red]robin[/]", "fox", "ant"}
METHOD_NAMES = [name for name, _ in METHODS]
QUICK = [name for name, method in METHODS if method.quick]


def one_line(text):
    """The line, without its end; fails on none, several or a traceback."""
    assert "Traceback" not in text
    assert text.endswith("\n")
    [line] = text.splitlines()
    assert line.startswith("vitscope: ")
    return line


def mentions(text, fragments):
    """Whether the one line has all of these, written `a…b`: an error's sentence is its author's, its facts are not."""
    line = one_line(text)
    return all(fragment in line for fragment in fragments.split("…"))


def names(folder):
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text("utf-8"))


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


# --- bad input -------------------------------------------------------------------------------------------------------


def damaged(path, kind):
    """Make a bad input of this kind at `path`."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("Dear diary")
    elif kind == "truncated":
        noise.save(path, "JPEG")
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "bomb":
        header = b"IHDR" + (100_000).to_bytes(4) * 2 + b"\x08\x02\0\0\0"
        path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + zlib.crc32(header).to_bytes(4) + b"\0\0\0\0IDAT")
    elif kind == "one pixel":
        noise.resize((1, 1)).save(path, "PNG")
    elif kind == "floats":
        Image.fromarray(np.full((9, 9), 1.5, np.float32)).save(path, "TIFF")


def on_a_terminal(*command, **environment):
    """What a command writes to a pseudo-terminal that is its stdout and stderr."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLORTERM")}
    child = subprocess.Popen(
        command, stdout=theirs, stderr=theirs, stdin=theirs, env=clean | {"TERM": "xterm-256color"} | environment
    )
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert child.wait(30) == 0
    return said.decode()


# --- the real entry points -------------------------------------------------------------------------------------------


def process(*command, **environment):
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | environment,
    )
