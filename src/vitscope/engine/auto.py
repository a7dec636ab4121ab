"""What `method="auto"` stands for: the choice, and why. What it rests on is measured in docs/which-method.md."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vitscope.attention.gradient_rules import GradientRuleName
from vitscope.engine.options import Options
from vitscope.errors import Support
from vitscope.methods.base import METHODS, Method
from vitscope.models.base import ModelAdapter

__all__ = ["MethodChoice", "choose_method"]


@dataclass(frozen=True)
class MethodChoice:
    """A method for one model and one question.

    Attributes:
        method: its name.
        method_options: its own options, where they are not the defaults.
        gradient_rule: by which rules gradients go back.
        why: half a sentence, for the provenance.
        drawing: keywords of `overlay` that suit such maps.
    """

    method: str
    method_options: Mapping[str, Any] = field(default_factory=dict)
    gradient_rule: GradientRuleName = "plain"
    why: str = ""
    drawing: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        more = {**self.method_options, **self.drawing} | (
            {} if self.gradient_rule == "plain" else {"gradient_rule": self.gradient_rule}
        )
        return ", ".join([self.method, *(f"{name} {value}" for name, value in more.items())])


# for a class or a target: a method and by which rules gradients go back; the best one first
EVIDENCE: tuple[tuple[str, GradientRuleName], ...] = (
    ("gradcam", "plain"),
    ("input-x-gradient", "libra"),
    ("relevance", "libra"),
)
OBJECTS = "random-walk"
LAST = "rollout"


def choose_method(adapter: ModelAdapter, options: Options, supports: Callable[[Method], Support]) -> MethodChoice:
    """The method for a model and a question.

    `auto_options` of the adapter come first. Else models with classes, and targets, get what speaks for the class or
    target; models without classes get a map of what is looked at. The first is taken that applies to the model and has
    all options that are given; `why` says what stood in the way of those before it.

    Args:
        adapter: the model.
        options: what is asked.
        supports: whether a method applies to the model.
    """
    if adapter.auto_options:
        own = dict(adapter.auto_options)
        return MethodChoice(own.pop("method"), own, drawing=adapter.overlay_options)
    evidence = "evidence for the class" if adapter.labels else "evidence for the target"
    wanted = [(name, rule, evidence) for name, rule in EVIDENCE]
    if not adapter.labels and all(target is None for target in options.all_targets):
        wanted = []
    wanted += [(OBJECTS, "plain", "what is looked at, and what is alike"), (LAST, "plain", "what is looked at")]
    refused: list[str] = []
    for name, rule, why in wanted[:-1]:
        method = METHODS.get(name)
        foreign = [key for key in options.method_options if key not in method.options]
        reason = f"it has no option {foreign[0]}" if foreign else supports(method).reason
        if not reason:
            return MethodChoice(name, gradient_rule=rule, why="; ".join([why, *refused]))
        refused.append(f"not {name}: {reason}")
    return MethodChoice(LAST, why="; ".join([wanted[-1][2], *refused]))
