"""Rules by which torch functions act on tokens: what moves tokens runs as it is, what mixes channels becomes a mean.

- moving (reshape, roll, windows, concatenation): unchanged; a tensor concatenated from outside becomes a leaf
- pointwise (norms, activations, dropout, scaling): a token stays as it is
- learned maps and reductions over channels: the mean of their input
- convolutions: the mean over channels; with a stride, also over the window (patch embedding, merging); without a
  stride, a token stays where it is
- pooling: the mean over the window, also for maximum pooling
- addition of two token tensors: a residual connection where one end holds an attention call that the other lacks; else
  the mean
- softmax and fused attention: the attention that the real forward recorded

A function outside these groups is refused by name.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vitscope.tracing.token_tensor import first_along

_MOVING = """
    view reshape permute transpose swapaxes swapdims flatten unflatten squeeze unsqueeze expand expand_as repeat
    repeat_interleave roll contiguous clone narrow select index_select gather chunk split tensor_split unbind movedim
    moveaxis flip tile view_as reshape_as t unfold pixel_shuffle pixel_unshuffle channel_shuffle getitem broadcast_to
    interpolate upsample split_with_sizes hsplit vsplit dsplit take_along_dim rot90 adjoint pad ravel
    native_channel_shuffle upsample_bilinear upsample_nearest alias atleast_3d fold
"""
_POINTWISE = """
    gelu relu relu6 silu sigmoid tanh hardswish hardsigmoid hardtanh elu selu celu leaky_relu rrelu mish softplus
    softsign logsigmoid exp expm1 log log1p sqrt rsqrt square neg abs clamp clamp_min clamp_max clip dropout dropout1d
    dropout2d dropout3d alpha_dropout feature_dropout layer_norm group_norm batch_norm instance_norm rms_norm
    local_response_norm normalize to type float half bfloat16 double type_as cuda cpu detach requires_grad_ masked_fill
    nan_to_num round floor erf reciprocal sign sin cos pow float_power rms prelu threshold bernoulli_ softmin cumsum
    layer_norm_fast native_layer_norm renorm fill_diagonal_ rsub hardshrink softshrink tanhshrink
"""
_REDUCTIONS = "mean sum nanmean amax amin max min std var norm logsumexp var_mean std_mean prod vector_norm median"
_POOLING = """
    avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d lp_pool1d lp_pool2d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d max_pool2d_with_indices
"""
_BINARY = "add sub mul div truediv multiply divide true_divide subtract maximum minimum where lerp addcmul fmax fmin"
_METADATA = """
    size dim numel nelement stride is_contiguous ndimension element_size data_ptr len get_device is_floating_point
    is_complex is_same_size zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty
    new_full new_tensor eq ne gt lt ge le isnan isinf isfinite any all item tolist bool int hash format repr
    logical_not logical_and logical_or storage_offset untyped_storage is_set_to result_type is_nonzero allclose equal
    is_tensor is_inference
