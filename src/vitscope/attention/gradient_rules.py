"""Gradient rules: the same forward, whose backward paths are pruned or scaled so that relevance is conserved.

A gradient says how the score changes with a small step, while relevance is a share of the score. The two differ where a
function is not linear in its input. Each rule replaces a function by one that has the same value and is linear, with
the rest held fixed:

- a norm: `(x - mean(x)) / std(x)` with `std(x)` held fixed
- an activation: `f(x) = x (f(x) / x)` with the quotient held fixed; a sigmoid is a gate, and held fixed itself
- a product of two activations `a b`: each gets half of the gradient
- attention: `libra` holds A fixed in `A v`; `attnlrp` lets half of the gradient go to A and half to v, and of A's half
  a half each to q and k (the softmax keeps its own gradient, which is its Taylor rule)

Sources: LibraGrad, Mehri et al. 2025; AttnLRP, Achtibat et al. 2024, section 3. Holding attention and norms fixed is
already the propagation of Ali et al. 2022. Relevance propagation is covered by patents of others.
"""

from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

GradientRuleName = Literal["plain", "libra", "attnlrp"]
GRADIENT_RULES: tuple[str, ...] = get_args(GradientRuleName)
_ACTIVATIONS = frozenset(
    ("gelu", "relu", "relu6", "silu", "mish", "hardswish", "elu", "selu", "celu", "leaky_relu", "tanh")
)
_GATES = frozenset(("sigmoid", "hardsigmoid"))
_PRODUCTS = frozenset(("mul", "__mul__", "__rmul__", "multiply"))
_MATRIX_PRODUCTS = frozenset(("matmul", "__matmul__", "bmm"))
_SMALL = 1e-6


class GradientRule:
    """Calls torch functions such that their gradients follow a rule.

    Args:
        name: `libra` or `attnlrp`; `plain` keeps each function's own gradient.
    """

    def __init__(self, name: GradientRuleName) -> None:
        self.name = name

    def __call__(self, func: Any, args: Any, kwargs: Any) -> Any:  # noqa: PLR0911 - the rules, one after another
        """Return the function's value, whose gradient follows the rule."""
        if self.name == "plain" or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if func is scaled_dot_product_attention:
            return func(*self.attention_inputs(*args[:3]), *args[3:], **kwargs)
        if name in ("layer_norm", "rms_norm") and _needs_grad(args[0]):
            return _norm(func, args, kwargs)
        if name in _ACTIVATIONS and args and _needs_grad(args[0]):
            return _as_product(func, args, kwargs)
        if name in _GATES or (name == "softmax" and self.name == "libra"):
            return func(*args, **kwargs).detach()
        if name in _PRODUCTS and len(args) == 2 and all(map(_needs_grad, args)):
            return func(*map(halve_gradient, args))
        if name in _MATRIX_PRODUCTS and self.name == "attnlrp" and all(map(_needs_grad, args[:2])):
            return func(halve_gradient(args[0]), halve_gradient(args[1]), *args[2:], **kwargs)
        if name == "einsum" and self.name == "attnlrp" and len(args) == 3 and all(map(_needs_grad, args[1:])):
            return func(args[0], halve_gradient(args[1]), halve_gradient(args[2]))
        return func(*args, **kwargs)

    def attention_inputs(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the same queries, keys and values, whose gradients follow the rule of attention."""
        if self.name == "libra":
            return q.detach(), k.detach(), v
        if self.name == "attnlrp":
            return scale_gradient(q, 0.25), scale_gradient(k, 0.25), halve_gradient(v)
        return q, k, v


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * ctx.factor, None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return the same numbers; `factor` of their gradient flows back."""
    return cast(Tensor, _Scaled.apply(x, factor)) if x.requires_grad else x


def halve_gradient(x: Tensor) -> Tensor:
    """Return the same numbers; half of their gradient flows back."""
    return scale_gradient(x, 0.5)


class _Linear(torch.autograd.Function):
    """`value`, whose gradient with respect to `x` is `factor`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (factor,) = ctx.saved_tensors
        return grads[0] * factor, None, None


def _as_product(func: Any, args: Any, kwargs: Any) -> Tensor:
    x = args[0]
    with torch.no_grad():
        value = func(x.detach().clone(), *args[1:], **kwargs)  # some work in place
        factor = x.detach().abs().clamp_min_(_SMALL).copysign_(x)
        torch.div(value, factor, out=factor)
    return cast(Tensor, _Linear.apply(x, value, factor))


class _Norm(torch.autograd.Function):
    """A norm whose deviation is held fixed: `value` and the gradient of `weight * scale * (x - mean)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, scale: Tensor, weight: Tensor | None, dims: int) -> Tensor:
        ctx.save_for_backward(scale, weight)  # a number for each token, not for each channel of it
        ctx.dims = dims
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        scale, weight = ctx.saved_tensors
        grad = grads[0] * scale if weight is None else grads[0] * weight * scale
        if ctx.dims:
            grad = grad - grad.mean(tuple(range(-ctx.dims, 0)), keepdim=True)
        return grad, None, None, None, None


def _norm(func: Any, args: Any, kwargs: Any) -> Any:
    layer = func.__name__ == "layer_norm"
    names = ("input", "normalized_shape", "weight", *(("bias",) * layer), "eps")
    given = dict(zip(names, args, strict=False)) | kwargs
    x, dims = given["input"], len(given["normalized_shape"])
    over = tuple(range(-dims, 0))
    with torch.no_grad():
        value = func(*(a.detach() if isinstance(a, Tensor) else a for a in args), **kwargs)
        eps = given.get("eps")
        if layer:
            scale = (x.var(over, keepdim=True, unbiased=False) + (1e-5 if eps is None else eps)).rsqrt()
        else:
            eps = torch.finfo(x.dtype).eps if eps is None else eps
            scale = (x.pow(2).mean(over, keepdim=True) + eps).rsqrt()
        weight = given.get("weight")
    return _Norm.apply(x, value, scale, None if weight is None else weight.detach(), dims if layer else 0)


def _needs_grad(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad
