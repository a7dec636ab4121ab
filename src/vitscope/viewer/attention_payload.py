"""The attention of a page: queries and keys of each head as integers, from which the browser computes rows.

A row of attention is a softmax of scores `S_ij = scale q_i . k_j`, and a softmax forgets what all scores of a row have
in common: keys are centred. Then two QR decompositions and one D x D matrix give `S = U diag(s) V^T`, with memory
linear in tokens. Both sides are kept as `U diag(s)` and `V diag(s)`, rounded to one step for all columns, and the page
divides by s: each column then adds the same error to a score (reverse water-filling, Cover & Thomas 2006, section
10.3.3), and columns that matter less are small or zero.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitscope._messages import msg
from vitscope.attention import AttentionStore, Block, Factored, vecmat, vecmat_heads
from vitscope.attention.blocks import slices
from vitscope.errors import YES, Support
from vitscope.viewer.packed import Packed, scaled, zigzag

_ERRORS = (0.0015, 0.003, 0.006, 0.012, 0.024, 0.048)  # root mean square, of a score, in nats
_TOP = 20  # largest weights of a row, whose error is measured
_AT_ONCE = 2**21  # weights


@dataclass(frozen=True)
class PackedAttention:
    """The attention that goes into a page.

    Attributes:
        layers: one dict for each layer, for the header; `rows` is False where the layer is left out.
        arrays: its packed arrays.
        error: `score`, the root mean square error of a score that was chosen, in nats; `head_max` and `head_rms`, the
            largest relative error of the 20 largest weights of all rows and its root mean square, as measured;
            `mean_max` and `mean_rms`, the same for the mean over heads.
        dropped: layers that did not fit.
    """

    layers: list[dict[str, Any]]
    arrays: dict[str, Packed]
    error: dict[str, float] = field(default_factory=dict)
    dropped: tuple[int, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether no room was lacking: all layers, as exact as rows ever are."""
        return not self.dropped and self.error.get("score", _ERRORS[0]) == _ERRORS[0]

    @property
    def nbytes(self) -> int:
        """Characters of a page that the arrays take."""
        return sum(one.nbytes for one in self.arrays.values())


@dataclass(frozen=True, eq=False)
class RoundedLayer:
    """One layer's scores in integers: `S_hij = sum_d weight_hd q_hdi k_hdj`, up to a constant for each row.

    Attributes:
        q: `(H, D, N)`, and k `(H, D, M)`: integers, as float32.
        weight: `(H, D)`.
    """

    q: Tensor
    k: Tensor
    weight: Tensor

    @classmethod
    def of(cls, block: Factored, error: float) -> "RoundedLayer":
        """Round the scores of a layer so that they are off by `error` nats (root mean square)."""
        q, k = block.q[0].double() * block.scale, block.k[0].double()
        k = k - k.mean(-2, keepdim=True)
        (q_basis, q_rest), (k_basis, k_rest) = torch.linalg.qr(q), torch.linalg.qr(k)
        u, s, vh = torch.linalg.svd(q_rest @ k_rest.transpose(-1, -2), full_matrices=False)
        step = error * (12 / (1 / q.shape[1] + 1 / k.shape[1]) / s.shape[-1]) ** 0.5
        left, right = q_basis @ u, k_basis @ vh.transpose(-1, -2)
        q, k = ((side * (s / step)[:, None]).round().transpose(-1, -2).float() for side in (left, right))
        return cls(q, k, torch.where(s > step / 4, step**2 / s, 0).float())  # below that all is rounded to zero

    def scores(self, queries: slice = slice(None)) -> Tensor:
        """Return the scores of some queries, `(H, n, M)`, float32."""
        return (self.q[:, :, queries] * self.weight[..., None]).transpose(1, 2) @ self.k

    def arrays(self) -> dict[str, Packed]:
        """Return what a page carries of it, but for the sums of rows."""
        q, k, weight = (of.cpu().numpy() for of in (self.q, self.k, self.weight))
        return {"q": Packed.of(zigzag(q)), "k": Packed.of(zigzag(k)), "weight": Packed.of(weight)}


