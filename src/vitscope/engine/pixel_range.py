"""Says of pixels that they cannot come from the model's own preprocessing: numbers that were never normalised."""

from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope._messages import Message, msg
from vitscope.images import grey_picture
from vitscope.models.base import ModelAdapter

_TRIED = (64, 64)
_BEYOND = 1.0  # of the range that the preprocessing makes: so far above or below it, pixels are of another scale
_BELOW = -0.25  # what black becomes, at most, where numbers within 0..1 stand out
_CHOSEN = {"models.preprocessing-chosen", "models.preprocessing-inside", "models.processor-default"}

_limits: WeakKeyDictionary[ModelAdapter, tuple[float, float] | None] = WeakKeyDictionary()


def range_notes(adapter: ModelAdapter, image: Float[Tensor, "C Hi Wi"]) -> Iterator[Message]:
    """Say of an image's pixels that they are of another scale than the model's preprocessing makes.

    What black and what white become is tried once for each adapter. Pixels may go beyond it by as much as lies between
    the two, so that noise and other normalisations pass. Where black becomes less than zero, pixels that are all within
    0..1 are a bright photo at best; that is said only of a preprocessing that comes with the model.
    """
    if (limits := _limits_of(adapter)) is None or not bool(image.isfinite().all()):
        return
    black, white = limits
    low, high, reach = float(image.detach().min()), float(image.detach().max()), _BEYOND * (white - black)
    said = {"low": f"{low:.4g}", "high": f"{high:.4g}", "black": f"{black:.4g}", "white": f"{white:.4g}"}
    if low < black - reach or high > white + reach:
        yield msg(
            "engine.pixels-beyond",
            "the pixels go from {low} to {high}, and the model's own preprocessing makes {black} to {white}: were they "
            "normalised for it?",
            **said,
        )
    elif low >= 0 and high <= 1 and black < _BELOW and not _CHOSEN & {getattr(n, "code", "") for n in adapter.notes}:
        yield msg(
            "engine.pixels-not-normalised",
            "all pixels lie within 0 to 1 ({low} to {high}), and the model's own preprocessing makes {black} to "
            "{white}: were they normalised for it?",
            **said,
        )


def _limits_of(adapter: ModelAdapter) -> tuple[float, float] | None:
    """Return the least number that black becomes and the greatest that white does; None where that says nothing."""
    if adapter not in _limits:
        _limits[adapter] = None
        if type(adapter).blank is ModelAdapter.blank:  # of photos
            try:
                ends = [adapter.prepare(grey_picture(_TRIED, adapter.bands, value))[0] for value in (0, 255)]
            except Exception:  # a processor of the caller that takes no flat image, or of which no region is measured
                return None
            black, white = (torch.stack([one.flatten(1).median(1).values for one in ends])).aminmax(dim=1)
            low, high = float(black[0]), float(white[1])
            if low < high < float("inf") and low > float("-inf"):
                _limits[adapter] = (low, high)
    return _limits[adapter]
