"""What a caller says of a model: the keywords of `load`, and the part of them that adapters read."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import torch

from vitscope._messages import msg
from vitscope.errors import UnknownNameError, UsageError
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.models.region import Region

Labels: TypeAlias = Mapping[int, str] | Mapping[str, str] | Sequence[str] | str | Path
Output: TypeAlias = str | int | Callable[[Any], torch.Tensor]


class LoadOptions(TypedDict, total=False):
    """The keywords of `vitscope.load` that say how a model is loaded, prepared and read."""

    processor: Any
    device: str | torch.device
    dtype: str | torch.dtype
    revision: str | None
    weights: str | Path | None
    trust_remote_code: bool
    layout: TokenLayout | None
    output: Output | None
    labels: Labels | None
    multi_label: bool | None
    region: Region | None
    display: Sequence[int] | str | None
    window: Sequence[float | int] | str | None
    progress: Callable[[str, int, int], None] | None


@dataclass(frozen=True)
class ModelOptions:
    """What the caller said of a model; None where an adapter finds it out itself.

    Attributes:
        output: which part of the model's output is explained: a name, an index, or a function of the output.
        labels: class names by index; empty where the numbers are no classes.
        multi_label: each class has a probability of its own.
        region: the region of the image that the processor's pixels show, or a function from a Picture to it; or the
            box of every image, `(left, top, right, bottom)` in its pixels, or `whole`.
        trust_remote_code: run the code that a repository or folder brings.
        display: bands of an image, counted from 0, that people see: one, or three as red, green and blue.
        window: the numbers of an image that become 0 and 1.
        said: all of the caller's options of `load` in plain values, for the provenance; without those at their default.
    """

    output: Output | None = None
    labels: Mapping[int, str] | None = None
    multi_label: bool | None = None
    region: Region | None = None
    trust_remote_code: bool = False
    display: Sequence[int] | str | None = None
    window: Sequence[float | int] | str | None = None
    said: Mapping[str, str | int | bool] = field(default_factory=dict)

    def flags(self) -> list[str]:
        """Return the flags of the command line that say the same; objects and functions have none."""
        words: list[str] = []
        for name in ("weights", "processor", "labels"):
            if name in self.said and Path(str(self.said[name])).expanduser().exists():
                words += [f"--{name}", str(self.said[name])]
        if "region" in self.said and not isinstance(self.region, ImageRegion) and not callable(self.region):
            words += ["--region", str(self.said["region"])]
        if isinstance(self.output, (str, int)):
            words += ["--output", str(self.output)]
        if self.multi_label is not None:
            words.append("--multi-label" if self.multi_label else "--single-label")
        return words + (["--trust-remote-code"] if self.trust_remote_code else [])

    def require_medium(self, medium: str) -> None:
        """Raise a UsageError where the caller said how images are read, of a model that takes another medium."""
        if medium != "image" and (self.display, self.window, self.region) != (None, None, None):
            raise UsageError.coded(
                "models.options-of-images",
                "{@window}, {@display} and {@region} are about images, and this model takes a {medium}",
                "leave them out; a processor says what the model gets, such as "
                "processor=vitscope.VolumeProcessor((96, 96, 96), window=(-100, 300)) of a volume",
                medium=medium,
            )

    def and_said(self, **more: str) -> "ModelOptions":
        """Return these options with more for the provenance."""
        return replace(self, said={**self.said, **more})


def refuse_load_options(names: Iterable[str]) -> None:
    """Raise a UsageError where a name is an option of `load`, given to a call that has no such option."""
    for name in sorted(names):
        if name in LoadOptions.__annotations__ or name == "calibration":
            raise UsageError.coded(
                "models.option-of-load",
                "'{option}' says how a model is loaded and its images are read; it is not an option here",
                "give it where the model is loaded: vitscope.load(MODEL, {option}=...)",
                option=name,
            )


def require_load_options(given: Iterable[str], explained: Iterable[str]) -> None:
    """Raise a UsageError where a keyword is no option of `load`: it says what is near, or that it is one of `explain`.

    Args:
        given: the keywords.
        explained: the options of `explain`.
    """
    for name in given:
        if name in explained and name not in LoadOptions.__annotations__:
            raise UsageError.coded(
                "models.option-of-explain",
                "'{option}' says how an image is explained, not how a model is loaded",
                "give it where an image is explained: scope.explain(image, {option}=...)",
                option=name,
            )
        known = (*LoadOptions.__annotations__, "calibration")
        UnknownNameError.check(msg("engine.option-of-call", "option of {call}", call="load"), name, known)


def said_of(options: LoadOptions) -> dict[str, str | int | bool]:
    """Return options of `load` in plain values, without those that are not given."""
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    if options.get("multi_label") is False:
        given["multi_label"] = False
    return {name: _plain(value) for name, value in given.items()}


def _plain(value: Any) -> str | int | bool:
    if isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, (tuple, list)) and all(isinstance(one, (int, float)) for one in value):
        return ",".join(f"{one:g}" for one in value)
    if isinstance(value, (Mapping, Sequence)):
        return f"{len(value)} given"
    if isinstance(value, (Path, ImageRegion)):
        return str(value)
    return str(getattr(value, "__qualname__", type(value).__qualname__))
