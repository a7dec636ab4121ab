"""Groups of options: a command's parameter that is a dataclass becomes one option for each of its fields."""

from collections.abc import Callable
from copy import copy
from dataclasses import Field, fields, is_dataclass
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from vitscope._files import path_exists
from vitscope._messages import msg
from vitscope._numbers import number, whole_number
from vitscope.cli.console import quietly, show_log
from vitscope.cli.origins import remember_origins
from vitscope.errors import UnknownNameError, UsageError

_NUMBERS: dict[Any, str] = {int: "int", int | None: "int", float: "float", float | None: "float"}
_NO_TYPE = " "  # as the type of a flag, which takes no value
_VERBOSE = typer.Option(
    "--verbose",
    "-v",
    count=True,
    show_default=False,
    metavar=_NO_TYPE,
    help="Show the debug log on stderr; -vv: that of all libraries.",
)
_QUIET = typer.Option("--quiet", "-q", metavar=_NO_TYPE, help="Print results and errors only.")


class _Stated:
    """What vitscope adds to Typer's commands: no option of one value is given twice, and no flag seems to take one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; refuse an option of one value that is given twice: the first would be lost unsaid."""
        flags = {flag for one in self.get_params(ctx) for flag in one.opts}
        for word in args[: args.index("--")] if "--" in args else args:
            name = word.partition("=")[0]
            if len(name) > 2 and name[1] != "-" and f"-{name}" in flags:  # -method is read as -m ethod
                raise UsageError.coded("cli.one-dash", "{word} has one dash", "write -{word}", word=name)
        _, _, given = super().make_parser(ctx).parse_args(args=[*args])  # type: ignore[misc]
        for one in given:
            once = one.param_type_name == "option" and not (one.multiple or one.is_flag or one.count)
            if once and given.count(one) > 1:
                raise UsageError(
                    msg("cli.given-twice", "{option} is given twice", option=max(one.opts, key=len)),
                    msg("cli.given-twice.commas-hint", "several go in one, with commas between them")
                    if "," in (one.metavar or "")
                    else msg("cli.given-twice.hint", "give it once"),
                )
        if {"as_json", "format_"} <= {one.name for one in given}:
            raise UsageError.coded(
                "cli.two-forms", "--json and --format say two forms of what is printed", "give one of them"
            )
        try:
            parsed: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
        finally:
            remember_origins(ctx, self.get_params(ctx))
        return parsed

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options, those for help and completion too."""
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for one in found:
            if getattr(one, "is_flag", False):
                one.metavar, one.show_envvar = _NO_TYPE, one.envvar is not None
        return found


class Command(_Stated, TyperCommand):
    """A command of vitscope."""


class Group(_Stated, TyperGroup):
    """The command `vitscope` itself."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; refuse a command's option before the command."""
        flag = args[0].partition("=")[0] if args and args[0].startswith("-") else ""
        own = {text for one in self.get_params(ctx) for text in one.opts}
        if flag not in own and any(flag in one.opts for command in self.commands.values() for one in command.params):
            raise UsageError.coded(
                "cli.option-first",
                "{option} is an option of commands, and no command stands before it",
                "write vitscope COMMAND ... {option}",
                option=flag,
            )
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the arguments name; for another name say what was probably meant."""
        if (name := args[0]) not in self.commands and not name.startswith("-"):
            parts = {part: command for command in self.commands for part in command.split("-")}
            raise _no_command(name, list(self.commands), {**_COMMANDS_ELSEWHERE, **parts})
        return super().resolve_command(ctx, args)


# what others call it
_COMMANDS_ELSEWHERE = {
    **{"heatmap": "explain", "visualize": "explain", "visualise": "explain", "show": "view", "evaluate": "measure"},
    **{"ui": "serve", "app": "serve", "web": "serve", "gif": "animate", "list": "models", "info": "inspect"},
}


def _no_command(name: str, commands: list[str], meant: dict[str, str]) -> UsageError:
    """Make the error for a name that is no command; it may be that of a method or an image."""
    from vitscope.methods.declared import declared_options

    problem = msg("cli.no-command", "no command is called '{name}'", name=name)
    if name in declared_options() or name == "auto":
        method = msg("cli.command-is-a-method.hint", "a method: vitscope explain IMAGE --method {name}", name=name)
        return UsageError(problem, method)
    if Path(name).suffix or path_exists(Path(name)):
        return UsageError(problem, msg("cli.command-is-an-image.hint", "vitscope explain {name}", name=name))
    if name in ("help", "version"):
        return UsageError(problem, f"vitscope --{name}")
    return UnknownNameError(msg("cli.a-command", "command"), name, commands, meant)


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Expand a function's groups of options, and add the options --verbose and --quiet.

    The class attribute `panel` of a group heads its options in the help.
    """
    parameters = signature(function).parameters
    groups: dict[str, Any] = {name: one.annotation for name, one in parameters.items() if is_dataclass(one.annotation)}

    @wraps(function)
    def run(*, verbose: int, quiet: bool, **values: Any) -> Any:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        with show_log(verbose), quietly(quiet):
            return function(**values)

    expanded: list[Parameter] = []
    for name, one in parameters.items():
        if name in groups:
            own = groups[name].__annotations__  # before what the group inherits
            ordered = sorted(fields(groups[name]), key=lambda field: field.name not in own)
            expanded += [_parameter(groups[name], field) for field in ordered]
        else:
            expanded.append(one.replace(kind=Parameter.KEYWORD_ONLY))
    expanded.append(Parameter("verbose", Parameter.KEYWORD_ONLY, default=0, annotation=Annotated[int, _VERBOSE]))
    expanded.append(Parameter("quiet", Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, _QUIET]))
    for one in expanded:
        kind, option = get_args(one.annotation) or (None, None)
        if kind is bool or kind == bool | None:
            option.metavar = _NO_TYPE
        if option is not _VERBOSE and (kind_of_number := _NUMBERS.get(kind)) is not None:
            option.parser = _parser(one.name, kind_of_number, option.min, option.max)
        if option is not None:
            option.show_envvar = option.envvar is not None  # every option has one of its own; the help would be full
    run.__signature__ = signature(function).replace(parameters=expanded)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in expanded}
    return run


def _parser(name: str, kind: str, least: float | None, most: float | None) -> Callable[[Any], int | float]:
    """Return the reading of an option's number: as everywhere, and not as Python reads `5_0`, `\u0663` and `nan`."""

    def parse(given: Any) -> int | float:
        text = str(given)
        found = whole_number(text) if kind == "int" else number(text)
        if found is None or found < (found if least is None else least) or found > (found if most is None else most):
            bounds = "" if least is None else f" from {least:g}" if most is None else f" {least:g}..{most:,}"
            wanted = (
                msg("cli.whole-number", "a whole number{bounds}", bounds=bounds)
                if kind == "int"
                else msg("cli.number", "a number{bounds}", bounds=bounds)
            )
            raise UsageError.coded(
                "cli.not-a-number",
                "{option} is {wanted}, not {given}",
                option=f"--{name.replace('_', '-')}",
                wanted=wanted,
                given=repr(text),
            )
        return found

    return parse


def _parameter(group: Any, field: "Field[Any]") -> Parameter:
    kind, option = get_args(get_type_hints(group, include_extras=True)[field.name])
    option = copy(option)
    option.rich_help_panel = group.panel
    annotation: Any = Annotated[kind, option]
    return Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)
