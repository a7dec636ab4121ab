"""What the tokens themselves say: directions, likeness, cuts, and what the model's head reads in each.

Where layers do not all see the same tokens (windows, merging), `pca`, `similarity` and `ncut` compare the tokens of the
chosen layer, the last stage's by default, on the grid that they have; each is then drawn on the patches that it stands
for, and the result's notes say so.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.attention.transformer_blocks import TokenActivations
from vitscope.errors import MethodError, UsageError
from vitscope.methods.attention import attention
from vitscope.methods.base import method
from vitscope.methods.context import MethodContext

__all__ = ["evolution", "logit_lens", "ncut", "pca", "pca_rgb", "similarity"]

Named: TypeAlias = Float[Tensor, "B N"] | tuple[Float[Tensor, "B N"], list[str]]
_MOST_PATCHES = 4000
_TAU, _WEAK = 0.2, 1e-5


def _laid(context: MethodContext, patches: Float[Tensor, "B P"], spot: TokenActivations) -> Named:
    """Values of a layer's patches as those of all tokens, and what was done to the grid."""
    told = context.brought(spot.grid)
    return context.whole(patches.reshape(len(patches), *spot.grid)), [told] * len(patches) if told else []


@method(
    "pca",
    passes="1 forward",
    source="Hotelling 1933; on patch tokens: Amir et al. 2022, Oquab et al. 2023, figure 1",
    requires={"token-grids"},
)
def pca(context: MethodContext, *, layer: int = -1, component: int = 0) -> Named:
    """The patch tokens of each picture along one of their principal directions.

    Formula: `m_j = (z_j - mean_i z_i) u_k`, u_k the k-th eigenvector of the patch tokens' covariance, the largest
    first; its sign is that in which the map and the last layer's attention from the readout row go together.

    Args:
        context: the images, the model and the target.
        layer: after which block, from 0, or from the end with negative numbers.
        component: k, from 0.

    Returns:
        `(B, N)`, signed, in units of the tokens, with mean 0 over the patches; the prefix gets 0.

    Raises:
        UsageError: a component that is not there.

    Cost: one forward, and one D x D eigenproblem of each picture; memory linear in tokens.
    Limits: class-agnostic; on pictures without one object against a background the first direction may be anything.
    """
    spot = context.after(layer)
    z = spot.tokens()[:, spot.prefix :]
    if not 0 <= component < min(z.shape[1:]):
        raise UsageError(f"there is no component {component}", f"components are 0 to {min(z.shape[1:]) - 1}")
    z = z - z.mean(1, keepdim=True)
    directions = torch.linalg.eigh(z.transpose(1, 2) @ z).eigenvectors
    values = (z * directions[:, None, :, -1 - component]).sum(-1)
    with torch.no_grad():
        looked = attention(context.store)[:, len(context.layout.prefix) :].to(values.dtype)
    looked = looked if spot.grid == context.layout.grid else context.gathered(looked, spot.grid)
    along = (values * (looked - looked.mean(1, keepdim=True))).sum(1, keepdim=True)
    return _laid(context, torch.where(along < 0, -values, values), spot)


def pca_rgb(tokens: Float[np.ndarray, "P D"], grid: tuple[int, int]) -> Float[np.ndarray, "gh gw 3"]:
    """The first three principal components of patch tokens as red, green and blue in [0, 1].

    Each is stretched between its 1st and 99th percentile by itself: colours tell patches apart, and mean nothing more.
    """
    z = tokens.astype(np.float64) - tokens.mean(0)
    u, s, _ = np.linalg.svd(z, full_matrices=False)
    first = u[:, :3] * s[:3]
    low, high = np.percentile(first, (1, 99), axis=0)
    colours: np.ndarray = np.clip((first - low) / np.maximum(high - low, 1e-12), 0, 1)
    return colours.reshape(*grid, 3).astype(np.float32)


