"""Terminal output of the commands: results on stdout; progress, notes, errors and the log on stderr."""

import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.control import Control
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import ControlType
from rich.table import Table
from rich.text import Text

from vitscope._messages import Message, json_text, msg, visible
from vitscope.cli.origins import locate
from vitscope.errors import UsageError, VitscopeError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
_STAGES = {"fetch": "downloading the weights", "verify": "verifying the weights", "convert": "converting the weights"}
_SECONDS_BETWEEN_LINES = 10  # of progress, without a terminal
_NO_TERMINAL_WIDTH = 200  # of tables in files and pipes


def in_flags(text: str) -> str:
    """Return a sentence with its options as flags, `--size 224` instead of `size=224`."""
    return text.spoken("cli") if isinstance(text, Message) else text


def shown(text: str, style: str = "") -> Text:
    """Return a text of a page or table, its control characters visible: a name cannot begin a line of its own."""
    return Text(visible(text), style)


def print_line(text: str) -> None:
    """Print one line of a result, never wrapped."""
    out.print(visible(text, "\t"), markup=False, soft_wrap=True)


_quiet: set[bool] = set()


@contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """Print no notes and no progress within the `with`: results and errors only."""
    if quiet:
        _quiet.add(quiet)
    try:
        yield
    finally:
        _quiet.clear()


def print_note(text: str) -> None:
    """Print one line on stderr that is no error."""
    if not _quiet:
        _print_beside(text)


def _print_beside(text: str) -> None:
    _end_announcement()
    err.print(visible(f"vitscope: {text}"), markup=False, soft_wrap=True)


def _shows_bars() -> bool:
    return err.is_terminal and not _quiet


def print_error(error: VitscopeError, source: str = "") -> None:
    """Print one line on stderr: the source, such as an image, the error, and what to do."""
    message, hint = _spoken(error)
    text = f"{message} ({hint})" if hint else message
    _print_beside(f"{source}: {text}" if source and visible(source) not in visible(text) else text)


def _spoken(error: VitscopeError) -> tuple[str, str]:
    """Return message and hint of an error; a method or a model in the place of an image is told where it belongs."""
    message, hint = error.spoken("cli")
    if error.code == "images.not-found" and isinstance(error.message, Message):
        name = str(error.message.params["path"])
        if re.fullmatch(r"[a-z_]{2,}:\S+", name):
            hint = msg("cli.image-is-a-model.hint", "a model is named with --model, as in --model {name}", name=name)
        elif re.fullmatch("[a-z-]+[+]{0,2}", name):
            from vitscope.methods.declared import declared_options

            if name in {"auto", *declared_options()}:
                hint = msg(
                    "cli.image-is-a-method.hint", "a method is named with --method, as in --method {name}", name=name
                )
    return locate(error, message, hint)


def exit_code(error: VitscopeError) -> int:
    """Return the exit code for an error: 2 for wrong usage, 1 for everything else."""
    return 2 if isinstance(error, UsageError) else 1


def failure_document(source: str, error: VitscopeError) -> dict[str, str]:
    """Return what `--json` reports of an input that failed."""
    message, hint = _spoken(error)
    return {"source": source, "code": error.code, "error": message, "hint": hint}


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json_text(document) + "\n")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]], *, wrap: bool = False) -> None:
    """Print a table on stdout, nothing of it cut off.

    Args:
        headings: of the columns; they have several lines where the terminal is too narrow.
        rows: a value for each column.
        wrap: cells have several lines as well; else columns that the terminal cannot hold follow in a further table,
            whose rows have the same names.
    """
    width = out.width if out.is_terminal else _NO_TERMINAL_WIDTH
    table = _table(headings, rows, wrap)
    if wrap or _width(table) <= width:
        Console(width=width, highlight=False).print(table)
        return
    headings = [heading.replace(" ", "\n") for heading in headings]
    part = _some_columns(headings, rows, [0])
    columns = [0]
    for column in range(1, len(headings)):
        wider = _some_columns(headings, rows, [*columns, column])
        if len(columns) > 1 and _width(wider) > width:
            Console(width=max(width, _width(part)), highlight=False).print(part, "")
            columns, wider = [0], _some_columns(headings, rows, [0, column])
        columns, part = [*columns, column], wider
    Console(width=max(width, _width(part)), highlight=False).print(part)


def _some_columns(headings: Sequence[str], rows: Sequence[Sequence[object]], columns: Sequence[int]) -> Table:
    return _table([headings[column] for column in columns], [[row[c] for c in columns] for row in rows], False)


