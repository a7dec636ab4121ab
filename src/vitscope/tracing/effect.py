"""Check on the real model that its answer depends on attention, on the image through attention alone, and repeats."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitscope._messages import Message, msg
from vitscope.attention.backward import GraphOutput
from vitscope.attention.blocks import Block
from vitscope.attention.capture import capture
from vitscope.attention.model_modes import eval_mode, frozen_parameters, own_state
from vitscope.attention.recorder import AttentionRecorder, RecordedCall
from vitscope.errors import CaptureError, LayoutError
from vitscope.tracing.averaged import Run
from vitscope.tracing.placement import quantised_modules
from vitscope.tracing.records import CAPTURE_HINT
from vitscope.tracing.trace import Trace

log = logging.getLogger(__name__)

_MOST_NUMBERS = 2**23  # queries of all layers; a forward with a graph keeps about forty times as many numbers
_LEAK = 1e-5
_REPEATS = 1e-2  # of the largest number of an answer: kernels may add up in another order
_OTHERS = (3.0, -3.0, 0.1)  # times the pixels: a clamp or an activation at the end may be closed for some images


@own_state
def check_effect(  # noqa: C901 - what hooks see is put together here
    run: Run, model: nn.Module, pixels: Tensor, found: Trace, recorded: dict[int, RecordedCall]
) -> tuple[Message, ...]:
    """Differentiate the answer of one real forward with respect to the pixels, with and without attention.

    Args:
        run: from pixels to the answer.
        model: the module that `run` calls.
        pixels: one image `(1, 3, Hi, Wi)`.
        found: the trace of the model at that size.
        recorded: the attention calls of a captured forward.

    Returns:
        Notes on layers whose attention has no effect.

    Cost: one forward and two backward passes, more where no gradient comes through; skipped where their memory would
        be large.

    Raises:
        LayoutError: no attention has an effect, in a model without weights of zeros; or the image reaches what the
            answer reads beside attention.
    """
    name = type(model).__name__
    if quantised_modules(model):
        log.debug("%s has modules without a backward pass: the effect of its attention was not checked", name)
        return ()
    if sum(call.block.shape[1] * call.block.shape[2] * 64 for call in recorded.values()) > _MOST_NUMBERS:
        log.debug("%s is large: the effect of its attention was not checked", name)
        return ()
    effect: dict[int, bool] = {}
    hidden = closed = False

    def edit(events: frozenset[int], _lead: tuple[int, ...], output: GraphOutput | None) -> None:
        nonlocal hidden
        tensors = [] if output is None else [tensor for tensor in output.tensors if tensor.requires_grad]
        hidden |= not tensors
        effect.update(dict.fromkeys(events, not tensors))  # what cannot be seen counts as an effect

        def hook(grad: Tensor | None) -> Tensor | None:
            if grad is None:  # an operation without a backward pass, as those of 8 bits: an effect is not seen
                effect.update(dict.fromkeys(events, True))
                return None
            if not closed:
                effect.update({event: True for event in events if bool((grad != 0).any())})
            return torch.zeros_like(grad) if closed else None

        for tensor in tensors:
            tensor.register_hook(hook)  # type: ignore[no-untyped-call]

    whole = beside = pixels
    try:
        for factor in (1.0, *_OTHERS):
            start, closed = (pixels.detach() * factor).requires_grad_(), False
            with eval_mode(model), frozen_parameters(model), capture(model, edit=edit):
                answer = run(start)
            weights = torch.randn(
                answer.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu"
            )
            weights = weights.to(answer)
            score = (answer * weights).sum()
            (whole,) = torch.autograd.grad(score, [start], retain_graph=True, materialize_grads=True)
            closed = True
            (beside,) = torch.autograd.grad(score, [start], materialize_grads=True)
            if whole.any():
                break
    except RuntimeError as error:  # no backward pass in this dtype, or none at all
        log.debug("the effect of attention in %s was not checked: %s", name, error)
        return ()
    layers = {event: event for event in found.layers}
    for loop in found.loops:
        layers |= {event: layers[loop.events[0]] for event in loop.events if loop.events[0] in layers}
    working = {layer for event, layer in layers.items() if effect.get(event, True)}
    idle = [number for number, event in enumerate(found.layers) if event not in working]
    if idle and not working and found.pool is None and not _untrained(model):
        raise LayoutError.coded(
            "tracing.no-effect",
            "the answer of {model} does not depend on the result of any attention call: it is multiplied with "
            "zero, cut off or thrown away",
            CAPTURE_HINT,
            model=name,
        )
    patches = found.readout[len(found.layout.prefix) :]
    alone = found.isotropic and (found.pool is not None or not patches.any()) and not hidden
    if alone and float(beside.abs().amax()) > _LEAK * float(whole.abs().amax()):
        raise LayoutError.coded(
            "tracing.beside-attention",
            "the image reaches the tokens that {model} reads without passing through the attention calls that were "
            "recorded: the map would leave that out",
            CAPTURE_HINT,
            model=name,
        )
    if not idle:
        return ()
    return (
        msg(
            "tracing.idle-layers",
            "the answer does not depend on the attention of layer {layers} (its result is multiplied with zero), which "
            "maps of attention count all the same",
            layers=", ".join(map(str, idle)),
        ),
    )


def check_recorded(recorder: AttentionRecorder) -> None:
    """Raise an error where a captured forward has attention that cannot be recorded, or whose tokens are not traced."""
    recorder.check()
    if recorder.nested:
        raise LayoutError.coded(
            "tracing.nested",
            "{module} computes attention of nested tensors: where their tokens lie on the image cannot be followed",
            CAPTURE_HINT,
            module=recorder.nested,
        )


def check_repeats(model: nn.Module, first: list[Tensor], second: list[Tensor]) -> None:
    """Raise a LayoutError where answers or attention of two forwards on the same pixels differ."""
    pairs = zip(*([made.float().nan_to_num() for made in of] for of in (first, second)), strict=False)
    if len(first) == len(second) and all(
        one.shape == other.shape and float((one - other).abs().max()) <= _REPEATS * float(one.abs().max())
        for one, other in pairs
    ):
        return
    raise LayoutError.coded(
        "tracing.random-model",
        "{model} in evaluation mode ran on the same pixels in two ways: the map of one forward is not that of the next",
        "switch off what draws random numbers in its forward, such as a random mask, or dropout without "
        "training=self.training",
        model=type(model).__name__,
    )


def check_images(blocks: Sequence[Block], images: int, tokens: int) -> None:
    """Raise a CaptureError where calls between that many tokens are not of the images of a forward, each once."""
    for block in blocks:
        if images > 1 and block.shape[0] % images:
            raise CaptureError.coded(
                "tracing.images-in-a-loop",
                "{module} makes attention calls of {found} images in a forward of {images}: it runs them one after "
                "another",
                "use {@batch_size=1}, or call attention once for the batch",
                module=block.name,
                found=block.shape[0],
                images=images,
            )
        if block.shape[0] > images and block.shape[2] == tokens:
            raise CaptureError.coded(
                "tracing.views-in-a-batch",
                "{module} makes attention calls of {found} images in a forward of {images}: which of them, such as "
                "views of one image, the answer is made of is not known",
                "explain the model on one view of each image",
                module=block.name,
                found=block.shape[0],
                images=images,
            )


def _untrained(model: nn.Module) -> bool:
    """Return whether some weight is all zeros, with which residual branches begin before training."""
    return any(not bool(weight.any()) for name, weight in model.named_parameters() if "bias" not in name)
