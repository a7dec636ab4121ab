"""What the command line shows: tables on stdout, progress and troubles on stderr, and what an error exits with."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
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
from rich.table import Table
from rich.text import Text

from vitscope.errors import UsageError, VitscopeError

__all__ = ["batching", "exit_code", "explaining", "fetching", "note", "out", "print_json", "table", "trouble"]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
_STAGES = {"fetch": "fetching the weights", "verify": "checking them", "convert": "converting them"}


def trouble(error: VitscopeError, about: str = "") -> None:
    """One line on stderr: what it is about, what was seen, what to do."""
    err.print(
        f"vitscope: {f'{about}: ' if about and about not in str(error) else ''}{error}", markup=False, soft_wrap=True
    )


def note(words: str) -> None:
    """One line on stderr that is no trouble."""
    err.print(f"vitscope: {words}", markup=False, soft_wrap=True)


def exit_code(error: VitscopeError) -> int:
    """2 for wrong usage, 1 for everything else."""
    return 2 if isinstance(error, UsageError) else 1


def print_json(document: Mapping[str, Any]) -> None:
    """Exactly one JSON document on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], *, wrap: bool = False) -> None:
    """A table on stdout; without a terminal nothing is cut off."""
    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        drawn.add_column(heading, overflow="fold", no_wrap=not wrap)
    for row in rows:
        drawn.add_row(*(str(cell) for cell in row))
    out.print(drawn, markup=False, soft_wrap=not out.is_terminal) if out.is_terminal else Console(
        width=200, highlight=False
    ).print(drawn, markup=False)


@contextmanager
def fetching() -> Iterator[Callable[[str, int, int], None]]:
    """What is done to get the embedded weights: bars on a terminal, else a line a stage; nothing once they are here."""
    bars = err.is_terminal
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
    with Progress(*columns, console=err, transient=True, disable=not bars) as progress:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(_STAGES.get(stage, stage), total=total)
                if not bars:
                    size = f" ({total / 1e6:.0f} MB)" if stage == "fetch" else ""
                    err.print(f"vitscope: {_STAGES.get(stage, stage)}{size}", soft_wrap=True)
            progress.update(tasks[stage], completed=done, total=total)

        yield report


class Explaining:
    """Bars over pictures, and over the forwards of a method that makes many; none before there is something to count.

    Args:
        count: how many pictures.
        doing: what is done with them, in a word.
    """

    def __init__(self, count: int, doing: str) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._bars = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
        self._pictures = self._bars.add_task(doing, total=count) if count > 1 else None
        self._forwards: Any = None

    def __call__(self) -> None:
        """One picture more."""
        if self._pictures is not None:
            self._bars.advance(self._pictures)

    def reached(self, done: int, total: int) -> None:
        """So many are done of all."""
        if self._pictures is not None:
            self._bars.update(self._pictures, completed=done, total=total)

    def forwards(self, method: str, done: int, total: int) -> None:
        """So many forwards of the total that this method or metric makes for the pictures that are in work."""
        self._bars.start()
        if self._forwards is None:
            self._forwards = self._bars.add_task(method, total=total)
        self._bars.update(self._forwards, description=method, completed=done, total=total)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The bars out of the way while something is printed."""
        running = self._bars.live.is_started
        self._bars.stop()
        try:
            yield
        finally:
            if running:
                self._bars.start()


@contextmanager
def explaining(count: int, doing: str = "explaining") -> Iterator[Explaining]:
    """Progress bars while pictures are explained or measured; nothing where no one sees them."""
    shown = Explaining(count, doing)
    if count > 1:
        shown._bars.start()
    try:
        yield shown
    finally:
        shown._bars.stop()


class _Speed(ProgressColumn):
    """Images a second."""

    def render(self, task: Task) -> Text:
        """A number, once there is one."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g} images/s")


class Batching:
    """A bar over a collection whose size is learnt on the way, with its speed and its failures."""

    def __init__(self, bars: Progress) -> None:
        self._bars, self._failed = bars, 0
        self._task = bars.add_task("explaining", total=None, failed="")

    def begun(self, skipped: int) -> None:
        """So many were finished before."""
        if skipped:
            note(f"{skipped} images are finished already")
        self._bars.update(self._task, completed=skipped)

    def total(self, images: int) -> None:
        """So many there are."""
        self._bars.update(self._task, total=images)

    def __call__(self, images: int, failed: int) -> None:
        """So many more are done, and so many of them failed."""
        self._failed += failed
        told = f"{self._failed} failed" if self._failed else ""
        self._bars.update(self._task, advance=images, failed=told)


@contextmanager
def batching() -> Iterator[Batching]:
    """Progress over a collection; nothing where no one sees it."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn()
    failed = TextColumn("{task.fields[failed]}", style="red")
    with Progress(*columns, failed, console=err, transient=True, disable=not err.is_terminal) as bars:
        yield Batching(bars)
