"""The baseline that every table carries."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.methods.base import method
from vitscope.methods.context import MethodContext

__all__ = ["random"]


@method("random", passes="1 forward", source="the baseline")
def random(context: MethodContext) -> Float[Tensor, "B N"]:
    """Uniform random numbers: what a method must beat.

    Formula: `m_j ~ U(0, 1)` for each patch; the prefix gets 0. `seed` and the picture's place in its batch choose them.

    Returns:
        `(B, N)`, each in [0, 1), independent; their sum says nothing.

    Cost: the forward that predictions come from, and its memory.
    Limits: it knows nothing, by design.
    """
    gh, gw = context.layout.grid
    count = len(context.pixels)
    made = [torch.rand(gh, gw, generator=torch.Generator().manual_seed(context.seed)) for _ in range(count)]
    return context.whole(torch.stack(made).to(context.pixels.device))
