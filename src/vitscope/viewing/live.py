"""What a host that has the model can do for the viewer: new predictions without some patches, one more map."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitscope.images import Picture
from vitscope.result import Explanation
from vitscope.viewing.entries import entry_of

if TYPE_CHECKING:
    from vitscope.pipeline import Scope

__all__ = ["Live"]


@dataclass(frozen=True, eq=False)
class Live:
    """The model behind a view, in the same process.

    Attributes:
        scope: the model.
        picture: the photo.
        size: the input size that was asked for.
        target: what the view's maps explain.
        first: the view's first map.
    """

    scope: "Scope"
    picture: Picture
    size: int | None
    target: Any
    first: Explanation

    def answers(self) -> dict[str, Callable[..., Mapping[str, Any]]]:
        """By the names that the viewer's hosts give them."""
        return {"mask": self.mask, "explain": self.explain}

    def mask(self, patches: Sequence[int], how: str) -> dict[str, Any]:
        """The model's answer without these patches: `predictions`, `score`, `whole`, and milliseconds."""
        begun = time.perf_counter()
        found = self.scope.masked(self.picture, patches, how=how, size=self.size, target=self.target)
        return {
            "predictions": [[label, p] for label, p in found.predictions],
            "score": found.score,
            "whole": found.whole,
            "forward_ms": found.forward_ms,
            "total_ms": (time.perf_counter() - begun) * 1000,
        }

    def explain(self, method: str, target: Any = None, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One more map, in the form that it has in a document."""
        made = self.scope.explain(self.picture, method=method, target=target, size=self.size, params=dict(params or {}))
        entry, arrays = entry_of(self.scope, made, label=target if isinstance(target, str) else None)
        return {"entry": entry, "arrays": {name: one.document() for name, one in arrays.items()}}
