"""The `vitscope` command: its parts put together, and every mistake of a user turned into one line."""

import io
import os
import sys
from typing import Annotated, Any

import typer

from vitscope._version import __version__
from vitscope.cli.commands.about import inspect, methods, models
from vitscope.cli.commands.batch import batch
from vitscope.cli.commands.bench import bench
from vitscope.cli.commands.explain import explain
from vitscope.cli.commands.measure import measure
from vitscope.cli.commands.report import report
from vitscope.cli.commands.serve import serve
from vitscope.cli.commands.sheets import alike, compare, heads, lens
from vitscope.cli.commands.statistics import statistics
from vitscope.cli.commands.view import view
from vitscope.cli.console import exit_code, trouble
from vitscope.cli.malloc import keep_freed_memory
from vitscope.errors import VitscopeError

__all__ = ["app", "main"]

app = typer.Typer(
    help="See where a Vision Transformer looks, and how far to believe the picture.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    explain,
    view,
    serve,
    measure,
    statistics,
    heads,
    lens,
    alike,
    compare,
    bench,
    batch,
    report,
    models,
    methods,
    inspect,
):
    app.command()(command)

_INTERRUPTED = 130
# Typer carries its own copy of click, or uses the installed one, by its version: the root is found, not imported
_WrongUsage: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def main() -> None:
    """Run the command line; exit codes are 0 done, 1 some inputs failed, 2 wrong usage, 130 interrupted."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name may hold bytes that are no text
    try:
        code = app(prog_name="vitscope", standalone_mode=False)
    except VitscopeError as error:
        trouble(error)
        code = exit_code(error)
    except _WrongUsage as error:
        context = getattr(error, "ctx", None)
        if said := error.format_message():  # nothing where the help was printed for want of arguments
            trouble(VitscopeError(said, f"{context.command_path if context else 'vitscope'} --help"))
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:  # a full disk, a path that is too long
        trouble(VitscopeError(f"{error.filename or 'the system'}: {error.strerror or error}"))
        code = 1
    if code == _INTERRUPTED:  # raised, or made into this code by Typer
        sys.stderr.write("vitscope: interrupted; finished results are complete, nothing half-written is left\n")
    sys.exit(code or 0)


def _version(wanted: bool) -> bool:
    if wanted:
        sys.stdout.write(f"vitscope {__version__}\n")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """See where a Vision Transformer looks, and how far to believe the picture."""
