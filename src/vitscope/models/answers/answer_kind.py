"""What the numbers of a model's answer are: class scores, probabilities or features, by the operations before them.

Class scores come out of a linear layer. Features come out of a normalisation, an activation or the blocks themselves,
or out of a projection that calls itself one. The autograd graph of one forward says which: views, slices and means are
passed, and the first operations that compute something are looked at. Nothing is kept of that forward but its graph.
"""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vitscope._messages import Message, msg
from vitscope.attention.model_modes import eval_mode, own_state

log = logging.getLogger(__name__)

Kind = Literal["scores", "probabilities", "values", "features"]
_SEEN = 5000  # operations that are looked at, at most
_OPERATIONS = {
    "layout": "View UnsafeView ReshapeAlias Squeeze Unsqueeze Select Slice Clone ToCopy T Transpose Permute Expand Cat "
    "Stack Index IndexSelect Gather Alias AsStrided Split SplitWithSizes Unbind Narrow",
    "average": "Mean Sum Neg NativeDropout AdaptiveAvgPool2D AvgPool2D Add Sub Rsub Mul Div Clamp ClampMin ClampMax "
    "Cumsum Cumprod",
    "linear": "Addmm Mm Bmm Baddbmm Addbmm Mv Addmv Linear Convolution",
    "norm": "NativeLayerNorm NativeBatchNorm CudnnBatchNorm NativeGroupNorm FusedRmsNorm RmsNorm",
    "length": "Rsqrt Norm LinalgVectorNorm Sqrt",
    "activation": "Tanh Relu Gelu Silu Elu LeakyRelu Hardswish Hardtanh Mish Softplus Selu",
    "probability": "Softmax Sigmoid LogSigmoid",
}
_ROLE = {name: role for role, names in _OPERATIONS.items() for name in names.split()}
_PROJECTION = re.compile(r"(^|[._])(visual|text|image)?_?(proj|projection|projector|embed|embeddings?)([._]|$)")
_CLASSIFIER = re.compile(r"classif|logit|num_class")


@dataclass(frozen=True)
class AnswerKind:
    """What the numbers of an answer are.

    Attributes:
        kind: `scores` before a softmax or sigmoid, `probabilities` after one, `values` of a regression whose range its
            last step limits, or `features`.
        width: how many numbers there are for each image.
        reason: the operation that says so; empty where nothing says otherwise than that they are scores.
        one_sum: probabilities that share one.
    """

    kind: Kind
    width: int
    reason: Message | Literal[""] = ""
    one_sum: bool = False


@own_state
def find_answer_kind(answer_of: Callable[[Tensor], Tensor], model: nn.Module, noise: Tensor) -> AnswerKind | None:
    """Run a model once on noise and find out what the numbers of its answer are.

    Args:
        answer_of: from pixels `(1, C, Hi, Wi)` to the answer.
        model: the module behind it.
        noise: such pixels.

    Returns:
        None for an answer that is not `(B, C)`.

    Cost: one forward, and the memory of one without a graph: what the graph would keep is dropped.
    """
    pixels = noise.requires_grad_()
    with eval_mode(model):
        try:
            with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.shape, _of_shape):
                answer = answer_of(pixels.clone())  # some models write into their input
        except Exception as error:  # weights of inference mode, or operations without a gradient
            log.debug("%s: no graph behind its answer: %s", type(model).__name__, error)
            with torch.no_grad():
                answer = answer_of(noise.detach())
    if answer.ndim != 2:
        return None
    found = _read(answer, pixels, model)
    log.debug("answer of %s: %s numbers, %s %s", type(model).__name__, found.width, found.kind, found.reason)
    return found


