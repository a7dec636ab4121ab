"""What a method is, and how one is registered."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from vitscope._plugins import Registry
from vitscope.errors import Support, UnknownNameError, UsageError
from vitscope.geometry import TokenLayout

if TYPE_CHECKING:
    import torch

__all__ = ["METHODS", "Method", "ModelTraits", "Option", "method"]

T = TypeVar("T")
_NO_CLS = TokenLayout((), (2, 2), "mean")


class ModelTraits(Protocol):
    """What a method must know of a model to say whether it applies; a model adapter has it."""

    @property
    def isotropic(self) -> Support:
        """Whether every layer sees all tokens of the layout; else how the layers differ."""

    def layout(self) -> TokenLayout:
        """The token layout at the input size that the model was made for."""


@dataclass(frozen=True)
class Option:
    """One option of a method: its name, type, default and choices, as its function's signature has them."""

    name: str
    annotation: Any
    default: Any
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method:
    """A method: from attention to relevance.

    Attributes:
        name: as users say it.
        run: `run(store, **options) -> relevance (B, N)`, unnormalised, one number per token, or that and a note for
            each picture; a method that runs the model itself is given a `MethodContext` instead of the store.
        needs_gradient: wants the target's gradient: the forward keeps its graph.
        uses_target: the map depends on which class (or other target) is asked for.
        passes: forward and backward passes through the model, in words.
        source: authors, year, equation.
        caveat: one sentence that goes with every map of this method, or empty.
        refuses: from a layout to the reason why the method does not apply, or an empty string.
        whole: needs layers that all see the same tokens.
        sums_to_one: the weights of all tokens add up to one.
        on_subject: is given a `MethodContext`, not an `AttentionStore`.
        needs_tokens: wants the tokens between the model's blocks.
        needs_patches: wants the patch tokens of one layer, on whatever grid this layer has.
        needs_bag: drops or moves tokens: places must be known to the model from its tokens alone.
        needs_values: wants the values that attention weighs, and the projection after them.
        own_passes: differentiates passes of its own: the plain forward keeps neither graph nor attention for it.
        correction: the gradient rules that belong to the method; empty where the caller chooses.
    """

    name: str
    run: Callable[..., "torch.Tensor | tuple[torch.Tensor, list[str]]"]
    needs_gradient: bool
    uses_target: bool
    passes: str
    source: str
    caveat: str = ""
    refuses: Callable[[TokenLayout], str] = field(default=lambda layout: "")
    whole: bool = False
    sums_to_one: bool = False
    on_subject: bool = False
    needs_tokens: bool = False
    needs_patches: bool = False
    needs_bag: bool = False
    needs_values: bool = False
    own_passes: bool = False
    correction: str = ""
    options: Mapping[str, Option] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The first line of the method's docstring."""
        return (inspect.getdoc(self.run) or "").partition("\n")[0]

    @property
    def quick(self) -> bool:
        """Is it one forward and at most one backward?"""
        return "forwards" not in self.passes

    def excuse(self, model: ModelTraits) -> str:
        """Why the method does not apply to this model, or an empty string where it does."""
        if self.whole and not model.isotropic:
            return f"{self._need}, and {model.isotropic.reason}"
        return self.refuses(model.layout())

    @property
    def works_on(self) -> str:
        """For which kind of model: `any` that is understood, or `plain` ones, whose layers all see the same tokens."""
        if self.needs_bag:
            return "plain, no position bias"
        if self.whole:
            return "plain, with CLS" if self.refuses(_NO_CLS) else "plain"
        return "any, own grid" if self.needs_patches else "any"

    @property
    def _need(self) -> str:
        if self.needs_bag:
            return "it leaves the same tokens out of all blocks"
        return f"it {'reads' if self.needs_tokens else 'multiplies the attention of'} the same tokens in every layer"

    def check(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The full set of options, defaults filled in.

        Raises:
            UsageError: an option that this method does not have, or a value of another kind or not one of its choices.
        """
        for name, value in options.items():
            if name not in self.options:
                raise UnknownNameError(f"option of the method '{self.name}'", name, self.options)
            choices = self.options[name].choices
            if choices and value not in choices and not isinstance(value, int):
                raise UnknownNameError(name, str(value), choices)
            kind = type(self.options[name].default)
            if kind is bool and not isinstance(value, bool):
                raise UsageError(f"{name} is true or false, not {value!r}")
            fits = isinstance(value, (int, float)) if kind is float else isinstance(value, kind)
            if kind in (int, float) and (isinstance(value, bool) or not fits):
                raise UsageError(f"{name} is {'a number' if kind is float else 'a whole number'}, not {value!r}")
        return {name: option.default for name, option in self.options.items()} | dict(options)


METHODS: Registry[Method] = Registry("method", "vitscope.methods")


def method(
    name: str,
    *,
    passes: str,
    source: str,
    needs_gradient: bool = False,
    uses_target: bool = False,
    caveat: str = "",
    refuses: Callable[[TokenLayout], str] = lambda layout: "",
    whole: bool = False,
    sums_to_one: bool = False,
    on_subject: bool = False,
    needs_tokens: bool = False,
    needs_patches: bool = False,
    needs_bag: bool = False,
    needs_values: bool = False,
    own_passes: bool = False,
    correction: str = "",
) -> Callable[[T], T]:
    """Register a function `(store, *, option=default, ...) -> (B, N)` as a method; its keywords are its options.

    The arguments are the attributes of `Method`.
    """

    def register(run: T) -> T:
        assert callable(run)
        keywords = [p for p in inspect.signature(run).parameters.values() if p.kind is p.KEYWORD_ONLY]
        options = {p.name: Option(p.name, p.annotation, p.default, _choices(p.annotation)) for p in keywords}
        METHODS.add(
            name,
            Method(
                name=name,
                run=run,
                needs_gradient=needs_gradient,
                uses_target=uses_target,
                passes=passes,
                source=source,
                caveat=caveat,
                refuses=refuses,
                whole=whole or needs_tokens or needs_bag,
                sums_to_one=sums_to_one,
                on_subject=on_subject or needs_tokens or needs_patches or needs_bag,
                needs_tokens=needs_tokens or needs_bag,
                needs_patches=needs_patches,
                needs_bag=needs_bag,
                needs_values=needs_values,
                own_passes=own_passes,
                correction=correction,
                options=options,
            ),
        )
        return run

    return register


def _choices(annotation: Any) -> tuple[str, ...]:
    """The strings in a Literal, also inside a union such as `Literal["mean"] | int`."""
    parts: Sequence[Any] = getattr(annotation, "__args__", ())
    if parts and all(isinstance(p, str) for p in parts):
        return tuple(parts)
    return tuple(c for p in parts if getattr(p, "__args__", None) for c in _choices(p))
