"""Thin images: what a processor makes of one is bounded before it is made.

A processor that brings the short side to 224 pixels makes 500 million pixels of an image of 20000 x 2. What it does
inside is its own affair, but each usual way to make a larger image goes through one of a few functions of Pillow, numpy
and torch. While a thin image is prepared, their sizes are checked on this thread before they run.
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from vitscope._messages import msg
from vitscope.errors import ImageError
from vitscope.images import Picture

_THIN = 16  # times as long as wide
_MOST_MADE, _MOST_INPUT = 16_000_000, 4_000_000  # pixels that are made of it on the way, and that the model gets


@contextmanager
def bounded(picture: Picture) -> Iterator[None]:
    """Refuse, within the `with` and on this thread, to make far more pixels of a thin image than it has.

    Raises:
        ImageError: at the first such step.
    """
    width, height = picture.size
    if max(width, height) < _THIN * min(width, height):
        yield
        return

    def check(made: tuple[int, ...]) -> None:
        _check(picture, made, _MOST_MADE)

    with _WATCH.by(check), _TorchWatch(check):
        yield


def check_made(picture: Picture, pixels: torch.Tensor) -> None:
    """Raise an ImageError where the pixels that the model gets of a thin image are far more than it has."""
    width, height = picture.size
    if max(width, height) >= _THIN * min(width, height):
        _check(picture, tuple(pixels.shape[-2:]), _MOST_INPUT)


def _check(picture: Picture, made: tuple[int, ...], most: int) -> None:
    width, height = picture.size
    if math.prod(made) <= max(most, width * height):
        return
    problem = msg(
        "models.thin-image",
        "{source} is thin: {size} pixels become {made} on their way to the model, more than {limit} million",
        source=picture.name,
        size=f"{width} x {height}",
        made=" x ".join(map(str, made[::-1])),
        limit=f"{most / 1e6:g}",
    )
    raise ImageError(problem, msg("models.thin-image.hint", "crop it, or pad its short side"))


class _TorchWatch(TorchFunctionMode):
    """Checks what torch resizes and pads; a mode holds on its own thread only."""

    def __init__(self, check: Callable[[tuple[int, ...]], None]) -> None:
        super().__init__()
        self._check = check

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        sizes: dict[Any, Callable[..., tuple[int, ...]]] = {
            functional.interpolate: _interpolated,
            functional.pad: _padded,
        }
        size = sizes.get(func)
        if size is not None:
            named = {"image" if name == "input" else name: value for name, value in kwargs.items()}
            self._check(size(*args, **named))
        return func(*args, **kwargs)


def _interpolated(
    image: torch.Tensor, size: Any = None, scale_factor: Any = None, *_: Any, **__: Any
) -> tuple[int, ...]:
    before = image.shape[2:]
    if size is not None:
        return tuple(int(n) for n in size) if hasattr(size, "__len__") else (int(size),) * len(before)
    factors = scale_factor if hasattr(scale_factor, "__len__") else (scale_factor,) * len(before)
    return tuple(int(n * float(factor)) for n, factor in zip(before, factors, strict=False))


def _padded(image: torch.Tensor, pad: Any, *_: Any, **__: Any) -> tuple[int, ...]:
    sides = [*pad, 0, 0, 0, 0]
    return (image.shape[-2] + sides[2] + sides[3], image.shape[-1] + sides[0] + sides[1])


def _resized_by_pillow(_image: Any, size: Any, *_: Any, **__: Any) -> tuple[int, ...]:
    return int(size[1]), int(size[0])


def _new_of_pillow(_mode: Any, size: Any, *_: Any, **__: Any) -> tuple[int, ...]:
    return int(size[1]), int(size[0])


def _padded_by_numpy(array: Any, pad_width: Any, *_: Any, **__: Any) -> tuple[int, ...]:
    shape = np.shape(array)
    width = np.broadcast_to(np.asarray(pad_width), (len(shape), 2)).sum(1)
    return tuple(sorted(int(n + more) for n, more in zip(shape, width, strict=True))[-2:])  # without the colours


class _Watch:
    """Checks what functions of Pillow and numpy make, on the threads that ask for it; for all others they are the same.

    They belong to the process: the first thread that asks replaces them, and the last one puts them back.
    """

    _watched = (
        (Image.Image, "resize", _resized_by_pillow),
        (Image, "new", _new_of_pillow),
        (np, "pad", _padded_by_numpy),
    )

    def __init__(self) -> None:
        self._lock, self._inside, self._own = threading.Lock(), 0, threading.local()
        self._before: list[Any] = []

    @contextmanager
    def by(self, check: Callable[[tuple[int, ...]], None]) -> Iterator[None]:
        outer = getattr(self._own, "check", None)
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._before = [getattr(owner, name) for owner, name, _ in self._watched]
                for (owner, name, size), function in zip(self._watched, self._before, strict=True):
                    setattr(owner, name, self._checked(function, size))
        try:
            self._own.check = check
            yield
        finally:
            self._own.check = outer
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    for (owner, name, _), function in zip(self._watched, self._before, strict=True):
                        setattr(owner, name, function)

    def _checked(self, function: Callable[..., Any], size: Callable[..., tuple[int, ...]]) -> Callable[..., Any]:
        def checked(*args: Any, **kwargs: Any) -> Any:
            if (check := getattr(self._own, "check", None)) is not None:
                try:
                    made = size(*args, **kwargs)
                except Exception:  # arguments of another kind are the function's own to refuse
                    made = ()
                if made:
                    check(made)
            return function(*args, **kwargs)

        return checked


_WATCH = _Watch()
