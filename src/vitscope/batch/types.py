"""What sources, engines and the output hand to each other. All of it can be pickled."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from vitscope.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from vitscope.scope import Scope

__all__ = [
    "SCHEMA",
    "BatchEngine",
    "BatchPlan",
    "CommitCallback",
    "Outcome",
    "ProgressCallback",
    "Ref",
    "RefKind",
    "Task",
    "split_tasks",
]

SCHEMA = 1
RefKind: TypeAlias = Literal["file", "parquet", "tar", "video", "broken"]


@dataclass(frozen=True, slots=True)
class Ref:
    """Where one picture is.

    Attributes:
        row: its place in the source, from 0.
        key: what it is called there, and what its id is a hash of: the path within the folder, the line of a list ...
        source: the same for people and for messages: a path, `FILE#ROW`, `FILE::MEMBER`, `FILE@SECONDSs`.
        kind: how it is read.
        path: the file or URL that is opened.
        at: offset in a tar, row in a row group, time stamp in a video.
        size: bytes in a tar.
        group: row group of a Parquet file; in a video, the time stamp of the ref before.
        column: column of a Parquet file; of a broken one, why it cannot be listed.
    """

    row: int
    key: str
    source: str
    kind: RefKind
    path: str
    at: int = 0
    size: int = 0
    group: int = 0
    column: str = ""

    @property
    def id(self) -> str:
        """32 hex digits, the same in each run and on each engine."""
        return hashlib.blake2b(self.key.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Task:
    """The refs of one shard.

    Attributes:
        number: which shard, from 0.
        refs: in the source's order.
    """

    number: int
    refs: tuple[Ref, ...]

    @property
    def digest(self) -> str:
        """A hash of all ids: the same pictures in the same order."""
        total = hashlib.blake2b(digest_size=16)
        for ref in self.refs:
            total.update(bytes.fromhex(ref.id))
        return total.hexdigest()


@dataclass(frozen=True, eq=False)
class Outcome:
    """One finished shard, not yet written.

    Attributes:
        number: that of its task.
        digest: that of its task.
        table: the rows, in the schema of `rows.schema`.
        stats: counts and seconds, ready for JSON.
    """

    number: int
    digest: str
    table: "pa.Table"
    stats: Mapping[str, Any]


@dataclass(frozen=True)
class BatchPlan:
    """What is asked of every picture, and how the work is done.

    Attributes:
        model: a model reference.
        revision: of the model, on the Hub.
        device: as for `vitscope.load`.
        dtype: as for `vitscope.load`.
        methods: one or more; a row for each.
        targets: as the command line has them, none for the model's own answer; a row for each where a method asks.
        method_options: the methods' own options: each goes to the methods that have it.
        gradient_rule: as in `vitscope.engine.options.Options`; so are `refine`, `size` and `seed`.
        refine: see `gradient_rule`.
        size: see `gradient_rule`.
        seed: see `gradient_rule`.
        metrics: measures of `Scope.measure`, none by default: each costs many forwards.
        overlays: also draw the map over the photo.
        shard_size: pictures in a shard.
        batch_size: pictures that go through the model together, at most; None leaves it to `batch_tokens`.
        batch_tokens: tokens that go through the model together, at most, but for a single picture.
        workers: threads that read and decode; 0 chooses.
        max_pending_bytes: bytes of decoded pictures that may wait for the model.
    """

    model: str
    revision: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    methods: tuple[str, ...] = ("auto",)
    targets: tuple[str, ...] = ()
    method_options: Mapping[str, Any] = field(default_factory=dict)
    gradient_rule: str = "plain"
    refine: str = "none"
    size: int | None = None
    seed: int = 0
    metrics: tuple[str, ...] = ()
    overlays: bool = False
    shard_size: int = 512
    batch_size: int | None = None
    batch_tokens: int = 4096
    workers: int = 0
    max_pending_bytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        for name in ("shard_size", "batch_tokens", "max_pending_bytes"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is at least 1, not {getattr(self, name)}")
        if (self.batch_size is not None and self.batch_size < 1) or self.workers < 0:
            raise UsageError("batch_size is at least 1, and workers at least 0")
        if not self.methods or len({*self.methods}) < len(self.methods) or len({*self.targets}) < len(self.targets):
            raise UsageError("methods and targets are each named once, and there is a method")

    def identity(self) -> dict[str, Any]:
        """The fields that rows depend on: a run that is gone on with has the same."""
        how = ("revision", "device", "batch_size", "batch_tokens", "workers", "max_pending_bytes")
        return {name: value for name, value in asdict(self).items() if name not in how}


CommitCallback: TypeAlias = Callable[[Outcome], None]
ProgressCallback: TypeAlias = Callable[[int, int], None]
# tasks, plan, model, commit (in any order, from one thread at a time), progress, output folder; options of its own
BatchEngine: TypeAlias = "Callable[[Iterator[Task], BatchPlan, Scope, CommitCallback, ProgressCallback, Path], None]"


def split_tasks(refs: Iterable[Ref], size: int) -> Iterator[Task]:
    """Tasks of `size` refs each, the last one shorter."""
    waiting, number = iter(refs), 0
    while part := tuple(islice(waiting, size)):
        yield Task(number, part)
        number += 1
