"""Seeing attention under fused kernels, and leaving no trace.

A `TorchFunctionMode` is active for the length of a `with`, on the calling thread only: it sees each call of
`scaled_dot_product_attention`, however the model imported it, keeps queries and keys, and passes the call on to the
same kernel, so the model's output is the same to the last bit. Forward hooks tell which module called; they are
removed on the way out, also after an exception. Nothing process-wide is changed, so two threads never see each other's
attention.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from vitscope.errors import CaptureError
from vitscope.geometry import TokenLayout
from vitscope.store import AttentionStore, Factored

__all__ = ["StoreOf", "capture", "evaluating"]


class StoreOf:
    """What a capture saw: call it to get the AttentionStore."""

    def __init__(self, model: nn.Module, layout: TokenLayout | None = None) -> None:
        self._model, self._layout = model, layout
        self._blocks: list[Factored] = []
        self._inside: list[str] = []
        self._forwards = 0

    def __call__(
        self, layout: TokenLayout | None = None, *, logits: Tensor | None = None, depth: int | None = None
    ) -> AttentionStore:
        """The attention of the one forward that ran inside the `with`.

        Args:
            layout: which token is which, where the `with` was not told; without it rows can be had, but no maps.
            logits: the model's class scores, kept beside the attention.
            depth: how many self-attention calls the model must have made.

        Raises:
            CaptureError: nothing was seen, not `depth` calls were seen, or more than one forward ran.
            LayoutError: the layout does not have as many tokens as the attention.
        """
        layout = layout or self._layout
        if self._forwards > 1:
            raise CaptureError(f"{self._forwards} forwards ran inside one capture", "use one `with` for each forward")
        if not self._blocks:
            raise CaptureError(
                f"no attention was seen in {type(self._model).__name__}: it made no call of "
                "torch.nn.functional.scaled_dot_product_attention",
                "run the forward inside the `with`; a transformers model needs model.set_attn_implementation('sdpa')",
            )
        if depth is not None and len(self._blocks) != depth:
            names = ", ".join(block.name for block in self._blocks)
            raise CaptureError(
                f"{len(self._blocks)} attention calls were seen in {type(self._model).__name__}, {depth} were expected",
                f"seen: {names}",
            )
        if layout is not None:
            for block in self._blocks:
                layout.check(block.shape[2], block.name)
        return AttentionStore(tuple(self._blocks), layout, None if logits is None else logits.detach())

    def _keep(self, block: Factored) -> None:
        self._blocks.append(block)


@contextmanager
def capture(model: nn.Module, *, layout: TokenLayout | None = None) -> Iterator[StoreOf]:
    """See the attention of one forward of any module that calls `scaled_dot_product_attention`.

        with vitscope.capture(model) as store_of:
            model(pixels)
        store_of()[-1].rows(slice(None))        # (B, H, N, M) of the last layer, made on demand

    Args:
        model: any `nn.Module`; its output, weights, hooks and modes are as they were.
        layout: which token is which, for methods that draw maps.

    Cost: no more than the forward itself; queries and keys of each layer are kept, O(L N D).
    """
    store_of = StoreOf(model, layout)
    thread = threading.get_ident()
    handles = []

    def enter(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any) -> None:
            if threading.get_ident() == thread:
                store_of._forwards += not name
                store_of._inside.append(name)

        return hook

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        if threading.get_ident() == thread:
            store_of._inside.pop()

    try:
        for name, module in model.named_modules():
            if name and next(module.children(), None) is None:
                continue  # a linear layer or a norm; where such a module does call the kernel, its parent is named
            handles.append(module.register_forward_pre_hook(enter(name)))
            handles.append(module.register_forward_hook(leave, always_call=True))
        with _Watch(store_of):
            yield store_of
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) for the length of a `with`; each submodule gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Watch(TorchFunctionMode):
    """Passes every torch function on, and keeps what attention calls were given."""

    def __init__(self, store_of: StoreOf) -> None:
        super().__init__()
        self._store_of = store_of

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not scaled_dot_product_attention or not self._store_of._inside:
            return func(*args, **kwargs)
        return self._attend(*args, **kwargs)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        name = self._store_of._inside[-1] or type(self._store_of._model).__name__
        if query.ndim != 4:
            raise CaptureError(f"{name} attends with queries of shape {tuple(query.shape)}, not (B, H, N, D)")
        if is_causal or dropout_p:
            raise CaptureError(
                f"{name} attends {'causally' if is_causal else f'with dropout {dropout_p}'}: "
                "that is not the attention of a Vision Transformer being evaluated",
                "call model.eval() first" if dropout_p else "capture the image tower alone",
            )
        plain = attn_mask is None and not enable_gqa and not torch.is_autocast_enabled(query.device.type)
        out: Tensor
        lse: Tensor | None = None
        if plain and query.device.type == "cpu" and _would_flash(query, key, value, scale):
            # the kernel that the public function would choose here; called by its own name it also gives the
            # log-sum-exp of each row, which saves rollout a softmax pass
            kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            out, lse = kernel(query, key, value, scale=scale)
        else:
            out = scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3) if enable_gqa else key
        self._store_of._keep(
            Factored(
                name=name,
                q=query.detach(),
                k=key.detach(),
                scale=query.shape[-1] ** -0.5 if scale is None else scale,
                bias=_additive(attn_mask, query),
                lse=None if lse is None else lse.detach(),
            )
        )
        return out


def _would_flash(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> bool:
    choice: int = torch._fused_sdp_choice(query, key, value, scale=scale)
    return choice == SDPBackend.FLASH_ATTENTION.value


def _additive(mask: Tensor | None, query: Tensor) -> Tensor | None:
    if mask is None:
        return None
    mask = mask.detach()
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, float("-inf"))
    mask = mask.reshape((1,) * (query.ndim - mask.ndim) + mask.shape)
    return mask if mask.dtype == torch.float64 else mask.float()