def _table(headings: Sequence[str], rows: Sequence[Sequence[object]], wrap: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column, heading in enumerate(headings):
        table.add_column(Text(heading), overflow="fold", no_wrap=not (wrap and column))  # a row's name stays whole
    for row in rows:
        table.add_row(*(shown(str(cell)) for cell in row))
    return table


def _width(table: Table) -> int:
    """Return the columns of the terminal that a table wants."""
    return Console(width=10_000).measure(table).maximum


class _VisibleFormatter(logging.Formatter):
    """Writes log lines without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return visible(super().format(record), "\n\t")


@contextmanager
def show_log(verbosity: int) -> Iterator[None]:
    """Show log lines on stderr: from 1 on vitscope's debug lines, from 2 on those of all libraries, from 0 nothing."""
    if not verbosity:
        yield
        return
    logger = logging.getLogger("vitscope" if verbosity == 1 else None)
    console = err if err.is_terminal else Console(stderr=True, width=_NO_TERMINAL_WIDTH, highlight=False)
    handler = RichHandler(
        console=console, show_time=verbosity > 1, show_path=False, highlighter=NullHighlighter(), rich_tracebacks=True
    )
    handler.setFormatter(_VisibleFormatter("%(name)s: %(message)s"))
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


_announced: set[str] = set()


def announce(text: str) -> None:
    """Say on a terminal what goes on, until the model is loaded or something else is said."""
    if _shows_bars() and not _announced:
        _announced.add(text)
        err.print(visible(text), end="\r", markup=False, no_wrap=True, overflow="ellipsis", style="dim")


def _end_announcement() -> None:
    if _announced:
        _announced.clear()
        err.control(Control((ControlType.ERASE_IN_LINE, 2)))


@contextmanager
def download_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show the download of bundled weights: bars on a terminal, else a line a stage; nothing where they are cached."""
    bars = _shows_bars()
    columns = _name(), BarColumn(), DownloadColumn()
    progress = _Bars(*columns, console=err, transient=True, disable=not bars)
    try:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            name = _STAGES.get(stage, stage)
            if stage not in tasks:
                progress.start()
                tasks[stage] = progress.add_task(name, total=total)
                if not bars:
                    print_note(f"{name} ({total / 1e6:.0f} MB)" if stage == "fetch" else name)
            progress.update(tasks[stage], completed=done, total=total)

        yield report
    finally:
        progress.stop()
        _end_announcement()


class _Bars(Progress):
    """Bars that leave no empty line where they are disabled, as those of rich before 14.3 do."""

    def stop(self) -> None:
        """Remove the bars."""
        if not self.disable:
            super().stop()


def _name() -> TextColumn:
    return TextColumn("{task.description}", markup=False)


class ImageProgress:
    """Bars over images, and over the forwards of a method that needs many; none before there is something to count.

    Without a terminal the forwards are told in a line every ten seconds.
    """

    def __init__(self, images: int, description: str) -> None:
        self._told = time.monotonic()
        columns = (
            _name(),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._bars = _Bars(*columns, console=err, transient=True, disable=not _shows_bars())
        self._images = self._bars.add_task(description, total=images) if images > 1 else None
        self._forwards: Any = None
        if images > 1:
            self._bars.start()

    def advance(self) -> None:
        """Count one image more."""
        if self._images is not None:
            self._bars.advance(self._images)

    def update(self, done: int, total: int) -> None:
        """Set how many images of all are done."""
        if self._images is not None:
            self._bars.update(self._images, completed=done, total=total)

    def update_forwards(self, name: str, done: int, total: int) -> None:
        """Set how many forwards of a method or metric are done for the images in progress."""
        if not _shows_bars():
            if time.monotonic() - self._told >= _SECONDS_BETWEEN_LINES:
                print_note(f"{name}: {done} of {total}")
                self._told = time.monotonic()
            return
        self._bars.start()
        name = visible(name)
        if self._forwards is None:
            self._forwards = self._bars.add_task(name, total=total)
        self._bars.update(self._forwards, description=name, completed=done, total=total)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hide the bars while something is printed."""
        running = self._bars.live.is_started
        self._bars.stop()
        try:
            yield
        finally:
            if running:
                self._bars.start()

    def stop(self) -> None:
        """Remove the bars."""
        self._bars.stop()


@contextmanager
def image_progress(images: int, description: str = "explaining") -> Iterator[ImageProgress]:
    """Show progress bars while images are explained or measured; without a terminal, a line now and then."""
    progress = ImageProgress(images, description)
    try:
        yield progress
    finally:
        progress.stop()


class _Speed(ProgressColumn):
    """Images a second."""

    def render(self, task: Task) -> Text:
        """Return the speed, once it is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g} images/s")


class CollectionProgress:
    """A bar over a collection whose size becomes known on the way, with its speed and its failures."""

    def __init__(self, bars: Progress) -> None:
        self._bars, self._failed = bars, 0
        self._task = bars.add_task("explaining", total=None, failed="")

    def resume(self, finished: int) -> None:
        """Start after the images that an earlier run finished."""
        if finished:
            print_note(f"{finished} images are already finished")
        self._bars.update(self._task, completed=finished)

    def set_total(self, images: int) -> None:
        """Set the size of the collection."""
        self._bars.update(self._task, total=images)

    def advance(self, images: int, failed: int) -> None:
        """Count images that are done, and those of them that failed."""
        self._failed += failed
        self._bars.update(self._task, advance=images, failed=f"{self._failed} failed" if self._failed else "")


@contextmanager
def collection_progress() -> Iterator[CollectionProgress]:
    """Show progress over a collection; nothing without a terminal."""
    columns = (
        _name(),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(),
    )
    failed = TextColumn("{task.fields[failed]}", style="red")
    with _Bars(*columns, failed, console=err, transient=True, disable=not _shows_bars()) as bars:
        yield CollectionProgress(bars)
