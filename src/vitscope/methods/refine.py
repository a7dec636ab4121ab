"""Refinement of a finished map over similar patches: a step after any method, never part of one."""

import torch
from jaxtyping import Float
from torch import Tensor

_CHUNK = 2**22


def spread(
    patches: Float[Tensor, "B P"], tokens: Float[Tensor, "B P D"], *, temperature: float = 0.07
) -> Float[Tensor, "B P"]:
    """Replace each patch's value by the mean of the map over similar patches.

    Formula: `m'_i = sum_j softmax_j(cos(z_i, z_j) / temperature) m_j`, z the tokens after the last block.

    Args:
        patches: a map, one number per patch, any sign.
        tokens: the patches' tokens.
        temperature: the scale of cosine similarity; lower values average over fewer patches.

    Returns:
        `(B, P)`, between the smallest and the largest value of the map.

    Cost: one P x P product, chunk by chunk; memory linear in tokens.
    """
    unit = torch.nn.functional.normalize(tokens.float(), dim=-1)
    values, step = patches.float()[..., None], max(1, _CHUNK // (unit.shape[0] * unit.shape[1]))
    parts = [
        torch.softmax(rows @ unit.transpose(1, 2) / temperature, -1) @ values for rows in torch.split(unit, step, 1)
    ]
    return torch.cat(parts, 1)[..., 0].to(patches.dtype)
