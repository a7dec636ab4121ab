"""What a part of the soak counts, and which parts there are."""

import importlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

__all__ = ["PARTS", "Counts", "Part"]

_NOTES = 10


@dataclass
class Counts:
    """How the tries of one part ended; each is counted once, save that those left changed are counted beside.

    Attributes:
        tried: how many there were.
        right: the answer is that of a value found in another way.
        refused: an error of one line, where that or a right answer is due.
        wrong: another answer, a refusal of what is in order, or an error that is no refusal.
        lost: an answer or a finished row that is gone.
        hung: took longer than it may.
        left_changed: something is not as it was before: a model, the process, its memory.
        figures: what was measured besides, by name.
        notes: of the first bad ones, what they were.
    """

    tried: int = 0
    right: int = 0
    refused: int = 0
    wrong: int = 0
    lost: int = 0
    hung: int = 0
    left_changed: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def bad(self) -> int:
        """How many are as they must not be."""
        return self.wrong + self.lost + self.hung + self.left_changed

    def count(self, how: str, note: str = "") -> None:
        """Count one try that ended so."""
        self.tried += 1
        self.mark(how, note)

    def mark(self, how: str, note: str = "") -> None:
        """Add one to a field, with a note to find it by."""
        setattr(self, how, getattr(self, how) + 1)
        if note and len(self.notes) < _NOTES:
            self.notes.append(f"{how}: {note}")


@dataclass(frozen=True)
class Part:
    """One part of the soak: `benchmarks/soak/NAME.py`, which has `run(count, seed)`.

    Attributes:
        full: the count of `make soak`.
        short: the count in the tests.
        unit: what is counted.
        what: what is tried, and when it is right.
    """

    full: int
    short: int
    unit: str
    what: str

    def run(self, name: str, count: int, seed: int) -> tuple[Counts, float]:
        """Run it; return the counts and how many seconds it took."""
        work: Callable[[int, int], Counts] = importlib.import_module(f"benchmarks.soak.{name}").run
        begun = time.monotonic()
        return work(count, seed), time.monotonic() - begun


PARTS = {
    "kills": Part(
        1000, 6, "kills of `batch`",
        "`kill -9` at a random moment, then `--resume`: finished shards stay untouched, and all rows are, bit for bit, "
        "those of an undisturbed run",
    ),
    "mutations": Part(
        20_000 * 22, 66, "damaged files of 22 kinds",
        "every kind of file: the right result, bit for bit, or one line that says what is wrong",
    ),
    "requests": Part(
        3000, 90, "exchanges of 60 clients with `serve`",
        "good photos, hostile ones, malformed requests, strangers, cancelled work, clients that hang up: each map is "
        "that of the library, each bad request is refused, no status above 499 but 503",
    ),
    "explanations": Part(
        2000, 60, "explanations by one Scope",
        "all methods in turn: each map equals its first one to the last bit, and the memory in use stays flat",
    ),
    "interrupts": Part(
        10_000, 42, "interrupts between two lines",
        "three families of models, twenty kinds of work: weights, modes, hooks, attributes and torch's settings are "
        "as they were",
    ),
    "threads": Part(
        10_000, 96, "answers in eight threads",
        "all methods on three families of models: each answer is that of a single thread to the last bit, and "
        "models are as they were",
    ),
    "pictures": Part(
        4000, 400, "odd pictures",
        "file formats, colour modes, orientations and kinds of arrays whose pixels are known, and damaged files: the "
        "pixels are right, or one line says what is wrong",
    ),
}  # fmt: skip


def chosen(names: Iterable[str]) -> dict[str, Part]:
    """Return the parts with these names; all for none.

    Raises:
        KeyError: there is no such part.
    """
    return {name: PARTS[name] for name in names or PARTS}
