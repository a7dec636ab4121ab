"""One map of one image, how it is drawn and how it is kept on disk; without torch."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, Unpack

import msgspec
import numpy as np
from jaxtyping import Float32
from PIL import Image

from vitscope._documents import DamagedFileError, as_schema, document_bytes, read_arrays
from vitscope._files import already_there, atomic_write, is_file_name, path_exists, staged_folder
from vitscope._messages import Message, join_messages, message_table, msg, restore_messages
from vitscope._saved import MANIFEST, SCHEMA, Provenance, SavedManifest, check_manifest, listed_files, read_manifest
from vitscope.errors import (
    LayoutError,
    MethodError,
    ResultError,
    UnsupportedError,
    UsageError,
    VitscopeError,
    first_line,
)
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.images import Picture, load_image
from vitscope.render import raster
from vitscope.render.html import Card
from vitscope.render.image_files import write_image
from vitscope.render.raster import Style, StyleOptions
from vitscope.render.remarks import map_labels, map_remarks

E = TypeVar("E", bound="Explanation")
Activation: TypeAlias = Literal["softmax", "sigmoid", "given", "value"]


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """One map of one image, with all that is needed to draw it, judge it and make it again.

    Attributes:
        medium: what was explained, such as `image`; results of other media are made by classes of `vitscope.media`.
        map: relevance of each patch `(gh, gw)`, float32, unnormalised: the method's own values.
        prefix: relevance of the P prefix tokens, in the layout's order.
        method: the method's name.
        layout: which token is which.
        region: where the patches lie on the photo.
        target: what was explained, in words; None for a method without a target.
        score: the target's score; None without a target.
        predictions: (label, probability), most probable first, five at most; empty for a feature model. Of a
            regression, whose `activation` is "value", (label, value) in the order of its outputs.
        provenance: model, weights, options, versions, dtype, device, seed and notes.
        picture: the photo, upright.
    """

    medium: ClassVar[str] = "image"
    map: Float32[np.ndarray, "..."]
    prefix: Float32[np.ndarray, " P"]
    method: str
    layout: TokenLayout
    region: ImageRegion
    target: str | None = None
    score: float | None = None
    predictions: Sequence[tuple[str, float]] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    picture: Picture | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.map.shape != self.layout.shape or self.prefix.shape != (len(self.layout.prefix),):
            raise LayoutError.coded(
                "explanation.shape",
                "map {map} and prefix {prefix} do not fit the layout ({layout})",
                map=self.map.shape,
                prefix=self.prefix.shape,
                layout=self.layout,
            )
        if self.picture is not None and self.picture.size != self.region.size:
            raise LayoutError.coded(
                "explanation.region-size",
                "the region belongs to an image of {expected} pixels, not {size}",
                expected=self.region.size,
                size=self.picture.size,
            )
        numbers = [number for _, number in self.predictions] + ([] if self.score is None else [self.score])
        if not all(np.isfinite(part).all() for part in (self.map, self.prefix, np.asarray(numbers, np.float64))):
            raise MethodError.coded(
                "explanation.not-finite",
                "the map of '{method}', its score or its predictions hold NaN or infinity",
                "a wider dtype may help: float32, or float64 where it is float32 already",
                method=self.method,
            )
        self.map.setflags(write=False)
        self.prefix.setflags(write=False)
        object.__setattr__(self, "predictions", [(str(label), float(p)) for label, p in self.predictions])

    @property
    def activation(self) -> Activation | None:
        """How class scores became `predictions`.

        By `softmax`; by `sigmoid`, each by itself; `given` as probabilities by the model; or not at all: `value`, of a
        regression. None where there are no classes.
        """
        stated: Activation | None = self.provenance.get("activation", "softmax")
        return stated

    def prediction_texts(self, digits: int = 1) -> list[str]:
        """Write each prediction, such as "tabby 83.1%", or "age 54.3" for a value that is no probability."""
        return [prediction_text(label, number, self.activation, digits) for label, number in self.predictions]

    @property
    def caveat(self) -> str:
        """The sentence that belongs to every map of this method; empty for most methods."""
        caveat: str = self.provenance.get("caveat", "")
        return caveat

    @property
    def remarks(self) -> list[str]:
        """What must be said before the map's colours are believed, such as that it is flat; mostly empty."""
        return [*map_remarks(self.map)]

    def heat(self, smooth: bool = True, blur: float = 0.0) -> Float32[np.ndarray, "..."]:
        """Return the map in the photo's size, unnormalised; NaN where the model saw nothing.

        Args:
            smooth: bicubic between patch centres; otherwise one flat block per patch.
            blur: standard deviation of a Gaussian blur after it, in pixels of the photo; 0 for none.
        """
        return self.region.upsample(self.map, smooth, blur)

    def style(self, **options: Unpack[StyleOptions]) -> Style:
        """Return the drawing style of this map: `norm="auto"` becomes what was recommended with the method.

        Raises:
            UsageError: the style `notebook` for another medium than an image.
        """
        chosen = Style.of(**options).resolved(self.map, self.provenance.get("drawing", {}).get("norm"))
        if chosen.style == "notebook" and self.medium != "image":
            raise UsageError(
                msg("explanation.notebook-style", "the style 'notebook' draws images only"),
                msg("explanation.notebook-style.hint", "leave {@style} out, or use 'grey'"),
            )
        return replace(chosen, label=self._scale_label()) if chosen.colorbar else chosen

    def _scale_label(self) -> str:
        """Say what the values of the map are: shares where they and those of prefix tokens add up to one."""
        whole = float(self.map.sum()) + float(self.prefix.sum())
        shares = self.map.min() >= 0 and abs(whole - 1) < 1e-3
        target = f" of {self.target}" if self.target and max(self.target) < "\u0250" else ""  # the letters of the font
        return f"{self.method}{target}: {'shares of all tokens' if shares else 'its own values'}"

    def overlay(self, **style: Unpack[StyleOptions]) -> Image.Image:
        """Draw the map over the photo, in the photo's size.

        Args:
            style: the fields of `vitscope.render.raster.Style`.

        Raises:
            UsageError: an explanation without its photo.
        """
        return raster.overlay(self.map, self.region, self.photo.pixels, self.style(**style))

    def show(self, **style: Unpack[StyleOptions]) -> None:
        """Show the overlay: inside a notebook as its output, elsewhere in the system's image viewer."""
        image = self.overlay(**style)
        if _in_notebook():
            from IPython.display import display

            display(image)
        else:
            image.show(self.method)

    def caption(self) -> str:
        """Return method, target, name of what was explained, and where colours mislead why, in one line."""
        name = None if self.picture is None else self.picture.name
        parts = (self.method, self.target, name, *map_labels(self.map))
        return " · ".join(part for part in parts if part is not None)

    def card(self) -> Card:
        """Return the overlay with its caption: method, model, predictions and caveat."""
        options = self.provenance.get("options", {})
        name = self.picture.name if self.picture else "no photo"
        return Card(
            self.overlay() if self.picture else Image.new("RGB", (1, 1)),
            alt=f"{self.method} over {name}",
            title=self.method,
            detail=", ".join(f"{key} {value}" for key, value in options.items() if value is not None),
            lines=[
                f"{self.provenance.get('model', '')} · {self.layout}",
                *self.prediction_texts(),
            ],
            note=join_messages("; ", [part for part in (self.caveat, *self.remarks) if part]),
        )

    def __repr__(self) -> str:
        about = [" x ".join(map(str, self.layout.shape)), self.picture.name if self.picture else "no photo"]
        target = [] if self.target is None else [f"target={self.target!r}"]
        return f"<{type(self).__name__} {self.method!r} {' '.join(about + target)}>"

    def _repr_html_(self) -> str:
        return self.card().html()

    @property
    def photo(self) -> Picture:
        """The photo.

        Raises:
            UsageError: an explanation without its photo.
        """
        photo: Picture = self._input(msg("explanation.no-photo", "this explanation has no photo to draw on"))
        return photo

    def _input(self, problem: Message) -> Any:
        """Return what was explained; raise a UsageError with this problem where it was not kept."""
        if self.picture is None:
            raise UsageError(problem, msg("explanation.no-photo.hint", "map has the values of the patches"))
        return self.picture

    def manifest(self) -> dict[str, Any]:
        """Return everything but the arrays, ready for JSON."""
        return {
            "schema": SCHEMA,
            **({} if self.medium == "image" else {"medium": self.medium}),
            "method": self.method,
            "target": self.target,
            "score": self.score,
            "predictions": [{"label": label, self._number: number} for label, number in self.predictions],
            "layout": asdict(self.layout),
            "region": asdict(self.region),
            "name": self.picture.name if self.picture else None,
            "provenance": dict(self.provenance),
            "messages": message_table([self.provenance, self.target]),
            **({} if self.picture is None or self.medium == "image" else {self.medium: self._scales()}),
        }

    def _scales(self) -> Mapping[str, Any]:
        """Return what the manifest says of another medium's input beside its arrays."""
        return {}

    @property
    def _number(self) -> str:
        """What the number of a prediction is called."""
        return "value" if self.activation == "value" else "probability"

    def save(self, folder: str | Path, *, force: bool = False, **style: Unpack[StyleOptions]) -> Path:
        """Write `manifest.json`, `arrays.npz`, `overlay.png`, `heat.png`, `map.png` and `photo.jpg` into a new folder.

        The folder appears whole or not at all. The photo is kept as JPEG (quality 95) for drawing, so that a loaded
        explanation needs no other file; map and prefix are exact. A name such as `map.png` becomes that one file: the
        overlay (`.png`, `.jpg`, `.pdf`, `.svg`), or the arrays (`.npz`).

        Args:
            folder: where; its parents are made.
            force: replace a result that is already there.
            style: how to draw, as for `overlay`.

        Raises:
            ResultError: something is already there, or it cannot be written.
        """
        manifest = self.manifest() | {"render": self.style(**style).to_dict()}
        as_schema(manifest["provenance"], Provenance, "provenance")  # what is written can be read
        if is_file_name(path := Path(folder)):
            return self._save_file(path, force, **style)
        check_manifest(manifest, path)
        with staged_folder(path, force=force) as stage:
            np.savez(stage / "arrays.npz", map=self.map, prefix=self.prefix)
            self._draw(stage, **style)
            (stage / MANIFEST).write_bytes(document_bytes(manifest | {"files": listed_files(stage)}))
        return path

    def _save_file(self, path: Path, force: bool, **style: Unpack[StyleOptions]) -> Path:
        if path_exists(path) and not force:
            raise already_there(path)
        with atomic_write(path) as part:
            if path.suffix.lower() == ".npz":
                np.savez(part, map=self.map, prefix=self.prefix)
            else:
                write_image(self.overlay(**style), part)
        return path

    def _draw(self, folder: Path, **style: Unpack[StyleOptions]) -> None:
        """Write the photo and every drawing into the folder."""
        chosen = self.style(**style)
        if self.picture is not None:
            self.picture.pil().save(folder / "photo.jpg", quality=95, subsampling=0)
            self.overlay(**style).save(folder / "overlay.png", compress_level=4)
        raster.heat(self.map, self.region, chosen).save(folder / "heat.png", compress_level=4)
        raster.grid(self.map, chosen).save(folder / "map.png")

    @classmethod
    def _saved_picture(cls, folder: Path, manifest: SavedManifest) -> Picture | None:
        """Read what `_draw` wrote of the photo."""
        if "photo.jpg" not in manifest.files:
            return None
        picture = load_image(manifest.checked(folder, "photo.jpg"))
        source = str(manifest.provenance.get("source", picture.source))
        return Picture(picture.pixels, manifest.name or picture.name, source)

    @classmethod
    def load(cls: type[E], folder: str | Path) -> E:
        """Read what `save` wrote, each file checked against the SHA-256 in the manifest.

        Raises:
            ResultError: missing, damaged, changed, of another medium, or written by a newer vitscope.
        """
        folder = Path(folder)
        try:
            manifest = read_manifest(folder)
            _check_medium(manifest.medium, cls.medium, folder)
            manifest.check(folder)
            layout, messages = manifest.layout, msgspec.to_builtins(manifest.messages)
            shapes = {"map": layout.shape, "prefix": (len(layout.prefix),)}
            arrays = read_arrays(folder / "arrays.npz", manifest.record(folder, "arrays.npz"), shapes)
            return cls(
                map=arrays["map"],
                prefix=arrays["prefix"],
                method=manifest.method,
                layout=layout,
                region=manifest.region,
                target=restore_messages(manifest.target, messages),
                score=manifest.score,
                predictions=manifest.numbers(),
                provenance=restore_messages(manifest.provenance, messages),
                picture=cls._saved_picture(folder, manifest),
            )
        except Exception as error:  # broken photos make libraries raise anything
            if isinstance(error, ResultError) and not isinstance(error, DamagedFileError):
                raise
            reason = error.message if isinstance(error, VitscopeError) else first_line(error)
            raise ResultError.coded(
                "explanation.not-a-result",
                "{folder} is not a result of vitscope: {reason}",
                "restore the folder, or explain the image again",
                folder=folder,
                reason=reason,
            ) from error


