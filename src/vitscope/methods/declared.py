"""The methods that the package's own sources declare: names and options, known without importing torch."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from vitscope._messages import msg
from vitscope.errors import UnknownNameError, UsageError
from vitscope.methods.method_options import KIND, PACKAGE, Option, check_options


def check_declared(methods: Sequence[str], options: Mapping[str, Any]) -> None:
    """Check methods and their options before torch is imported; of plug-ins nothing is known then.

    Args:
        methods: names, or `auto`.
        options: of the methods; of several, each takes its own.

    Raises:
        UsageError: a method or option that does not exist, or a value that does not fit, as when the method runs.
    """
    known = declared_options()
    unknown = [name for name in methods if name not in known and name != "auto"]
    if not known or (unknown and entry_points(group=PACKAGE)):
        return
    if unknown:
        raise UnknownNameError(KIND, unknown[0], sorted(known))
    if len(methods) == 1 and methods[0] in known:
        check_options(methods[0], known[methods[0]], options)
        return
    taken = [known[method] for method in (known if "auto" in methods else methods)]
    names = sorted({name for those in taken for name in those})
    for name, value in options.items():
        if name in names:
            _check_any([those[name] for those in taken if name in those], value)
        elif not entry_points(group=PACKAGE):
            raise UnknownNameError(msg("methods.option", "option of these methods"), name, names)


def _check_any(options: Sequence[Option], value: Any) -> None:
    """Check that a value fits the option of one method at least; raise what the last one says of it."""
    for option in options:
        try:
            option.check(value)
        except UsageError as error:
            problem = error
        else:
            return
    raise problem


@cache
def declared_options() -> dict[str, dict[str, Option]]:
    """Return the options of each method by name, as the registry has them; empty where the sources are not at hand."""
    files = [ast.parse(path.read_bytes()).body for path in sorted(Path(__file__).parent.glob("*.py"))]
    aliases = {
        ast.unparse(node.targets[0]): _choices(node.value, {})
        for nodes in files
        for node in nodes
        if isinstance(node, ast.Assign)
    }
    return {
        name: {option.name: option for option in _options(node.args, aliases, _constants(nodes))}
        for nodes in files
        for node in nodes
        if isinstance(node, ast.FunctionDef)
        for name in _names(node)
    }


def _constants(nodes: list[ast.stmt]) -> dict[str, Any]:
    """Return the constants of one file, by their names; without those that are computed."""
    found: dict[str, Any] = {}
    for node in nodes:
        if isinstance(node, ast.Assign):
            with suppress(ValueError):
                value = ast.literal_eval(node.value)
                names = node.targets[0].elts if isinstance(node.targets[0], ast.Tuple) else node.targets
                values = value if isinstance(node.targets[0], ast.Tuple) else [value]
                found |= zip(map(ast.unparse, names), values, strict=True)
    return found


def _names(function: ast.FunctionDef) -> Iterator[str]:
    """Yield the name under which a function is registered: the first argument of its decorator, if it is a method."""
    first = next(iter(function.args.args), None)
    if first is None or getattr(first.annotation, "id", "") not in ("AttentionStore", "MethodContext"):
        return
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and isinstance(name := getattr(decorator.args[0], "value", None), str):
            yield name


def _options(
    arguments: ast.arguments, aliases: Mapping[str, tuple[str, ...]], constants: Mapping[str, Any]
) -> Iterator[Option]:
    """Yield the keywords of a function; a default that is computed is None, for which any value fits."""
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is not None and argument.annotation is not None:
            value = constants.get(ast.unparse(default))
            with suppress(ValueError):
                value = ast.literal_eval(default)
            yield Option(argument.arg, ast.unparse(argument.annotation), value, _choices(argument.annotation, aliases))


def _choices(annotation: ast.expr, aliases: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the strings in a Literal, also inside a union or behind an alias."""
    found: tuple[str, ...] = ()
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name):
            found += aliases.get(node.id, ())
        elif isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "Literal":
            found += tuple(part.value for part in ast.walk(node.slice) if isinstance(part, ast.Constant))  # type: ignore[misc]
    return found