def supports_rows(store: AttentionStore) -> Support:
    """Answer whether a page can compute rows of this attention."""
    if store.chain is not None or not len(store):
        return Support.no(msg("viewer.layers-differ", "its layers do not all see the same tokens"))
    if not all(isinstance(block, Factored) and block.bias is None and block.shape[0] == 1 for block in store):
        return Support.no(
            msg(
                "viewer.attention-not-plain",
                "its attention has a bias or its own rule, which queries and keys alone do not give",
            )
        )
    return YES


def pack_attention(store: AttentionStore, budget: float | int) -> PackedAttention:
    """Pack as much of the attention as fits into `budget` characters, and measure how exact it is.

    Scores are rounded to an error of 0.0015 nats, or of up to 0.048 nats where that does not fit; then the first layers
    are left out.

    Cost: all rows of the kept layers, twice.
    """
    if not supports_rows(store):
        return PackedAttention([_entry(block) for block in store], {})
    blocks = [block for block in store if isinstance(block, Factored)]
    for error in _ERRORS:
        layers = [RoundedLayer.of(block, error) for block in blocks]
        arrays = [layer.arrays() for layer in layers]
        sizes = [sum(one.nbytes for one in of.values()) + _lse_bytes(b) for of, b in zip(arrays, blocks, strict=True)]
        if sum(sizes) <= budget:
            break
    first = next((n for n in range(len(blocks)) if sum(sizes[n:]) <= budget), len(blocks))
    packed: dict[str, Packed] = {}
    entries, found = [_entry(block) for block in blocks], []
    for number in range(first, len(blocks)):
        lse, *errors = _compare(blocks[number], layers[number])
        found.append(errors)
        entries[number]["rows"] = True
        packed |= {f"{name}.{number}": one for name, one in (arrays[number] | {"lse": Packed.of(lse)}).items()}
    summary = {"score": error} if found else {}
    for name, parts in zip(("head", "mean"), zip(*found, strict=True), strict=False):
        values = torch.cat(parts)
        summary |= {f"{name}_max": float(values.max()), f"{name}_rms": float(values.square().mean().sqrt())}
    return PackedAttention(entries, packed, summary, tuple(range(first)))


def _compare(block: Factored, rounded: RoundedLayer) -> tuple[np.ndarray, Tensor, Tensor]:
    """Return the log of each row's sum of exponentiated scores, and the errors of largest weights, by head and mean."""
    sums, heads, means = [], [], []
    for queries in slices(block.shape[2], max(_AT_ONCE // (block.shape[1] * block.shape[3]), 1)):
        true, scores = block.rows(queries)[0].float(), rounded.scores(queries)
        sums.append(scores.logsumexp(-1))
        made = (scores - sums[-1][..., None]).exp_()
        heads.append(_relative_error(true, made))
        means.append(_relative_error(true.mean(0), made.mean(0)))
    return torch.cat(sums, 1).cpu().numpy(), torch.cat(heads), torch.cat(means)


def _relative_error(true: Tensor, made: Tensor) -> Tensor:
    """Return the relative errors of each row's largest weights, in one row."""
    wanted, places = true.topk(min(_TOP, true.shape[-1]), -1)
    least = torch.finfo(wanted.dtype).tiny
    return ((made.gather(-1, places) - wanted).abs() / wanted.clamp_min(least)).flatten().cpu()


def _lse_bytes(block: Block) -> int:
    """Return the characters, at most, of a layer's sums of rows."""
    return 6 * block.shape[1] * block.shape[2]


def _entry(block: Block) -> dict[str, Any]:
    return {"name": block.name, "heads": block.shape[1], "rows": False}


def pack_readouts(store: AttentionStore) -> tuple[list[float], dict[str, Packed]]:
    """Pack what the readout attends to by layer, `(H, N)` each, the readout itself and its pooling."""
    scales, arrays = [], {"readout": Packed.of(store.readout_weights()[0].float().cpu().numpy())}
    with torch.no_grad():
        for number, block in enumerate(store):
            values, scale = scaled(vecmat_heads(block, store.readout_weights())[0].float().cpu().numpy())
            arrays[f"heads.{number}"] = Packed.of(values)
            scales.append(scale)
        if store.pool is not None:
            queries = torch.eye(store.pool.shape[2], device=store.pool.device)
            arrays["pool"] = Packed.of(vecmat(store.pool, queries).float().cpu().numpy())
    return scales, arrays
