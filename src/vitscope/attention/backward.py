"""The backward of a score through attention calls, in which methods may take weights along from layer to layer.

The kernel's own backward makes each layer's attention and its gradient tile by tile, and throws both away. A method
that takes weights from the last layer back to the first needs the same tiles, in the same order: it makes them within
the backward, which goes on with the gradients of queries, keys and values that are added up from them.

Letters: B images, H heads, G heads of all images, N query tokens, M key tokens, D and E head widths.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from vitscope.attention._torch_private import flash_kernels
from vitscope.attention.blocks import Block, Factored
from vitscope.attention.tile_gradients import InputGradients


@dataclass(frozen=True, eq=False)
class GraphOutput:
    """The result of an attention call, as the autograd graph has it.

    Attributes:
        tensors: the result; several tensors, where the model computes it part by part.
        arrange: from tensors of their shapes to one of the block's shape `(B, H, N, E)`.
    """

    tensors: tuple[Tensor, ...]
    arrange: Callable[..., Tensor]


class FlashAttention(torch.autograd.Function):
    """The CPU's fused kernel, whose backward a listener may take over. It returns the result and the log-sum-exp."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Any:
        """Run the kernel."""
        kernels = flash_kernels()
        assert kernels is not None
        out, lse = kernels[0](q, k, v, scale=scale)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.mark_non_differentiable(lse)
        ctx.set_materialize_grads(False)
        ctx.scale, ctx.listener = scale, None
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of q, k and v that the listener has made, or those of the kernel's own backward."""
        if grad is None:
            return None, None, None, None
        found = None if ctx.listener is None else ctx.listener(ctx, grad)
        if found is None:
            kernels = flash_kernels()
            assert kernels is not None
            q, k, v, out, lse = ctx.saved_tensors
            found = kernels[1](grad, q, k, v, out, lse, 0.0, False, scale=ctx.scale)
        return *found, None


@dataclass(eq=False)
class Backward:
    """The backward of a score through the attention calls of a forward. It runs once, when its result is first needed.

    Attributes:
        outputs: the result of each layer's call.
        score: the sum of one number per image, with its graph.
        last: free the graph.
    """

    outputs: tuple[GraphOutput, ...]
    score: Float[Tensor, ""]
    last: bool
    _grads: tuple[Tensor, ...] | None = None

    def gradient(self, layer: int) -> Float[Tensor, "B H N E"]:
        """Return the gradient of the score with respect to the result of one layer's call."""
        if self._grads is None:
            self.visit((), (), lambda _: None)
        assert self._grads is not None
        return self._grads[layer]

    def visit(self, blocks: Sequence[Block], layers: Sequence[int], step: Callable[[Block], None]) -> None:
        """Call a function with each of some layers' blocks and its gradient, the last layer first.

        The first call runs the backward, and takes each layer's step within it as long as no layer is passed by: one
        that the backward does not reach (the first as a rule, or another kernel's) and those before it take their steps
        afterwards, at the cost of making tiles again.

        Args:
            blocks: of all layers, in the order of `outputs`.
            layers: their numbers, ascending.
            step: may keep nothing of the block beyond the call but its gradient.
        """
        waiting = list(layers)

        def listen(layer: int, node: Any, grad: Tensor) -> tuple[Tensor | None, ...] | None:
            if not waiting or waiting[-1] != layer:
                return None
            waiting.pop()
            block = blocks[layer]
            assert isinstance(block, Factored)
            q, k, v, out, _ = node.saved_tensors
            inputs = InputGradients.of(q, k, v, grad, out, block.scale, node.needs_input_grad[:3])
            step(replace(block, grad_out=grad, inputs=inputs))
            return inputs.totals(len(q)) if inputs.complete else None

        if self._grads is None:
            nodes = {layer: node for layer in layers if (node := _node(self.outputs[layer], blocks[layer])) is not None}
            try:
                for layer, node in nodes.items():
                    node.listener = partial(listen, layer)
                self._run()
            finally:
                for node in nodes.values():
                    node.listener = None
        while waiting:
            layer = waiting.pop()
            step(replace(blocks[layer], grad_out=self.gradient(layer)))  # type: ignore[type-var]

    def _run(self) -> None:
        tensors = [tensor for output in self.outputs for tensor in output.tensors]
        grads = torch.autograd.grad(
            self.score, tensors, retain_graph=not self.last, allow_unused=True, materialize_grads=True
        )
        waiting = iter(grads)
        self._grads = tuple(output.arrange(*(next(waiting) for _ in output.tensors)) for output in self.outputs)


def _node(output: GraphOutput, block: Block) -> Any:
    """Return the node of the graph that made a layer's result from the block's very queries, keys and values.

    None where another kernel made it, or tensors that only hold the same numbers.
    """
    node = output.tensors[0].grad_fn if len(output.tensors) == 1 else None
    if node is None or getattr(node, "_forward_cls", None) is not FlashAttention:
        return None
    if not isinstance(block, Factored) or block.lse is None or block.bias is not None or block.v is None:
        return None
    q, k, v, out, _ = node.saved_tensors  # type: ignore[attr-defined]
    pairs = ((q, block.q), (k, block.k), (v, block.v), (out, output.tensors[0]))
    same = all(one.shape == other.shape and one.data_ptr() == other.data_ptr() for one, other in pairs)
    return node if same and block.q.shape[-1] == block.v.shape[-1] else None