def prediction_text(label: str, number: float, activation: Activation | None, digits: int = 1) -> str:
    """Write one prediction: a probability in percent, a value as it is; after a label that ends in a digit, a colon."""
    label = f"{label}:" if label[-1:].isdigit() else label
    return f"{label} {number:.4g}" if activation == "value" else f"{label} {number:.{digits}%}"


def require_image(explanation: Explanation) -> None:
    """Raise an UnsupportedError for an explanation of another medium than an image, a UsageError for anything else."""
    if not isinstance(explanation, Explanation):
        raise UsageError(
            msg("explanation.no-explanation", "expected an Explanation, got {type}", type=type(explanation).__name__),
            msg("explanation.no-explanation.hint", "pass what scope.explain(image) returns"),
        )
    if explanation.medium != "image":
        raise UnsupportedError.coded(
            "explanation.images-only",
            "this is for explanations of images, not of a {medium}",
            "overlay() and save() draw it",
            medium=explanation.medium,
        )


def _in_notebook() -> bool:
    """Whether a kernel runs this code; the IPython of a terminal shows no images."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def _check_medium(found: str, expected: str, folder: Path) -> None:
    if found != expected:
        problem = msg(
            "explanation.medium",
            "{folder} holds a result of another medium: {found}, not {expected}",
            folder=folder,
            found=found,
            expected=expected,
        )
        hint = msg("explanation.medium.hint", "read it with vitscope.{kind}Explanation.load", kind=found.capitalize())
        raise ResultError(problem, hint)
