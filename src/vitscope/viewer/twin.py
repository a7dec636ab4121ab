"""Two models on one page: what the page needs to know of the other one, and of how far apart they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitscope.engine.engine import Engine
from vitscope.engine.two_models import compare_layers
from vitscope.errors import UnsupportedError
from vitscope.images import Picture
from vitscope.viewer.document import json_safe


@dataclass(frozen=True)
class Twin:
    """The other model of a page.

    Attributes:
        engine: the page's model.
        other: the other one.
        picture: the image of both.
        size: the input size of both.
    """

    engine: Engine
    other: Engine
    picture: Picture
    size: int | None

    @property
    def reference(self) -> str:
        """The other model's reference."""
        return self.other.adapter.reference

    def header_of(self, header: Mapping[str, Any]) -> dict[str, Any]:
        """Return the page's header with `twin`: `layers` (`LayerDistance` each), or `why` there are none."""
        try:
            found: dict[str, Any] = compare_layers(self.engine, self.other, self.picture, self.size).to_dict()
        except UnsupportedError as error:
            found = {"why": error.message, "layers": []}
        return {**header, "twin": json_safe({"why": "", **found})}
