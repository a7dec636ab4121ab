"""Running a model's own code as the averaged network: a mode in which torch functions act on tokens by rule."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from vitscope._messages import msg
from vitscope.attention._torch_private import DisableTensorSubclass
from vitscope.attention.changes import Changes
from vitscope.attention.model_modes import eval_mode, own_state
from vitscope.errors import LayoutError, first_line
from vitscope.tracing.attention_calls import einsum, fused_attention, matmul, multi_head_attention, softmax
from vitscope.tracing.network import SUBTRACTIONS, AveragedNetwork, apart, choice_refused
from vitscope.tracing.one_token import of_one_token
from vitscope.tracing.records import CAPTURE_HINT, check_functions, ranked_answer, varies
from vitscope.tracing.rules import (
    BINARY,
    METADATA,
    MOVING,
    POINTWISE,
    POOLING,
    REDUCTIONS,
    argument,
    mean_along,
    mean_conv,
    mean_conv_transpose,
    mean_pool,
    plain_name,
)
from vitscope.tracing.token_tensor import (
    AttentionTensor,
    BackwardPlan,
    ComparisonTensor,
    PlaceTensor,
    TokenTensor,
    attention_tensor,
    comparison,
    match_dtypes,
    parameter_names,
    ranked,
    tensors_in,
    token_tensor,
    token_tensors,
)

log = logging.getLogger(__name__)

Run: TypeAlias = Callable[[Tensor], Tensor]
_JOINS = frozenset({"cat", "concat", "concatenate", "stack", "hstack", "vstack"})
_PRODUCTS = frozenset({"matmul", "bmm", "baddbmm", "mm", "mv", "addmm", "addmv"})
_ADDED = frozenset({"baddbmm", "addmm", "addmv"})  # whose first argument is added to the product of the others
_LIKE = frozenset({"to", "type_as", "view_as", "expand_as", "reshape_as"})
_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_CONV_TRANSPOSE = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_COMPARISONS = frozenset({"eq", "ne", "gt", "lt", "ge", "le", "any", "all", "logical_not", "logical_and", "logical_or"})
_PLACES = frozenset({"argmax", "argmin", "argsort"})
_LARGEST = frozenset({"max", "min", "amax", "amin", "median"})
_EXTREMES = _LARGEST | {"prod"}
_INDEXED = frozenset({"getitem", "gather", "index_select", "take_along_dim", "scatter", "scatter_add", "index_add"})
_NUMBERS = frozenset(
    {Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.item, Tensor.tolist, torch.is_nonzero}
    | {torch.equal, torch.allclose, Tensor.equal, Tensor.allclose}
)
_RULE_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError)


@own_state
def run_averaged(
    run: Run,
    model: nn.Module,
    pixels: Tensor,
    plan: BackwardPlan,
    events: Collection[int],
    hooks: Callable[[AveragedNetwork], AbstractContextManager[object]] | None = None,
    **options: Any,
) -> tuple[AveragedNetwork, Tensor, Tensor]:
    """Run the averaged network on `pixels`.

    Args:
        run: from pixels to the model's answer.
        model: the module that `run` calls.
        pixels: `(B, C, Hi, Wi)`.
        plan: weights for the backward pass.
        events: numbers of the calls that the real forward recorded as attention.
        hooks: makes a context manager that is entered for the run.
        options: further fields of `AveragedNetwork`.

    Returns:
        The network with what it found, its input with a graph, and the mean of the answer for each image `(B,)`.

    Raises:
        LayoutError: a torch function is not supported on tokens, or no attention leads from the image to the answer.
    """
    network = AveragedNetworkMode(plan, frozenset(events), names=parameter_names(model), **options)
    start = pixels.detach().clone().requires_grad_()
    tokens = token_tensor(start * 1)
    with eval_mode(model), hooks(network) if hooks else nullcontext(), Changes() as changes:
        changes.mode(network)
        try:
            out = run(tokens)
        except _RULE_ERRORS as error:
            if error is not network.failure and not isinstance(error, NotImplementedError):  # the model's own code did
                raise
            problem = msg(
                "tracing.not-followed",
                "the tokens of {model} cannot be followed: {reason}",
                model=type(model).__name__,
                reason=network.lost or first_line(error),
            )
            raise LayoutError(problem, CAPTURE_HINT) from error
    check_functions(out, model)
    if not isinstance(out, TokenTensor) or not out.requires_grad:
        if isinstance(out, TokenTensor) and out.product:
            network.lost = network.lost or _PRODUCT
        log.debug("%s: no token reaches the answer: %s", type(model).__name__, network.lost or "no attention")
        raise LayoutError(
            msg(
                "tracing.tokens-lost",
                "no attention with a softmax leads from the image to the answer of {model}: {reason}",
                model=type(model).__name__,
                reason=network.lost,
            )
            if network.lost
            else msg(
                "tracing.no-path",
                "no attention with a softmax leads from the image to the answer of {model}",
                model=type(model).__name__,
            ),
            CAPTURE_HINT,
        )
    if "ranked" in out.marks:
        raise ranked_answer()
    answer = out.as_subclass(Tensor)
    network.answer = answer.detach()
    return network, start, answer.flatten(1).mean(1)


class AveragedNetworkMode(AveragedNetwork, TorchFunctionMode):
    """The averaged network as a mode, under which torch functions act on tokens.

    Attributes:
        failure: the error that a torch function raised last; errors of the model's own Python code are none.
    """

    failure: BaseException | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            with DisableTensorSubclass():
                return self._dispatch(func, plain_name(func), args, kwargs or {})
        except _RULE_ERRORS as error:
            self.failure = error
            raise

    def _dispatch(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        counted = func is scaled_dot_product_attention or name in ("softmax", "multi_head_attention_forward")
        self.event += counted
        tensors = list(tensors_in((args, kwargs)))
        tokens = [t for t in tensors if isinstance(t, TokenTensor)]
        compared = any(isinstance(t, ComparisonTensor) for t in tensors)
        if (tokens or compared) and (func in _NUMBERS or (compared and tokens and name in _INDEXED)):
            raise LayoutError(_DECIDED if func in _NUMBERS else _CHOSEN, CAPTURE_HINT)
        if name != "detach" and any(t.grad_fn is not None for t in tensors if type(t) is Tensor):
            raise LayoutError(_UNSEEN, CAPTURE_HINT)
        places = [t for t in tensors if isinstance(t, PlaceTensor)]
        if places and (name in _COMPARISONS or name not in METADATA):
            raise self._unsupported("argmax", places[0])
        if tokens:
            return self._on_tokens(func, name, args, kwargs, tokens)
        probs = [t for t in tensors if isinstance(t, AttentionTensor)]
        with torch.no_grad():
            result = func(*match_dtypes(args, tensors), **kwargs) if probs else func(*args, **kwargs)
        self.positions.see(name, args, result, self.names)
        self.differential |= name in SUBTRACTIONS and len(probs) > 1
        if name in BINARY:
            self.inherit_name(tensors, result)
        elif name in POINTWISE and tensors:
            self.follow(tensors[0], result)
        if probs and name not in METADATA:
            return attention_tensor(result, probs[0].event)
        return comparison(result) if compared or (probs and name in _COMPARISONS) else result

    def _on_tokens(  # noqa: C901, PLR0911 - the rules, one after another
        self, func: Any, name: str, args: Any, kwargs: Any, tokens: list[TokenTensor]
    ) -> Any:
        x = tokens[0]
        if name == "register_hook":  # of a counter or profiler around the call, which is told nothing of this run
            return RemovableHandle(OrderedDict())
        if name in _LIKE and not isinstance(args[0], TokenTensor):
            return func(*args, **kwargs)  # something else is made like tokens
        if func is scaled_dot_product_attention:
            return fused_attention(self, *args, **kwargs)
        if name == "multi_head_attention_forward":
            return multi_head_attention(self, args, kwargs)
        if name == "softmax":
            return softmax(self, x, argument(args, kwargs, 1, "dim", -1))
        if name in _PRODUCTS:
            return matmul(self, *(args[1:3] if name in _ADDED else args[:2]), *kwargs.values())
        if name == "einsum":
            operands = args[1] if len(args) == 2 and isinstance(args[1], (list, tuple)) else args[1:]
            return einsum(self, args[0], *operands)
        if name == "linear":
            width = argument(args, kwargs, 1, "weight").shape[0]
            return self.mix(x, token_tensor(mean_along(x, -1, width), x), -1)
        if name in ("linear_dynamic", "linear_dynamic_fp16"):  # of torch's dynamic quantisation
            width = argument(args, kwargs, 1, "W_prepack").unpack()[0].shape[0]
            return self.mix(x, token_tensor(mean_along(x, -1, width), x), -1)
        if name in ("conv1d", "conv2d", "conv3d"):
            options = dict(zip(_CONV, args, strict=False)) | kwargs
            del options["input"]
            kernel = options["weight"].shape[2:]
            if self.probing and x.attended and not x.product and max(kernel) > 1:
                self._note_convolution(x, kernel)
            return self.mix(x, token_tensor(mean_conv(x, valid=x.valid, **options), x), 1, always=max(kernel) > 1)
        if name in ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"):
            options = dict(zip(_CONV_TRANSPOSE, args, strict=False)) | kwargs
            del options["input"]
            return token_tensor(mean_conv_transpose(x, **options), x)
        if name in POOLING:
            return self._pool(name, x, args[1:], kwargs)
        if name in _JOINS:
            return self._join(func, args, kwargs, tokens)
        if name in BINARY or (name in ("max", "min") and len(tokens) > 1):
            return self.binary(name, args, kwargs)
        if name in REDUCTIONS:
            return self._reduce(name, x, args, kwargs)
        if name in ("sort", "topk") and "runs" in x.marks:
            raise choice_refused(name)
        if name in ("sort", "topk") and self._same_along(name, x, args, kwargs):
            return ranked(token_tensors(func(*args, **kwargs), tokens))
        if name == "cumsum" and not x.product and not self._same_along(name, x, args, kwargs):
            raise LayoutError.coded(
                "tracing.running-sum",
                "a running sum over tokens of shape {shape} moves information between them outside of attention",
                CAPTURE_HINT,
                shape=tuple(x.shape),
            )
        if name in POINTWISE or (name == "log_softmax" and self._same_along(name, x, args, kwargs)):
            same = token_tensor(x.clone() if name == "clone" else x.view_as(x), x, product=x.product)
            same.just_joined = x.just_joined
            same.marks |= {"bounded"} if name in ("sigmoid", "hardsigmoid", "tanh") else frozenset()
            return same
        if name == "fold":
            ones = func(torch.ones_like(args[0]), *args[1:], **kwargs)
            return token_tensor(func(*args, **kwargs) / ones, x)
        if name == "pad" and x.ndim == 4 and x.valid is None:
            around, mode = argument(args, kwargs, 1, "pad"), argument(args, kwargs, 2, "mode", "constant")
            padded = token_tensors(func(x, around, mode), tokens)  # with 0, also where the model pads with -inf
            padded.valid = func(torch.ones_like(x[:1, :1]), around, mode)
            return padded
        if name in MOVING or name in ("get", "T", "mT"):
            func = Tensor.reshape if name == "view" and not isinstance(args[1], torch.dtype) else func  # other strides
            return token_tensors(func(*args, **kwargs), tokens)
        if name in _PLACES:
            return func(*args, **kwargs).as_subclass(PlaceTensor)
        if name in METADATA:
            return comparison(func(*args, **kwargs)) if name in _COMPARISONS else func(*args, **kwargs)
        if name == "setitem" and isinstance(args[0], TokenTensor) and self._writes_itself(*args):
            return None
        if (made := of_one_token(func, args, kwargs, tokens, self.probing)) is not None:
            return made
        raise self._unsupported(name, x)

    def _unsupported(self, name: str, x: Tensor) -> LayoutError:
        return LayoutError.coded(
            "tracing.unsupported-function",
            "torch's '{function}' is not supported on tokens of shape {shape}: where they go is not known",
            CAPTURE_HINT,
            function=name,
            shape=tuple(x.shape),
        )

    def _note_convolution(self, x: TokenTensor, kernel: Sequence[int]) -> None:
        """Note that a convolution mixes neighbouring tokens, unless it merges them by its stride."""
        note = msg(
            "tracing.note-convolution",
            "convolutions of {kernel} tokens between the layers mix neighbours: the map leaves that out",
            kernel=" x ".join(map(str, kernel)),
        )
        self.notes.setdefault(note.code, note)

    def _pool(self, name: str, x: TokenTensor, args: Any, kwargs: Any) -> Any:
        mean = mean_pool(name, x, args, kwargs)
        if x.valid is not None:
            mean = mean / mean_pool(name, x.valid, args, kwargs).clamp_min(1e-6)
        pooled = token_tensor(mean, x)
        with_indices = kwargs.get("return_indices") or name.endswith("indices")
        return (pooled, None) if with_indices else self.merge(x, pooled, 1, always=True)

    def _join(self, func: Any, args: Any, kwargs: Any, tokens: list[TokenTensor]) -> Any:
        parts = list(args[0] if args else kwargs["tensors"])
        parts = [part if isinstance(part, TokenTensor) else self.leaf(part) for part in parts]
        joined = token_tensors(func(parts, *args[1:], **{k: v for k, v in kwargs.items() if k != "tensors"}), tokens)
        calls = [part.attended - part.joined if isinstance(part, TokenTensor) else frozenset() for part in parts]
        if len(parts) > 1 and all(calls) and len(frozenset().union(*calls)) == sum(map(len, calls)):
            self.side_by_side.append(tuple(calls))
        if apart([part for part in parts if isinstance(part, TokenTensor) and part.attended]):
            joined.marks |= {"runs"}
        return joined

    def _reduce(self, name: str, x: TokenTensor, args: Any, kwargs: Any) -> Any:
        """Return the mean over the axes that a reduction of that name reduces."""
        mean, dims = _mean_of_axes(name, x, args, kwargs)
        if "runs" in x.marks and (name in _EXTREMES or name == "logsumexp"):
            raise choice_refused(name)
        fresh = x.attended - x.joined
        if fresh and x.ndim - 1 not in dims:  # stacked to be added up, as parallel branches are: no heads of one layer
            self.side_by_side = [parts for parts in self.side_by_side if not frozenset().union(*parts) <= fresh]
        if self.probing and x.attended and not x.product:
            if name in _LARGEST and not any(varies(x, axis) for axis in dims):
                for part in tensors_in(mean):
                    if isinstance(part, TokenTensor):
                        ranked([part])
            for axis in (axis for axis in dims if axis):
                if "weighted" in x.marks and name in ("mean", "sum") and varies(x, axis):
                    raise LayoutError(_WEIGHTED, CAPTURE_HINT)
                if name in _EXTREMES and varies(x, axis):
                    note = msg(
                        "tracing.note-extreme",
                        "'{function}' takes one number of many tokens, channel by channel: the map counts these tokens "
                        "alike",
                        function=name,
                    )
                    self.notes[note.code] = note
                    for part in tensors_in(mean):
                        if isinstance(part, TokenTensor):
                            part.marks |= {"extreme"}
        return mean

    def _writes_itself(self, x: TokenTensor, index: Any, value: Any) -> bool:
        """Return whether a token is written to its own place, as channels of it are."""
        if x.product or not isinstance(value, TokenTensor):
            return x.product
        with torch.no_grad():
            return not self.probing or torch.allclose(x[index], value.expand_as(x[index]), atol=1e-3)

    def _same_along(self, name: str, x: TokenTensor, args: Any, kwargs: Any) -> bool:
        """Return whether tokens are equal along an axis, so that what happens along it moves none of them."""
        return not (self.probing and varies(x, argument(args, kwargs, 2 if name == "topk" else 1, "dim", -1)))


def _mean_of_axes(name: str, x: TokenTensor, args: Any, kwargs: Any) -> tuple[Any, tuple[int, ...]]:
    """Return the mean over the axes that a reduction of that name reduces, and these axes."""
    rest = [a for a in args[1:] if not isinstance(a, (torch.dtype, str, float))]
    if "norm" in name:
        rest = rest[1:]  # the order of the norm
    dim = kwargs.get("dim", kwargs.get("axis", rest[0] if rest else None))
    keep = kwargs.get("keepdim", rest[1] if len(rest) > 1 and isinstance(rest[1], bool) else False)
    if isinstance(dim, bool) or (dim is None and not rest):
        dim = tuple(range(x.ndim)) if not isinstance(dim, bool) else None
    axes = range(x.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    mean = token_tensor(x.mean(dim, keepdim=keep), x, product=x.product)
    mean.marks -= {"runs"}
    reduced = tuple(axis % x.ndim for axis in axes)
    if name in ("var_mean", "std_mean"):
        return (mean, mean), reduced
    if name in ("max", "min", "median") and isinstance(dim, int):
        places = comparison(torch.zeros(mean.shape, dtype=torch.long, device="cpu"))
        return torch.return_types.max((mean, places)), reduced
    return mean, reduced


_PRODUCT = msg(
    "tracing.lost-product",
    "tokens are multiplied with numbers computed from tokens, as masks or weights of their own are: how much of each "
    "the answer reads is not known",
)
_DECIDED = msg(
    "tracing.decided-by-values",
    "the model decides by the values of tokens (such as an early exit): its path differs from image to image",
)
_CHOSEN = msg(
    "tracing.chosen-by-values",
    "tokens are chosen by their values (such as the largest scores): which tokens remain differs from image to image",
)
_UNSEEN = msg(
    "tracing.unseen-function",
    "the model calls something that torch shows no mode (such as TorchScript): what it does with tokens is not known",
)
_WEIGHTED = msg(
    "tracing.weighted-tokens",
    "tokens are weighted with numbers of their own, not by an attention call, before they are summed: how much of each "
    "the answer reads is not known",
)
