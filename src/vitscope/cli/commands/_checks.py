"""How the values of options are read and checked, before numpy and torch are imported."""

from collections.abc import Mapping
from glob import glob, has_magic
from pathlib import Path
from typing import Any, TypeVar, overload

import typer

from vitscope._files import holds_results, path_exists
from vitscope._messages import msg
from vitscope._numbers import number
from vitscope.errors import UnknownNameError, UsageError
from vitscope.models.bundled.catalogue import naming_variable

_DEVICES = {"gpu": "cuda", "nvidia": "cuda", "metal": "mps", **{name: name for name in ("auto", "cpu", "cuda", "mps")}}
DTYPES_ELSEWHERE = {  # as other libraries call them
    **{"fp16": "float16", "half": "float16", "f16": "float16", "fp32": "float32", "float": "float32", "f32": "float32"},
    **{"bf16": "bfloat16", "bfloat": "bfloat16", "fp64": "float64", "double": "float64", "f64": "float64"},
}
Given = TypeVar("Given", str, list[str])
Place = TypeVar("Place", bound=str | Path | None)


def one_of(metavar: str, help_text: str, kind: str = "", *flags: str, meant: Mapping[str, str] | None = None) -> Any:
    """Make an option whose values are those of its metavariable; another one costs no import.

    Args:
        metavar: the values, with bars between them.
        help_text: for the help.
        kind: what messages call a value; by default the option's name.
        flags: of the option, where its name does not say them.
        meant: values that others may write, and which of these are meant.
    """

    def check(value: str | None, parameter: typer.CallbackParam) -> str | None:
        if value is not None and value not in (choices := metavar.split("|")):
            raise UnknownNameError(kind or str(parameter.name).replace("_", " "), value, choices, meant)
        return value

    return typer.Option(*flags, metavar=metavar, help=help_text, callback=check)


def in_range(value: int | None, parameter: typer.CallbackParam) -> int | None:
    """Check a size, a number of images or a seed as the options of an explanation do."""
    from vitscope.engine.ranges import check_batch_size, check_seed, check_size

    if value is not None:
        {"size": check_size, "batch_size": check_batch_size, "seed": check_seed}[str(parameter.name)](value)
    return value


def check_methods(value: str) -> str:
    """Check methods and their options, written NAME:OPTION=VALUE with commas between them."""
    if value and value != "auto":
        from vitscope.methods.declared import check_declared

        for text in split_names(value):
            name, *options = text.split(":")
            check_declared([name], dict(map(split_option, options)))
    return value


def check_plain_methods(context: typer.Context, value: str) -> str:
    """Check methods of a command that has flags for their options, or takes none."""
    for text in split_names(value):
        name, colon, options = text.partition(":")
        if colon:
            check_methods(name)
            flags = " ".join(f"-O {option}" for option in options.split(":"))
            raise UsageError(
                msg("cli.options-in-method", "'{text}' is a method with options in it", text=text),
                msg("cli.options-in-method.hint", "write --method {name} {flags}", name=name, flags=flags)
                if any("-O" in one.opts for one in context.command.params)
                else msg(
                    "cli.no-options-of-methods.hint", "write --method {name}: options are not taken here", name=name
                ),
            )
    return check_methods(value)


def check_metrics(value: str | None) -> str | None:
    """Check the names of metrics, written with commas between them."""
    if value is not None:
        from vitscope.metrics.metric_names import check_metric_names

        check_metric_names(split_names(value))
    return value


def check_device(value: str) -> str:
    """Check the name of a device as far as it is known not to be one of torch's."""
    name, colon, number_of = value.partition(":")
    if (meant := _DEVICES.get(name.lower())) and meant != name:
        raise UnknownNameError(
            msg("models.device", "device"), value, ("auto", "cpu", "cuda", "mps"), {value: f"{meant}{colon}{number_of}"}
        )
    return value


