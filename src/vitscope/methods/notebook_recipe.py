"""The recipe that hundreds of notebooks copy, reproduced exactly and labelled as what it is."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope._messages import msg
from vitscope.attention import AttentionStore, matvec
from vitscope.errors import YES, Support
from vitscope.geometry import TokenLayout
from vitscope.methods.base import method


def _has_cls(layout: TokenLayout) -> Support:
    if layout.prefix[:1] == ("cls",):
        return YES
    return Support.no(msg("methods.no-cls-token", "it reads token 0 as CLS, and this model has no CLS token"))


@method(
    "notebook-recipe",
    passes="1 forward",
    source="a widely copied notebook for google/vit-large-patch32-384",
    requires={"same-tokens"},
    caveat=msg(
        "methods.notebook-recipe-caveat",
        "not rollout: the layers are multiplied in the wrong order, and the map shows how little of CLS each patch's "
        "own mixture keeps, not where CLS attends",
    ),
    supports=_has_cls,
)
def notebook_recipe(store: AttentionStore) -> Float[Tensor, "B N"]:
    """Reproduce a widely copied notebook, which is not rollout, exactly as published.

    Formula: `m = 1 - Â_1 Â_2 ... Â_L e_cls` with `Â_l = (A_l + I) / 2`, A_l the mean over heads (dividing `A + I` by
    its row sums is dividing by two): one minus the CLS column of the layers multiplied in forward order. The drawing
    that belongs to it is `style="notebook"`.

    Returns:
        `(B, N)`, each in [0, 1]; not a distribution.

    Cost: one forward, and all rows of all layers chunk by chunk; memory linear in tokens.
    Limits: for comparison with published images only.
    """
    first = store[0]
    v = torch.zeros(first.shape[0], first.shape[3], device=first.device)
    v[:, 0] = 1
    for block in reversed(store.blocks):
        v = (matvec(block, v) + v) / 2
    return 1 - v
