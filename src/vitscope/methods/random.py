"""Random numbers: the baseline of every table."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.methods.base import method
from vitscope.methods.context import MethodContext


@method("random", passes="1 forward", source="the baseline")
def random(context: MethodContext) -> Float[Tensor, "B N"]:
    """Draw uniform random numbers: the baseline that every method must beat.

    Formula: `m_j ~ U(0, 1)` for each patch; the prefix gets 0. `seed` and the grid choose them.

    Returns:
        `(B, N)`, each in [0, 1), independent; their sum has no meaning.

    Cost: the forward that predictions come from, and its memory.
    Limits: it contains no information, by design.
    """
    gh, gw = context.layout.grid
    count = len(context.pixels)
    values = [
        torch.rand(gh, gw, generator=torch.Generator().manual_seed(context.seed), dtype=torch.float32, device="cpu")
        for _ in range(count)
    ]
    return context.to_tokens(torch.stack(values).to(context.pixels.device))
