"""Files of weights: what is read of them, what is refused, and that none of their code runs."""

import argparse
import hashlib
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import vitscope
from tests.helpers.errors import raises
from tests.models.toys_files import timm_model
from vitscope.errors import ModelError
from vitscope.models.weights.weights_file import read_weights
from vitscope.models.weights.weights_match import fill, match

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Config:
    """A class of the training script's own."""

    def __init__(self):
        self.rate = 0.1


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (STATE, None),
        ({"state_dict": STATE, "epoch": 3, "hyper_parameters": {"lr": 0.1}}, "state_dict"),
        (
            {
                "model": STATE,
                "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}},
                "args": argparse.Namespace(lr=1),
            },
            "model",
        ),
        ({"model": {"state_dict": STATE}}, "model.state_dict"),
        ({"student": {"a.weight": torch.zeros(2, 3)}, "teacher": STATE}, "teacher"),
        ({"state_dict": {"a.weight": torch.zeros(2, 3)}, "state_dict_ema": STATE}, "state_dict_ema"),
        ({"net": STATE, "acc": np.float64(91.5), "config": Config()}, "net"),
    ],
    ids=["plain", "lightning", "args", "nested", "teacher", "ema", "objects"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "before 1.6"])
def test_the_tensors_of_a_checkpoint(tmp_path, content, place, zipped):
    file = tmp_path / "best.pth"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    weights = read_weights(file)
    assert weights.tensors.keys() == STATE.keys()
    assert all(torch.equal(weights.tensors[name], STATE[name]) for name in STATE)
    places = [note.params["place"] for note in weights.notes if note.code == "models.weights-nested"]
    assert places == ([place] if place else [])
    assert weights.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_one_of_several_sets_is_named(tmp_path):
    torch.save({"model": STATE, "model_ema": STATE}, tmp_path / "b.pth")
    (note, _) = read_weights(tmp_path / "b.pth").notes
    assert (note.code, note.params["chosen"], note.params["others"]) == (
        "models.weights-chosen",
        "model_ema",
        "'model'",
    )


def test_safetensors_under_any_name(tmp_path):
    save_file(STATE, tmp_path / "weights.bin")
    assert torch.equal(read_weights(tmp_path / "weights.bin").tensors["a.weight"], STATE["a.weight"])


def test_names_of_compilers_and_sharding_are_left_out(tmp_path):
    torch.save({"_orig_mod.a._fsdp_wrapped_module.weight": torch.ones(1)}, tmp_path / "c.pth")
    weights = read_weights(tmp_path / "c.pth")
    assert list(weights.tensors) == ["a.weight"]
    assert [note.code for note in weights.notes] == ["models.weights-unwrapped"]


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model.backbone.", "net._orig_mod."])
def test_the_prefix_of_all_names_is_found(tmp_path, prefix):
    torch.save({prefix + name: tensor for name, tensor in STATE.items()}, tmp_path / "p.pth")
    matched = match(read_weights(tmp_path / "p.pth"), STATE)
    assert matched.tensors.keys() == STATE.keys()
    said = [note.params["prefix"] for note in matched.notes]
    assert said == ([prefix.replace("_orig_mod.", "")] if prefix else [])


def test_what_only_training_needs_is_left_out_and_said(tmp_path):
    content = {f"model.{name}": tensor for name, tensor in STATE.items()} | {"criterion.weight": torch.ones(3)}
    torch.save({"state_dict": content}, tmp_path / "l.ckpt")
    matched = match(read_weights(tmp_path / "l.ckpt"), STATE)
    assert matched.tensors.keys() == STATE.keys()
    assert [note.code for note in matched.notes] == ["models.weights-prefix", "models.weights-of-training"]


def test_no_code_of_a_file_runs(tmp_path):
    marker = tmp_path / "ran"
    torch.save({"state_dict": STATE, "x": Evil(marker)}, tmp_path / "evil.pth")
    with raises(ModelError, "models.weights-class"):
        read_weights(tmp_path / "evil.pth")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil(marker)))
    with raises(ModelError, "models.weights-pickle"):
        read_weights(tmp_path / "evil.pkl")
    assert not marker.exists()


def test_a_pickled_module_is_refused_by_its_class(tmp_path):
    torch.save(timm_model(), tmp_path / "whole.pt")
    with raises(ModelError, "models.weights-pickled", "models.weights-pickled.hint") as caught:
        read_weights(tmp_path / "whole.pt")
    assert caught.value.message.params["name"] == "timm.models.vision_transformer.VisionTransformer"
    torch.save({"model": timm_model(), "epoch": 3}, tmp_path / "nested.pt")
    with raises(ModelError, "models.weights-pickled"):
        read_weights(tmp_path / "nested.pt")


