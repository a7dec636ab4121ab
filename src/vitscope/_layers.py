"""Choices of layers that people write, such as `3`, `0-11`, `4,7,9` and `last3`: their grammar, without a model."""

import re

from vitscope._messages import msg
from vitscope.errors import UsageError

_PART = re.compile("last(0*[1-9][0-9]{0,8})|(-?[0-9]{1,9})(?:-(-?[0-9]{1,9}))?")


def layer_span(text: str) -> tuple[int, int]:
    """Return the first and the last layer that one part of a choice names; of `last3` these are -3 and -1.

    Raises:
        UsageError: the text has none of the forms, or runs backwards in every model.
    """
    found = _PART.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            msg("attention.not-a-layer", "'{text}' is not a valid choice of layers", text=text.strip()),
            msg("attention.not-a-layer.hint", "write 3, -1, 0-11, -3--1, 4,7,9, last3 or all"),
        )
    count, first, last = found.groups()
    if count is not None:
        return -int(count), -1
    ends = int(first), int(last or first)
    if ends[0] > ends[1] and (ends[0] < 0) == (ends[1] < 0):  # else the number of layers decides
        raise backwards(text.strip(), *ends)
    return ends


def backwards(text: str, first: int, last: int) -> UsageError:
    """Make the error for a choice whose first layer comes after its last."""
    return UsageError(
        msg("attention.layers-backwards", "layers {text} run backwards", text=text),
        msg("attention.layers-backwards.hint", "write the smaller one first: {last}-{first}", first=first, last=last),
    )


def check_layers(text: str) -> None:
    """Raise a UsageError for a text that chooses no layers of any model."""
    if text != "all":
        for part in text.split(","):
            layer_span(part)
