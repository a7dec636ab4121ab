"""Compute attention statistics in one pass over the rows of each layer, chunk by chunk, without a whole matrix.

Letters: B images (or windows of one image), H heads, n queries of a chunk, N tokens, P prefix tokens.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitscope._messages import msg
from vitscope.attention import AttentionStore, Block, budget, vecmat_heads
from vitscope.attention.transformer_blocks import HiddenStates
from vitscope.errors import MethodError
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.methods.rollout_variants import outlier_threshold
from vitscope.metrics.attention_statistics import SHARES, LayerStatistics, Sink, Statistics
from vitscope.metrics.effective_rank import effective_ranks
from vitscope.metrics.head_importance import HeadImportance
from vitscope.metrics.head_kinds import NUMBERS, AskingPatches, head_kinds, split_object

_LAYERS_DIFFER = msg(
    "metrics.layers-differ", "its layers do not all have the same tokens (windows, merging or reduced keys)"
)
_NO_OBJECT = msg("metrics.no-object-apart", "the features do not part an object from its background on this image")
_ONE_SIDE_ASKS = msg(
    "metrics.one-side-asks", "the patches whose rows are looked at all lie on the object, or all beside it"
)
_IN_TOKENS = (
    "readout_entropy",
    "distance",
    "shares",
    "received",
    "sinks",
    "norms",
    "effective_rank",
    "kinds",
    *NUMBERS,
)


def compute_statistics(
    store: AttentionStore,
    region: ImageRegion,
    states: HiddenStates | str,
    *,
    importance: HeadImportance | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Statistics:
    """Compute the statistics of one image's attention, which `Statistics`, `LayerStatistics` and `Sink` define.

    Args:
        store: the attention of one forward of one image.
        region: where its patches lie on the photo.
        states: its tokens between blocks, or the reason why they are not known.
        importance: the importance of its heads, where requested.
        provenance: stored with the numbers.

    Raises:
        MethodError: attention that is not finite.

    Cost: all rows of each layer once, chunk by chunk, memory linear in tokens; up to 640 tokens, all rows once more for
    the effective rank.
    """
    assert store.layout is not None
    layout = store.layout
    unavailable: dict[str, str] = {}
    if importance is None:
        unavailable["importance"] = msg("metrics.not-requested", "it was not requested ({@importance=True})")
    if store.chain is not None:
        unavailable |= dict.fromkeys(_IN_TOKENS, _LAYERS_DIFFER)
        layers = [_own_statistics(block) for block in store]
        sinks: tuple[Sink, ...] = ()
    else:
        if isinstance(states, str):
            unavailable["norms"] = states
        positions, readout = _TokenPositions.of(layout, region), store.readout_weights()
        parted = None if isinstance(states, str) else split_object(_features(states, layout), layout.grid)
        if parted is None:
            why = states if isinstance(states, str) else _NO_OBJECT
            unavailable |= dict.fromkeys(("object_ratio", "own_ratio"), why)
        asking = AskingPatches.of(layout)
        if parted is not None and not asking.on_both_sides(parted):
            unavailable["own_ratio"] = _ONE_SIDE_ASKS
        layers = []
        for block in store:
            layer, rows = _token_statistics(block, readout, positions, asking.tokens)
            layers.append(replace(layer, **vars(head_kinds(rows, asking, parted))))
        norms = None if isinstance(states, str) else [_norms(states, number) for number in range(len(layers))]
        layers, sinks = _with_sinks(layers, norms, layout)
        try:
            ranks = effective_ranks(store)
            layers = [replace(layer, effective_rank=rank) for layer, rank in zip(layers, ranks, strict=True)]
        except MethodError as error:
            unavailable["effective_rank"] = error.message
    if importance is not None:
        layers = [replace(layer, importance=drops) for layer, drops in zip(layers, importance.drops, strict=True)]
    target, score = (importance.target, importance.score) if importance else (None, None)
    return Statistics(tuple(layers), sinks, layout, region, target, score, unavailable, provenance or {})


@dataclass(frozen=True, eq=False)
class _TokenPositions:
    """The positions of the tokens.

    Attributes:
        kinds: numbers of the prefix tokens for each of the first three of `SHARES`.
        prefix: P.
        grid: rows and columns of patches.
        cell: height and width of a patch in pixels of the input.
        scale: pixels of the photo for one pixel of the input, along y and x.
    """

    kinds: tuple[list[int], list[int], list[int]]
    prefix: int
    grid: tuple[int, int]
    cell: tuple[float, float]
    scale: tuple[float, float]

    @classmethod
    def of(cls, layout: TokenLayout, region: ImageRegion) -> "_TokenPositions":
        named = [0 if name == "cls" else 1 if name.startswith("register") else 2 for name in layout.prefix]
        cls_tokens, registers, others = ([i for i, kind in enumerate(named) if kind == k] for k in range(3))
        cells = layout.cells or (0, 0, region.input[1], region.input[0])
        cell = (cells[3] - cells[1]) / layout.grid[0], (cells[2] - cells[0]) / layout.grid[1]
        left, top, right, bottom = region.box
        scale = (bottom - top) / region.input[0], (right - left) / region.input[1]
        return cls((cls_tokens, registers, others), len(layout.prefix), layout.grid, cell, scale)

    @property
    def cells(self) -> list[tuple[float, float]]:
        """The cell in pixels of the input and, where these are not only longer by a factor, in pixels of the photo."""
        (height, width), (y, x) = self.cell, self.scale
        return [self.cell] if math.isclose(y, x, rel_tol=1e-9) else [self.cell, (height * y, width * x)]

    def places(self, like: Tensor) -> Float[Tensor, "2 P"]:
        """Return row and column of each patch."""
        every = torch.arange(self.grid[0] * self.grid[1], device="cpu")
        return torch.stack((every // self.grid[1], every % self.grid[1])).to(like)


def _write_distances(
    places: Float[Tensor, "2 n"], grid: tuple[int, int], cell: tuple[float, float], into: Float[Tensor, "n P"]
) -> None:
    """Write the distances of patches at some places to all patches, in widths of a cell.

    Rows and columns are whole numbers, whose differences and squares are exact.
    """
    down, across = (
        (at[:, None] - torch.arange(size, device=at.device, dtype=at.dtype)).square_()
        for at, size in zip(places, grid, strict=True)
    )
    into = into.view(len(into), *grid)
    torch.add(across[:, None], down[:, :, None], alpha=(cell[0] / cell[1]) ** 2, out=into)
    into.sqrt_()


def _own_statistics(block: Block) -> LayerStatistics:
    """Compute entropy and agreement, which every layer has, over its own queries and keys."""
    b, h, n, _ = block.shape
    entropy, alike = _zeros(h), _zeros(h)
    for _, planes, some in _chunks(block):
        every = planes.transpose(0, 1)
        entropy += some
        alike += _alike(torch.bmm(every, every.transpose(1, 2)))
    return _layer(block, entropy / (b * n), alike / (b * n))


def _token_statistics(
    block: Block, seed: Float[Tensor, "1 N"], positions: _TokenPositions, asked: range
) -> tuple[LayerStatistics, Float[Tensor, "H n N"]]:
    """Compute all statistics of a layer whose tokens are those of the layout; also return the rows of some tokens.

    Beside the heads' rows of each query stand the distances of patches from it: one product of the heads' rows with all
    of them gives what heads have in common and how far their attention goes.
    """
    _, h, n, _ = block.shape
    p, cells = positions.prefix, positions.cells
    of_all = bool(seed.count_nonzero() > n // 2)  # a readout of so many queries costs no rows of its own
    entropy, shares, received = _zeros(h), _zeros(len(SHARES), h), _zeros(n)
    products: list[Tensor] = []
    masses: list[Tensor] = []
    own: list[Tensor] = []
    kept: list[Tensor] = []
    places: Tensor | None = None
    weights = torch.cat((torch.ones_like(seed), seed)[: 1 + of_all])  # of patches' queries, and in the answer
    weights[0, :p] = 0
    summed = _zeros(h, len(weights), n)
    for queries, planes, some in _chunks(block, len(cells)):
        first, rows, every = max(queries.start, p), planes[:h], planes.transpose(0, 1)
        places = positions.places(planes) if places is None else places
        entropy += some
        if first < queries.stop:
            for plane, cell in zip(planes[h:], cells, strict=True):
                here = places[:, first - p : queries.stop - p]
                _write_distances(here, positions.grid, cell, plane[first - queries.start :, p:])
        products.append(torch.bmm(every[:, :h], every.transpose(1, 2)))
        masses.append(rows[:, :, p:].sum(-1))
        summed += torch.bmm(weights[:, queries].to(rows).expand(h, -1, -1), rows).cpu().double()
        own.append(rows.diagonal(queries.start, 1, 2).clone())
        if queries.start < p:
            received += _total(rows[:, : p - queries.start], (0, 1))
        ahead = asked.start - queries.start
        kept.append(rows[:, max(ahead, ahead % asked.step) :: asked.step].clone())
    every, to_patches = torch.cat(products), torch.cat(masses, 1)[:, p:].T
    mass = to_patches.clamp_min(torch.finfo(every.dtype).tiny)
    far = [width * _total(one / mass, (0,)) for one, (_, width) in zip(every[p:, :, h:].unbind(-1), cells, strict=True)]
    for kind, tokens in enumerate(positions.kinds):
        shares[kind] = summed[:, 0, tokens].sum(1)
    shares[3] = _total(torch.cat(own, 1)[:, p:], (1,))
    shares[4] = _total(to_patches, (0,)) - shares[3]
    patches = n - p
    read = summed[:, 1] if of_all else vecmat_heads(block, seed)[0]
    read_entropy = _total(torch.special.entr(read), (1,))
    shares = shares.clamp_min(0) / patches
    layer = replace(
        _layer(block, entropy / n, _alike(every[:, :, :h]) / n),
        readout_entropy=_numpy(read_entropy),
        readout_entropy_normalised=_numpy(read_entropy / _max_entropy(block)),
        distance=_numpy(far[0] / patches),
        distance_photo=_numpy(far[-1] / patches * (positions.scale[0] if len(cells) == 1 else 1)),
        shares={name: _numpy(share) for name, share in zip(SHARES, shares, strict=True)},
        received=_numpy((received + summed[:, 0].sum(0)) / (h * n)),
    )
    return layer, torch.cat(kept, 1)


def _layer(block: Block, entropy: Tensor, alike: Tensor) -> LayerStatistics:
    _, h, n, m = block.shape
    if not bool(entropy.isfinite().all()):
        raise MethodError(
            msg("metrics.attention-not-finite", "the attention of {module} holds NaN or infinity", module=block.name),
            msg("metrics.attention-not-finite.hint", "use {@dtype=float32}"),
        )
    agreement = _numpy(alike) if h > 1 else None
    return LayerStatistics(
        block.name, n, m, _numpy(entropy), _numpy(entropy / _max_entropy(block)), agreement=agreement
    )


def _max_entropy(block: Block) -> float:
    """Return the entropy of a uniform row; 1 for a single key, whose entropy is 0."""
    return math.log(block.shape[3]) or 1.0


def _chunks(block: Block, more: int = 0) -> Iterator[tuple[slice, Float[Tensor, "R n M"], Float[Tensor, " H"]]]:
    """Yield each head's rows of some queries of all images, and its entropy summed over them.

    As many queries as half fit the cache: what is computed of them fits as well. Each overwrites the last one's memory,
    but for `more` planes behind the heads' that are the caller's, zero at first.
    """
    b, h, _, m = block.shape
    memory: Tensor | None = None
    for queries, logarithms in block.log2_rows(block.chunk or max(1, budget(block.device) // (2 * b * h * m))):
        if memory is None:
            memory = logarithms.new_zeros(h + more, b * logarithms.shape[2], m)
        planes = memory[:, : b * logarithms.shape[2]]
        weights = planes[:h].view(h, b, -1, m).transpose(0, 1)
        torch.exp2(logarithms, out=weights)
        yield queries, planes, _total(logarithms.mul_(weights), (0, 2, 3)) * -math.log(2)


def _alike(products: Float[Tensor, "n H H"]) -> Float[Tensor, " H"]:
    """Return each head's mean cosine with the others, summed over queries, from the heads' products of each query."""
    length = products.diagonal(dim1=1, dim2=2).sqrt()
    cosines = products / (length[:, :, None] * length[:, None])
    cosines.diagonal(dim1=1, dim2=2).zero_()
    return _total(cosines, (0, 1)) / max(products.shape[1] - 1, 1)


def _features(states: HiddenStates, layout: TokenLayout) -> Float[np.ndarray, "P D"]:
    """Return the patches as the readout sees them."""
    last = states.at(len(states.tokens) - 1) if states.final is None else states.arrange(states.final)
    return _numpy(last[0, len(layout.prefix) :])


def _norms(states: HiddenStates, number: int) -> Float[Tensor, " N"]:
    tokens = states.at(number)[0].detach()
    return tokens.to(torch.promote_types(tokens.dtype, torch.float32)).square().sum(-1).sqrt().cpu().double()


def _with_sinks(
    layers: list[LayerStatistics], norms: list[Float[Tensor, " N"]] | None, layout: TokenLayout
) -> tuple[list[LayerStatistics], tuple[Sink, ...]]:
    """Return the layers with sinks and norms, and the sinks of the mean over the layers."""
    p = len(layout.prefix)
    every = [torch.from_numpy(layer.received) for layer in layers]
    ratios = None if norms is None else [x / x[p:].median().clamp_min(1e-30) for x in norms]
    done = []
    for number, layer in enumerate(layers):
        here = None if norms is None or ratios is None else (norms[number], ratios[number])
        sinks = _sinks(every[number], here, layout)
        done.append(replace(layer, sinks=sinks, norms=None if here is None else _numpy(here[0])))
    most = None
    if norms is not None and ratios is not None:
        most = torch.stack(norms).amax(0), torch.stack(ratios).amax(0)
    return done, _sinks(torch.stack(every).mean(0), most, layout)


def _sinks(
    received: Float[Tensor, " N"], lengths: tuple[Tensor, Tensor] | None, layout: TokenLayout
) -> tuple[Sink, ...]:
    p, columns = len(layout.prefix), layout.grid[1]
    found = (received > outlier_threshold(received[None, p:])[0]).nonzero()[:, 0].tolist()
    sinks = []
    for token in sorted(found, key=lambda token: -float(received[token])):
        place = None if token < p else divmod(token - p, columns)
        name = layout.prefix[token] if place is None else f"{place[0]},{place[1]}"
        norm, ratio = (None, None) if lengths is None else (float(lengths[0][token]), float(lengths[1][token]))
        share = float(received[token])
        sinks.append(Sink(token, name, place, share, share * len(received), norm, ratio))
    return tuple(sinks)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64, device="cpu")


def _total(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Sum over some axes; the sum is float64 on the CPU, as not all devices have float64."""
    return x.sum(axes).cpu().double()


def _numpy(x: Tensor) -> np.ndarray:
    values: np.ndarray = x.detach().double().cpu().numpy()
    return values
