"""Asks the Space's app: python space_asked.py app.py OUT.json, with gradio on the path."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

app, out = map(Path, sys.argv[1:])
spec = importlib.util.spec_from_file_location("space_app", app)
space = importlib.util.module_from_spec(spec)
spec.loader.exec_module(space)


def refused(photo):
    try:
        space.look(photo)
    except space.gr.Error as error:
        return error.message
    return None


pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
told = {
    "shown": space.look(Image.fromarray(pixels)),
    "analytics": space.demo.analytics_enabled,
    "nothing": refused(None),
    "too small": refused(Image.new("RGB", (0, 5))),
}
out.write_text(json.dumps(told), "utf-8")
