"""ModelAdapter: what vitscope must know of one library's models, the contract of every adapter."""

import copyreg
import logging
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from inspect import isabstract
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from vitscope._cached import cached_property
from vitscope._messages import Message, msg
from vitscope._plugins import Registry
from vitscope.errors import YES, Support, UnsupportedError, UsageError
from vitscope.explanation import Activation, Explanation
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.images import Picture, ReadOptions, grey_picture, load_image
from vitscope.models.answers.labels import check_count
from vitscope.models.file_medium import require_image_file
from vitscope.models.options import ModelOptions
from vitscope.models.pixels.bands import fitted
from vitscope.models.weights.fingerprint import Fingerprint, fingerprint, structure_of, weights_of

if TYPE_CHECKING:
    import torch

    from vitscope.attention import AttentionStore
    from vitscope.attention.recorder import AttentionRecorder
    from vitscope.models.weights.weights_file import WeightsFile
    from vitscope.tracing.block_io import BlockMap

_SHOWN = 40  # characters of a text
_NO_QUERIES = msg("models.queries-unknown", "from which tokens one query of the answer is made is not known")

log = logging.getLogger(__name__)


class ModelAdapter(ABC):
    """One library's models, bound to one model: the contract of `vitscope.models`.

    Attributes:
        name: of the adapter; `name:NAME` is a reference to one of its pretrained models.
        library: import name of the library whose classes, and classes derived from them, it adapts; `name` by default.
        references: what `name:NAME` loads, with an example; empty for an adapter without references.
        model: the caller's module; an adapter never changes it for good.
        reference: how the model was named, for the provenance.
        weights: a revision or hash that identifies the weights.
        labels: class names by index; empty for a model that does not classify.
        auto_options: `method` and its options, which the method "auto" takes for this model instead of its own choice.
        overlay_options: keywords of `overlay` that suit those maps.
        multi_label: several classes can be right at once: each has a probability of its own.
        scores: class scores are `logits`; or `probabilities` already, of a model with a softmax or sigmoid of its own;
            or `values`, of a regression.
        notes: what the provenance of every map says about the model, such as preprocessing that was chosen.
        supports_batches: several images can go through one forward; else they go one at a time.
        channels: of the pixels that the model takes.
        bands: of the images that become those pixels: as many, unless a processor makes others of them.
        options: what the caller said of the model; bound before the constructor runs.
        dense: an answer has scores at many places, such as pixels or the queries of a detector: a target names one.
        result: the kind of explanation that is made of its inputs.
    """

    name: ClassVar[str]
    library: ClassVar[str] = ""
    references: ClassVar[str] = ""
    model: "torch.nn.Module"
    reference: str
    weights: str
    labels: Mapping[int, str]
    auto_options: Mapping[str, Any] = types.MappingProxyType({})
    overlay_options: Mapping[str, Any] = types.MappingProxyType({})
    multi_label: bool = False
    scores: Literal["logits", "probabilities", "values"] = "logits"
    notes: tuple[str, ...] = ()
    supports_batches: bool = True
    channels: int = 3
    bands: int = 3
    options: ModelOptions = ModelOptions()
    dense: bool = False
    result: type[Explanation] = Explanation
    _remake: Callable[[], Self] | None = None
    _seen: Fingerprint | None = None
    _weights_may_differ: bool = False
    _weights_changed: bool = False
    _weights_name: str | None = None

    @classmethod
    def bound(
        cls,
        model: "torch.nn.Module",
        processor: Any,
        options: ModelOptions,
        notes: Iterable[Message] = (),
        **extra: Any,
    ) -> Self:
        """Make an adapter whose constructor can read the caller's options; `notes` come after its own."""
        options.require_medium(cls.result.medium)
        adapter, notes = cls.__new__(cls), tuple(notes)
        adapter.options = options
        adapter.__init__(model, processor, **extra)  # type: ignore[misc]
        adapter.notes = (*adapter.notes, *notes)
        adapter._settle_labels()
        adapter._remake = partial(cls.bound, model, processor, options, notes, **extra)
        adapter._seen = fingerprint(model)
        return adapter

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what the adapter was made of; another process finds out about the model anew."""
        if self._remake is None:  # not made by `bound`
            return copyreg.__newobj__, (type(self),), self.__dict__  # type: ignore[attr-defined]
        return _call, (self._remake,), {"_weights_changed": self.weights_changed}

    def refresh(self) -> bool:
        """Look at the model again; what was found out is found out anew where its structure changed since.

        Returns:
            Whether it did. Where only its weights changed, they are hashed again when they are asked for.

        Raises:
            LayoutError: the tokens of the model as it is now cannot be traced.
        """
        before = self._seen
        if before is None:
            self._seen = fingerprint(self.model)
            return False
        now, self._weights_may_differ = structure_of(self.model), True
        renewed = now != before.structure and self._remake is not None
        if renewed and self._remake is not None:
            log.debug("%s: its structure changed since it was loaded", self.reference)
            changed = self.weights_changed
            self.__dict__ = self._remake().__dict__
            self._weights_changed = changed
        assert self._seen is not None
        self._seen = seen = replace(self._seen, structure=now)
        if isinstance(getattr(type(self), "weights", None), cached_property):
            self.weights_changed  # noqa: B018 - looks, and replaces `_seen` where they did
            if self._seen is not seen:
                self.__dict__.pop("weights", None)
        return renewed

    @property
    def weights_changed(self) -> bool:
        """Whether the weights are no longer those that were loaded; `weights` is then their hash.

        Weights are compared, once after each `refresh`, only when somebody asks: that reads numbers from all of them.
        """
        if self._weights_may_differ and self._seen is not None:
            self._weights_may_differ, now = False, weights_of(self.model)
            if now != self._seen.weights:
                self._seen = replace(self._seen, weights=now)
                self._weights_changed, self._weights_name = True, None
        return self._weights_changed

    def name_weights(self, name: Callable[[], str]) -> str:
        """Return what `name` returns, called once for as long as the weights stay as they are."""
        self.weights_changed  # noqa: B018 - forgets the name of others
        if self._weights_name is None:
            self._weights_name = name()
        return self._weights_name

    @classmethod
    def claims(cls, model: "torch.nn.Module") -> bool:
        """Return whether the adapter fits a model of its library; asked only for models of that library."""
        return True

    @classmethod
    def load_pretrained(cls, name: str) -> tuple["torch.nn.Module", dict[str, Any]]:
        """Load the model that `adapter:name` refers to.

        Returns:
            The model, and keywords for the adapter, such as `processor`.

        Raises:
            MissingDependencyError: the library is not installed.
            ModelError: no such model, or no way to its weights; any other exception is reported as one.
        """
        raise UnsupportedError(
            msg("models.no-references", "the adapter '{adapter}' has no models by name", adapter=cls.name)
        )

    @classmethod
    def load_architecture(
        cls, name: str, weights: "WeightsFile"
    ) -> tuple["torch.nn.Module", dict[str, Any], tuple[Message, ...]]:
        """Build the architecture that `adapter:name` refers to and fill it with the weights of a file.

        Returns:
            The model, keywords for the adapter, and what was read off the file, for the provenance.

        Raises:
            MissingDependencyError: the library is not installed.
            ModelError: no such architecture, or weights that are not its own.
        """
        raise UnsupportedError(
            msg("models.no-architectures", "the adapter '{adapter}' takes no file of weights", adapter=cls.name),
            msg("models.no-architectures.hint", "build the model in Python, load its weights and pass it"),
        )

    @property
    @abstractmethod
    def depth(self) -> int:
        """The number of self-attention calls of one forward; a capture that records another number fails."""

    @abstractmethod
    def layout(self, size: tuple[int, int] | None = None) -> TokenLayout:
        """Return the token layout at an input of `(Hi, Wi)` pixels, by default the size that the model was made for."""

    @property
    def reading(self) -> ReadOptions:
        """The keywords with which `load_image` reads images for this model."""
        options = self.options
        return ReadOptions(channels=self.bands, display=options.display, window=options.window)

    def load(self, source: Any) -> Picture:
        """Load what the model takes: an image, or another medium, as a Picture.

        Raises:
            ImageError: it cannot be used, or has other bands than the model takes.
        """
        require_image_file(source, self.reference)
        return fitted(load_image(source, **self.reading), self.bands)

    def blank(self) -> Picture:
        """Return a grey input, on which options are tried."""
        return grey_picture((64, 64), self.bands, 127)

    @abstractmethod
    def prepare(self, picture: Picture, size: int | None = None) -> tuple["torch.Tensor", ImageRegion]:
        """Return pixels `(C, Hi, Wi)` as the model expects them, and the region of the image that they show.

        With `size`, the image keeps its aspect ratio, nothing is cropped, and the input has about `size ** 2` pixels.
        """

    @abstractmethod
    def answer(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Run the model on `(B, C, Hi, Wi)`: class logits `(B, C)`, pooled features `(B, D)`, or tokens."""

    def forward(self, pixels: "torch.Tensor") -> "torch.Tensor | None":
        """Return class logits `(B, C)`, or None where the model does not classify."""
        answer = self.answer(pixels)
        return answer if self.classifies(answer) else None

    @property
    def isotropic(self) -> Support:
        """Whether every layer sees all tokens of the layout; else how the layers differ."""
        return YES

    def block_map(self, size: tuple[int, int] | None = None) -> "BlockMap":
        """Return the blocks and the grids of their tokens at an input of `(Hi, Wi)` pixels.

        Raises:
            UnsupportedError: where the blocks' tokens lie on the image is not known.
        """
        raise UnsupportedError(
            msg("models.blocks-unknown", "where the tokens of its blocks lie on the image is not known")
        )

    def notes_at(self, size: tuple[int, int]) -> tuple[str, ...]:
        """Return what must be said of maps at an input of `(Hi, Wi)` pixels, and not of those at others."""
        return ()

    def token_order(self) -> "torch.Tensor | None":
        """Return the places of the layout's tokens among the model's, or None where they are in order."""
        return None

    def pixel_cells(self, size: tuple[int, int]) -> "tuple[torch.Tensor, torch.Tensor] | None":
        """Return the row and the column of patches that each row and column of pixels belongs to; None if even."""
        import torch

        layout = self.layout(size)
        if layout.cells is None:
            return None
        rows, columns = (torch.from_numpy(numbers) for numbers in layout.cell_numbers(size))
        return rows, columns

    def text_features(self, text: str) -> "torch.Tensor":
        """Return the features `(1, D)` of a text, comparable with those of an image.

        Raises:
            UnsupportedError: the model has no text encoder.
        """
        raise UnsupportedError.coded(
            "models.no-text-encoder",
            "{model} has no text encoder: the target text('{text}') needs a model such as CLIP or SigLIP",
            "load a whole CLIP or SigLIP of transformers, or open_clip:ARCH/PRETRAINED",
            model=self.reference,
            text=text,
        )

    def read_query(self, store: "AttentionStore", size: tuple[int, int], index: int) -> "AttentionStore":
        """Return the attention of a forward, read from one query of the answer `(B, Q, C)` instead of all of them.

        Raises:
            UnsupportedError: which token a query is is not known.
        """
        raise UnsupportedError(_NO_QUERIES)

    def reads(self) -> str:
        """Say which part of the model's output is explained, and after which layer; empty where that is not known."""
        return ""

    def classifies(self, answer: "torch.Tensor") -> bool:
        """Return whether an answer is class scores."""
        return bool(self.labels)

    def activation(self, classes: int) -> Activation:
        """Return how the scores of so many classes become what is shown of them.

        One logit has no others to share a probability with: its own is a sigmoid, whatever `multi_label` says.
        """
        given = self.options.multi_label
        if self.scores == "probabilities":
            return "given"
        if self.scores == "values" and given is None:
            return "value"
        return "sigmoid" if classes == 1 or (self.multi_label if given is None else given) else "softmax"

    def class_count(self) -> int | None:
        """Return how many class scores the model answers with; None where that is not known without its labels."""
        return None

    def _settle_labels(self) -> None:
        """Take the caller's class names; leave out the model's own where they are not as many as its outputs."""
        given = self.options.labels
        if given is not None:
            if given and (count := self.class_count()) is not None:
                check_count(given, count)
            self.labels = given
        elif self.labels and (count := self.class_count()) is not None and set(self.labels) != set(range(count)):
            note = msg(
                "models.labels-of-other-classes",
                "the model's {names} class names, of the numbers {low} to {high}, are not those of its {count} "
                "outputs, and are left out: {@labels} names them",
                names=len(self.labels),
                low=min(self.labels),
                high=max(self.labels),
                count=count,
            )
            self.labels, self.notes = {}, (*self.notes, note)

    def attention(
        self, recorder: "AttentionRecorder", size: tuple[int, int], answer: "torch.Tensor"
    ) -> "AttentionStore":
        """Return the attention of a captured forward on `(B, C, Hi, Wi)` pixels that gave `answer`."""
        logits = answer if self.classifies(answer) else None
        return recorder.store(self.layout(size), logits=logits, depth=self.depth, answer=answer)

    @abstractmethod
    def describe(self) -> Mapping[str, str]:
        """Return what `vitscope inspect` prints of the model beside the layout."""


