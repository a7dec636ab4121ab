"""Options that several commands share."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from vitscope._numbers import whole_number
from vitscope.cli.commands import _checks as checks
from vitscope.cli.commands._places import folder_or
from vitscope.models.bundled.catalogue import DEFAULT_MODEL, MODEL_VARIABLE

if TYPE_CHECKING:
    from vitscope.render.raster import StyleOptions
    from vitscope.scope import Scope


LOADING = "loading the model ..."
MODEL_HELP = "Model reference; `vitscope models` lists the forms."
DEFAULT_HELP = f"By default {MODEL_VARIABLE}, else {DEFAULT_MODEL}."
TARGET_HELP = "Class number or name, a contrast 'A - B', text:WORDS, image:PATH, region:CLASS:BOX or query:INDEX:CLASS"
Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE...", callback=checks.expand_folders, help="Image files, folders of them, or patterns."
    ),
]
SingleImage = Annotated[str, typer.Argument(metavar="IMAGE", help="An image file.")]
Revision = Annotated[
    str | None, typer.Option(metavar="REVISION", help="Branch, tag or commit on the Hugging Face Hub.")
]
Device = Annotated[
    str,
    typer.Option(metavar="auto|cpu|cuda|cuda:0|mps", callback=checks.check_device, help="Device that runs the model."),
]
Dtype = Annotated[
    str,
    checks.one_of(
        "float32|float64|bfloat16|float16", "Number format of the model's weights.", meant=checks.DTYPES_ELSEWHERE
    ),
]
Method = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        callback=checks.check_plain_methods,
        help="Method (`vitscope methods` lists them); auto chooses one for the model.",
    ),
]
Methods = Annotated[
    str,
    typer.Option(
        metavar="NAME,NAME",
        callback=checks.check_plain_methods,
        help="One method or several, with commas (`vitscope methods` lists them); auto chooses one for the model.",
    ),
]
MethodSpecs = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="NAME[:OPTION=VALUE],...",
        callback=checks.check_methods,
        help="Methods, such as attention,rollout:layers=last3:residual_weight=.3; by default six that answer "
        "different questions.",
    ),
]
Target = Annotated[str | None, typer.Option(metavar="CLASS", callback=checks.check_target, help=f"{TARGET_HELP}.")]
GradientRule = Annotated[str, checks.one_of("plain|libra|attnlrp", "Rule for the backward pass of gradient methods.")]
Size = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS",
        callback=checks.in_range,
        help="Input size of the model; the image keeps its aspect ratio, uncropped.",
    ),
]
BatchSize = Annotated[int, typer.Option(metavar="COUNT", callback=checks.in_range, help="Images in one forward pass.")]
Layer = Annotated[int, typer.Option(metavar="LAYER", help="Layer, from 0; negative numbers count from the end.")]
Seconds = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", min=0, help="Draw no more random maps of an image after so long."),
]
Seed = Annotated[int, typer.Option(metavar="NUMBER", callback=checks.in_range, help="Seed of all random numbers.")]
Baseline = Annotated[
    str, checks.one_of("auto|mean|blur|black|zero|removal", "What replaces patches; auto leaves them out where it can.")
]
Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="FOLDER", callback=folder_or(), help="Folder for the results.")
]
OptionalOut = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="FOLDER", callback=folder_or(), help="Also write numbers and plots to this folder."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace existing results.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@dataclass(frozen=True)
class LoadFlags:
    """How a model is loaded, prepared and read: the keywords of `vitscope.load` that can be written as text."""

    panel: ClassVar[str] = "Model"
    weights: Annotated[
        str | None,
        typer.Option(metavar="FILE", callback=checks.check_file, help="Weights for the architecture that MODEL names."),
    ] = None
    processor: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|HUB/ID",
            callback=checks.check_processor,
            help="Image processor, where it is not the model's own.",
        ),
    ] = None
    output: Annotated[
        str | None, typer.Option(metavar="NAME|INDEX", help="Part of the model's output that is explained.")
    ] = None
    labels: Annotated[
        str | None,
        typer.Option(metavar="FILE", callback=checks.check_file, help="Class names, one on each line, or JSON."),
    ] = None
    multi_label: Annotated[
        bool | None,
        typer.Option("--multi-label/--single-label", help="Whether each class has a probability of its own."),
    ] = None
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the code that the model's repository or folder brings.")
    ] = False
    display: Annotated[
        str | None,
        typer.Option(
            metavar="BAND|R,G,B",
            callback=checks.check_reading,
            help="Bands of an image that are shown, counted from 0, such as 3,2,1.",
        ),
    ] = None
    window: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH",
            callback=checks.check_reading,
            help="Numbers of an image that become black and white.",
        ),
    ] = None
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|none",
            callback=checks.check_file,
            help="Calibration for the method auto; by default the model's own in the cache.",
        ),
    ] = None
    region: Annotated[
        str | None,
        typer.Option(
            metavar="LEFT,TOP,RIGHT,BOTTOM|whole",
            callback=checks.check_region,
            help="Part of each image that the processor's pixels show, in pixels, where it cannot be measured.",
        ),
    ] = None
    revision: Revision = None
    device: Device = "auto"
    dtype: Dtype = "float32"

    def check_image(self, image: str) -> None:
        """Read an image before the model is loaded, and raise what is wrong with it."""
        from vitscope._image_file import first_bytes

        with suppress(OSError):  # told below; what is missing is told before numpy is imported
            first_bytes(Path(image))
        from vitscope.images import load_image

        load_image(image, display=self.display, window=self.window)

    def keywords(self) -> dict[str, Any]:
        """Return these options as keywords of `vitscope.load`."""
        given = vars(self).copy()
        given.pop("model", None)
        if self.output is not None and (index := whole_number(self.output)) is not None:
            given["output"] = index
        return given

    def changed(self) -> list[str]:
        """Return the flags that are not at their defaults, except those that say where and how precisely to run."""
        names = [field.name for field in fields(LoadFlags) if getattr(self, field.name) != field.default]
        return [f"--{name.replace('_', '-')}" for name in names if name not in ("device", "dtype")]


@dataclass(frozen=True)
class ModelChoice(LoadFlags):
    """Which model, and how it is loaded and runs."""

    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", metavar="MODEL", envvar=MODEL_VARIABLE, callback=checks.check_model, help=MODEL_HELP
        ),
    ] = DEFAULT_MODEL

    def load(self) -> "Scope":
        """Load the model; show the progress of a download."""
        return load(self.model, **self.keywords())


@dataclass(frozen=True)
class MethodOptions:
    """The options of methods."""

    panel: ClassVar[str] = "Method options"
    gradient_rule: GradientRule = "plain"
    refine: Annotated[
        str, checks.one_of("none|affinity", "affinity: spread the map to similar patches.", "refinement")
    ] = "none"
    layers: Annotated[
        str | None,
        typer.Option(metavar="0-11|4,7,9|last3|all", help="Layers to use; negative ones count from the end."),
    ] = None
    start_layer: Annotated[int | None, typer.Option(metavar="LAYER", help="First layer to use.")] = None
    layer: Annotated[int | None, typer.Option(metavar="LAYER", help="Layer to show (method attention).")] = None
    head: Annotated[
        str | None,
        typer.Option(metavar="mean|max|min|HEAD", help="Head to show, or how heads are combined (method attention)."),
    ] = None
    residual_weight: Annotated[
        float | None, typer.Option(metavar="0..1", min=0, max=1, help="Weight of the residual connection (rollout).")
    ] = None
    head_fusion: Annotated[
        str | None, typer.Option(metavar="mean|max|min|HEAD", help="How heads are combined (rollout).")
    ] = None
    discard_ratio: Annotated[
        float | None,
        typer.Option(metavar="0..1", min=0, max=1, help="Share of each row's smallest weights to discard (rollout)."),
    ] = None
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "-O",
            metavar="NAME=VALUE",
            callback=checks.refuse_flags,
            help="Any option of the method; may be repeated.",
        ),
    ] = None

    def keywords(self) -> dict[str, Any]:
        """Return these options as keywords of `Scope.explain`."""
        named = vars(self).copy()
        common = {name: named.pop(name) for name in ("gradient_rule", "refine")}
        others = [checks.split_option(text) for text in named.pop("option") or []]
        given = {name: value for name, value in named.items() if value is not None}
        given |= {name: checks.parse_value(given[name]) for name in ("head", "head_fusion") if name in given}
        return {**common, "method_options": given | dict(others)}

    def of(self, method: str, *, alone: bool) -> dict[str, Any]:
        """Return the own options of a method; where it is one of several, those that it has."""
        given: dict[str, Any] = self.keywords()["method_options"]
        if alone or not given:
            return given
        from vitscope.methods.declared import declared_options

        known = declared_options().get(method, given)
        return {name: given[name] for name in given if name in known}

    def check(self, *methods: str) -> None:
        """Check the options of some methods before torch is imported."""
        if given := self.keywords()["method_options"]:
            from vitscope.methods.declared import check_declared

            check_declared(methods, given)


@dataclass(frozen=True)
class SheetStyle:
    """How the maps of a sheet are drawn."""

    panel: ClassVar[str] = "Drawing"
    cmap: Annotated[str, typer.Option(metavar="NAME", help="Colour map of matplotlib.")] = "inferno"
    norm: Annotated[
        str,
        typer.Option(
            metavar="auto|minmax|robust|positive",
            help="Values from coldest to hottest colour; robust: 1st to 99th percentile, positive: 0 to 99th.",
        ),
    ] = "auto"

    def style(self) -> "StyleOptions":
        """Return the drawing options, checked."""
        return checked_style(cmap=self.cmap, norm=self.norm)


def checked_style(**options: Any) -> "StyleOptions":
    """Return drawing options that `render` accepts."""
    from vitscope.render.raster import Style

    Style.of(**options)
    chosen: StyleOptions = options  # type: ignore[assignment]
    return chosen


def load(model: str, **options: Any) -> "Scope":
    """Load a model; say so, and show the progress of a download."""
    from vitscope.cli import console

    console.announce(LOADING)
    from vitscope.models.references.early_check import ask_hub_early

    ask_hub_early(model, options.get("revision"))
    from vitscope import scope

    with console.download_progress() as progress:
        return scope.load(model, **options, progress=progress)


def parse_target(text: str | None) -> Any:
    """Return the target that `--target` names: `text:WORDS`, `image:PATH`, or a class; None for no text."""
    if not text:
        return None
    from vitscope.cli import console

    console.announce(LOADING)
    from vitscope.methods import targets

    return targets.parse_target(text)


def describe_map(method: str, target: str | None, options: Mapping[str, Any]) -> str:
    """Return a map's method, target and those options that differ from the method's defaults."""
    from vitscope.methods.base import METHODS

    defaults = {name: option.default for name, option in METHODS.get(method).options.items()}
    changed = ", ".join(f"{k} {v}" for k, v in options.items() if v is not None and v != defaults.get(k))
    return method + (f" of {target}" if target else "") + (f" ({changed})" if changed else "")
