"""Which tensor of a model's output is its answer: the only one, the one that its name states, or the caller's choice.

The rule in words, and what is refused, is in `docs/what-is-explained.md`.
"""

import dataclasses
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitscope._messages import msg
from vitscope.errors import LayoutError, UnknownNameError, UsageError, first_line
from vitscope.geometry import TokenLayout
from vitscope.models.options import Output

log = logging.getLogger(__name__)

_NAMED = ("logits", "image_embeds", "pooler_output", "last_hidden_state", "image_features", "x_norm_clstoken")
_SIDE = re.compile(r"(^|\.)(\w*_)?(loss|losses|loss_dict|hidden_states|attentions|past_key_values)($|[.\[])")
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(-?[0-9]{1,9})\]")
_DEEP = 4
_LISTED = 12
_SHOWN = 8
_READ = 1e-3  # of the answer, less is rounding


class AnswerReader:
    """Reads the answer from each output of one model, always at the place where the first output had it.

    Args:
        chosen: the caller's choice: a name such as `logits` or `feature_maps[1]`, an index, or a function; or None.

    Attributes:
        path: where the answer stands, such as `logits`, `[0]` or `feature_maps[1]`; empty for an output that is a
            tensor; None before the first output, and with a function.
        shape: the shape of the last answer read.
    """

    def __init__(self, chosen: Output | None = None) -> None:
        self.chosen = chosen
        self.path: str | None = None
        self.shape: tuple[int, ...] = ()

    def __call__(self, output: Any, images: int = 1) -> Tensor:
        """Return the answer `(B, ...)`: at least one number for each of `images` images.

        Raises:
            UsageError: several tensors can be meant, or the caller's choice is no tensor of floats.
            UnknownNameError: the caller's choice is not in the output.
            LayoutError: the output holds no tensor.
        """
        if callable(self.chosen):
            made = self._by_function(output)
            if not isinstance(made, Tensor):
                kind = type(made).__name__
                raise UsageError(
                    msg("models.output-not-a-tensor", "{@output} returned a {kind}, not a tensor", kind=kind),
                    msg("models.output-not-a-tensor.hint", "pass a function from the model's output to one tensor"),
                )
            answer = made
        else:
            if self.path is None:
                self.path = _find(output, self.chosen, images)
                log.debug("answer: %s of a %s", self.path or "the output itself", type(output).__name__)
            answer = _tensor(_follow(output, self.path), images)
        if not answer.is_floating_point():
            raise UsageError.coded(
                "models.whole-numbers",
                "the model answers with {dtype}, not with scores",
                "pass the model before it chooses a class by {function}",
                dtype=answer.dtype,
                function="argmax",
            )
        answer = _with_images(answer, images)
        if images == 1 < len(answer) and not self.shape:  # later, tokens of many images can be put after one's pixels
            raise UsageError.coded(
                "models.answer-rows",
                "the model answers with {rows} rows ({shape}) for one image",
                msg("models.one-number.hint", "an answer has one row for each image"),
                rows=len(answer),
                shape=" x ".join(map(str, answer.shape)),
            )
        self.shape = tuple(answer.shape)
        return answer

    def _by_function(self, output: Any) -> Any:
        assert callable(self.chosen)
        if self.shape:  # it worked before: what fails now is no fault of the function
            return self.chosen(output)
        try:
            return self.chosen(output)
        except Exception as error:  # whatever the caller's function raises
            problem = msg(
                "models.output-function-failed",
                "the function of {@output} failed on the model's output, a {kind}: {reason}",
                kind=type(output).__name__,
                reason=first_line(error),
            )
            listed = ", ".join(_listed(dict(_tensors(output))))
            hint = msg(
                "models.output-function-failed.hint", "the output holds {choices}", choices=listed or "no tensor"
            )
            raise UsageError(problem, hint) from error

    @property
    def name(self) -> str:
        """What the answer is called."""
        if callable(self.chosen):
            return getattr(self.chosen, "__name__", type(self.chosen).__name__)
        return self.path or ""


def answer_of(output: Any, images: int = 1) -> Tensor:
    """Return the tensor of one output that is its answer; the errors are those of AnswerReader."""
    return AnswerReader()(output, images)


def tokens_read(layout: TokenLayout, readout: np.ndarray | None = None) -> str:
    """Say which tokens an answer is made of, with their shares.

    Args:
        layout: which token is which.
        readout: how much of each token is read; by default what the layout says.
    """
    if layout.pooling == "map":
        return msg("models.reads.pooling", "by attention pooling")
    shares = layout.readout() if readout is None else readout / readout.sum()
    prefix = len(layout.prefix)
    parts: list[tuple[str, float]] = list(zip(layout.prefix, shares[:prefix].tolist(), strict=True))
    parts.append((msg("models.reads.patches", "patches"), float(shares[prefix:].sum())))
    listed = [f"{name} {share:.0%}" for name, share in parts if share > _READ]
    return ", ".join(listed if len(listed) < _SHOWN else [*listed[:3], "...", listed[-1]])