"""

MOVING, POINTWISE, REDUCTIONS, POOLING, BINARY, METADATA = (
    frozenset(words.split()) for words in (_MOVING, _POINTWISE, _REDUCTIONS, _POOLING, _BINARY, _METADATA)
)


def plain_name(func: Callable[..., Any]) -> str:
    """Return one name for all spellings: `add` for torch.add, Tensor.add_, `+`, `+=` and reversed `+`."""
    name: str = getattr(func, "__name__", str(func))
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
        if name.startswith(("i", "r")) and name[1:] in BINARY | {"matmul", "pow"}:
            name = name[1:]
        return name
    return name.strip("_")


def argument(args: Any, kwargs: Any, position: int, name: str, default: Any = None) -> Any:
    """Return an argument of a call, passed by position or by name."""
    return args[position] if len(args) > position else kwargs.get(name, default)


def mean_along(x: Tensor, dim: int, size: int) -> Tensor:
    """Return the mean of `x` over one axis, repeated to `size` along that axis."""
    shape = list(x.shape)
    shape[dim] = size
    mean = x.mean(dim, keepdim=True) if x.stride(dim) else first_along(x, dim)
    return mean.expand(shape)


def mean_conv(x: Tensor, weight: Tensor, valid: Tensor | None = None, **options: Any) -> Tensor:
    """Convolve with means: over the channels of each group, and over the window where there is a stride.

    A convolution without a stride that keeps the size leaves each token where it is. `valid` is 0 where the input was
    padded; padding counts in no mean.
    """
    dims = weight.ndim - 2
    stride, padding, dilation = (
        _each(options.get(k, d), dims) for k, d in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    groups, kernel = options.get("groups", 1), weight.shape[2:]
    single = x.ndim == dims + 1
    x = x[None] if single else x
    if not x.stride(1):  # all channels are one
        x, groups = first_along(x, 1), 1
    outputs, inputs = weight.shape[0], x.shape[1]
    grouped = x.reshape(x.shape[0], groups, inputs // groups, *x.shape[2:]).mean(2)
    if isinstance(padding[0], str):
        same = padding[0] == "same" and max(stride) == 1
        padding = tuple(0 for _ in kernel)
    else:
        same = max(stride) == 1 and all(2 * p == d * (k - 1) for p, d, k in zip(padding, dilation, kernel, strict=True))
    if (not same and max(kernel) > 1) or max(stride) > 1:
        convolve: Any = (functional.conv1d, functional.conv2d, functional.conv3d)[dims - 1]
        flat = grouped.reshape(-1, 1, *grouped.shape[2:])
        ones = flat.new_ones(1, 1, *kernel)
        summed = convolve(flat, ones, stride=stride, padding=padding, dilation=dilation)
        inside = torch.ones_like(flat[:1]) if valid is None else valid
        counted = convolve(inside, ones, stride=stride, padding=padding, dilation=dilation)
        grouped = (summed / counted.clamp_min(1)).reshape(x.shape[0], groups, *summed.shape[2:])
    out = grouped[:, :, None].expand(-1, -1, outputs // groups, *(-1 for _ in kernel)).flatten(1, 2)
    return out[0] if single else out


def mean_conv_transpose(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    """Convolve transposed with means: each output reads the inputs that reach it, in equal parts."""
    dims = weight.ndim - 2
    convolve: Any = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[dims - 1]
    keys = ("stride", "padding", "output_padding", "dilation")
    shape = {key: options[key] for key in keys if key in options}
    mean = x.mean(1, keepdim=True)
    ones = mean.new_ones(1, 1, *weight.shape[2:])
    summed, counted = (convolve(part, ones, **shape) for part in (mean, torch.ones_like(mean[:1])))
    outputs = weight.shape[1] * options.get("groups", 1)
    spread: Tensor = (summed / counted.clamp_min(1)).expand(-1, outputs, *(-1 for _ in range(dims)))
    return spread


def mean_pool(name: str, x: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """Return the mean over the window of the pooling function of that name."""
    dims = next(int(c) for c in name if c.isdigit())
    if name.startswith("adaptive"):
        size = args[0] if args else kwargs["output_size"]
        adaptive: Any = (
            functional.adaptive_avg_pool1d,
            functional.adaptive_avg_pool2d,
            functional.adaptive_avg_pool3d,
        )[dims - 1]
        out: Tensor = adaptive(x, size)
        return out
    names = ("norm_type",) * name.startswith("lp") + ("kernel_size", "stride", "padding")
    given = dict(zip(names, args, strict=False)) | kwargs
    average: Any = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[dims - 1]
    pooled: Tensor = average(
        x,
        given["kernel_size"],
        stride=given.get("stride") or None,
        padding=given.get("padding", 0),
        ceil_mode=given.get("ceil_mode", args[5] if len(args) > 5 and name.startswith("max") else False),
        count_include_pad=False,
    )
    return pooled


def _each(value: Any, dims: int) -> tuple[Any, ...]:
    if isinstance(value, (tuple, list)):
        return tuple(value) if len(value) == dims else tuple(value) * dims
    return (value,) * dims
