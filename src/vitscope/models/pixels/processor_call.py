"""Calling a processor, whatever it takes and returns: pixels `(C, Hi, Wi)` come out."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from vitscope._messages import msg
from vitscope.attention.model_modes import plain_defaults
from vitscope.errors import ImageError, LayoutError, first_line

log = logging.getLogger(__name__)

_NAMES = ("pixel_values", "image", "images", "pixels", "inputs", "input", "img", "x")
_CHANNELS_LAST = (1, 3, 4)
_HINT = msg(
    "models.processor-shape.hint", "pass a function from a Pillow image, or from an array (H, W, 3), to such pixels"
)


class ProcessorCall:
    """A processor as a function of an 8-bit image.

    Args:
        process: a function of a Pillow image, of an array `(H, W, 3)`, of `image=` such an array (albumentations), or
            of a float tensor `(1, 3, H, W)` in [0, 1] (kornia). It returns pixels: a tensor or an array `(C, Hi, Wi)`
            or `(1, C, Hi, Wi)`, an array `(Hi, Wi, C)`, or a dictionary or list that holds one of them.
    """

    def __init__(self, process: Callable[..., Any]) -> None:
        self.process = process
        self._convention: Callable[[UInt8[np.ndarray, "H W 3"]], Any] | None = None

    @plain_defaults
    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[Tensor, "C Hi Wi"]:
        """Return the pixels of an image; whole numbers as floats, unchanged.

        Raises:
            LayoutError: the processor takes no image in any of these ways, or returns something else.
        """
        if self._convention is None:
            self._convention = self._find(image)
        return _pixels(self._convention(image))

    def _find(self, image: UInt8[np.ndarray, "H W 3"]) -> Callable[[UInt8[np.ndarray, "H W 3"]], Any]:
        """Return the first way to call the processor that works."""
        failures: list[Exception] = []
        ways: dict[str, Callable[[UInt8[np.ndarray, "H W 3"]], Any]] = {
            "a Pillow image": lambda a: self.process(Image.fromarray(a)),
            "an array": lambda a: self.process(a.copy()),
            "image= an array": lambda a: self.process(image=a.copy()),
            "a tensor": lambda a: self.process(torch.from_numpy(a.copy()).permute(2, 0, 1)[None].float() / 255),
        }
        for name, call in ways.items():
            try:
                _pixels(call(image))
            except ImageError:  # an image that is refused
                raise
            except Exception as error:  # whatever a function raises for an argument of another kind
                failures.append(error)
            else:
                log.debug("the processor is called with %s", name)
                return call
        kinds = (TypeError, LookupError, AttributeError)  # of arguments that it does not take in this way
        failure = next((error for error in failures if not isinstance(error, kinds)), failures[0])
        if isinstance(failure, LayoutError):
            raise failure
        problem = msg(
            "models.processor-failed",
            "the processor takes neither a Pillow image nor an array nor a tensor: {reason}",
            reason=first_line(failure),
        )
        raise LayoutError(problem, _HINT) from failure


def _pixels(made: Any) -> Tensor:
    """Return the pixels in what a processor returned."""
    found = _held(made)
    if isinstance(found, (Tensor, np.ndarray)):
        if found.ndim == 4 and len(found) > 1:
            raise LayoutError.coded(
                "models.processor-crops",
                "the processor made {count} images of one: a map belongs to a single input of the model",
                "pass a processor that makes one, such as the centre crop alone",
                count=len(found),
            )
        found = found[0] if found.ndim == 4 else found
        if isinstance(found, np.ndarray):
            last = found.ndim == 3 and found.shape[2] in _CHANNELS_LAST and found.shape[0] not in _CHANNELS_LAST
            found = torch.from_numpy(np.ascontiguousarray(found.transpose(2, 0, 1) if last else found))
        if found.ndim == 3 and found.numel() and not (found.is_complex() or found.dtype == torch.bool):
            pixels: Tensor = found.detach().as_subclass(Tensor).cpu()
            return pixels if pixels.is_floating_point() else pixels.float()
    shape = tuple(found.shape) if hasattr(found, "shape") else ()
    kind = getattr(found, "dtype", type(found).__name__)
    problem = msg(
        "models.processor-shape",
        "the processor made {shape} of {dtype}, expected pixels (channels, height, width)",
        shape=shape,
        dtype=kind,
    )
    raise LayoutError(problem, _HINT)


def _held(made: Any) -> Any:
    """Return the array or tensor that a dictionary or a list of one holds."""
    while True:
        if isinstance(made, Mapping) or (hasattr(made, "get") and hasattr(made, "keys")):
            name = next((name for name in _NAMES if name in made), None)
            if name is None and len(made) != 1:
                return made
            made = made[name] if name else next(iter(made.values()))
        elif isinstance(made, Image.Image):
            return made
        elif isinstance(made, (list, tuple)):
            if len(made) != 1:
                arrays = [part for part in made if isinstance(part, (Tensor, np.ndarray))]
                same = len(arrays) == len(made) and len({tuple(part.shape) for part in arrays}) == 1
                return torch.stack([torch.as_tensor(part) for part in arrays]) if same and arrays[0].ndim == 3 else made
            made = made[0]
        else:
            return made
