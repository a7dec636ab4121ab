"""Rollout, or evidence for a target, smoothed over patches that are similar by a random walk between them."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope._messages import msg
from vitscope.attention import LayerSpec
from vitscope.attention.transformer_blocks import HookPoint
from vitscope.errors import UsageError
from vitscope.methods.base import method
from vitscope.methods.cam import NotedMap, noted, patch_gradients
from vitscope.methods.context import MethodContext
from vitscope.methods.rollout import rollout

_ENTRIES = 2**21  # of the affinity at a time: up to 1,448 patches all of it, computed once
_ACCURACY = 1e-7  # of the solution: norm of the residual, by that of the right side
_USUAL = 0.99  # of the magnitudes of evidence; what is beyond is cut off
_FLAT = 1e-5  # differences of the solution, by its largest value, that may be its error


@method(
    "random-walk",
    passes="1 forward",
    source="random walk with restart, Pan et al. 2004, section 3.2, of rollout (Abnar & Zuidema 2020) on tokens; first "
    "component of partial least squares, Wold 1966; threshold of Otsu 1979",
    requires={"hidden-states"},
)
def random_walk(
    context: MethodContext,
    *,
    layer: int = -2,
    layers: LayerSpec = "last3",
    restart: float = 0.05,
    temperature: float = 0.1,
    detail: float = 0.0,
    linear: float = 0.75,
    near: float = 0.1,
) -> Float[Tensor, "B N"]:
    """Smooth rollout by a random walk with restart on the patch-similarity graph.

    Formula: `m = p - t`, `p = q / sd(q) + linear v / sd(v)`, in units of sd(q); `q_j = x_j (P s_j)^detail`,
    `x = c s + (1 - c) T x`, so `x = c sum_t (1 - c)^t T^t s`: s the rollout of the P patches over `layers`,
    c = `restart` the probability to stop at a step, `T_ij = W_ij / sum_k W_ik` the probability of a step from patch i
    to j, `W_ij = exp((cos(z_i, z_j) - 1) / temperature)`, z the patch tokens after block `layer`. For tokens u of
    length 1 `cos - 1 = -norm(u_i - u_j)^2 / 2`: W is a Gaussian affinity. x_j, the mean rollout of the patches where
    walks from j stop, lies between the smallest and the largest s: high on a whole object of which parts are attended
    to, low on sinks among patches that are not. `y_j = u_j sum_i u_i (q_i - mean(q))`, the u less their mean: the
    direction of the tokens along which q increases, which finds parts that no walk reaches. `v_j = (y_j - min(y)) sum_i
    G_ij q_i`, G a Gaussian of the distance between patches, its standard deviation `near` times the grid's longest
    side: such parts count near what the walk found, and not what looks like them elsewhere. t cuts the values of p in
    two where the variance between both parts is largest: above 0 is what the map sets apart from the rest.

    Args:
        context: the images, the model and the target.
        layer: the block whose output patches are compared, from 0, or from the end with negative numbers.
        layers: the layers of rollout.
        restart: probability to stop at each step, in [0.001, 1].
        temperature: the scale of 1 - cosine over which steps become unlikely; above 0.001.
        detail: how much of rollout's own differences between patches is kept, in [0, 4]; 0 is x alone: whole objects.
        linear: the weight of v beside q, in [0, 4]; 0 is q alone.
        near: how far from what the walk found parts count, as a share of the grid's longest side, in [0.01, 10]; at 10
            they count everywhere alike.

    Returns:
        `(B, N)`, signed; its sum has no meaning; the prefix gets 0. Zero at every patch where q is flat to the accuracy
        of its solution. Compare values within a map.

    Raises:
        UsageError: an option out of range, or no such layer.

    Cost: one forward, rollout over `layers`, and a linear system of P unknowns by conjugate gradients: at most about 40
        products with W (condition 1 / c). Memory is linear in tokens: W is computed by rows, and above 1,448 patches
        again for each product, O(P^2 D) each.
    Limits: class-agnostic. Similar patches share the attention of each, whether it mattered or not. Where two things
        are attended to, the map shows both. Where the last layers attend to the background, so does the map; thin
        objects may blend with what is behind them. docs/which-method.md says on which models it was tuned.
    """
    _check(restart, temperature)
    if not (0 <= detail <= 4 and 0 <= linear <= 4):
        problem = msg(
            "methods.bad-detail",
            "{@O:detail} and {@O:linear} must be in [0, 4], not {detail} and {linear}",
            detail=detail,
            linear=linear,
        )
        raise UsageError(problem, msg("methods.bad-detail.hint", "the defaults are 0 and 0.75"))
    if not 0.01 <= near <= 10:
        problem = msg("methods.bad-near", "{@O:near} must be in [0.01, 10], not {near}", near=near)
        raise UsageError(problem, msg("methods.bad-near.hint", "the default is 0.1; at 10 distance hardly counts"))
    (number,) = context.store.select(layer)
    prefix = len(context.layout.prefix)
    tokens = context.hidden_states.at(number + 1).detach()[:, prefix:]
    tokens = tokens if tokens.dtype == torch.float64 else tokens.float()
    with torch.no_grad():
        rolled = rollout(context.store, layers=layers)[:, prefix:].to(tokens.dtype)
        pairs = zip(rolled, tokens, strict=True)
        shape = context.layout.shape
        values = torch.stack([_map(s, z, shape, restart, temperature, detail, linear, near) for s, z in pairs])
    return context.to_tokens(values.reshape(len(values), *context.layout.grid))


@method(
    "evidence-walk",
    passes="1 forward, 1 backward",
    source="random walk with restart, Pan et al. 2004, section 3.2, of HiResCAM (Draelos & Carin 2020, equation 5) "
    "and Grad-CAM (Selvaraju et al. 2017, equations 1 and 2), less what all patches share",
    requires={"gradient", "token-grids"},
)
def evidence_walk(
    context: MethodContext,
    *,
    layer: int = -1,
    at: HookPoint = "norm",
    restart: float = 0.05,
    temperature: float = 0.1,
    sigma: float = 0.03,
) -> NotedMap:
    """Smooth the evidence of each patch by a random walk with restart on the patch-similarity graph.

    Formula: `m = y - mean(y)`, `y_j = sum_i K_ji x_i / sum_i K_ji`, K a Gaussian of the distance of patches,
    `x = c e + (1 - c) T x`: `e = a / sum |a| + b / sum |b|`, `a_j = v_j . g_j`,
    `b_j = v_j . mean_i g_i`, `v_j = z_j - mean_i z_i`, z the patch tokens at the chosen place and g the score's
    gradient: HiResCAM and Grad-CAM of what a patch does not share with all others, both signs kept, cut off at the
    99th percentile of their magnitudes; c = `restart` and T, of the same z, as for `random-walk`. A gradient of its own
    says most of a patch, but reverses where an answer is nearly certain; the mean gradient is steadier. A patch gets
    the evidence of all patches that are like it: for and against cancel within an object, and a token that carries much
    of the score for others loses it. The blur takes the peak from a single patch at an object's rim.

    Args:
        context: the images, the model and the target.
        layer: block, from 0, or from the end with negative numbers.
        at: `norm`, `input` or `output` of it, as for `gradcam`.
        restart: probability to stop at each step, in [0.001, 1].
        temperature: the scale of 1 - cosine over which steps become unlikely; above 0.001.
        sigma: standard deviation of K, as a share of the grid's longest side, in [0, 1]; 0 blurs nothing.

    Returns:
        `(B, N)`, signed, without a unit, with mean 0 over the patches; the prefix gets 0. Positive where there is more
        evidence than elsewhere. Zero at every patch where y is flat to the accuracy of its solution.

    Raises:
        UsageError: an option out of range, or no patch has a gradient there.

    Cost: one forward and one backward, and their memory, no backward below the chosen layer; and the linear system of
        `random-walk`.
    Limits: similar patches share the evidence of each, whether it mattered or not: two objects that are alike to the
        model get the same value.
    """
    _check(restart, temperature)
    if not 0 <= sigma <= 1:
        problem = msg("methods.bad-sigma", "{@O:sigma} must be in [0, 1], not {sigma}", sigma=sigma)
        raise UsageError(problem, msg("methods.bad-sigma.hint", "the default is 0.03; 0 blurs nothing"))
    activations, z, gradient = patch_gradients(context, layer, at)
    z, gradient = z.flatten(1, 2), gradient.flatten(1, 2)
    own = z - z.mean(1, keepdim=True)
    parts = [(own * each).sum(-1) for each in (gradient, gradient.mean(1, keepdim=True))]
    least = torch.finfo(z.dtype).tiny
    evidence = torch.stack([part / part.abs().sum(1, keepdim=True).clamp_min(least) for part in parts]).sum(0)
    with torch.no_grad():
        most = evidence.abs().quantile(_USUAL, dim=1, keepdim=True)
        pairs = zip(evidence.clamp(-most, most), z, strict=True)
        values = torch.stack([_smoothed(e, tokens, restart, temperature) for e, tokens in pairs])
        maps = values.reshape(len(values), *activations.grid)
        values = _blurred(maps, sigma * max(activations.grid)).flatten(1)
        differing = values.amax(1) - values.amin(1) > _FLAT * values.abs().amax(1)
        values = (values - values.mean(1, keepdim=True)) * differing[:, None]
    return noted(context, values.reshape(len(values), *activations.grid), activations)


def _check(restart: float, temperature: float) -> None:
    """Raise a UsageError for a walk that has no solution, or none that can be found."""
    if not (0.001 <= restart <= 1 and temperature > 0.001):
        problem = msg(
            "methods.bad-walk",
            "{@O:restart} must be in [0.001, 1] and {@O:temperature} above 0.001, not {restart} and {temperature}",
            restart=restart,
            temperature=temperature,
        )
        raise UsageError(problem, msg("methods.bad-walk.hint", "the defaults are 0.05 and 0.1"))


def _map(
    s: Float[Tensor, " P"],
    z: Float[Tensor, "P D"],
    shape: tuple[int, ...],
    restart: float,
    temperature: float,
    detail: float,
    linear: float,
    near: float,
) -> Float[Tensor, " P"]:
    """Return m of one image."""
    q = _smoothed(s, z, restart, temperature) * (s * len(s)) ** detail
    if any(values.max() - values.min() <= _FLAT * values.max() for values in (s, q)):  # x lies within the range of s
        return torch.zeros_like(q)
    unit = torch.nn.functional.normalize(z, dim=-1)
    unit = unit - unit.mean(0)
    y = unit @ ((q - q.mean()) @ unit)
    around = _gathered(q.reshape(shape), near * max(shape)).flatten()
    v = (y - y.min()) * around / around.max()
    v, spread = v - v.mean(), v.std()
    p = q + linear * v * q.std() / spread if spread > _FLAT**2 * len(s) * q.std() else q  # else tokens are all alike
    return p - _cut(p)


def _blurred(values: Float[Tensor, "B gh gw"], deviation: float) -> Float[Tensor, "B gh gw"]:
    """Return each map's mean around each patch, weighed by a Gaussian, over the patches that there are."""
    if deviation == 0:
        return values
    weights = _gathered(torch.ones_like(values[0]), deviation)
    return torch.stack([_gathered(one, deviation) / weights for one in values])


