"""Maps from the tokens themselves: principal directions, similarity, cuts, and the head's score of each.

Where layers do not all see the same tokens (windows, merging), `pca`, `similarity` and `ncut` compare the tokens of the
chosen layer, the last stage's by default, on their own grid; each is drawn on the patches that it stands for, and a
note of the result says so.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitscope._messages import msg
from vitscope.attention.transformer_blocks import TokenActivations
from vitscope.errors import MethodError, UsageError
from vitscope.methods.attention import attention
from vitscope.methods.base import method
from vitscope.methods.context import MethodContext

NotedMap: TypeAlias = Float[Tensor, "B N"] | tuple[Float[Tensor, "B N"], list[str]]
_MOST_PATCHES = 4000
_TAU, _WEAK = 0.2, 1e-5
_of_tokens = partial(method, passes="1 forward", requires={"token-grids"})


def _noted(context: MethodContext, patches: Float[Tensor, "B P"], activations: TokenActivations) -> NotedMap:
    """Return values of a layer's patches as those of all tokens, with a note where the grid is another."""
    note = context.grid_note(activations.grid)
    return context.to_tokens(patches.reshape(len(patches), *activations.grid)), [note] * len(patches) if note else []


@_of_tokens("pca", source="Hotelling 1933; on patch tokens: Amir et al. 2022, Oquab et al. 2023, figure 1")
def pca(context: MethodContext, *, layer: int = -1, component: int = 0) -> NotedMap:
    """Project the patch tokens onto one of their principal directions.

    Formula: `m_j = (z_j - mean_i z_i) u_k`, u_k the k-th eigenvector of the patch tokens' covariance, the largest
    first; its sign is that by which the map correlates with the last layer's attention from the readout row.

    Args:
        context: the images, the model and the target.
        layer: the block whose output is used, from 0, or from the end with negative numbers.
        component: k, from 0.

    Returns:
        `(B, N)`, signed, in units of the tokens, with mean 0 over the patches; the prefix gets 0.

    Raises:
        UsageError: no such component.

    Cost: one forward, and one D x D eigenproblem an image; memory linear in tokens.
    Limits: class-agnostic; on images without one object against a background the first direction may be anything.
    """
    activations = context.tokens_after(layer)
    z = activations.tokens()[:, activations.prefix :]
    if not 0 <= component < min(z.shape[1:]):
        raise UsageError(
            msg("methods.no-such-component", "component {number} does not exist", number=component),
            msg("methods.no-such-component.hint", "components are 0 to {last}", last=min(z.shape[1:]) - 1),
        )
    z = z - z.mean(1, keepdim=True)
    directions = torch.linalg.eigh(z.transpose(1, 2) @ z).eigenvectors
    values = (z * directions[:, None, :, -1 - component]).sum(-1)
    with torch.no_grad():
        read = attention(context.store)[:, len(context.layout.prefix) :].to(values.dtype)
    read = read if activations.grid == context.layout.grid else context.to_grid(read, activations.grid)
    covariance = (values * (read - read.mean(1, keepdim=True))).sum(1, keepdim=True)
    return _noted(context, torch.where(covariance < 0, -values, values), activations)


def pca_rgb(tokens: Float[np.ndarray, "P D"], grid: tuple[int, int]) -> Float[np.ndarray, "gh gw 3"]:
    """Return the first three principal components of patch tokens as red, green and blue in [0, 1].

    Each is stretched between its own 1st and 99th percentile: colours tell patches apart, and mean nothing more.
    """
    z = tokens.astype(np.float64) - tokens.mean(0)
    directions = np.linalg.eigh(z.T @ z).eigenvectors[:, :-4:-1]
    first = z @ np.where(directions.sum(0) < 0, -directions, directions)
    low, high = np.percentile(first, (1, 99), axis=0)
    colours: np.ndarray = np.clip((first - low) / np.maximum(high - low, 1e-12), 0, 1)
    return colours.reshape(*grid, 3).astype(np.float32)


