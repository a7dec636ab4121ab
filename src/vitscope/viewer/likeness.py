"""Features of a page's tokens in 8 bits, from which the browser computes what is like a patch, and their colours."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from vitscope._messages import Message, msg
from vitscope.attention.transformer_blocks import HiddenStates
from vitscope.engine.engine import Engine
from vitscope.engine.runner import Forward
from vitscope.methods.features import pca_rgb
from vitscope.viewer.packed import Packed

WHAT = msg("viewer.likeness", "what is like a patch")
_LEVELS, _ROWS = 127, 512
_SHARE = 0.2  # of the page's size at most
_NORMED = msg("viewer.features-normed", "tokens after the model's last norm")
_OUTPUT = msg("viewer.features-output", "tokens after the last block, whose output the model does not norm as a whole")


def pack_features(engine: Engine, forward: Forward, max_mb: float | int) -> tuple[dict[str, Any], dict[str, Packed]]:
    """Pack the features of one image's tokens: those that the readout sees, each rounded to 8 bits.

    Args:
        engine: the model.
        forward: of one image, with its tokens.
        max_mb: the size of the page.

    Returns:
        The header's `likeness` and the arrays. `likeness` has `where` (which tokens), `normed` (they are those after
        the model's last norm) and `error` (the largest error of a cosine over all pairs of tokens, against float64);
        `why` is the reason where there are none. `features` is (N, D), prefix first: 128 plus the feature, scaled so
        that each token's largest entry is 127. `pca` is (P, 3), as `colours` returns it.

    Cost: all pairs of tokens twice, N² D each; memory linear in tokens.
    """
    if not isinstance(forward.states, HiddenStates):
        return {"why": engine.supports("hidden-states").reason}, {}
    states, layout = forward.states, forward.store.layout
    assert layout is not None
    normed = states.final is not None
    tokens = states.arrange(states.final) if states.final is not None else forward.tokens()
    exact = tokens[0].detach().double().cpu().numpy()
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    if not (np.isfinite(length).all() and (length > 0).all()):
        return {"why": msg("viewer.features-without-direction", "a token's features are all zero, or not finite")}, {}
    unit = exact / length
    packed = Packed.of(_rounded(unit))
    if packed.nbytes > _SHARE * max_mb * 1e6:
        return {"why": _too_large(packed.nbytes, max_mb)}, {}
    arrays = {"features": packed, "pca": Packed.of(colours([packed], len(layout.prefix))[0])}
    error = _largest_error(unit, directions(packed))
    return {"why": "", "where": _NORMED if normed else _OUTPUT, "normed": normed, "error": error}, arrays


def directions(features: Packed) -> Float[np.ndarray, "N D"]:
    """Return packed features as vectors of length one, in float64."""
    values = features.array().astype(np.float64) - (_LEVELS + 1)
    unit: np.ndarray = values / np.linalg.norm(values, axis=1, keepdims=True)
    return unit


def colours(features: Sequence[Packed], prefix: int) -> list[UInt8[np.ndarray, "P 3"]]:
    """Return a colour for each patch, alike for patches that are alike, in all images together.

    The first three principal components of the directions are red, green and blue, as in `pca_rgb`.
    """
    patches = [directions(one)[prefix:] for one in features]
    together = pca_rgb(np.concatenate(patches), (sum(map(len, patches)), 1)).reshape(-1, 3)
    ends = np.cumsum([len(one) for one in patches])[:-1]
    return np.split(np.round(255 * together).astype(np.uint8), ends)


def _rounded(unit: Float[np.ndarray, "N D"]) -> UInt8[np.ndarray, "N D"]:
    steps: np.ndarray = np.round(unit / np.abs(unit).max(1, keepdims=True) * _LEVELS) + _LEVELS + 1
    return steps.astype(np.uint8)


def _largest_error(exact: Float[np.ndarray, "N D"], rounded: Float[np.ndarray, "N D"]) -> float:
    """Return the largest error of a cosine over all pairs."""
    starts = range(0, len(exact), _ROWS)
    rows = ((exact[i : i + _ROWS] @ exact.T, rounded[i : i + _ROWS] @ rounded.T) for i in starts)
    return float(max(np.abs(one - other).max() for one, other in rows))


def _too_large(nbytes: int, max_mb: float | int) -> Message:
    return msg(
        "viewer.features-too-large",
        "the features take {size} MB, more than a fifth of {most} MB",
        size=f"{nbytes / 1e6:.2g}",
        most=f"{max_mb:.3g}",
    )


def in_same_colours(
    one: Mapping[str, Packed], other: Mapping[str, Packed], prefix: int
) -> tuple[Mapping[str, Packed], Mapping[str, Packed]]:
    """Return the arrays of two photos, in which patches that are alike have the same colour."""
    if "features" not in one or "features" not in other:
        return one, other
    first, second = colours([one["features"], other["features"]], prefix)
    return {**one, "pca": Packed.of(first)}, {**other, "pca": Packed.of(second)}
