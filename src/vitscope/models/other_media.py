"""Why a model failed on pixels: it takes clips, volumes or sounds that no adapter knows, another size, or more."""

import re

from torch import nn

from vitscope._messages import Message, msg
from vitscope.errors import LayoutError
from vitscope.models.pixels.bands import first_convolution
from vitscope.models.pixels.preprocessing import NeedsMoreError, pixels_refused, refuses_size
from vitscope.models.transformers.types import VIDEO_TYPES
from vitscope.tracing.records import CAPTURE_HINT

_SOUNDS = {"input_values", "input_features"}  # as transformers calls what its audio models take
_FIVE_AXES = re.compile(r"expected 5, got [34]|[Ee]xpected 5D")


def failure_on_pixels(model: nn.Module, size: tuple[int, int], error: Exception) -> LayoutError | None:
    """Return the error for a model that failed on pixels of its own size; None for a failure of its own making.

    Args:
        model: the module.
        size: height and width of the pixels.
        error: what it raised.
    """
    if (other := other_medium(model, error)) is not None:
        return other
    if refuses_size(error):
        return pixels_refused(size, error)
    return None if isinstance(error, RuntimeError) else NeedsMoreError(model, error)


def other_medium(model: nn.Module, failure: Exception | None) -> LayoutError | None:
    """Return the error for a model that failed on images because it takes another medium; None where nothing says so.

    Args:
        model: the module.
        failure: what it raised.
    """
    inputs = {str(getattr(part, "main_input_name", "")) for part in model.modules()}
    if inputs & _SOUNDS and "pixel_values" not in inputs:
        return takes_sounds(model)
    deep = isinstance(first_convolution(model), nn.Conv3d)
    types = {str(getattr(getattr(part, "config", None), "model_type", "")) for part in model.modules()}
    if (deep or types & VIDEO_TYPES.keys()) and _FIVE_AXES.search(str(failure)):
        return takes_volumes(model, str(failure))
    if isinstance(failure, (TypeError, LookupError, AttributeError)) or "to unpack" in str(failure):
        return None  # more is missing than an axis
    if not deep:
        return None
    return takes_volumes(model, msg("models.takes-volumes.conv3d", "its first convolution is a Conv3d"))


def takes_sounds(model: nn.Module) -> LayoutError:
    """Make the error for a model of sounds that no adapter knows."""
    return LayoutError.coded(
        "models.takes-sounds",
        "{model} takes sounds, not images",
        "the Audio Spectrogram Transformer of transformers is known, as ASTForAudioClassification or ASTModel; "
        "{capture}",
        model=type(model).__name__,
        capture=CAPTURE_HINT,
    )


def takes_volumes(model: nn.Module, reason: Message | str) -> LayoutError:
    """Make the error for a model of clips or volumes that no adapter knows."""
    return LayoutError.coded(
        "models.takes-volumes",
        "{model} takes clips or volumes (B, C, D, H, W), not images: {reason}",
        "video models of transformers and the ViT of MONAI are known; {capture}",
        model=type(model).__name__,
        reason=reason,
        capture=CAPTURE_HINT,
    )
