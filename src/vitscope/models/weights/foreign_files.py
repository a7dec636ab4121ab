"""Files and folders of other frameworks: what each is, and how its weights reach PyTorch."""

from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from vitscope._messages import Message, msg
from vitscope.errors import ModelError

WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".tar", ".pkl", ".pickle", ".th")
_START = 64


def refuse_foreign(path: Path) -> None:
    """Raise a ModelError for a path that is no file of PyTorch weights, by its first bytes.

    Raises:
        ModelError: what the file is, and what to do.
    """
    if not path.is_file():
        raise ModelError(
            msg("models.no-such-weights", "{path} is not a file", path=path)
            if path.exists()
            else msg("models.weights-not-there", "the file of weights {path} does not exist", path=path),
            msg("models.no-such-weights.hint", "{@weights} expects a file such as best.pth or model.safetensors"),
        )
    try:
        with path.open("rb") as file:
            start = file.read(_START)
    except OSError as error:
        raise ModelError.coded(
            "models.weights-unreadable", "{path} cannot be read: {reason}", path=path, reason=error.strerror or error
        ) from error
    for matches, kind, hint in _KINDS:
        if matches(start, path):
            raise ModelError(msg("models.foreign-file", "{path} is {kind}", path=path, kind=kind), hint)


def foreign_folder(folder: Path) -> ModelError:
    """Make the error for a folder that has no model of transformers or timm: what is in it, and what to do."""
    names = sorted(one.name for one in folder.iterdir())
    for pattern, kind, hint in _FOLDERS:
        if any(Path(name).match(pattern) for name in names):
            return ModelError(msg("models.foreign-folder", "{path} holds {kind}", path=folder, kind=kind), hint)
    weights = [name for name in names if name.endswith((".pth", ".pt", ".safetensors", ".ckpt", ".bin"))]
    if weights:
        return ModelError.coded(
            "models.folder-without-config",
            "the folder {path} has weights ({name}), but no config.json that says which model they are of",
            "name the architecture: {@model=timm:NAME} (or a folder with its config), {@weights={file}}",
            path=folder,
            name=weights[0],
            file=folder / weights[0],
        )
    checkpoints = [one.name for one in sorted(folder.iterdir()) if (one / "config.json").is_file()]
    if checkpoints:
        return ModelError.coded(
            "models.folder-of-folders",
            "the folder {path} has no config.json, but {count} folders in it have, such as {name}",
            "use {@model={folder}}",
            path=folder,
            count=len(checkpoints),
            name=checkpoints[-1],
            folder=folder / checkpoints[-1],
        )
    return ModelError(
        msg("models.folder-empty", "the folder {path} has no config.json and no weights", path=folder),
        msg("models.folder-empty.hint", "use a folder that save_pretrained wrote"),
    )


def _starts(*beginnings: bytes) -> Callable[[bytes, Path], bool]:
    return lambda start, _path: start.startswith(beginnings)


def _named(*suffixes: str) -> Callable[[bytes, Path], bool]:
    return lambda _start, path: path.name.lower().endswith(suffixes)


def _archive_with(*members: str) -> Callable[[bytes, Path], bool]:
    """Return a test for zip archives that have one of these members, at any depth."""

    def test(start: bytes, path: Path) -> bool:
        if not start.startswith(b"PK"):
            return False
        try:
            with ZipFile(path) as archive:
                return any(name.endswith(members) for name in archive.namelist())
        except (BadZipFile, OSError):
            return False

    return test


