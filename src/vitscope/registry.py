"""Where parts plug in: one Registry, and the contracts of what goes into it.

A built-in part registers itself when its module is imported; the modules of the package it lives in are imported at the
first look-up, never before, so that importing vitscope costs nothing and loads no torch. A part from another package
is found through its entry point (groups `vitscope.families`, `vitscope.methods`, `vitscope.renderers`).
"""

import importlib
import inspect
import pkgutil
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from vitscope.errors import MethodError, UnknownName, UsageError
from vitscope.geometry import Frame, TokenLayout
from vitscope.images import Picture

if TYPE_CHECKING:
    import torch

    from vitscope.capturing import StoreOf
    from vitscope.store import AttentionStore
    from vitscope.tracing.stages import Stages

__all__ = ["FAMILIES", "METHODS", "RENDERERS", "Family", "Method", "Option", "Registry", "method", "renderer"]

T = TypeVar("T")
_NO_CLS = TokenLayout((), (2, 2), "mean")


class Registry(Generic[T]):
    """Parts by name, found on first use.

    Args:
        kind: what one part is called in messages, such as `method`.
        package: the package whose modules register built-in parts; also the entry-point group of others.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._parts: dict[str, T] = {}
        self._complete = False

    def add(self, name: str, part: T) -> T:
        """Register `part` under `name`; a second one of the same name is an error."""
        if name in self._parts:
            raise UsageError(f"there is already a {self.kind} called '{name}'")
        self._parts[name] = part
        return part

    def get(self, name: str) -> T:
        """The part called `name`.

        Raises:
            UnknownName: with the choices and the nearest spelling.
        """
        self._find()
        if name not in self._parts:
            raise UnknownName(self.kind, name, sorted(self._parts))
        return self._parts[name]

    def __iter__(self) -> Iterator[tuple[str, T]]:
        self._find()
        return iter(sorted(self._parts.items()))

    def _find(self) -> None:
        if self._complete:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        for entry in entry_points(group=self.package):
            entry.load()
        self._complete = True


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
            each picture; a method that runs the model itself is given a `Subject` instead of the store.
        needs_gradient: wants the target's gradient: the forward keeps its graph.
        uses_target: the map depends on which class (or other target) is asked for.
        passes: forward and backward passes through the model, in words.
        source: authors, year, equation.
        caveat: one sentence that goes with every map of this method, or empty.
        refuses: from a layout to the reason why the method does not apply, or an empty string.
        whole: needs layers that all see the same tokens.
        sums_to_one: the weights of all tokens add up to one.
        on_subject: is given a `Subject`, not an `AttentionStore`.
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

    def excuse(self, family: "Family") -> str:
        """Why the method does not apply to this model, or an empty string where it does."""
        if self.whole and not family.isotropic:
            return f"{self._need}, and {family.uneven()}"
        return self.refuses(family.layout())

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
                raise UnknownName(f"option of the method '{self.name}'", name, self.options)
            choices = self.options[name].choices
            if choices and value not in choices and not isinstance(value, int):
                raise UnknownName(name, str(value), choices)
            kind = type(self.options[name].default)
            if kind is bool and not isinstance(value, bool):
                raise UsageError(f"{name} is true or false, not {value!r}")
            fits = isinstance(value, (int, float)) if kind is float else isinstance(value, kind)
            if kind in (int, float) and (isinstance(value, bool) or not fits):
                raise UsageError(f"{name} is {'a number' if kind is float else 'a whole number'}, not {value!r}")
        return {name: option.default for name, option in self.options.items()} | dict(options)


class Family(ABC):
    """One library's models as vitscope sees them, bound to one model: the contract of `vitscope.families`.

    Attributes:
        model: the caller's module; a family never changes it for good.
        reference: how the model was named, for the provenance.
        weights: a revision or hash that identifies the weights.
        labels: class names by index; empty for a model that does not classify.
        advice: a method and its options that suit this model, taken for the method "auto" instead of vitscope's choice.
        drawing: keywords of `overlay` that suit those maps.
        independent: several classes can be right at once: each has a probability of its own.
        notes: what the provenance of every map says about the model, such as preprocessing that was chosen.
        batches: several pictures can go through one forward; else they go one at a time.
    """

    name: ClassVar[str]
    model: "torch.nn.Module"
    reference: str
    weights: str
    labels: Mapping[int, str]
    advice: Mapping[str, Any] = types.MappingProxyType({})
    drawing: Mapping[str, Any] = types.MappingProxyType({})
    independent: bool = False
    notes: tuple[str, ...] = ()
    batches: bool = True

    @classmethod
    @abstractmethod
    def claims(cls, model: object) -> bool:
        """Is this one of this family's models?"""

    @property
    @abstractmethod
    def depth(self) -> int:
        """How many self-attention calls one forward makes; a capture that sees another number fails."""

    @abstractmethod
    def layout(self, size: tuple[int, int] | None = None) -> TokenLayout:
        """The token layout at an input of `(Hi, Wi)` pixels, by default the one the model was made for."""

    @abstractmethod
    def prepare(self, picture: Picture, size: int | None = None) -> tuple["torch.Tensor", Frame]:
        """Pixels `(3, Hi, Wi)` as the model wants them, and their frame.

        With `size`, the photo keeps its aspect ratio, nothing is cropped, and the input has about `size ** 2` pixels.
        """

    @abstractmethod
    def answer(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Run the model on `(B, 3, Hi, Wi)`: class logits `(B, C)`, pooled features `(B, D)`, or tokens."""

    def forward(self, pixels: "torch.Tensor") -> "torch.Tensor | None":
        """Class logits `(B, C)`, or None where the model does not classify."""
        answer = self.answer(pixels)
        return answer if self.classifies(answer) else None

    @property
    def isotropic(self) -> bool:
        """Does every layer see all tokens of the layout?"""
        return True

    def uneven(self) -> str:
        """How the layers differ in the tokens that they see, in words; of use where `isotropic` is false."""
        return "this model's layers do not all see the same tokens (windows, merging or reduced keys)"

    def stages(self, size: tuple[int, int] | None = None) -> "Stages | str":
        """The blocks and the grids of their tokens at an input of `(Hi, Wi)` pixels, or why they cannot be told."""
        return "where its blocks' tokens lie on the picture is not known"

    def order(self) -> "torch.Tensor | None":
        """Where the layout's tokens stand among the model's, where they do not stand in its order."""
        return None

    def text_features(self, words: str) -> "torch.Tensor":
        """The features `(1, D)` of a text, comparable with those of a picture.

        Raises:
            MethodError: the model knows no texts.
        """
        raise MethodError(
            f"{self.reference} knows no texts: the target text('{words}') needs a model such as CLIP or SigLIP",
            "load a whole CLIP or SigLIP of transformers, or open_clip:ARCH/PRETRAINED",
        )

    def classifies(self, answer: "torch.Tensor") -> bool:
        """Is this answer class logits?"""
        return bool(self.labels)

    def attention(self, store_of: "StoreOf", size: tuple[int, int], answer: "torch.Tensor") -> "AttentionStore":
        """The attention of a forward on `(B, 3, Hi, Wi)` pixels that ran inside a capture and gave `answer`."""
        logits = answer if self.classifies(answer) else None
        return store_of(self.layout(size), logits=logits, depth=self.depth, answer=answer)

    @abstractmethod
    def describe(self) -> Mapping[str, str]:
        """What `vitscope inspect` prints of the model beyond the layout."""


FAMILIES: Registry[type[Family]] = Registry("family", "vitscope.families")
METHODS: Registry[Method] = Registry("method", "vitscope.methods")
RENDERERS: Registry[Callable[..., Any]] = Registry("renderer", "vitscope.render")


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


def renderer(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function `(explanation, **options) -> picture or text` as a renderer."""
    return lambda draw: RENDERERS.add(name, draw)


def _choices(annotation: Any) -> tuple[str, ...]:
    """The strings in a Literal, also inside a union such as `Literal["mean"] | int`."""
    parts: Sequence[Any] = getattr(annotation, "__args__", ())
    if parts and all(isinstance(p, str) for p in parts):
        return tuple(parts)
    return tuple(c for p in parts if getattr(p, "__args__", None) for c in _choices(p))
