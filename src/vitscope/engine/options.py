"""What can be asked of an explanation: the one schema behind keywords, flags, forms and manifests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from vitscope.attention.gradient_rules import GRADIENT_RULES, GradientRuleName
from vitscope.errors import UnknownNameError, UsageError, VitscopeError
from vitscope.methods.targets import Target

__all__ = ["Failure", "Options", "Progress", "options_of"]

Progress: TypeAlias = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """What can be asked of an explanation: the one schema behind keywords, flags, forms and manifests.

    Attributes:
        method: a method's name, or `auto` for what suits the model; what was taken is in the provenance.
        target: what to explain, for methods that use gradients: a class by number or name, `"tabby - tiger"`,
            `vitscope.text("a cat")`, `vitscope.similar_to(image)`, a function of the model's answer; None is the
            predicted class, and for a feature model the feature's own norm. A list of these gives each picture a list
            of explanations, from one forward.
        refine: `affinity` spreads the finished map along what patches have in common (`methods.refine.spread`).
        gradient_rule: by which rules gradients go back through the model: `plain`, `libra` or `attnlrp`.
        size: input size: the photo keeps its aspect ratio, nothing is cropped, about `size ** 2` pixels go in. None is
            the model's own preprocessing.
        batch_size: pictures that go through the model together; those of one size do.
        seed: for methods that draw random numbers.
        method_options: the method's own options.
    """

    method: str = "auto"
    target: Any = None
    gradient_rule: GradientRuleName = "plain"
    refine: Literal["none", "affinity"] = "none"
    size: int | None = None
    batch_size: int = 8
    seed: int = 0
    method_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.size is not None and not 16 <= self.size <= 8192:
            raise UsageError(f"size is between 16 and 8192 pixels, not {self.size}")
        if self.batch_size < 1:
            raise UsageError(f"batch_size is at least 1, not {self.batch_size}")
        if self.gradient_rule not in GRADIENT_RULES:
            raise UnknownNameError("gradient_rule", self.gradient_rule, GRADIENT_RULES)
        if self.refine not in ("none", "affinity"):
            raise UnknownNameError("refinement", self.refine, ["none", "affinity"])
        if self.several and not self.target:
            raise UsageError("no target is given in the list of targets")

    @property
    def several(self) -> bool:
        """Are several targets asked for?"""
        return isinstance(self.target, (list, tuple))

    @property
    def targets(self) -> list[Target]:
        """The targets, one or more."""
        return list(self.target) if self.several else [self.target]


@dataclass(frozen=True)
class Failure:
    """A picture that could not be explained, and why."""

    source: str
    error: VitscopeError


def options_of(given: Mapping[str, Any]) -> Options:
    """Options from keywords: those that are none of its fields are the method's own."""
    known = {name: given[name] for name in Options.__dataclass_fields__ if name in given and name != "method_options"}
    own = {name: value for name, value in given.items() if name not in known and name != "method_options"}
    return Options(**known, method_options=own | dict(given.get("method_options", {})))
