"""Functions without a rule, of tensors that each hold one token for each image, as those behind a readout do."""

import logging
from typing import Any

import torch
from torch import Tensor

from vitscope.errors import first_line
from vitscope.tracing.records import varies
from vitscope.tracing.token_tensor import TokenTensor, comparison, token_tensor

log = logging.getLogger(__name__)


def of_one_token(func: Any, args: Any, kwargs: Any, tokens: list[TokenTensor], probing: bool) -> Any:
    """Return what a function makes of one token for each image: the same token, whatever is computed of its channels.

    Distances to prototypes, bilinear forms and products of probabilities are such functions.

    Args:
        func: a torch function.
        args: of its call.
        kwargs: of its call.
        tokens: all tokens among them.
        probing: values are positions, so that several tokens can be told from one.

    Returns:
        None where the function may mix tokens or images, or writes into its input.
    """
    one = all(t.attended and not t.product and t.ndim > 1 and len(t) == len(tokens[0]) for t in tokens)
    writes = getattr(func, "__name__", "").endswith("_") or "out" in kwargs
    if not one or writes or (probing and any(varies(t, axis) for t in tokens for axis in range(1, t.ndim))):
        return None
    try:
        made = func(*_stand_ins(args), **_stand_ins(kwargs))
    except Exception as error:  # whatever it raises for numbers that mean nothing
        log.debug("%s was not run on random numbers: %s", getattr(func, "__name__", func), first_line(error))
        return None
    if not isinstance(made, Tensor) or made.ndim == 0 or len(made) != len(tokens[0]):
        return None
    if not made.is_floating_point():
        return comparison(made)
    means = [t.as_subclass(Tensor).flatten(1).mean(1) for t in tokens]
    content = torch.stack(means).mean(0).reshape(-1, *(1 for _ in made.shape[1:]))
    return token_tensor(content.expand(made.shape), *tokens)


def _stand_ins(value: Any) -> Any:
    """Return arguments of a function with random numbers in place of tokens."""
    if isinstance(value, TokenTensor):
        generator = torch.Generator().manual_seed(0)
        numbers = torch.rand(value.shape, generator=generator, dtype=torch.float32, device="cpu")
        return numbers.to(value.device, value.dtype)
    if isinstance(value, dict):
        return {name: _stand_ins(part) for name, part in value.items()}
    return type(value)(map(_stand_ins, value)) if type(value) in (tuple, list) else value
