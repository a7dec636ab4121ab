"""The `vitscope` command: its subcommands, and one line on stderr for every error of a user."""

import atexit
import functools
import io
import os
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer

from vitscope._decoder import guarded
from vitscope._messages import msg
from vitscope._version import __version__
from vitscope.cli.commands._groups import Command, Group, command
from vitscope.cli.commands.about import inspect, methods, models
from vitscope.cli.commands.animate import animate
from vitscope.cli.commands.batch import batch
from vitscope.cli.commands.bench import bench
from vitscope.cli.commands.calibrate import calibrate
from vitscope.cli.commands.compare import compare
from vitscope.cli.commands.doctor import cache, doctor
from vitscope.cli.commands.explain import explain
from vitscope.cli.commands.measure import measure
from vitscope.cli.commands.recipe import recipe
from vitscope.cli.commands.report import report
from vitscope.cli.commands.reproduce import reproduce
from vitscope.cli.commands.serve import serve
from vitscope.cli.commands.sheets import heads, logit_lens, similarity
from vitscope.cli.commands.statistics import statistics
from vitscope.cli.commands.view import view
from vitscope.cli.console import exit_code, print_error, print_note
from vitscope.cli.defaults import FILE, read_defaults, unknown_variables
from vitscope.cli.malloc import keep_freed_memory
from vitscope.errors import OutOfMemoryError, VitscopeError, is_out_of_memory

_SUMMARY = "Show where a Vision Transformer looks, and measure how far the map can be believed."
_EXAMPLES = {  # for the end of a command's help
    "explain": """Examples:

vitscope explain photo.jpg --model google/vit-large-patch32-384

vitscope explain *.jpg --method attention,rollout --layers last3 -o maps

vitscope explain photo.jpg --model timm:vit_base_patch16_224 --target tabby -o tabby.png""",
    "recipe": "Example: vitscope recipe photo.jpg --model google/vit-large-patch32-384",
    "compare": """Examples:

vitscope compare photo.jpg --method auto,attention,rollout:layers=last3

vitscope compare *.jpg --method rollout,relevance --target tabby -o figure.pdf""",
    "animate": "Example: vitscope animate photo.jpg -o layers.gif",
    "batch": "Example: vitscope batch photos/ -o out --method rollout,relevance --resume",
    "measure": "Example: vitscope measure photo.jpg --size 224 --metrics deletion,infidelity",
    "view": "Example: vitscope view photo.jpg --size 336 -o view.html --open",
}
app = typer.Typer(
    cls=Group,
    help=_SUMMARY,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for function in (
    explain,
    recipe,
    view,
    serve,
    measure,
    statistics,
    heads,
    logit_lens,
    similarity,
    animate,
    compare,
    bench,
    calibrate,
    batch,
    report,
    models,
    methods,
    inspect,
    reproduce,
    doctor,
    cache,
):
    app.command(cls=Command, epilog=_EXAMPLES.get(function.__name__))(command(function))

_INTERRUPTED = 130
# Typer carries its own copy of click, or uses the installed one, by its version: the root is found, not imported
_WrongUsage: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def run() -> None:
    """Be the process of the command line, which ends before Python destroys its modules.

    With models and their libraries that takes a second of a processor, and half a minute on a busy machine. Threads are
    waited for, and what is registered with `atexit` runs, as always.
    """
    codes = list[Any]()

    def end() -> None:
        if codes:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            os._exit(codes[0])

    atexit.register(end)  # before all others, so that it comes after them
    try:
        main()
    except SystemExit as error:
        codes.append(error.code)
        raise


def main() -> None:
    """Run the command line; exit codes are 0 done, 1 some inputs failed, 2 wrong usage, 130 interrupted."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # threads that wait sleep: where another process has a core, those that spin would hold up the one that works
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name may hold bytes that are not text
    try:
        with guarded():
            code = _run()
    except VitscopeError as error:
        print_error(error)
        code = exit_code(error)
    except _WrongUsage as error:
        path = context.command_path if (context := getattr(error, "ctx", None)) else _command_path()
        if problem := error.format_message():  # empty where the help was printed for want of arguments
            print_error(VitscopeError(problem, f"{path} --help"))
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except (MemoryError, RuntimeError, ImportError, OSError) as error:
        if is_out_of_memory(error):
            print_error(OutOfMemoryError.of(error, "vitscope"))
        elif isinstance(error, OSError):  # a full disk, a path that is too long
            path, reason = error.filename or "the system", error.strerror or error
            print_error(VitscopeError(msg("cli.system-error", "{path}: {reason}", path=path, reason=reason)))
        else:
            raise
        code = 1
    if code == _INTERRUPTED:  # raised, or made into this code by Typer
        sys.stderr.write("vitscope: interrupted; finished results are complete, and nothing is half-written\n")
    sys.exit(code or 0)


def _command_path() -> str:
    """Return the command that the arguments name: a wrong use of an option itself does not say it."""
    return " ".join(["vitscope", *(name for name in sys.argv[1:2] if name in _root_command().commands)])


def _run() -> int | None:
    """Run the command that the arguments name, with the defaults of the file; return its exit code."""
    root = _root_command()
    defaults, arguments = read_defaults(root.commands), sys.argv[1:]
    if not {"-q", "--quiet"} & {*arguments}:
        if any(name in defaults for name in arguments[:1]):
            print_note(f"defaults of {FILE}: {', '.join(defaults[arguments[0]])}")
        for name, near in unknown_variables(root.commands):
            print_note(f"the variable {name} has no effect: did you mean {near}?")
    code: int | None = root(
        prog_name="vitscope", standalone_mode=False, default_map=defaults, auto_envvar_prefix="VITSCOPE"
    )
    return code


@functools.cache
def _root_command() -> Any:
    """Return the command of all commands: to make it takes longer than to parse a line."""
    return typer.main.get_command(app)


def _print_version(requested: bool) -> bool:
    if requested:
        sys.stdout.write(f"vitscope {__version__}\n")
        raise typer.Exit
    return requested


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