def _read(answer: Tensor, pixels: Tensor, model: nn.Module) -> AnswerKind:
    width = answer.shape[1]
    ends = set(_ends(answer.grad_fn, pixels, width)) if answer.grad_fn is not None else {"unknown"}
    if (found := _probabilities(answer, ends)) is not None:
        reason = msg("models.answer.probabilities", "its last step is a {step}", step=found[0])
        return AnswerKind("probabilities", width, reason, found[1])
    computed = sorted(end for end in ends if not end.startswith("linear"))
    limited = _squashed(ends) or (width == 1 and ends == {"activation"})
    if limited or (width == 1 and "unknown" in computed and answer.grad_fn is not None):
        reason = msg("models.answer.values", "its last step limits the range of its numbers")
        other = msg("models.answer.no-logit", "its one number comes out of no linear layer")
        return AnswerKind("values", width, reason if limited else other)
    if not computed:
        names = [_weight_name(end.removeprefix("linear "), width, model) for end in ends]
        if any(_PROJECTION.search(name) and not _CLASSIFIER.search(name) for name in names):
            reason = msg("models.answer.projection", "its last step is the projection '{name}'", name=names[0])
            return AnswerKind("features", width, reason)
        return AnswerKind("scores", width)
    if "unknown" in computed or any(end.startswith("probability") for end in computed):
        as_wide = width in _norm_widths(model)
        why = msg("models.answer.width", "its {width} numbers are as many as one of its tokens has", width=width)
        return AnswerKind("features", width, why) if as_wide else AnswerKind("scores", width)
    steps = {
        "norm": msg("models.answer.norm", "its last step is a normalisation"),
        "activation": msg("models.answer.activation", "its last step is an activation"),
        "blocks": msg("models.answer.blocks", "it comes straight out of the blocks"),
    }
    return AnswerKind("features", width, steps[computed[0]])


def _probabilities(answer: Tensor, ends: set[str]) -> tuple[str, bool] | None:
    """Return which function made probabilities of the answer and whether they share one; None for none.

    The numbers are checked. Where the operations cannot be seen, numbers of [0, 1] that sum to one are a softmax's.
    """
    values = answer.detach().double()
    sums = values.sum(1)
    if not bool(((values >= 0) & (values <= 1)).all()):
        return None
    rounding = 8 * answer.shape[1] * torch.finfo(answer.dtype).eps
    sum_to_one = answer.shape[1] > 1 and bool(((sums - 1).abs() <= max(rounding, 1e-5)).all())
    known = {end for end in ends if end.startswith("probability")}
    if "probability Sigmoid" in known and ends <= known | {"unknown"}:
        return "sigmoid", sum_to_one  # two columns, p and 1 - p, share one
    near = answer.shape[1] > 1 and torch.allclose(sums, torch.ones_like(sums), atol=1e-2)
    part = ends == {"probability Softmax"} and bool((sums <= 1.01).all())  # p[:, 1] alone, too
    return ("softmax", True) if part or (near and ends <= {"probability Softmax", "unknown"}) else None


def _squashed(ends: set[str]) -> bool:
    """Return whether an answer is made of sigmoids or a softmax, but is none itself, such as `100 * sigmoid`."""
    return bool(ends) and all(end.startswith("probability") for end in ends)


def _ends(start: Any, pixels: Tensor, width: int) -> Iterator[str]:
    """Iterate over the first operations behind an answer that compute something, of each sum and average all."""
    stack, seen = [start], set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if len(seen) > _SEEN:
            yield "unknown"
            return
        name, inputs = _operation(node), [child for child, _ in node.next_functions if child is not None]
        computed = [child for child in inputs if not _only_parameters(child, pixels)]
        role = _role(node, name, computed)
        if name == "AccumulateGrad" or (role == "layout" and not computed):
            yield "blocks"  # pixels, or a token that was learned: the stream that starts there
        elif (summed := _weights_of_sum(node, name, computed, pixels)) is not None:
            yield f"linear {summed}"
        elif role == "linear":
            weights = [w for child in inputs if (w := _variable(child)) is not None and (w.ndim > 1 or width == 1)]
            weight = max(weights, key=lambda w: w.ndim, default=None)
            if weight is not None and all(size % width for size in weight.shape):
                stack += computed  # it weighs scales or places, and has no row for each number
                continue
            yield "blocks" if _reads_pixels(computed, pixels) else f"linear {0 if weight is None else id(weight)}"
        elif role == "probability":
            yield f"probability {name}"
        elif role in ("layout", "average"):
            stack += computed
        else:
            yield role


def _role(node: Any, name: str, computed: list[Any]) -> str:
    """Return what an operation does, by its name and its operands that are computed from the image."""
    if name.startswith("ScaledDotProduct"):
        return "blocks"
    if _cuts_scores(node, name, computed):
        return "activation"
    if name in ("Mul", "Div") and len(computed) > 1:
        chances = name == "Mul" and all(_ROLE.get(_operation(child)) == "probability" for child in computed)
        return "average" if chances else "norm" if any(_normalises(child) for child in computed) else "unknown"
    return _ROLE.get(name, "unknown")


