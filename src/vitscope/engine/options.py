"""The options of an explanation: the one schema behind keywords, flags, forms and manifests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar

import numpy as np
from torch import Tensor

from vitscope._messages import msg
from vitscope.attention import LayerSpec
from vitscope.attention.gradient_rules import GRADIENT_RULES, GradientRuleName
from vitscope.engine.ranges import check_batch_size, check_seed, check_size
from vitscope.errors import UnknownNameError, UsageError, VitscopeError
from vitscope.methods.places import QueryTarget, RegionTarget
from vitscope.methods.targets import SimilarTo, Target, Text

Progress: TypeAlias = Callable[[str, int, int], None]
Refinement: TypeAlias = Literal["none", "affinity"]
Targets: TypeAlias = "Sequence[Target] | Tensor | np.ndarray"
Outcome = TypeVar("Outcome")


class ExplainOptions(TypedDict, total=False):
    """The keywords of `Scope.explain` and of all that take the same: the fields of `Options`, and options of methods.

    Options of methods from other packages go into `method_options`.
    """

    method: str
    target: "Target | Targets"
    gradient_rule: GradientRuleName
    refine: Refinement
    size: int | None
    batch_size: int
    seed: int
    method_options: Mapping[str, Any]
    progress: Progress | None

    at: Literal["norm", "input", "output"]
    baseline: float
    by: Literal["attention", "both"]
    cells: int
    component: int
    detail: float
    discard_ratio: float
    fill: float
    final_norm: bool
    head: Literal["mean", "max", "min"] | int
    head_fusion: Literal["mean", "max", "min"] | int
    keep: float
    layer: int
    layers: LayerSpec
    linear: float
    masks: int
    near: float
    noise: float
    normalise: bool
    query: str | int
    readout: Literal["mean", "own"]
    residual_weight: float
    restart: float
    samples: int
    share: float
    sigma: float
    start_layer: int | None
    steps: int
    stride: int
    temperature: float
    window: int


@dataclass(frozen=True)
class Options:
    """What to compute of each image.

    Attributes:
        method: a method's name, or `auto` for what suits the model; the provenance records which was taken.
        target: what to explain, for methods that use gradients: a class by number or name, `"tabby - tiger"`,
            `vitscope.region("cat", box=...)`, `vitscope.query(3, "cat")`, `vitscope.text("a cat")`,
            `vitscope.similar_to(image)`, a function of the model's answer; None is the
            predicted class, and for a feature model the feature's own norm. A list, array or tensor of these has one
            for each image.
        targets: several of these, each explained for every image, from one forward.
        refine: `affinity` spreads the finished map along what patches have in common (`methods.refine.spread`).
        gradient_rule: by which rules gradients go back through the model: `plain`, `libra` or `attnlrp`.
        size: input size: the photo keeps its aspect ratio, nothing is cropped, about `size ** 2` pixels go in. None is
            the model's own preprocessing.
        batch_size: images that go through the model together; those of one size do.
        seed: for methods that draw random numbers.
        method_options: the method's own options.
    """

    method: str = "auto"
    target: Any = None
    gradient_rule: GradientRuleName = "plain"
    refine: Refinement = "none"
    size: int | None = None
    batch_size: int = 8
    seed: int = 0
    method_options: Mapping[str, Any] = field(default_factory=dict)
    targets: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", str(self.method))  # no method is called what is no text
        check_size(self.size)
        check_batch_size(self.batch_size)
        check_seed(self.seed)
        for name in ("size", "batch_size", "seed"):  # numbers of numpy are none of JSON
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, int(value))
        UnknownNameError.check(msg("engine.gradient-rule", "gradient rule"), self.gradient_rule, GRADIENT_RULES)
        UnknownNameError.check(msg("engine.refinement", "refinement"), self.refine, ["none", "affinity"])
        object.__setattr__(self, "target", _checked(self.target))
        if self.targets is not None:
            object.__setattr__(self, "targets", _checked(self.targets))
            self._check_targets()

    def _check_targets(self) -> None:
        if not isinstance(self.targets, list):
            problem = msg(
                "engine.targets-not-several", "{@targets} is a list of targets, not {target}", target=repr(self.targets)
            )
            raise UsageError(problem, msg("engine.targets-not-several.hint", "pass one target as target="))
        if not self.targets:
            raise UsageError(msg("engine.no-targets", "the list of targets is empty"))
        if self.target is not None:
            raise UsageError(
                msg("engine.target-and-targets", "target= and targets= exclude each other"),
                msg("engine.target-and-targets.hint", "targets= explains several of every image, target= one of each"),
            )

    @property
    def several(self) -> bool:
        """Does every image have several targets?"""
        return self.targets is not None

    @property
    def all_targets(self) -> list[Target]:
        """Every target that occurs."""
        if self.targets is not None:
            return list(self.targets)
        return list(self.target) if isinstance(self.target, list) else [self.target]

    def runs(self, images: Sequence[int]) -> "list[Target | list[Target]]":
        """Return the targets of some images, given by number: each for all of them, or a list with one for each."""
        if self.targets is not None:
            return list(self.targets)
        return [[self.target[image] for image in images] if isinstance(self.target, list) else self.target]

    def check_count(self, images: int, *, all_of_them: bool = True) -> None:
        """Raise a UsageError where each image has its own target and there are more or fewer of them."""
        if not isinstance(self.target, list):
            return
        if images > len(self.target) or (all_of_them and images < len(self.target)):
            raise UsageError.coded(
                "engine.target-count",
                "target= has {targets} entries for {images} images: it has one for each",
                "targets=[...] explains several targets of every image",
                targets=len(self.target),
                images=images,
            )


_TARGETS = (int, str, SimilarTo, Text, RegionTarget, QueryTarget)
OPTION_NAMES = tuple(Options.__dataclass_fields__)


@dataclass(frozen=True)
class Failure:
    """An image that could not be explained, and why."""

    source: str
    error: VitscopeError


def explained(outcome: Outcome | Failure) -> Outcome:
    """Return what came of an image; raise the error of a Failure."""
    if isinstance(outcome, Failure):
        raise outcome.error
    return outcome


def options_of(given: Mapping[str, Any], targets: Any = None) -> Options:
    """Make options from the keywords of `explain`: those that are none of the fields are the method's own."""
    known = {name: given[name] for name in OPTION_NAMES if name in given and name != "method_options"}
    own = {name: given[name] for name in given if name not in (*OPTION_NAMES, "progress")}
    others = given.get("method_options", {})
    if not isinstance(others, Mapping):
        raise UsageError.coded(
            "engine.method-options", "{@method_options} is a dict of options, not {value}", value=repr(others)
        )
    return Options(**{"targets": targets, **known}, method_options=own | dict(others))


