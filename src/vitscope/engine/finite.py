"""Numbers that are no numbers: where NaN or infinity begins in a model, so that no map is made of it."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vitscope._messages import msg
from vitscope.attention import AttentionStore, Factored
from vitscope.attention.changes import Changes
from vitscope.errors import MethodError, UsageError
from vitscope.tracing.token_tensor import tensors_in

NOT_FINITE = (
    *("engine.answer-not-finite", "engine.attention-not-finite", "engine.score-not-finite"),
    "attention.no-keys",
)
_HALF = (torch.float16, torch.bfloat16)


def require_finite_answer(model: nn.Module, answer: Tensor, pixels: Tensor, run: Callable[[], Any]) -> None:
    """Raise an error where an answer holds NaN or infinity, with the layer where it began.

    An answer of -inf beside numbers, of a model all of whose layers are finite, is a class that the model left out.

    Args:
        model: the module.
        answer: its answer.
        pixels: its input.
        run: runs it again.

    Raises:
        UsageError: the pixels hold NaN or infinity.
        MethodError: the model made it.
    """
    if bool(answer.detach().isfinite().all()):
        return
    if bad := [number for number, image in enumerate(pixels) if not bool(image.detach().isfinite().all())]:
        raise UsageError(
            msg("engine.pixels-not-finite", "image {number} of the batch holds NaN or infinity", number=bad[0])
        )
    layer = _first_layer(model, run)
    values = answer.detach()
    left_out = not bool(values.isnan().any()) and not bool((values == torch.inf).any())
    if layer is None and left_out and bool(values.isfinite().flatten(1).any(1).all()):
        return
    problem = msg(
        "engine.answer-not-finite",
        "the model's answer holds NaN or infinity, which begins in {layer}",
        layer=layer or type(model).__name__,
    )
    raise MethodError(problem, _hint(model, layer))


def require_finite_attention(model: nn.Module, store: AttentionStore) -> None:
    """Raise a MethodError where queries, keys or attention hold NaN or infinity, with the layer where it began.

    Sums decide first, each in one pass: a sum of numbers of which one is NaN or infinite is not finite.
    """
    sums = [total for block in store.blocks for total in _sums(block)]
    if not sums or bool(torch.stack([total.to(sums[0]) for total in sums]).isfinite().all()):
        return
    flags = [_block_is_finite(block) for block in store.blocks]  # a sum may also be too large for its type
    if bool(torch.stack([flag.to(flags[0].device) for flag in flags]).all()):
        return
    name = next(block.name for block, flag in zip(store.blocks, flags, strict=True) if not bool(flag))
    raise MethodError(
        msg("engine.attention-not-finite", "the attention of {layer} holds NaN or infinity", layer=name),
        _hint(model, name),
    )


def require_finite_score(score: Tensor, words: list[str]) -> None:
    """Raise a MethodError for a target's score that is NaN or infinite, as a function of the caller's may return."""
    finite = score.detach().isfinite()
    if not bool(finite.all()):
        word = words[int((~finite).nonzero()[0])]
        raise MethodError(
            msg("engine.score-not-finite", "the score of the target '{target}' is NaN or infinite", target=word),
            msg("engine.score-not-finite.hint", "the model's answer is finite: look at the target"),
        )


def _sums(block: Any) -> Iterator[Tensor]:
    """Yield sums that are finite only where the block is."""
    if not isinstance(block, Factored):
        yield block.probs.detach().sum()
        return
    yield block.q.detach().sum()
    yield block.k.detach().sum()
    if block.lse is not None:
        yield block.lse.amax().clamp_min(0)  # -inf where a mask hides every key
    if block.bias is not None:
        yield block.bias.amax().clamp_min(0)  # -inf where a mask hides a key


def _block_is_finite(block: Any) -> Tensor:
    if not isinstance(block, Factored):
        probs: Tensor = block.probs
        return probs.detach().isfinite().all()
    found = block.q.detach().isfinite().all() & block.k.detach().isfinite().all()
    if block.lse is not None:  # -inf where a mask hides every key
        found = found & ~(block.lse.isnan() | (block.lse == torch.inf)).any()
    if block.bias is not None:
        found = found & ~(block.bias.isnan() | (block.bias == torch.inf)).any()
    return found


def _hint(model: nn.Module, layer: str | None) -> str:
    inside = dict(model.named_modules()).get(layer or "", model)
    for name, weight in inside.named_parameters(prefix=layer or "" if inside is not model else ""):
        if weight.is_floating_point() and not bool(weight.detach().isfinite().all()):
            return msg(
                "engine.weights-not-finite.hint", "the weights '{name}' hold NaN or infinity: load others", name=name
            )
    if any(weight.dtype in _HALF for weight in model.parameters()):
        return msg("engine.not-finite.hint", "use dtype float32")
    return msg("engine.answer-not-finite.hint", "the weights are finite: look at what that layer computes")


def _first_layer(model: nn.Module, run: Callable[[], Any]) -> str | None:
    """Return the name of the first module whose result is not finite; of its parent, where its input was not either."""
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, result: Any) -> None:
            if not found and not all(map(_finite, tensors_in(result))):
                made_here = all(map(_finite, tensors_in(given)))
                found.append(name if made_here else name.rpartition(".")[0])

        return hook

    with Changes() as changes, torch.no_grad():
        for name, module in model.named_modules():
            if name:
                changes.hook(module, watch(name))
        run()
    return found[0] or None if found else None


def _finite(tensor: Tensor) -> bool:
    values = tensor.detach()
    return not values.is_floating_point() or bool(values.isfinite().all())