def _gathered(values: Float[Tensor, "..."], deviation: float) -> Float[Tensor, "..."]:
    """Return the sum around each place along all axes, weighed by a Gaussian; outside of the grid is 0."""
    for axis, size in enumerate(values.shape):
        places = torch.arange(size, device=values.device, dtype=values.dtype)
        kernel = torch.exp(-(((places[:, None] - places) / deviation) ** 2) / 2)
        values = torch.tensordot(kernel, values, dims=([1], [axis])).movedim(0, axis)
    return values


def _cut(p: Float[Tensor, " P"]) -> Float[Tensor, ""]:
    """Return the middle between the two values where the variance between those below and above is largest."""
    ordered = p.double().sort().values
    below = torch.arange(1, len(p), device=p.device, dtype=torch.float64)
    above, total = len(p) - below, ordered.cumsum(0)
    apart = total[:-1] / below - (total[-1] - total[:-1]) / above
    at = (below * above * apart**2).argmax()
    return ((ordered[at] + ordered[at + 1]) / 2).to(p.dtype)


def _smoothed(
    s: Float[Tensor, " P"], z: Float[Tensor, "P D"], restart: float, temperature: float
) -> Float[Tensor, " P"]:
    """Return x in `x = c s + (1 - c) T x`.

    Made symmetric: `(I - (1 - c) R W R) (x / R) = c s / R`, R = rowsum(W) ^ -1/2.
    """
    affinity = _affinity(z, temperature)
    root = affinity(torch.ones_like(s)).rsqrt()
    keep = 1 - restart
    return root * _conjugate_gradients(lambda y: y - keep * root * affinity(root * y), restart * s / root)


def _affinity(z: Float[Tensor, "P D"], temperature: float) -> Callable[[Tensor], Tensor]:
    """Return the function from a vector v to `W v`."""
    unit = torch.nn.functional.normalize(z, dim=-1)
    step = max(1, _ENTRIES // len(unit))

    def rows(some: Tensor) -> Tensor:
        return ((some @ unit.T - 1) / temperature).exp_()

    if step >= len(unit):
        whole = rows(unit)
        return lambda v: whole @ v
    return lambda v: torch.cat([rows(some) @ v for some in torch.split(unit, step)])


def _conjugate_gradients(product: Callable[[Tensor], Tensor], b: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
    """Solve `A x = b` for a symmetric positive definite A (Hestenes & Stiefel 1952); `product(v)` is `A v`."""
    x, residual = torch.zeros_like(b), b.clone()
    direction, size = residual.clone(), residual @ residual
    enough = _ACCURACY**2 * size
    for _ in range(10 * len(b)):
        if size <= enough:
            break
        moved = product(direction)
        step = size / (direction @ moved)
        x, residual = x + step * direction, residual - step * moved
        size, previous = residual @ residual, size
        direction = residual + size / previous * direction
    return x