def _find(output: Any, chosen: Any, images: int) -> str:
    """Return the path of the answer."""
    start, inside = "", output
    if chosen is not None:
        start = chosen if isinstance(chosen, str) else f"[{chosen}]"
        try:
            inside = _follow(output, start)
        except (KeyError, IndexError):
            if isinstance(output, Tensor):
                problem = msg("models.output-is-a-tensor", "the model answers with one tensor, which has no parts")
                raise UsageError(problem, msg("models.output-is-a-tensor.hint", "leave {@output} out")) from None
            kind = msg("models.part-of-the-output", "part of this model's output")
            raise UnknownNameError(
                kind, str(chosen), [_written(path).strip("'") for path, _ in _tensors(output)]
            ) from None
    found = dict(_tensors(inside, start))
    if start in found:
        return start
    if not start:
        for name in _NAMED:
            part = _parts(inside).get(name)
            if isinstance(part, Tensor) or _is_row_of_images(name, part, images):
                return name
    elif _is_row_of_images(start, inside, images):
        return start
    found = {path: t for path, t in found.items() if t.is_floating_point()}
    main = {path: t for path, t in found.items() if not _SIDE.search(path[len(start) :])} or found
    main = {path: t for path, t in main.items() if t.ndim and len(t) == images} or main
    main = _without_derived(main)
    if not main:
        raise LayoutError.coded(
            "models.answer-without-tensor",
            "the model answers with a {kind}, which holds no known tensor",
            kind=type(inside).__name__,
        )
    if len(main) > 1:
        raise _several(main)
    return next(iter(main))


def _without_derived(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without attention weights, and without what is a softmax or sigmoid of another one of them."""
    kept = {path: t for path, t in found.items() if not _is_attention(t)} or found
    derived = {
        path
        for path, t in kept.items()
        for other in kept.values()
        if other is not t and t.ndim > 1 and t.shape == other.shape and _is_chances_of(t, other)
    }
    return {path: t for path, t in kept.items() if path not in derived}


def _is_attention(t: Tensor) -> bool:
    """Return whether a tensor `(..., N, N)` or `(B, H, N, M)` has rows that sum to one, as attention weights do."""
    if t.ndim < 3 or t.shape[-1] < 2 or (t.ndim == 3 and t.shape[-1] != t.shape[-2]):
        return False
    rows = t.detach().float()
    return bool((rows >= 0).all()) and torch.allclose(rows.sum(-1), rows.new_ones(()), atol=1e-2)


def _is_chances_of(t: Tensor, scores: Tensor) -> bool:
    numbers, scores = t.detach().float(), scores.detach().float()
    return any(torch.allclose(numbers, made, atol=1e-3) for made in (scores.softmax(1), scores.sigmoid()))


def _several(found: Mapping[str, Tensor]) -> UsageError:
    """Make the error for an output of which several tensors can be meant."""
    listed = _listed(found)
    first = _written(next(iter(found)))
    return UsageError.coded(
        "models.several-answers",
        "the model answers with {count} tensors, and which of them is to be explained is not known: {choices}",
        "choose one of them, such as {@output={first}}",
        count=len(found),
        choices=", ".join(listed),
        first=first,
    )


def _listed(found: Mapping[str, Tensor]) -> list[str]:
    """Write tensors as `output=` takes them, with their shapes; of many, the first ones and the last."""
    listed = [
        f"{_written(path) if path else 'one tensor'} ({' x '.join(map(str, t.shape)) or '1'})"
        for path, t in found.items()
    ]
    return listed if len(listed) <= _LISTED else [*listed[: _LISTED - 1], "...", listed[-1]]


def _parts(value: Any) -> dict[str | int, Any]:
    """Return what a container holds, by name or by index; empty for what is none."""
    if isinstance(value, Mapping):
        return dict(value.items())
    if isinstance(value, (tuple, list)):
        names = getattr(value, "_fields", range(len(value)))
        return dict(zip(names, value, strict=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, (Tensor, nn.Module, type)) or callable(value):
        return {}
    return {name: part for name, part in getattr(value, "__dict__", {}).items() if not name.startswith("_")}


def _tensors(value: Any, path: str = "", depth: int = _DEEP) -> Iterator[tuple[str, Tensor]]:
    """Iterate over the tensors in nested containers, each with its path."""
    if isinstance(value, Tensor):
        yield path, value
    elif depth:
        for key, part in _parts(value).items():
            step = f"[{key}]" if isinstance(key, int) else f".{key}" if path else str(key)
            yield from _tensors(part, path + step, depth - 1)


def _follow(output: Any, path: str) -> Any:
    """Return what stands at a path; raise a KeyError or an IndexError where nothing does."""
    parts = _parts(output)
    if not path or path in parts:
        return parts[path] if path else output
    step = _STEP.match(path)
    if step is None:
        raise KeyError(path)
    name, index = step.groups()
    if name is not None and name not in parts and re.fullmatch(r"-?[0-9]{1,9}", name):
        name, index = None, name
    if name is None:
        key = int(index)
        inside = parts[key] if key in parts else [part for part in parts.values() if part is not None][key]
    else:
        inside = parts[name]
    return _follow(inside, path[step.end() :].removeprefix("."))


def _is_row_of_images(name: str, part: Any, images: int) -> bool:
    """Return whether a part lists one table of tokens for each image, as the image features of LLaVA do."""
    return (
        name == "pooler_output"
        and isinstance(part, (list, tuple))
        and len(part) == images
        and all(isinstance(t, Tensor) and t.ndim == 2 and t.shape == part[0].shape for t in part)
    )


def _tensor(part: Any, images: int) -> Tensor:
    return part if isinstance(part, Tensor) else torch.stack(list(part))


def _with_images(answer: Tensor, images: int) -> Tensor:
    """Return an answer with an axis of images first and numbers after it, which models of one number may lack."""
    if answer.ndim < 2 and images == 1 and (answer.ndim == 0 or len(answer) != 1):
        answer = answer[None]  # squeezed: all numbers are those of the one image
    if answer.ndim == 0:
        problem = msg("models.one-number", "the answer is one number for {count} images together", count=images)
        raise UsageError(problem, msg("models.one-number.hint", "an answer has one row for each image"))
    return answer[:, None] if answer.ndim == 1 else answer


def _written(path: str) -> str:
    """Write a path as a value of `output=` that Python and a shell understand."""
    found = re.fullmatch(r"\[(-?[0-9]{1,9})\]", path)
    return found[1] if found else repr(path)
