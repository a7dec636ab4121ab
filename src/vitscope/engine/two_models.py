"""Two models on one image: whether their layers and patches can be compared, and how far apart they are."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vitscope.attention.transformer_blocks import HiddenStates
from vitscope.engine.engine import Engine
from vitscope.engine.runner import alone
from vitscope.errors import UnsupportedError
from vitscope.geometry import ImageRegion
from vitscope.images import ImageLike
from vitscope.metrics.layer_distance import LayerDistances, layer_distances

_APART = 0.5  # of a patch, by which the same patches of two models may lie apart


@dataclass(frozen=True, eq=False)
class _Tokens:
    grid: tuple[int, int]
    region: ImageRegion
    layers: list[Float[np.ndarray, "P D"]]


def compare_layers(one: Engine, other: Engine, image: ImageLike, size: int | None = None) -> LayerDistances:
    """Measure how far two models' patch tokens of one image are apart, block by block.

    Args:
        one: a model.
        other: another, such as the checkpoint that it was trained on from.
        image: as for `Scope.explain`.
        size: input size of both, as in `Options`.

    Raises:
        UnsupportedError: they have not equally many blocks, their patches do not lie on the same places, or the tokens
            between blocks are not known.

    Cost: a forward of each.
    """
    picture = one.adapter.load(image)
    names = one.adapter.reference, other.adapter.reference
    first, second = _tokens(one, picture, size), _tokens(other, picture, size)
    if len(first.layers) != len(second.layers):
        raise UnsupportedError.coded(
            "engine.depths-differ",
            "{one} has {n} blocks and {other} {m}: no layer of one belongs to a layer of the other",
            one=names[0],
            n=len(first.layers),
            other=names[1],
            m=len(second.layers),
        )
    if not same_patches(first.grid, first.region, second.grid, second.region):
        raise UnsupportedError.coded(
            "engine.patches-differ",
            "patches do not lie on the same places of the image: {rows} x {columns} of {one}, {down} x {right} of "
            "{other}",
            "a {@size=} at which both have the same grid can help",
            one=names[0],
            rows=first.grid[0],
            columns=first.grid[1],
            other=names[1],
            down=second.grid[0],
            right=second.grid[1],
        )
    return layer_distances(names, first.layers, second.layers)


def same_patches(grid: tuple[int, int], region: ImageRegion, other: tuple[int, int], beside: ImageRegion) -> bool:
    """Answer whether the patches of two models lie on the same places of an image, to half a patch."""
    if grid != other:
        return False
    box, boxed = region.cells or region.box, beside.cells or beside.box
    steps = [(box[2] - box[0]) / grid[1], (box[3] - box[1]) / grid[0]] * 2
    return all(abs(a - b) <= _APART * step for a, b, step in zip(box, boxed, steps, strict=True))


@alone
def _tokens(engine: Engine, image: ImageLike, size: int | None) -> _Tokens:
    if not (support := engine.supports("hidden-states")):
        raise UnsupportedError.coded(
            "engine.no-tokens",
            "the tokens of {model} between its layers are not known: {reason}",
            model=engine.adapter.reference,
            reason=support.reason,
        )
    ready = engine.prepare(image, size=size)
    forward = engine.forward(ready.pixels[None], tokens=True)
    states, layout = forward.states, forward.store.layout
    assert isinstance(states, HiddenStates)
    assert layout is not None
    first = len(layout.prefix)
    layers = [states.at(number)[0, first:].detach().double().cpu().numpy() for number in range(1, len(states.tokens))]
    return _Tokens(layout.grid, ready.region.covered(layout), layers)
