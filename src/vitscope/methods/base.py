"""What a method is, what it may require of a model, and the decorator that registers one."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, get_args

from vitscope._messages import msg
from vitscope._plugins import Registry
from vitscope.errors import YES, Support, UnknownNameError, UsageError
from vitscope.geometry import TokenLayout
from vitscope.methods.method_options import KIND, PACKAGE, Option, check_options

if TYPE_CHECKING:
    import torch


T = TypeVar("T")
Requirement: TypeAlias = Literal[
    "target", "gradient", "own-gradient", "same-tokens", "hidden-states", "token-grids", "order-free", "values"
]
_IMPLIED: dict[str, tuple[Requirement, ...]] = {
    "gradient": ("target",),
    "own-gradient": ("gradient", "target"),
    "hidden-states": ("same-tokens",),
    "order-free": ("hidden-states", "same-tokens"),
}
_NO_CLS = TokenLayout((), (2, 2), "mean")


class ModelTraits(Protocol):
    """What decides whether a method applies to a model; a model adapter has it."""

    @property
    def isotropic(self) -> Support:
        """Whether every layer sees all tokens of the layout; else how the layers differ."""

    def layout(self) -> TokenLayout:
        """Return the token layout at the input size that the model was made for."""


@dataclass(frozen=True)
class Method:
    """One method: a function from attention, or from a model, to relevance.

    Attributes:
        name: what users call it.
        run: `run(store, **options)` or `run(context, **options)`; returns relevance `(B, N)`, unnormalised, one number
            per token, or that and a note for each image.
        passes: forward and backward passes through the model, in words.
        source: authors, year, equation.
        runs_model: `run` takes a `MethodContext`, which can run the model, instead of an `AttentionStore`.
        requires: what it needs beyond the attention of one forward, with all that this implies; see `method`.
        caveat: one sentence that accompanies every map of this method, or empty.
        supports_layout: whether it applies to a token layout.
        sums_to_one: the weights of all tokens add up to one.
        gradient_rule: the rules that belong to the method; empty where the caller chooses.
        most_tokens: how many tokens it takes; None where there is no limit.
        options: its own options by name.
    """

    name: str
    run: Callable[..., "torch.Tensor | tuple[torch.Tensor, list[str]]"]
    passes: str
    source: str
    runs_model: bool
    requires: frozenset[Requirement] = frozenset()
    caveat: str = ""
    supports_layout: Callable[[TokenLayout], Support] = field(default=lambda layout: YES)
    sums_to_one: bool = False
    gradient_rule: str = ""
    most_tokens: int | None = None
    options: Mapping[str, Option] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The first line of the method's docstring."""
        return (inspect.getdoc(self.run) or "").partition("\n")[0]

    @property
    def quick(self) -> bool:
        """Whether it costs one forward and at most one backward."""
        return "forwards" not in self.passes

    def supports(self, model: ModelTraits) -> Support:
        """Return whether the method applies to a model, as far as its layout and layers decide."""
        if "same-tokens" in self.requires and not model.isotropic:
            return Support.no(self._same_tokens(model.isotropic.reason), self.name)
        return replace(self.supports_layout(model.layout()), name=self.name)

    @property
    def works_on(self) -> str:
        """The kind of model: `any`, or `plain` where all layers have to see the same tokens."""
        if "order-free" in self.requires:
            return "plain, no position bias"
        if "same-tokens" in self.requires:
            return "plain" if self.supports_layout(_NO_CLS) else "plain, with CLS"
        return "any, own grid" if "token-grids" in self.requires else "any"

    def _same_tokens(self, reason: str) -> str:
        if "order-free" in self.requires:
            return msg(
                "methods.leaves-out-tokens", "it drops the same tokens in every layer, and {reason}", reason=reason
            )
        if "hidden-states" in self.requires:
            return msg("methods.reads-tokens", "it reads the same tokens in every layer, and {reason}", reason=reason)
        return msg(
            "methods.multiplies-attention",
            "it multiplies the attention of the same tokens in every layer, and {reason}",
            reason=reason,
        )

    def check(self, options: Mapping[str, Any], also: Iterable[str] = ()) -> dict[str, Any]:
        """Return the full set of options, defaults filled in.

        Args:
            options: by name.
            also: names that are no options of a method, to be suggested where one of them was meant.

        Raises:
            UsageError: an option that this method does not have, or a value of another kind or not one of its choices.
        """
        return check_options(self.name, self.options, options, also)