@method(
    "similarity",
    passes="1 forward",
    source="cosine of token features, as in Amir et al. 2022, section 4",
    requires={"token-grids"},
)
def similarity(context: MethodContext, *, layer: int = -1, query: str = "readout") -> Named:
    """How alike each patch token is to what is read out, or to one patch.

    Formula: `m_j = cos(z_j, z_q)`, z_q the mean of tokens by the readout row (CLS, or the mean patch), or one patch. In
    models whose last blocks change CLS alone (CaiT), both as the block's first norm has them.

    Args:
        context: the images, the model and the target.
        layer: after which block, from 0, or from the end with negative numbers.
        query: `readout`, or `row,column` of a patch, from 0.

    Returns:
        `(B, N)`, each in [-1, 1]; their sum says nothing; prefix tokens have theirs too, where all layers see them.

    Raises:
        UsageError: no such patch, or a readout token that this layer's tokens do not hold.

    Cost: one forward; memory linear in tokens.
    Limits: class-agnostic. Features of some models share a large common part: look at differences, not at values.
    """
    spot, (gh, gw) = context.after(layer), context.layout.grid
    z = spot.tokens()
    if query == "readout":
        spot, row = _with_readout(context, spot, layer)
        z, row = spot.tokens(), row.to(z)
    else:
        match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", query)
        if match is None or int(match[1]) >= gh or int(match[2]) >= gw:
            raise UsageError(f"'{query}' is no patch", f"rows are 0 to {gh - 1}, columns 0 to {gw - 1}")
        asked = torch.zeros(1, gh, gw).to(z)
        asked[0, int(match[1]), int(match[2])] = 1
        asked = context.gathered(asked.flatten(1), spot.grid)[0]
        row = torch.cat([asked.new_zeros(spot.prefix), asked / asked.sum()])
    cosines = torch.cosine_similarity(z, torch.einsum("n,bnd->bd", row, z)[:, None], dim=-1)
    if spot.prefix == len(context.layout.prefix) and spot.grid == context.layout.grid:
        return cosines
    return _laid(context, cosines[:, spot.prefix :], spot)


def _with_readout(context: MethodContext, spot: TokenActivations, layer: int) -> tuple[TokenActivations, Tensor]:
    """The tokens that what is read out is among, and how much of each it is."""
    if spot.readout is not None:
        return spot, spot.readout
    normed, layout = context.spot(layer, "norm"), context.layout
    if (normed.prefix, normed.grid) != (len(layout.prefix), layout.grid):
        raise UsageError(
            f"what is read out is not among the tokens at the {spot.location}", "ask for a patch: query='row,column'"
        )
    return normed, torch.from_numpy(layout.readout())


@method(
    "ncut",
    passes="1 forward",
    source="Shi & Malik 2000, equation 6; on tokens: TokenCut, Wang et al. 2022, section 3.2",
    requires={"token-grids"},
)
def ncut(context: MethodContext, *, layer: int = -1) -> Named:
    """The object by a normalised cut of the graph of patches that are alike.

    Formula: `m = v`, the eigenvector of the second smallest eigenvalue of `(D - W) v = λ D v`, `W_ij = 1` where
    `cos(z_i, z_j) > 0.2` and `1e-5` elsewhere, D the row sums of W on a diagonal; less its mean; its sign is that in
    which v's entry of the largest size, taken before, is above the mean: the object's side in TokenCut.

    Args:
        context: the images, the model and the target.
        layer: after which block, from 0, or from the end with negative numbers.

    Returns:
        `(B, N)`, signed, with mean 0 over the patches, scaled so that the largest size is 1; the prefix gets 0.

    Raises:
        MethodError: more than 4,000 patches, since W is a P x P matrix, or but one.

    Cost: one forward, and the eigenvectors of one P x P matrix a picture: O(P^2) memory, O(P^3) time.
    Limits: class-agnostic; one object against one background. TokenCut takes keys of the last layer, this its tokens.
    """
    spot = context.after(layer)
    z = torch.nn.functional.normalize(spot.tokens()[:, spot.prefix :].double(), dim=-1)
    if z.shape[1] < 2:
        raise MethodError(
            f"there is but one patch token at the {spot.location}: nothing to cut", "ask an earlier layer="
        )
    if z.shape[1] > _MOST_PATCHES:
        raise MethodError(
            f"ncut makes a matrix of all patches with all: {z.shape[1]} are more than {_MOST_PATCHES}",
            "ask for a smaller input with size=, or for pca",
        )
    parts = []
    for one in z:
        w = torch.where(one @ one.T > _TAU, 1.0, _WEAK).double()
        root = w.sum(1).rsqrt()
        vectors = torch.linalg.eigh(torch.eye(len(w)).to(w) - root[:, None] * w * root).eigenvectors
        v = root * vectors[:, 1]
        seed, v = v.abs().argmax(), v - v.mean()
        parts.append(v / v.abs().max() * torch.where(v[seed] < 0, -1.0, 1.0))
    return _laid(context, torch.stack(parts).float(), spot)


