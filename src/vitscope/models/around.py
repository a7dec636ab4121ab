"""How a module of one's own is around a model of clips, volumes or sounds that is known."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from vitscope.models.traced import TracedAdapter


@dataclass(frozen=True, eq=False)
class Around:
    """A module around a known model, which says what the module's input is.

    Attributes:
        inside: the known model.
        order: the order of the axes in which the module takes the input of the model inside.
        labels: class names by index, where the module orders its classes as the model inside does.
    """

    inside: nn.Module
    order: tuple[int, ...]
    labels: Mapping[int, str] = field(default_factory=dict)

    def run(self, module: nn.Module, made: Tensor) -> Any:
        """Call the module on what the model inside takes."""
        return module(made.permute(self.order))


class MediumAdapter(TracedAdapter):
    """An adapter whose model may take another medium than images, and may be inside a module of one's own.

    Attributes:
        orders: orders of the axes in which a module around the model may take its input, the model's own first.
        around: how the module that is explained is around the model that is known; None where it is that model.
    """

    orders: ClassVar[tuple[tuple[int, ...], ...]] = ((0, 1, 2, 3),)
    around: Around | None = None

    def laid_out(self, pixels: Tensor) -> Tensor:
        """Return images `(B, C, Hi, Wi)` in the form that the model takes, such as clips."""
        return pixels
