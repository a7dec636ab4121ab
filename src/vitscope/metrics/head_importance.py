"""The importance of each head: the score's drop when the head is silenced."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitscope._messages import msg
from vitscope.attention import AttentionStore
from vitscope.attention.head_scaling import scale_heads
from vitscope.errors import MethodError
from vitscope.methods.targets import Scorer


@dataclass(frozen=True, eq=False)
class HeadImportance:
    """The drop of a score when each head is silenced.

    Attributes:
        drops: for each layer, one number per head.
        target: the target of the score, in words.
        score: the score of the whole model.
    """

    drops: list[Float[np.ndarray, " _"]]
    target: str
    score: float


def head_importance(
    store: AttentionStore,
    model: nn.Module,
    pixels: Float[Tensor, "1 C Hi Wi"],
    scorer: Scorer,
    answer: Callable[[Tensor], Tensor],
    batch: int = 8,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> HeadImportance:
    """Measure the drop of the score when a head's result is set to zero before the output projection.

    Formula: `I_lh = y(x) - y(x; O_lh = 0)`, in units of the score, of any sign: positive where the head supports the
    target. Heads are silenced one at a time, so what two heads do alike counts for neither.

    Args:
        store: the attention of the plain forward, whose `call_sites` identify the layers' attention calls.
        model: the model; it is not changed.
        pixels: the image.
        scorer: from an answer to scores.
        answer: from pixels to the model's answer, without a graph.
        batch: heads that go through the model together, one in each row. It is one where layers do not all have the
            same tokens, since images and windows share an axis there.
        tick: called with (done, total) heads.

    Raises:
        MethodError: a layer whose heads cannot be silenced one by one.

    Cost: one forward for each head, `batch` together: L H forwards.

    Source: Michel, Levy & Neubig 2019, section 3, and Voita et al. 2019: heads masked one by one.
    """
    if len(store.call_sites) != len(store):
        raise MethodError(
            msg("metrics.no-call-sites", "the attention calls of the layers are not known: heads cannot be silenced")
        )
    total = sum(block.shape[1] for block in store)
    done, result = 0, []

    def scores(rows: int) -> list[float]:
        given = answer(pixels.expand(rows, *pixels.shape[1:]))
        given = given.to(torch.promote_types(given.dtype, torch.float32))  # small drops of a cosine need the digits
        return scorer(given, torch.zeros(rows, dtype=torch.long, device=given.device)).double().tolist()

    (whole,) = scores(1)
    for block, call in zip(store, store.call_sites, strict=True):
        drops: list[float] = []
        for heads in torch.split(torch.arange(block.shape[1], device="cpu"), 1 if store.chain is not None else batch):
            weights = torch.ones(len(heads), block.shape[1], dtype=torch.float64, device="cpu")
            weights[torch.arange(len(heads), device="cpu"), heads] = 0
            with torch.no_grad(), scale_heads(model, call, weights):
                drops += [whole - score for score in scores(len(heads))]
            done += len(heads)
            tick(done, total)
        result.append(np.array(drops))
    return HeadImportance(result, scorer.words[0], whole)
