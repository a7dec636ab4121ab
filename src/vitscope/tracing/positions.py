"""Whether a model fits its position embeddings to an input of another size than it was built for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vitscope._messages import Message, msg
from vitscope.tracing.rules import plain_name
from vitscope.tracing.token_tensor import parameter_names, tensors_in

_TAKING = frozenset({"getitem", "narrow", "split", "split_with_sizes", "chunk", "select", "index_select", "unbind"})
_CUT = 0.9  # of a row of patches: fewer unused embeddings are those of tokens that the model leaves out, such as CLS
_RESIZING = frozenset({"interpolate", "upsample", "upsample_bilinear", "upsample_nearest", "grid_sample"})


def interpolated(own: tuple[int, ...], used: tuple[int, ...]) -> Message:
    """Say that position embeddings of one grid were interpolated to another."""
    return msg(
        "tracing.note-interpolated",
        "the model's position embeddings are for another input size: they are interpolated from {own} to {used}",
        own=" x ".join(map(str, own)),
        used=" x ".join(map(str, used)),
    )


@dataclass
class PositionWatch:
    """What a run of a model does to tables of its own, told by the functions that get no token.

    Attributes:
        resized: the grids before and after the first table that is interpolated.
        parts: for each parameter that is named after positions, how many rows it has, and those that were taken.
    """

    resized: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    parts: dict[int, tuple[int, set[int]]] = field(default_factory=dict)

    def see(self, name: str, args: Any, result: Any, names: Mapping[int, str]) -> None:
        """Look at one call of a torch function.

        Args:
            name: of the function.
            args: its arguments, no token among them.
            result: what it returned.
            names: parameter names by storage.
        """
        table = args[0] if args else None
        if not isinstance(table, Tensor) or not table.is_floating_point():
            return
        if (
            name in _RESIZING
            and isinstance(result, Tensor)
            and table.ndim > 2
            and table.shape[2:] != result.shape[2:]
            and self.resized is None
        ):
            self.resized = tuple(table.shape[2:]), tuple(result.shape[2:])
        known = names.get(table.untyped_storage().data_ptr(), "").rpartition(".")[2].lower()
        if name in _TAKING and table.ndim in (2, 3) and "pos" in known and "rel" not in known:
            rows = torch.arange(table.shape[-2])
            taken = rows[:, None].expand(table.shape)[args[1]] if name == "getitem" else rows  # else all, to be sure
            self.parts.setdefault(table.data_ptr(), (len(rows), set()))[1].update(taken.flatten().tolist())

    def notes(self) -> tuple[Message, ...]:
        """Return what a reader must know; empty for a model at the size that it was built for."""
        if self.resized is not None:
            return (interpolated(*self.resized),)
        for rows, taken in self.parts.values():
            if rows - len(taken) > _CUT * rows**0.5:
                return (
                    msg(
                        "tracing.note-cut",
                        "the model's position embeddings are for another input size: {used} of {rows} are used, some "
                        "of them at other places",
                        used=len(taken),
                        rows=rows,
                    ),
                )
        return ()


class PositionMode(TorchFunctionMode):
    """Shows a watch what a model with frozen parameters does without the pixels, which have a graph.

    Args:
        watch: that is told.
        model: whose parameters have names.
    """

    def __init__(self, watch: PositionWatch, model: nn.Module) -> None:
        super().__init__()
        self._watch, self._names = watch, parameter_names(model)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not any(tensor.requires_grad for tensor in tensors_in((args, kwargs))):
            self._watch.see(plain_name(func), args, result, self._names)
        return result
