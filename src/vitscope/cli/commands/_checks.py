"""How the values of options are read and checked, before numpy and torch are imported."""

from glob import glob, has_magic
from pathlib import Path
from typing import Any, TypeVar, overload

import typer

from vitscope._files import holds_results, path_exists
from vitscope._messages import msg
from vitscope._numbers import number
from vitscope.errors import UnknownNameError, UsageError
from vitscope.models.bundled.catalogue import naming_variable

Given = TypeVar("Given", str, list[str])


def one_of(metavar: str, help_text: str, kind: str = "", *flags: str) -> Any:
    """Make an option whose values are those of its metavariable; another one costs no import."""

    def check(value: str | None, parameter: typer.CallbackParam) -> str | None:
        if value is not None and value not in (choices := metavar.split("|")):
            raise UnknownNameError(kind or str(parameter.name).replace("_", " "), value, choices)
        return value

    return typer.Option(*flags, metavar=metavar, help=help_text, callback=check)


def in_range(value: int | None, parameter: typer.CallbackParam) -> int | None:
    """Check a size or a number of images as the options of an explanation do."""
    from vitscope.engine.ranges import check_batch_size, check_size

    if value is not None:
        (check_size if parameter.name == "size" else check_batch_size)(value)
    return value


def check_methods(value: str) -> str:
    """Check methods and their options, written NAME:OPTION=VALUE with commas between them."""
    if value and value != "auto":
        from vitscope.methods.declared import check_declared

        for text in split_names(value):
            name, *options = text.split(":")
            check_declared([name], dict(map(split_option, options)))
    return value


@overload
def check_model(value: str) -> str: ...
@overload
def check_model(value: str | None) -> str | None: ...
def check_model(value: str | None) -> str | None:
    """Check a model reference as far as that needs no model."""
    from vitscope.models.references.early_check import check_reference

    if value is not None:
        with naming_variable(value := value.strip()):
            check_reference(value)
    return value


def check_file(value: str | None, parameter: typer.CallbackParam) -> str | None:
    """Check that the file which an option names is there."""
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
                raise UsageError(
                    msg("cli.results-as-images", "{path} holds results of vitscope, not photos", path=one),
                    msg(
                        "cli.results-as-images.hint",
                        "give the photo; in Python, scope.measure(vitscope.Explanation.load(FOLDER)) measures a saved "
                        "map",
                    ),
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
