"""Read a file of weights: tensors only, whatever it is wrapped in, and no code of its own is run."""

import hashlib
import logging
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitscope._cached import cached_property
from vitscope._messages import Message, msg
from vitscope.errors import ModelError, first_line
from vitscope.models.weights.foreign_files import refuse_foreign

log = logging.getLogger(__name__)

# where training scripts keep weights in a checkpoint; an average of the weights comes before the weights of the moment
_NESTS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "teacher"),
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params"),
    *("backbone", "encoder", "student"),
)
# modules that wrap others, and add a name of their own to each key, wherever in it
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_UNPICKLER = re.compile(r"(?:WeightsUnpickler error: |with the following error: )(.+)")
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6
_SAVE_STATE = msg(
    "models.weights-pickled.hint",
    "where you trust it, load it in Python with torch.load(file, weights_only=False) and pass the module to "
    "vitscope.load, or save its state_dict()",
)


@dataclass(frozen=True, eq=False)
class WeightsFile:
    """The tensors of a file.

    Attributes:
        path: the file.
        tensors: by name, without the names that compilers and sharding add.
        notes: what was chosen or left out, for the provenance.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    notes: tuple[Message, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the file's bytes."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path: str | Path) -> WeightsFile:
    """Read the weights in a file of safetensors or of `torch.save`, such as a checkpoint of a training script.

    Objects in the file other than tensors and plain values are replaced by empty ones: no class of the file's is
    imported, and none of its code runs.

    Raises:
        ModelError: no such file, a file of another kind, a pickled module, or one without tensors.
    """
    path = Path(path).expanduser()
    refuse_foreign(path)
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] != b"{" and not start.startswith((b"PK", b"\x80")):
        raise _unknown(path, start[:8])
    content = _read_safetensors(path) if start[8:] == b"{" else _read_torch(path)
    tensors, notes = _unnested(path, content)
    plain = {_WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    if plain.keys() != tensors.keys():
        notes.append(
            msg(
                "models.weights-unwrapped",
                "{file}: the names that torch.compile or FSDP adds are left out",
                file=path.name,
            )
        )
    log.debug("%s: %d tensors", path, len(plain))
    return WeightsFile(path, plain, tuple(notes))


def _read_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # truncated files, headers that are none
        raise _broken(path, error) from error


def _read_torch(path: Path) -> Any:
    from torch.serialization import safe_globals

    _check_sums(path)
    stand_ins: dict[str, type] = {}
    while True:
        try:
            with safe_globals([(kind, name) for name, kind in stand_ins.items()]):
                content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a class that is not loaded, bytes that are no pickle, a truncated archive
            found = _GLOBAL.search(str(error))
            if found is None:
                raise _broken(path, error) from error
            if found[1] in stand_ins:  # of a module that torch lets nothing stand for
                raise _needs_class(path, found[1]) from error
            stand_ins[found[1]] = type(found[1], (_Inert,), {})
        else:
            break
    if isinstance(content, _Inert):
        raise _pickled(path, type(content).__name__)
    return content


def _check_sums(path: Path) -> None:
    """Raise a ModelError where a part of an archive is not what was written; torch reads past that."""
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, zlib.error, NotImplementedError):  # the older format; torch says why
        return
    if part is not None:
        raise ModelError(
            msg("models.weights-damaged", "{file} is damaged: {part} is not what was written", file=path, part=part),
            msg("models.weights-damaged.hint", "get the file again: its checksums differ from its contents"),
        )


class _Inert:
    """An object in the place of one whose class is not imported; it takes whatever the file gives it."""

    def __new__(cls, *_args: Any, **_options: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _unnested(path: Path, content: Any) -> tuple[dict[str, Tensor], list[Message]]:
    """Return the tensors in a checkpoint, and notes on where they lay and what else was there."""
    place: list[str] = []
    notes: list[Message] = []
    while isinstance(content, Mapping) and not _is_state(content):
        nests = [name for name in _NESTS if _holds_tensors(content.get(name))]
        if not nests:
            break
        pickled = next((name for name in _NESTS if isinstance(content.get(name), _Inert)), None)
        place.append(nests[0])
        if len(nests) > 1:
            others = ", ".join(repr(name) for name in nests[1:])
            notes.append(
                msg(
                    "models.weights-chosen",
                    "{file} has several sets of weights: '{chosen}' was taken, not {others}",
                    file=path.name,
                    chosen=nests[0],
                    others=others,
                )
            )
        if pickled:
            log.debug("%s: %s is a pickled object, and is left out", path, pickled)
        content = content[nests[0]]
    if isinstance(content, Tensor) or not isinstance(content, Mapping) or not _is_state(content):
        raise _no_weights(path, content)
    if place:
        notes.append(
            msg("models.weights-nested", "{file}: weights taken from {place}", file=path.name, place=".".join(place))
        )
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}, notes


def _is_state(content: Mapping[Any, Any]) -> bool:
    """Return whether a mapping is a state dict: names to tensors, perhaps with plain values among them."""
    tensors = sum(isinstance(value, Tensor) for value in content.values())
    return tensors > 0 and not any(_holds_tensors(value) for value in content.values())


def _holds_tensors(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    return any(isinstance(one, Tensor) or _holds_tensors(one) for one in value.values())


def _parts(content: Any) -> Iterator[str]:
    if isinstance(content, Mapping):
        for name, value in list(content.items())[:8]:
            kind = type(value).__name__
            yield f"{name} ({'object of ' + kind if isinstance(value, _Inert) else kind})"
    elif isinstance(content, (list, tuple)):
        yield from sorted({type(value).__name__ for value in content[:8]})


def _no_weights(path: Path, content: Any) -> ModelError:
    if isinstance(content, Mapping):
        pickled = next((value for name in _NESTS if isinstance(value := content.get(name), _Inert)), None)
        if pickled is not None:
            return _pickled(path, type(pickled).__name__)
    return ModelError.coded(
        "models.weights-none",
        "{file} holds no state dict: it is a {kind} of {parts}",
        "write one with torch.save(model.state_dict(), file)",
        file=path,
        kind=type(content).__name__,
        parts=", ".join(_parts(content)) or "nothing",
    )


def _pickled(path: Path, name: str) -> ModelError:
    return ModelError.coded(
        "models.weights-pickled",
        "{file} is a pickled object of the class {name}, not a state dict: to read it would run that class's code",
        _SAVE_STATE,
        file=path,
        name=name,
    )


def _needs_class(path: Path, name: str) -> ModelError:
    return ModelError.coded(
        "models.weights-class",
        "{file} holds an object of {name}, which is not loaded: to read it would run code that the file chooses",
        _SAVE_STATE,
        file=path,
        name=name,
    )


def _broken(path: Path, error: Exception) -> ModelError:
    with path.open("rb") as file:
        start = file.read(len(_LEGACY))
    if start.startswith(b"\x80") and start != _LEGACY:
        return ModelError.coded(
            "models.weights-pickle",
            "{file} is a pickle of Python objects not of torch.save: to read it would run code that it chooses",
            _SAVE_STATE,
            file=path,
        )
    found = _UNPICKLER.search(str(error))
    return ModelError.coded(
        "models.weights-broken",
        "{file} cannot be read as weights: {reason}",
        "the file is damaged or incomplete, or torch.save did not write it",
        file=path,
        reason=found[1] if found else first_line(error),
    )


def _unknown(path: Path, start: bytes) -> ModelError:
    return ModelError.coded(
        "models.weights-unknown",
        "{file} is no file of safetensors or torch.save: it starts with {start}",
        "{@weights} takes such files, with the tensors of a state dict",
        file=path,
        start=repr(start),
    )