METHODS: Registry[Method] = Registry(KIND, PACKAGE, lambda part: isinstance(part, Method))


def method(
    name: str,
    *,
    passes: str,
    source: str,
    requires: Iterable[Requirement] = (),
    caveat: str = "",
    supports: Callable[[TokenLayout], Support] = lambda layout: YES,
    sums_to_one: bool = False,
    gradient_rule: str = "",
    most_tokens: int | None = None,
) -> Callable[[T], T]:
    """Register a function `(store | context, *, option=default, ...) -> (B, N)`; its keywords are its options.

    The annotation of the first parameter decides what the function is given: `AttentionStore`, the attention of one
    forward, or `MethodContext`, which has that and can run the model.

    Args:
        name: what users call it.
        passes: forward and backward passes through the model, in words.
        source: authors, year, equation.
        requires: what it needs beyond that attention:
            `target`: the map depends on the class, or other target, that is explained;
            `gradient`: the gradient of the target's score in the plain forward, which keeps its graph;
            `own-gradient`: gradients of forwards of its own: the plain forward keeps neither graph nor attention;
            `same-tokens`: layers that all see the same tokens;
            `hidden-states`: the tokens between the blocks, the same in all of them;
            `token-grids`: the patch tokens of one layer, on whatever grid this layer has;
            `order-free`: that tokens can be dropped: the model knows their places from the tokens alone;
            `values`: the values that attention weights, and the projection after them.
        caveat: one sentence that accompanies every map.
        supports: whether it applies to a token layout.
        sums_to_one: the weights of all tokens add up to one.
        gradient_rule: the rules that belong to the method, where the caller has no choice.
        most_tokens: how many tokens it takes, where there is a limit; `run` raises a MethodError beyond it.

    Raises:
        UsageError: there is a method of that name, or the first parameter's annotation is neither of the two.
    """

    def register(run: T) -> T:
        assert callable(run)
        needs = frozenset(requires)
        for need in needs:
            if need not in get_args(Requirement):
                raise UnknownNameError("requirement", need, get_args(Requirement))
        first, *others = _signature(run).parameters.values()
        keywords = [p for p in others if p.kind is p.KEYWORD_ONLY]
        METHODS.add(
            name,
            Method(
                name=name,
                run=run,
                passes=passes,
                source=source,
                runs_model=_takes_context(name, first.annotation),
                requires=needs.union(*(_IMPLIED.get(need, ()) for need in needs)),
                caveat=caveat,
                supports_layout=supports,
                sums_to_one=sums_to_one,
                gradient_rule=gradient_rule,
                most_tokens=most_tokens,
                options={p.name: Option(p.name, p.annotation, p.default, _choices(p.annotation)) for p in keywords},
            ),
        )
        return run

    return register


def _signature(run: Callable[..., Any]) -> inspect.Signature:
    """Return a signature with its annotations evaluated, where their names are known at run time."""
    try:
        return inspect.signature(run, eval_str=True)
    except NameError:
        return inspect.signature(run)


def _takes_context(name: str, annotation: Any) -> bool:
    """Return whether a function takes a `MethodContext`; by name, so that nothing is imported for it."""
    kind = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    if (kind := kind.rpartition(".")[2]) not in ("AttentionStore", "MethodContext"):
        raise UsageError.coded(
            "methods.first-parameter",
            "the first parameter of the method '{method}' is annotated neither AttentionStore nor MethodContext",
            "annotate it with what the function is to be given",
            method=name,
        )
    return kind == "MethodContext"


def _choices(annotation: Any) -> tuple[str, ...]:
    """Return the strings in a Literal, also inside a union such as `Literal["mean"] | int`."""
    parts: Sequence[Any] = getattr(annotation, "__args__", ())
    if parts and all(isinstance(p, str) for p in parts):
        return tuple(parts)
    return tuple(c for p in parts if getattr(p, "__args__", None) for c in _choices(p))