def target_of(target: "Target | list[Target]", image: int) -> Target:
    """Return the target of one image of a batch."""
    return target[image] if isinstance(target, list) else target


def one_target(target: Any) -> Target:
    """Return the one target that can be followed, as `Options` has it; raise a UsageError for several."""
    if isinstance(found := _checked(target), list):
        raise UsageError(msg("engine.one-target", "only one target can be followed"))
    chosen: Target = found
    return chosen


def _checked(target: Any) -> Any:
    """Return one target, or a list of them, with plain integers for those of numpy and torch."""
    if isinstance(target, (np.ndarray, np.integer, Tensor)):
        target = target.tolist()
    if isinstance(target, Sequence) and not isinstance(target, (str, bytes)):
        found = [_checked(one) for one in target]
        if not any(isinstance(one, list) for one in found):
            return found
    elif isinstance(target, bool):
        pass  # True is no class 1
    elif target is None or isinstance(target, _TARGETS) or callable(target):
        return target
    hint = msg(
        "engine.target-kind.hint",
        "a class by number or name, vitscope.region(...), vitscope.query(...), vitscope.text(...), "
        "vitscope.similar_to(...) or a function of the answer",
    )
    raise UsageError(msg("engine.target-kind", "{target} is not a target", target=repr(target)), hint)