def _call(make: Callable[[], ModelAdapter]) -> ModelAdapter:
    return make()


def libraries_of(model: object) -> tuple[str, ...]:
    """Return the import names of the packages that define a model's class and its bases, the nearest first."""
    return tuple(dict.fromkeys(cls.__module__.partition(".")[0] for cls in type(model).__mro__))


def image_size(size: tuple[int, int]) -> Message:
    """Write height and width in pixels."""
    return msg("models.pixels", "{height} x {width} pixels", height=size[0], width=size[1])


def text_too_long(text: str, tokens: int, limit: int) -> UsageError:
    """Make the error for a text of which the model would read only the beginning."""
    short = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return UsageError.coded(
        "models.text-too-long",
        "the text '{text}' has {tokens} tokens, and this model reads {limit} at most, start and end included",
        "shorten the text: nothing of it is cut off silently",
        text=short,
        tokens=tokens,
        limit=limit,
    )


def _is_adapter(part: object) -> bool:
    """Return whether a class can adapt models: it has a name, and defines whatever the contract leaves open."""
    return isinstance(part, type) and issubclass(part, ModelAdapter) and hasattr(part, "name") and not isabstract(part)


ADAPTERS: Registry[type[ModelAdapter]] = Registry(msg("models.adapter", "adapter"), "vitscope.models", _is_adapter)