_TO_PYTORCH: Message = msg(
    "models.foreign-file.hint",
    "convert it to PyTorch, such as with transformers' from_pretrained and save_pretrained, and use that folder",
)
_ONNX = msg("models.foreign-onnx", "a graph of ONNX, whose attention cannot be captured")
_ONNX_HINT = msg(
    "models.foreign-onnx.hint", "use the PyTorch model that it was exported from, {@model=timm:NAME} and its {@weights}"
)
_KERAS = msg("models.foreign-keras", "a file of Keras or TensorFlow")
_FLAX = msg("models.foreign-flax", "a file of Flax or JAX")
_FETCH = msg("models.foreign-pointer.hint", "fetch the file itself: git lfs pull")
_KINDS: tuple[tuple[Callable[[bytes, Path], bool], Message, Message], ...] = (
    (
        lambda start, _path: not start,
        msg("models.foreign-empty", "empty"),
        msg("models.foreign-empty.hint", "get the file again: a download or a copy did not finish"),
    ),
    (
        _starts(b"version https://git-lfs"),
        msg("models.foreign-pointer", "a pointer of Git LFS, not the weights"),
        _FETCH,
    ),
    (
        lambda start, _path: start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")),
        msg("models.foreign-html", "a web page, not weights"),
        msg("models.foreign-html.hint", "download the file itself, not the page about it"),
    ),
    (
        _starts(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF"),
        msg("models.foreign-image", "an image, not a model"),
        msg("models.foreign-image.hint", "name a model, and give the image to explain"),
    ),
    (_starts(b"\x89HDF"), _KERAS, _TO_PYTORCH),
    (_archive_with("model.weights.h5", "saved_model.pb"), _KERAS, _TO_PYTORCH),
    (_named(".keras", ".h5", ".hdf5", ".pb", ".index", ".data-00000-of-00001"), _KERAS, _TO_PYTORCH),
    (
        lambda start, _path: start[4:8] == b"TFL3",
        msg("models.foreign-tflite", "a model of TensorFlow Lite"),
        _TO_PYTORCH,
    ),
    (_named(".msgpack"), _FLAX, _TO_PYTORCH),
    (_named(".npz", ".npy"), msg("models.foreign-npz", "arrays of NumPy, as JAX models are kept"), _TO_PYTORCH),
    (_named(".onnx"), _ONNX, _ONNX_HINT),
    (
        _starts(b"GGUF"),
        msg("models.foreign-gguf", "a file of GGUF, whose weights are quantised for llama.cpp"),
        msg("models.foreign-gguf.hint", "use the folder with safetensors that it was made from"),
    ),
    (
        _archive_with("constants.pkl"),
        msg("models.foreign-torchscript", "a program of TorchScript, whose attention cannot be captured"),
        msg(
            "models.foreign-torchscript.hint",
            "use the Python model that it was made from; torch.jit.load(file).state_dict() has its weights",
        ),
    ),
    (
        _archive_with("/archive_format"),
        msg("models.foreign-export", "a program of torch.export, whose attention cannot be captured"),
        msg(
            "models.foreign-export.hint",
            "use the Python model that it was made from; torch.export.load(file).state_dict has its weights",
        ),
    ),
    (
        _starts(b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!"),
        msg("models.foreign-packed", "a packed archive"),
        msg("models.foreign-packed.hint", "unpack it and use the file of weights in it"),
    ),
    (
        _starts(b"{"),
        msg("models.foreign-json", "text, such as an index of weights in several files"),
        msg("models.foreign-json.hint", "use the folder: {@model} takes one with config.json and its weights"),
    ),
)
_FOLDERS: tuple[tuple[str, Message, Message], ...] = (
    ("saved_model.pb", msg("models.foreign-saved-model", "a SavedModel of TensorFlow"), _TO_PYTORCH),
    (
        "*.distcp",
        msg("models.foreign-sharded", "a checkpoint in shards of torch.distributed"),
        msg(
            "models.foreign-sharded.hint",
            "join them (python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER whole.pth), and "
            "name the architecture: {@model=timm:NAME} (or a folder with its config), {@weights=whole.pth}",
        ),
    ),
    ("*.h5", _KERAS, _TO_PYTORCH),
    ("*.msgpack", _FLAX, _TO_PYTORCH),
    ("*.onnx", _ONNX, _ONNX_HINT),
    ("*.gguf", msg("models.foreign-gguf", "a file of GGUF, whose weights are quantised for llama.cpp"), _TO_PYTORCH),
)