@overload
def check_model(value: str) -> str: ...
@overload
def check_model(value: str | None) -> str | None: ...
def check_model(value: str | None) -> str | None:
    """Check a model reference as far as that needs no model."""
    from vitscope.models.references.early_check import check_reference, check_scheme

    if value is not None:
        with naming_variable(value := value.strip()):
            check_reference(value)
            check_scheme(value)
    return value


def check_reading(value: str | None, parameter: typer.CallbackParam) -> str | None:
    """Check which bands of an image are shown, or which numbers become black and white."""
    if value is not None:
        from vitscope._bands import Reading

        Reading(display=value) if parameter.name == "display" else Reading(window=value)
    return value


def check_region(value: str | None) -> str | None:
    """Check which part of each image a processor's pixels show."""
    if value is not None:
        from vitscope.models.region import read_region

        read_region(value)
    return value


def check_processor(value: str | None, parameter: typer.CallbackParam) -> str | None:
    """Check that the folder which a path names is there; another name may be an id on the Hub."""
    if value is not None and (value.startswith((".", "/", "~")) or value.endswith("/")):
        return check_file(value, parameter)
    return value


def check_file(value: Place, parameter: typer.CallbackParam) -> Place:
    """Check that the file or folder which an option names is there."""
    if value is not None and value != "none" and not path_exists(Path(value).expanduser()):
        raise UsageError(
            msg("cli.no-such-file", "{option}: {path} does not exist", option=max(parameter.opts, key=len), path=value),
            msg("cli.no-such-file.hint", "check the path"),
        )
    return value


def refuse_flags(context: typer.Context, values: list[str] | None) -> list[str] | None:
    """Refuse an option of the command that is given as one of a method."""
    flags = {flag for one in context.command.params for flag in one.opts}
    for name, _, value in (text.partition("=") for text in values or []):
        flag = f"--{name.strip().replace('_', '-')}"
        if flag in flags:
            from vitscope.methods.declared import declared_options

            if all(name.strip() not in own for own in declared_options().values()):
                raise UsageError(
                    msg("cli.option-is-a-flag", "no method has the option '{name}'", name=name.strip()),
                    msg("cli.option-is-a-flag.hint", "write {flag} {value}", flag=flag, value=value.strip()),
                )
    return values


def check_target(value: Given | None) -> Given | None:
    """Check that the image is there which a target `image:PATH` names."""
    for text in [value] if isinstance(value, str) else value or []:
        kind, _, path = text.partition(":")
        if kind == "image" and not path_exists(Path(path.strip())):
            from vitscope.images import check_image_file

            check_image_file(Path(path.strip()))
    return value


def expand_folders(images: list[str]) -> list[str]:
    """Replace each pattern by what it matches, and each folder by its images, in the order of names; keep the rest.

    Raises:
        UsageError: a folder that vitscope wrote: its pictures are no photos.
    """
    from vitscope.batch.sources import IMAGE_SUFFIXES

    found: list[str] = []
    for image in images:
        known = path_exists(Path(image)) or not has_magic(image)
        for one in [image] if known else sorted(glob(image, recursive=True)) or [image]:  # noqa: PTH207 - no hidden files
            if holds_results(Path(one)):
                raise UsageError.coded(
                    "cli.results-as-images",
                    "{path} holds results of vitscope, not photos",
                    "give the photo; in Python, scope.measure(vitscope.Explanation.load(FOLDER)) measures a saved map",
                    path=one,
                )
            inside = sorted(Path(one).iterdir()) if Path(one).is_dir() else []
            files = [str(path) for path in inside if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
            found += files or [one]
    return found


def split_option(text: str) -> tuple[str, Any]:
    """Return the name and the value of `NAME=VALUE`."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(
            msg("cli.bad-option", "'{text}' is not a valid option", text=text),
            msg("cli.bad-option.hint", "write NAME=VALUE, such as residual_weight=0.3"),
        )
    return name.strip(), parse_value(value.strip())


def parse_value(text: str) -> Any:
    """Return the number, boolean or None that a text stands for, else the text."""
    if (found := number(text)) is not None:
        return found
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def split_names(text: str | None) -> tuple[str, ...]:
    """Return the names in a list with commas."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())
