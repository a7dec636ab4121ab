"""Models of vit-pytorch, which state neither their input size nor their preprocessing."""

import math
from collections.abc import Iterator

from vitscope.models.base import ADAPTERS
from vitscope.models.generic import GenericAdapter


class VitPytorchAdapter(GenericAdapter):
    """A vit-pytorch model; its input size follows from its patches and its position embedding, and is tried."""

    name = "vit_pytorch"

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Iterate over squares of as many patches as position embeddings, less a CLS token or not; then the usual."""
        patches = [getattr(module, "axes_lengths", {}) for module in self.model.modules()]
        patch = next(((p["p1"], p["p2"]) for p in patches if {"p1", "p2"} <= set(p)), None)
        embedding = getattr(self.model, "pos_embedding", None)
        if patch and embedding is not None:
            for tokens in (embedding.shape[-2] - 1, embedding.shape[-2]):
                side = math.isqrt(tokens)
                if side * side == tokens:
                    yield side * patch[0], side * patch[1]
        yield from super().sizes()


ADAPTERS.add(VitPytorchAdapter.name, VitPytorchAdapter)