@_of_tokens("similarity", source="cosine of token features, as in Amir et al. 2022, section 4")
def similarity(
    context: MethodContext, *, layer: int = -1, query: str = "readout", final_norm: bool = False
) -> NotedMap:
    """Compare each patch token with the readout token, or with one patch.

    Formula: `m_j = cos(z_j, z_q)`, z_q the mean of tokens by the readout row (CLS, or the mean patch), or one patch. In
    models whose last blocks change CLS alone (CaiT), both are outputs of the block's first norm.

    Args:
        context: the images, the model and the target.
        layer: the block whose output is used, from 0, or from the end with negative numbers.
        query: `readout`, or `row,column` of a patch (`plane,row,column` of a clip or a volume), from 0.
        final_norm: compare the tokens after the model's own last norm, which follows the last block.

    Returns:
        `(B, N)`, each in [-1, 1]; their sum has no meaning; prefix tokens have values too, where all layers see them.

    Raises:
        UsageError: no such patch, a readout token that is not among this layer's tokens, or `final_norm` of a layer
            that is not the last.
        MethodError: `final_norm` of a model that does not norm all its tokens after its last block.

    Cost: one forward; memory linear in tokens.
    Limits: class-agnostic. Features of some models have a large part in common: compare differences, not values.
    """
    if final_norm and context.store.select(layer)[0] != len(context.store) - 1:
        problem = msg("methods.norm-after-last", "the last norm follows the last block, not block {layer}", layer=layer)
        raise UsageError(problem, msg("methods.norm-after-last.hint", "leave {@O:layer} out"))
    activations = context.final_tokens() if final_norm else context.tokens_after(layer)
    z, (gh, gw) = activations.tokens(), context.layout.grid
    if query == "readout":
        activations, row = _with_readout(context, activations, layer)
        z, row = activations.tokens(), row.to(z)
    else:
        number = context.layout.patch_number(query)
        one_hot = torch.zeros(1, gh * gw, device="cpu").to(z)
        one_hot[0, number] = 1
        weights = context.to_grid(one_hot, activations.grid)[0]
        row = torch.cat([weights.new_zeros(activations.prefix), weights / weights.sum()])
    cosines = torch.cosine_similarity(z, torch.einsum("n,bnd->bd", row, z)[:, None], dim=-1)
    if activations.prefix == len(context.layout.prefix) and activations.grid == context.layout.grid:
        return cosines
    return _noted(context, cosines[:, activations.prefix :], activations)


def _with_readout(context: MethodContext, activations: TokenActivations, layer: int) -> tuple[TokenActivations, Tensor]:
    """Return tokens among which the readout is, and each one's weight in it."""
    if activations.readout is not None:
        return activations, activations.readout
    normed, layout = context.activations(layer, "norm"), context.layout
    if (normed.prefix, normed.grid) != (len(layout.prefix), layout.grid):
        problem = msg(
            "methods.readout-elsewhere",
            "the readout token is not among the tokens at the {location}",
            location=activations.location,
        )
        raise UsageError(problem, msg("methods.readout-elsewhere.hint", "compare with a patch: {@O:query=row,column}"))
    return normed, torch.from_numpy(layout.readout())


@_of_tokens("ncut", source="Shi & Malik 2000, equation 6; on tokens: TokenCut, Wang et al. 2022, section 3.2")
def ncut(context: MethodContext, *, layer: int = -1) -> NotedMap:
    """Separate one object from its background by a normalised cut of the patch graph.

    Formula: `m = v`, the eigenvector of the second smallest eigenvalue of `(D - W) v = λ D v`, `W_ij = 1` where
    `cos(z_i, z_j) > 0.2` and `1e-5` elsewhere, D the row sums of W on a diagonal; its mean is subtracted, and its
    sign is that by which the entry of v with the largest magnitude is above the mean: the object's side in TokenCut.

    Args:
        context: the images, the model and the target.
        layer: the block whose output is used, from 0, or from the end with negative numbers.

    Returns:
        `(B, N)`, signed, with mean 0 over the patches, scaled so that the largest magnitude is 1; the prefix gets 0.

    Raises:
        MethodError: more than 4,000 patches, since W is a P x P matrix, or only one.

    Cost: one forward, and the eigenvectors of one P x P matrix an image: O(P^2) memory, O(P^3) time.
    Limits: class-agnostic; one object against one background. TokenCut uses keys of the last layer, this method tokens.
    """
    activations = context.tokens_after(layer)
    z = torch.nn.functional.normalize(activations.tokens()[:, activations.prefix :].double(), dim=-1)
    if z.shape[1] < 2:
        problem = msg(
            "methods.one-patch",
            "there is only one patch token at the {location}: nothing to cut",
            location=activations.location,
        )
        raise MethodError(problem, msg("methods.one-patch.hint", "choose an earlier {@O:layer}"))
    if z.shape[1] > _MOST_PATCHES:
        problem = msg(
            "methods.too-many-patches",
            "ncut needs a matrix of all pairs of patches: {count} patches are more than {most}",
            count=z.shape[1],
            most=_MOST_PATCHES,
        )
        raise MethodError(problem, msg("methods.too-many-patches.hint", "choose a smaller {@size}, or the method pca"))
    parts = []
    for one in z:
        w = torch.where(one @ one.T > _TAU, 1.0, _WEAK).double()
        root = w.sum(1).rsqrt()
        vectors = torch.linalg.eigh(torch.eye(len(w), device="cpu").to(w) - root[:, None] * w * root).eigenvectors
        v = root * vectors[:, 1]
        seed, v = v.abs().argmax(), v - v.mean()
        parts.append(v / v.abs().max() * torch.where(v[seed] < 0, -1.0, 1.0))
    return _noted(context, torch.stack(parts).float(), activations)


