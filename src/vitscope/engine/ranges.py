"""The ranges of options that can be checked without torch, before a model is loaded."""

from typing import Any

import numpy as np

from vitscope._messages import msg
from vitscope.errors import UsageError


def check_size(size: Any) -> None:
    """Raise a UsageError for an input size that is neither None nor an integer between 16 and 8192."""
    if size is not None and not (is_integer(size) and 16 <= size <= 8192):
        raise UsageError(
            msg("engine.size", "{@size} is an integer between 16 and 8192 pixels, not {size}", size=repr(size))
        )


def check_batch_size(images: Any) -> None:
    """Raise a UsageError for a number of images in one forward that is no integer of at least 1."""
    if not (is_integer(images) and images >= 1):
        raise UsageError(
            msg(
                "engine.batch-size",
                "{@batch_size} is an integer of at least 1, not {batch_size}",
                batch_size=repr(images),
            )
        )


def is_integer(value: object) -> bool:
    """Return whether a value is an integer, and no boolean."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