@method(
    "logit-lens",
    passes="1 forward, and P + 1 short forwards past the blocks",
    source="nostalgebraist 2020; on patch tokens: Vilas et al. 2023",
    requires={"target", "hidden-states"},
)
def logit_lens(context: MethodContext, *, layer: int = -1) -> tuple[Float[Tensor, "B N"], list[str]]:
    """What the model's own norm and head would say if they read one token alone.

    Formula: `m_j = y(z_j)`: the target's score where the tokens after block `layer` are all replaced by the token j.

    Args:
        context: the images, the model and the target.
        layer: after which block, from 0, or from the end with negative numbers.

    Returns:
        `(B, N)`, signed, in units of the score, its sum says nothing; the prefix tokens with theirs; and for each
        picture a note: the score that the model's own readout would give after each block.

    Cost: N forwards past the blocks: together, of the head alone on one patch and the prefix, where the model takes so
        few tokens; else `batch_size` at a time, of patch embedding and head on all. Memory linear in tokens.
    Limits: patches of a CLS-pooled model were never trained to be read; differences between patches say more than
        values. What the readout says through all layers is in the notes.
    """
    (number,) = context.store.select(layer)
    tokens, device = context.tokens.at(number + 1).detach(), context.pixels.device
    pictures, count = tokens.shape[:2]
    parts = []
    everyone, pixels = torch.arange(pictures * count, device=device), context.pixels.detach()

    def read(rows: Tensor, fill: int) -> Tensor:
        picture, token = rows // count, rows % count
        given = tokens[picture, token][:, None].expand(-1, fill, -1)
        with torch.no_grad():
            if fill < count:
                return context.scores_past(given, picture)
            with context.blocks.skip(given):
                return context.scores(pixels[picture], picture)

    few, some = len(context.layout.prefix) + 1, everyone[:: max(count // 3, 1)]
    fill = few if _takes(partial(read, some), few, count) else count
    for rows in torch.split(everyone, context.batch * count // fill):
        parts.append(read(rows, fill))
        context.tick(int(rows[-1]) + 1, pictures * count)
    through = evolution(context).T.tolist()
    notes = [f"score after each block: {' '.join(f'{score:.3g}' for score in scores)}" for scores in through]
    return torch.cat(parts).reshape(pictures, count), notes


def _takes(read: Callable[[int], Tensor], few: int, count: int) -> bool:
    """Does a model answer to few tokens that are all alike as it does to all?"""
    try:
        got = read(few)
    except Exception:  # whatever it makes of a number of tokens that it does not know
        return False
    wanted = read(count)
    near = 1e-4 if wanted.dtype in (torch.float32, torch.float64) else 0.05
    return got.shape == wanted.shape and torch.allclose(got, wanted, rtol=near, atol=near * float(wanted.abs().mean()))


def evolution(context: MethodContext) -> Float[Tensor, "L B"]:
    """The target's score when the model's norm and head read the tokens after each block, first block first."""
    everyone = torch.arange(len(context.pixels), device=context.pixels.device)
    scores = []
    for number in range(len(context.store)):
        with torch.no_grad(), context.blocks.skip(context.tokens.at(number + 1).detach()):
            scores.append(context.scores(context.pixels.detach(), everyone))
    return torch.stack(scores)