@method(
    "logit-lens",
    passes="1 forward, and P + 1 short forwards past the blocks",
    source="nostalgebraist 2020; on patch tokens: Vilas et al. 2023",
    requires={"target", "hidden-states"},
)
def logit_lens(context: MethodContext, *, layer: int = -1) -> tuple[Float[Tensor, "B N"], list[str]]:
    """Score each token alone with the model's own final norm and head.

    Formula: `m_j = y(z_j)`: the target's score where the tokens after block `layer` are all replaced by the token j.

    Args:
        context: the images, the model and the target.
        layer: the block whose output is used, from 0, or from the end with negative numbers.

    Returns:
        `(B, N)`, signed, in units of the score, prefix tokens included; their sum has no meaning. A note for each image
        gives the score of the model's own readout after each block.

    Cost: N forwards that skip the blocks: at once, of the head alone on one patch and the prefix, where the model
        accepts so few tokens; else `batch_size` at a time, of patch embedding and head on all tokens. Memory linear in
        tokens.
    Limits: patches of a CLS-pooled model were never trained to be read; differences between patches mean more than
        values.
    """
    (number,) = context.store.select(layer)
    tokens, device = context.hidden_states.at(number + 1).detach(), context.pixels.device
    images, count = tokens.shape[:2]
    parts = []
    numbers, pixels = torch.arange(images * count, device=device), context.pixels.detach()

    def read(rows: Tensor, fill: int) -> Tensor:
        image, token = rows // count, rows % count
        given = tokens[image, token][:, None].expand(-1, fill, -1)
        with torch.no_grad():
            if fill < count:
                return context.scores_from_tokens(given, image)
            with context.blocks.skip(given):
                return context.scores(pixels[image], image)

    few, some = len(context.layout.prefix) + 1, numbers[:: max(count // 3, 1)]
    fill = few if _accepts(partial(read, some), few, count) else count
    for rows in torch.split(numbers, context.batch_size * count // fill):
        parts.append(read(rows, fill))
        context.progress(int(rows[-1]) + 1, images * count)
    notes: list[str] = [
        msg(
            "methods.scores-by-block",
            "score after each block: {scores}",
            scores=" ".join(f"{one:.3g}" for one in scores),
        )
        for scores in scores_by_block(context).T.tolist()
    ]
    return torch.cat(parts).reshape(images, count), notes


def _accepts(read: Callable[[int], Tensor], few: int, count: int) -> bool:
    """Return whether a model answers to few copies of a token as it does to as many as it usually gets."""
    try:
        on_few = read(few)
    except Exception:  # whatever a model does with a number of tokens that it does not know
        return False
    on_all = read(count)
    close = 1e-4 if on_all.dtype in (torch.float32, torch.float64) else 0.05
    return on_few.shape == on_all.shape and torch.allclose(
        on_few, on_all, rtol=close, atol=close * float(on_all.abs().mean())
    )


def scores_by_block(context: MethodContext) -> Float[Tensor, "L B"]:
    """Return the target's score when the model's norm and head read the tokens after each block, first block first."""
    images = torch.arange(len(context.pixels), device=context.pixels.device)
    scores = []
    for number in range(len(context.store)):
        with torch.no_grad(), context.blocks.skip(context.hidden_states.at(number + 1).detach()):
            scores.append(context.scores(context.pixels.detach(), images))
    return torch.stack(scores)
