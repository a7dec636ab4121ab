"""What the readout attends to, weighed by how much of it there is on patches that are alike."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.attention import LayerSpec
from vitscope.errors import UsageError
from vitscope.methods.base import method
from vitscope.methods.context import MethodContext
from vitscope.methods.rollout import rollout

__all__ = ["random_walk"]

_ENTRIES = 2**21  # of the affinity at a time: all of it up to 1,448 patches, and then it is made once
_ACCURACY = 1e-7  # of the solution: norm of what is left over, by that of the right side


@method(
    "random-walk",
    passes="1 forward",
    source="random walk with restart, Pan et al. 2004, section 3.2, of rollout (Abnar & Zuidema 2020) on tokens",
    requires={"hidden-states"},
)
def random_walk(
    context: MethodContext,
    *,
    layer: int = -2,
    layers: LayerSpec = "last3",
    restart: float = 0.05,
    temperature: float = 0.1,
    detail: float = 0.5,
) -> Float[Tensor, "B N"]:
    """Rollout, weighed by what a walker finds of it who goes from patch to patch that are alike, and stops by chance.

    Formula: `m = p - mean(p)`, `p_j = x_j (P s_j)^detail`, `x = c s + (1 - c) T x`, so
    `x = c sum_t (1 - c)^t T^t s`: s the rollout of the P patches over `layers`, c = `restart` the chance to stop at a
    step, `T_ij = W_ij / sum_k W_ik` the step from patch i to j, `W_ij = exp((cos(z_i, z_j) - 1) / temperature)`, z the
    patch tokens after block `layer`. For tokens u of length 1 `cos - 1 = -norm(u_i - u_j)^2 / 2`: W is a Gaussian
    affinity. x_j, the mean rollout where walkers from j stop, lies between the smallest and the largest s: high on all
    of an object of which parts are attended to, low on sinks among patches that are not. s keeps some of the order
    within.

    Args:
        context: the images, the model and the target.
        layer: the block after which patches are compared, from 0, or from the end with negative numbers.
        layers: which layers rollout takes.
        restart: chance to stop at each step, in [0.001, 1].
        temperature: how much less than 1 the cosine of patches may be that walkers still go between; above 0.001.
        detail: how much of rollout's own differences between patches is kept, in [0, 4]; 0 is x alone: whole objects.

    Returns:
        `(B, N)`, signed, with mean 0 over the patches; the prefix gets 0. Compare values within a map.

    Raises:
        UsageError: restart, temperature or detail out of range, or a layer that is not there.

    Cost: one forward, rollout over `layers`, and a linear system of P unknowns by conjugate gradients: at most about 40
        products with W (condition 1 / c). Memory is linear in tokens: W is made rows at a time, and above 1,448 patches
        anew for each product, O(P^2 D) each.
    Limits: class-agnostic. Patches alike share what one of them gets, whether it counted or not. Where the attention of
        the last layers lies on the background, so does the map; thin objects may be taken for what is behind them. It
        was tuned on one model (docs/which-method.md).
    """
    if not (0.001 <= restart <= 1 and temperature > 0.001 and 0 <= detail <= 4):
        raise UsageError(
            "restart is in [0.001, 1], temperature above 0.001 and detail in [0, 4], "
            f"not {restart}, {temperature} and {detail}",
            "the defaults are 0.05, 0.1 and 0.5",
        )
    (number,) = context.store.select(layer)
    ahead = len(context.layout.prefix)
    tokens = context.tokens.at(number + 1).detach()[:, ahead:]
    tokens = tokens if tokens.dtype == torch.float64 else tokens.float()
    with torch.no_grad():
        seen = rollout(context.store, layers=layers)[:, ahead:].to(tokens.dtype)
        found = torch.stack([_walked(s, z, restart, temperature) for s, z in zip(seen, tokens, strict=True)])
    found = found * (seen * seen.shape[1]) ** detail
    found = found - found.mean(1, keepdim=True)
    return context.whole(found.reshape(len(found), *context.layout.grid))


def _walked(s: Float[Tensor, " P"], z: Float[Tensor, "P D"], restart: float, temperature: float) -> Float[Tensor, " P"]:
    """`x = c s + (1 - c) T x`, made symmetric: `(I - (1 - c) R W R) (x / R) = c s / R`, R = rowsum(W) ^ -1/2."""
    times = _affinity(z, temperature)
    root = times(torch.ones_like(s)).rsqrt()
    keep = 1 - restart
    return root * _solved(lambda y: y - keep * root * times(root * y), restart * s / root)


def _affinity(z: Float[Tensor, "P D"], temperature: float) -> Callable[[Tensor], Tensor]:
    """From a vector v to `W v`."""
    unit = torch.nn.functional.normalize(z, dim=-1)
    step = max(1, _ENTRIES // len(unit))

    def rows(some: Tensor) -> Tensor:
        return ((some @ unit.T - 1) / temperature).exp_()

    if step >= len(unit):
        whole = rows(unit)
        return lambda v: whole @ v
    return lambda v: torch.cat([rows(some) @ v for some in torch.split(unit, step)])


def _solved(times: Callable[[Tensor], Tensor], b: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
    """X in `A x = b` for a symmetric positive definite A, by conjugate gradients (Hestenes & Stiefel 1952)."""
    x, left = torch.zeros_like(b), b.clone()
    way, size = left.clone(), left @ left
    enough = _ACCURACY**2 * size
    for _ in range(10 * len(b)):
        if size <= enough:
            break
        ahead = times(way)
        far = size / (way @ ahead)
        x, left = x + far * way, left - far * ahead
        size, was = left @ left, size
        way = left + size / was * way
    return x
