"""Put the tensors of a file into a model: every parameter, or an error that names those that do not fit."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vitscope._messages import Message, msg
from vitscope.errors import ModelError
from vitscope.models.weights.weights_file import WeightsFile

log = logging.getLogger(__name__)

_LISTED = 4
# what training keeps beside the model's weights; no answer depends on it
_OF_TRAINING = (
    "criterion.",
    "loss.",
    "loss_fn.",
    "loss_fct.",
    "train_",
    "val_",
    "valid_",
    "test_",
    "model_ema.",
    "ema.",
)


@dataclass(frozen=True, eq=False)
class Matched:
    """Tensors under a model's own names.

    Attributes:
        tensors: by name.
        notes: the prefix that was taken off, and what was left out.
    """

    tensors: Mapping[str, Tensor]
    notes: tuple[Message, ...]


def match(weights: WeightsFile, names: Mapping[str, Tensor]) -> Matched:
    """Take off what a wrapper put before all names of a file, found by comparison with a model's names.

    Args:
        weights: the file.
        names: the model's state dict; its tensors may be of other shapes, or on the meta device.
    """
    votes = Counter(prefix for name in weights.tensors for prefix in _prefixes(name) if name[len(prefix) :] in names)
    if not votes:
        return Matched(weights.tensors, ())
    most = max(votes.values())
    prefix = min((p for p, count in votes.items() if count == most), key=len)
    found = {name.removeprefix(prefix): tensor for name, tensor in weights.tensors.items() if name.startswith(prefix)}
    rest = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith(prefix)}
    beside = {name for name in rest if name.startswith(_OF_TRAINING)}
    found |= {name: tensor for name, tensor in rest.items() if name not in beside}
    notes = []
    if prefix:
        notes.append(
            msg(
                "models.weights-prefix",
                "{file}: the prefix '{prefix}' of its names is left out",
                file=weights.path.name,
                prefix=prefix,
            )
        )
    if beside:
        notes.append(
            msg(
                "models.weights-of-training",
                "{file}: {count} tensors that only training needs are left out, such as {name}",
                file=weights.path.name,
                count=len(beside),
                name=min(beside),
            )
        )
    log.debug("%s: prefix %r, %d tensors of training", weights.path, prefix, len(beside))
    return Matched(found, tuple(notes))


def fill(model: nn.Module, tensors: Mapping[str, Tensor], weights: WeightsFile, name: str) -> None:
    """Load tensors into a model of which they are all.

    Args:
        model: the model.
        tensors: by the model's own names.
        weights: the file that they came from, for errors.
        name: how the model was named.

    Raises:
        ModelError: parameters that the file lacks, tensors that the model has no place for, other shapes, or numbers
            that are none, such as those of quantised weights.
    """
    own = model.state_dict()
    shapes = [key for key in own if key in tensors and own[key].shape != tensors[key].shape]
    if shapes:
        key = shapes[0]
        raise ModelError.coded(
            "models.weights-shape",
            "{count} weights of {file} are not of {model}'s shapes, such as {key}: {seen} in the file, {expected} "
            "in the model",
            _OTHER_ARCHITECTURE,
            count=len(shapes),
            file=weights.path,
            model=name,
            key=key,
            seen=tuple(tensors[key].shape),
            expected=tuple(own[key].shape),
        )
    for key, tensor in tensors.items():
        if key in own and own[key].is_floating_point() and not _holds_numbers(tensor):
            kind = "meta" if tensor.is_meta else tensor.dtype if tensor.layout == torch.strided else tensor.layout
            raise ModelError.coded(
                "models.weights-kind",
                "{key} in {file} is no plain tensor of floating-point numbers, as {model} has it: {kind}",
                "write the state dict of the model in float32; quantised weights need the library that made them",
                key=key,
                file=weights.path,
                model=name,
                kind=str(kind),
            )
    missing = [key for key in own if key not in tensors and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in tensors if key not in own]
    if missing or unexpected:
        hint = _own_head(own, missing, unexpected, name) or _OTHER_ARCHITECTURE
        raise ModelError(_difference(weights.path, name, missing, unexpected), hint)
    model.load_state_dict(dict(tensors), strict=False)


_OTHER_ARCHITECTURE = msg(
    "models.weights-differ.hint",
    "name the architecture that the weights are of; a model of your own is built in Python and passed to vitscope.load",
)


def _own_head(own: Mapping[str, Tensor], missing: list[str], unexpected: list[str], name: str) -> Message | None:
    """Return the hint for a file of a class of one's own: all of this model but its head, and a head beside it."""
    lacking, beyond = ({key.partition(".")[0] for key in keys} for keys in (missing, unexpected))
    last = list(own)[-1].partition(".")[0]
    headless = not missing or any(own[key].ndim == 2 for key in missing)
    if (
        not beyond
        or not headless
        or not lacking <= {last}
        or beyond & {key.partition(".")[0] for key in own if key not in missing}
    ):
        return None
    return msg(
        "models.weights-own-head.hint",
        "the rest is of {model}: {parts} belongs to a class of your own that has {model} inside; build that class in "
        "Python, load the file into it and pass it to vitscope.load, which uses the preprocessing of {model}",
        model=name,
        parts=", ".join(sorted(beyond)),
    )


def _holds_numbers(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_quantized)


def _prefixes(name: str) -> list[str]:
    """Return the beginnings of a dotted name, the empty one included."""
    parts = name.split(".")
    return [".".join(parts[:count]) + "." if count else "" for count in range(len(parts))]


def _difference(path: Path, name: str, missing: list[str], unexpected: list[str]) -> Message:
    if missing and unexpected:
        return msg(
            "models.weights-differ",
            "{file} is not of {model}: {missing} are missing, {unexpected} have no place in it",
            file=path,
            model=name,
            missing=_listed(missing),
            unexpected=_listed(unexpected),
        )
    if missing:
        return msg(
            "models.weights-lack",
            "{file} lacks parameters of {model}: {names}",
            file=path,
            model=name,
            names=_listed(missing),
        )
    return msg(
        "models.weights-beyond",
        "{file} has weights that have no place in {model}: {names}",
        file=path,
        model=name,
        names=_listed(unexpected),
    )


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED
    listed = ", ".join(names[:_LISTED])
    return f"{listed} + {more}" if more > 0 else listed
