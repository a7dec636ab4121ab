"""Choose the method that `method="auto"` stands for; docs/which-method.md has the measurements behind it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from vitscope._messages import Message, join_messages, msg
from vitscope.attention.gradient_rules import GradientRuleName
from vitscope.engine.options import Options, Refinement
from vitscope.errors import Support
from vitscope.methods.base import METHODS, Method
from vitscope.models.base import ModelAdapter

Question: TypeAlias = Literal["objects", "evidence"]


@dataclass(frozen=True)
class MethodChoice:
    """A method for one model and one set of options.

    Attributes:
        method: its name.
        method_options: its own options, where they are not the defaults.
        gradient_rule: by which rules gradients go back.
        reason: why it was chosen, for the provenance.
        overlay_options: keywords of `overlay` that suit such maps.
        refine: the refinement of its maps.
        calibration: what was measured of this model, for the provenance; empty where the choice rests on none.
        note: whether it was measured on this model, where the reason does not say so.
    """

    method: str
    method_options: Mapping[str, Any] = field(default_factory=dict)
    gradient_rule: GradientRuleName = "plain"
    reason: str = ""
    overlay_options: Mapping[str, Any] = field(default_factory=dict)
    refine: Refinement = "none"
    calibration: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def __str__(self) -> str:
        more = {**self.method_options, **self.overlay_options}
        more |= {} if self.gradient_rule == "plain" else {"gradient_rule": self.gradient_rule}
        more |= {} if self.refine == "none" else {"refine": self.refine}
        return ", ".join([self.method, *(f"{name} {value}" for name, value in more.items())])


# for a class or another target: a method and its gradient rule, the best first
EVIDENCE: tuple[tuple[str, GradientRuleName], ...] = (
    ("evidence-walk", "plain"),
    ("input-x-gradient", "libra"),
    ("relevance", "libra"),
)
OBJECTS = "random-walk"
LAST = "rollout"


def question_of(adapter: ModelAdapter, options: Options) -> Question:
    """Return what `auto` has to answer: why this class or target (`evidence`), or where the model looks (`objects`)."""
    classifies = adapter.class_count() is not None or (bool(adapter.labels) and not adapter.dense)
    return "evidence" if classifies or any(target is not None for target in options.all_targets) else "objects"


def looking_method(supports: Callable[[Method], Support]) -> str:
    """Return the method that shows where a model looks, whether or not it has classes."""
    return OBJECTS if supports(METHODS.get(OBJECTS)) else LAST


def choose_method(adapter: ModelAdapter, options: Options, supports: Callable[[Method], Support]) -> MethodChoice:
    """Choose a method for a model and what is to be explained.

    The adapter's own `auto_options` come first. Models with classes, and targets, get evidence for the class or target;
    models without classes get what they attend to. The first method is taken that applies to the model and has all the
    options that are given; `reason` also says why those before it were not.
    """
    if adapter.auto_options:
        own = dict(adapter.auto_options)
        return MethodChoice(own.pop("method"), own, overlay_options=adapter.overlay_options)
    candidates: list[tuple[str, GradientRuleName, Message]] = []
    if question_of(adapter, replace(options, target=None, targets=None)) == "evidence":
        looks = looking_method(supports)
        reason = msg("engine.choice.class", "why this class; where it looks: {@method={looks}}", looks=looks)
        candidates = [(name, rule, reason) for name, rule in EVIDENCE]
    elif question_of(adapter, options) == "evidence":
        reason = msg("engine.choice.target", "evidence for the target")
        candidates = [(name, rule, reason) for name, rule in EVIDENCE]
    candidates.append((OBJECTS, "plain", msg("engine.choice.objects", "what it attends to, and what is similar")))
    refused: list[str] = []
    for name, rule, reason in candidates:
        method = METHODS.get(name)
        foreign = [key for key in options.method_options if key not in method.options]
        why_not = supports(method).reason
        if foreign:
            why_not = msg("engine.choice.no-option", "it has no option {option}", option=foreign[0])
        if not why_not:
            return MethodChoice(name, gradient_rule=rule, reason=join_messages("; ", [reason, *refused]))
        refused.append(msg("engine.choice.not", "not {method}: {reason}", method=name, reason=why_not))
    return MethodChoice(LAST, reason=join_messages("; ", [msg("engine.choice.last", "what it attends to"), *refused]))