FOREIGN = {
    "a.onnx": (b"\x08\x07\x12", "onnx"),
    "b.h5": (b"\x89HDF\r\n\x1a\n", "keras"),
    "c.pth": (b"\x89HDF\r\n\x1a\n", "keras"),
    "d.gguf": (b"GGUF\3\0\0\0", "gguf"),
    "e.pth": (b"", "empty"),
    "f.safetensors": (b"version https://git-lfs.github.com/spec/v1\n", "pointer"),
    "g.pth": (b"<!DOCTYPE html><html>", "html"),
    "h.msgpack": (b"\x81\xa6", "flax"),
    "i.npz": (b"PK\3\4", "npz"),
    "j.tflite": (b"\0\0\0\0TFL3", "tflite"),
    "k.pth.tar": (b"\x1f\x8b\x08", "packed"),
    "l.json": (b'{"weight_map": {}}', "json"),
    "m.png": (b"\x89PNG\r\n\x1a\n", "image"),
    "n.jpg": (b"\xff\xd8\xff\xe0\0\x10JFIF", "image"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_kinds_are_named(tmp_path, name):
    content, kind = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    with raises(ModelError, "models.foreign-file") as caught:
        read_weights(tmp_path / name)
    assert caught.value.message.params["kind"].code == f"models.foreign-{kind}"
    assert caught.value.hint


def test_programs_of_torchscript_are_named(tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.rand(1, 2)).save(tmp_path / "m.pt")
    with raises(ModelError, "models.foreign-file") as caught:
        read_weights(tmp_path / "m.pt")
    assert caught.value.message.params["kind"].code == "models.foreign-torchscript"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")  # torch 2.10, of its own file
def test_programs_of_torch_export_are_named_and_their_weights_can_be_taken_out(tmp_path):
    model = timm_model()
    exported = torch.export.export(model, (torch.rand(1, 3, 64, 64),))
    torch.export.save(exported, tmp_path / "m.pt2")
    with raises(ModelError, "models.foreign-file") as caught:
        read_weights(tmp_path / "m.pt2")
    assert caught.value.message.params["kind"].code == "models.foreign-export"
    weights = torch.export.load(tmp_path / "m.pt2").state_dict  # as the hint says
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"hello, world", "models.weights-unknown"), (b"PK\3\4 and no more", "models.weights-broken")],
)
def test_files_that_are_none_are_refused(tmp_path, content, code):
    (tmp_path / "x.pth").write_bytes(content)
    with raises(ModelError, code):
        read_weights(tmp_path / "x.pth")
    with raises(ModelError, "models.weights-not-there"):
        read_weights(tmp_path / "y.pth")
    with raises(ModelError, "models.no-such-weights"):
        read_weights(tmp_path)


def test_a_truncated_file_and_one_without_tensors(tmp_path):
    torch.save(STATE, tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes((tmp_path / "x.pth").read_bytes()[:-300])
    with raises(ModelError, "models.weights-broken"):
        read_weights(tmp_path / "x.pth")
    for content in ({"a": [1, 2]}, torch.ones(3), [1], {}):
        torch.save(content, tmp_path / "n.pth")
        with raises(ModelError, "models.weights-none"):
            read_weights(tmp_path / "n.pth")


def test_what_was_chosen_in_a_file_is_in_the_provenance(tmp_path):
    model = timm_model()
    state = model.state_dict()
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    torch.save(
        {"state_dict": zeros, "state_dict_ema": {f"_orig_mod.{k}": v for k, v in state.items()}}, tmp_path / "x.pth"
    )
    scope = vitscope.load("timm:vit_tiny_patch16_224", weights=tmp_path / "x.pth")
    assert torch.equal(scope.model.head.weight, model.head.weight)
    codes = [note.code for note in scope.adapter.notes]
    assert {"models.weights-chosen", "models.weights-nested", "models.weights-unwrapped"} <= set(codes)


@pytest.mark.parametrize("place", [0.3, 0.5, 0.9])
def test_one_byte_that_differs_is_found(tmp_path, place):
    """torch.load reads another number there, and says nothing."""
    path = tmp_path / "best.pth"
    torch.save(timm_model().state_dict(), path)
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 0x40
    path.write_bytes(content)
    with raises(ModelError, "models.weights-damaged", "models.weights-damaged.hint"):
        read_weights(path)


KINDS = {
    "int8": lambda weight: (weight * 100).to(torch.int8),
    "complex": lambda weight: weight.to(torch.complex64) * 1j,
    "sparse": lambda weight: weight.to_sparse(),
    "meta": lambda weight: weight.to("meta"),
}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_are_no_weights_are_refused(tmp_path, kind):
    """load_state_dict would cast them: another model with the same names."""
    model = timm_model()
    state = dict(model.state_dict())
    state["head.weight"] = KINDS[kind](state["head.weight"])
    torch.save(state, tmp_path / "best.pth")
    weights = read_weights(tmp_path / "best.pth")
    with raises(ModelError, "models.weights-kind", "models.weights-kind.hint"):
        fill(model, weights.tensors, weights, "timm:tiny")