def _of_shape(shape: torch.Size) -> Tensor:
    """Return a tensor of a shape that takes no memory."""
    return torch.empty(shape, device="meta")


def _weights_of_sum(node: Any, name: str, inputs: list[Any], pixels: Tensor) -> int | None:
    """Return the identity of the weights of a weighted sum of features, `(f * w).sum(-1)`: it is a linear layer.

    Returns:
        None for any other operation, such as a mean over tokens whose channels were scaled; 0 for weights that no graph
        mentions.
    """
    if name not in ("Sum", "Mean") or len(inputs) != 1 or _operation(inputs[0]) != "Mul":
        return None
    factors = [child for child, _ in inputs[0].next_functions]
    computed = [child for child in factors if child is not None and not _only_parameters(child, pixels)]
    sizes, axes = (getattr(node, f"_saved_{part}", ()) for part in ("self_sym_sizes", "dim"))
    if len(computed) != 1 or not axes:
        return None
    first = factors[0] is computed[0]
    weights = inputs[0]._saved_other if first else inputs[0]._saved_self
    from_end = [len(sizes) - (axis % 2**64 + len(sizes)) % 2**64 % len(sizes) for axis in axes]
    if not all(axis <= weights.ndim and weights.shape[-axis] > 1 for axis in from_end):
        return None
    weight = _variable(factors[1] if first else factors[0])
    return 0 if weight is None else id(weight)


def _cuts_scores(node: Any, name: str, inputs: list[Any]) -> bool:
    """Return whether a clamp cuts off what is below zero, as nobody does with scores, but with probabilities."""
    low = getattr(node, "_saved_min", None) if name.startswith("Clamp") else None
    return low is not None and bool(low >= 0) and any(_ROLE.get(_operation(child)) != "probability" for child in inputs)


def _operation(node: Any) -> str:
    name: str = node.name()
    return re.sub(r"Backward\d*$", "", name.rpartition("::")[2])


def _variable(node: Any) -> Tensor | None:
    """Return the parameter behind a node, through transpositions."""
    while node is not None and not hasattr(node, "variable"):
        if _ROLE.get(_operation(node)) != "layout" or len(node.next_functions) != 1:
            return None
        node = node.next_functions[0][0]
    return None if node is None else node.variable


def _only_parameters(start: Any, pixels: Tensor) -> bool:
    """Return whether a value comes from parameters alone, as a bias, a scale or its exponential do."""
    stack, count = [start], 0
    while stack:
        node, count = stack.pop(), count + 1
        if count > 20 or getattr(node, "variable", None) is pixels:
            return False
        stack += [child for child, _ in node.next_functions if child is not None]
    return True


def _reads_pixels(nodes: list[Any], pixels: Tensor) -> bool:
    """Return whether an operation works on the pixels themselves, as a patch embedding does."""
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if getattr(node, "variable", None) is pixels:
            return True
        if _ROLE.get(_operation(node)) == "layout":
            stack += [child for child, _ in node.next_functions if child is not None]
    return False


def _normalises(start: Any) -> bool:
    """Return whether a factor or divisor is the length of something."""
    stack, count = [start], 0
    while stack and count < 8:
        node, count = stack.pop(0), count + 1
        if _ROLE.get(_operation(node)) == "length":
            return True
        if _ROLE.get(_operation(node)) == "layout" or _operation(node) in (
            "Clamp",
            "ClampMin",
            "Maximum",
            "Add",
            "Pow",
        ):
            stack += [child for child, _ in node.next_functions if child is not None]
    return False


def _weight_name(identity: str, width: int, model: nn.Module) -> str:
    """Return the name of the last weights; of frozen ones, which no graph mentions, the last that fit the answer."""
    named = dict(model.named_parameters())
    known = [name for name, weight in named.items() if str(id(weight)) == identity]
    matrices = {name: weight for name, weight in named.items() if weight.ndim == 2 or weight.ndim > 3}
    fitting = [name for name, weight in matrices.items() if width in (*weight.shape[:1], weight.shape[-1])]
    return (known or fitting[-1:] or [""])[0]


def _norm_widths(model: nn.Module) -> set[int]:
    """Return the widths of the tokens that the model normalises."""
    return {
        int(weight.shape[0])
        for module in model.modules()
        if "norm" in type(module).__name__.lower() and isinstance(weight := getattr(module, "weight", None), Tensor)
        if weight.ndim == 1
    }
