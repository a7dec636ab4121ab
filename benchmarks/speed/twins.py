"""What each method should give: from transformers' eager attention in float64, all matrices at once, by its formula."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from benchmarks.speed.models import PATCH, Shape, pixels, transformers_model
from torch import Tensor, nn

Twin = Callable[[Shape, int, int], Tensor]  # of a shape, a side and a class, the values of the patches
IG_STEPS = 8


class Dense:
    """One forward in float64, with its graph and all that formulas need of it."""

    def __init__(self, shape: Shape, side: int, target: int) -> None:
        self.model = transformers_model(shape, side, "eager").double().requires_grad_(False)
        self.pixels = pixels(side).double().requires_grad_()
        self.kept: dict[str, list[Tensor]] = {"norm1": [], "value": [], "mixed": []}
        layers = self.model.dinov2.encoder.layer  # type: ignore[union-attr]
        for layer in layers:
            layer.norm1.register_forward_hook(lambda _m, _i, out: self.kept["norm1"].append(out))
            layer.attention.v_proj.register_forward_hook(lambda _m, _i, out: self.kept["value"].append(out))
            layer.attention.o_proj.register_forward_pre_hook(lambda _m, given: self.kept["mixed"].append(given[0]))
        out = self.model(self.pixels, output_attentions=True, output_hidden_states=True)
        self.attentions, self.states, self.target = out.attentions, out.hidden_states, target
        self.score = out.logits[0, target]

    def gradients(self, of: list[Tensor]) -> list[Tensor]:
        """Return the score's gradients."""
        return list(torch.autograd.grad(self.score, of))

    def positive(self) -> list[Tensor]:
        """Return `mean_h relu(A * dy/dA)` of each layer, `(N, N)`."""
        pairs = zip(self.attentions, self.gradients(list(self.attentions)), strict=True)
        return [(a.detach() * grad).clamp(min=0).mean(1)[0] for a, grad in pairs]


def rolled(matrices: list[Tensor]) -> Tensor:
    """Return the first row of the product, the last layer on the left, without CLS."""
    row = torch.zeros(len(matrices[0]), dtype=torch.float64)
    row[0] = 1
    for matrix in reversed(matrices):
        row = row @ matrix
    return row[1:]


def rollout(shape: Shape, side: int, target: int) -> Tensor:
    matrices = [a.detach().mean(1)[0] for a in Dense(shape, side, target).attentions]
    return rolled([(a + torch.eye(len(a), dtype=a.dtype)) / 2 for a in matrices])


def attention(shape: Shape, side: int, target: int) -> Tensor:
    return Dense(shape, side, target).attentions[-1].detach().mean(1)[0, 0, 1:]


def relevance(shape: Shape, side: int, target: int) -> Tensor:
    return rolled([a + torch.eye(len(a), dtype=a.dtype) for a in Dense(shape, side, target).positive()])


def gradcam(shape: Shape, side: int, target: int) -> Tensor:
    dense = Dense(shape, side, target)
    (grad,) = dense.gradients([dense.kept["norm1"][-1]])
    return (dense.kept["norm1"][-1].detach()[0, 1:] @ grad[0, 1:].mean(0)).clamp(min=0)


def legrad(shape: Shape, side: int, target: int) -> Tensor:
    dense, total = Dense(shape, side, target), torch.zeros(())
    weight = dense.model.classifier.weight[target, : shape.width]  # type: ignore[union-attr]
    for a, state in zip(dense.attentions, dense.states[1:], strict=True):
        score = dense.model.dinov2.layernorm(state.mean(1))[0] @ weight  # type: ignore[union-attr]
        (grad,) = torch.autograd.grad(score, a, retain_graph=True)
        total = total + grad.clamp(min=0).mean((1, 2))[0, 1:]
    return total


def daam(shape: Shape, side: int, target: int) -> Tensor:
    """Equations 7 to 12 of arXiv 2503.14640, accumulated over all blocks."""
    dense, total = Dense(shape, side, target), torch.zeros(())
    grads = dense.gradients(dense.kept["mixed"])
    for a, value, grad in zip(dense.attentions, dense.kept["value"], grads, strict=True):
        sources = a.detach()[0, :, 0, :, None] * value.detach()[0].unflatten(-1, (shape.heads, -1)).transpose(0, 1)
        slopes = grad[0, 0].clamp(min=0).unflatten(-1, (shape.heads, -1))[:, None]
        total = total + (sources * slopes).sum((0, 2))[1:].clamp(min=0)
    return total


def per_patch(values: Tensor) -> Tensor:
    """Return sums over patches of `(1, 3, H, W)`."""
    return nn.functional.avg_pool2d(values.sum(1, keepdim=True), PATCH).flatten() * PATCH**2


def input_x_gradient(shape: Shape, side: int, target: int) -> Tensor:
    dense = Dense(shape, side, target)
    return per_patch(dense.pixels.detach() * dense.gradients([dense.pixels])[0])


def integrated_gradients(shape: Shape, side: int, target: int) -> Tensor:
    """Return the integral from 0 by the midpoint rule."""
    model = transformers_model(shape, side, "eager").double().requires_grad_(False)
    x, total = pixels(side).double(), torch.zeros((), dtype=torch.float64)
    for step in range(IG_STEPS):
        at = (x * (step + 0.5) / IG_STEPS).requires_grad_()
        total = total + torch.autograd.grad(model(at).logits[0, target], at)[0] / IG_STEPS
    return per_patch(x * total)


class _HeldNorm(nn.Module):
    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + self.norm.eps).sqrt()
        return centred / deviation.detach() * self.norm.weight + self.norm.bias


class _HeldQuotient(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (nn.functional.gelu(x) / x).detach()


@contextmanager
def held_softmax() -> Iterator[None]:
    """Let no gradient pass the softmax of the next forwards."""
    original = nn.functional.softmax
    nn.functional.softmax = lambda *args, **kwargs: original(*args, **kwargs).detach()  # type: ignore[assignment]
    try:
        yield
    finally:
        nn.functional.softmax = original


def cp_lrp(shape: Shape, side: int, target: int) -> Tensor:
    """Gradient x input with softmax, the deviation of norms and the quotient of GELU held fixed (Ali et al. 2022)."""
    model = transformers_model(shape, side, "eager").double().requires_grad_(False)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.LayerNorm):
                setattr(module, name, _HeldNorm(child))
            elif type(child).__name__ == "GELUActivation":
                setattr(module, name, _HeldQuotient())
    x = pixels(side).double().requires_grad_()
    with held_softmax():
        score = model(x).logits[0, target]
    return per_patch(x.detach() * torch.autograd.grad(score, x)[0])


TWINS: dict[str, Twin] = {
    "rollout": rollout,
    "attention": attention,
    "relevance": relevance,
    "gradcam": gradcam,
    "legrad": legrad,
    "DAAM": daam,
    "input-x-gradient": input_x_gradient,
    "integrated-gradients": integrated_gradients,
    "CP-LRP": cp_lrp,
}
