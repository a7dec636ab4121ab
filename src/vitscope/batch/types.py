"""The values that sources, engines and the output folder exchange; all of them can be pickled."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from vitscope._messages import msg
from vitscope._numbers import is_whole
from vitscope.errors import ResultError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from vitscope.engine.calibrated import Calibrated
    from vitscope.scope import Scope

SCHEMA, PLAN = 1, "batch.json"
_LOAD = (
    *("revision", "device", "dtype", "weights", "processor"),
    *("output", "labels", "multi_label", "trust_remote_code", "display", "window", "region", "calibration"),
)
RefKind: TypeAlias = Literal["file", "parquet", "tar", "video", "broken"]


@dataclass(frozen=True, slots=True)
class Ref:
    """The location of one image.

    Attributes:
        row: its position in the source, from 0.
        key: its name within the source, of which its id is a hash: the path within the folder, the line of a list ...
        source: its name for people: a path, `FILE#ROW`, `FILE::MEMBER`, `FILE@SECONDSs`.
        kind: how it is read.
        path: the file or URL to open.
        at: offset in a tar, row in a row group, timestamp in a video.
        size: bytes in a tar.
        group: row group of a Parquet file; in a video, the timestamp of the ref before.
        column: column of a Parquet file.
        problem: why a broken file cannot be listed.
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
    problem: str = ""

    @property
    def id(self) -> str:
        """32 hex digits, equal in every run and on every engine."""
        return hashlib.blake2b(self.key.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Task:
    """The refs of one shard, in the source's order, and its number, from 0."""

    number: int
    refs: tuple[Ref, ...]

    @property
    def digest(self) -> str:
        """A hash of all ids, equal for the same images in the same order."""
        total = hashlib.blake2b(digest_size=16)
        for ref in self.refs:
            total.update(bytes.fromhex(ref.id))
        return total.hexdigest()


@dataclass(frozen=True, eq=False)
class Outcome:
    """One finished shard before it is written.

    Attributes:
        number: that of its task.
        digest: that of its task.
        table: the rows, with the columns of `rows.schema`.
        stats: counts and seconds; plain JSON values.
    """

    number: int
    digest: str
    table: "pa.Table"
    stats: Mapping[str, Any]


@dataclass(frozen=True)
class BatchPlan:
    """How every image is explained, and how the work is done.

    Attributes:
        model: a model reference.
        revision: of the model on the Hub.
        device: as in `vitscope.load`.
        dtype: as in `vitscope.load`.
        weights: as in `vitscope.load`.
        processor: as in `vitscope.load`; a folder or a Hub id.
        output: as in `vitscope.load`; a name or an index.
        labels: as in `vitscope.load`; a file.
        multi_label: as in `vitscope.load`.
        trust_remote_code: as in `vitscope.load`.
        display: as in `vitscope.load`, as text, such as `3,2,1`.
        window: as in `vitscope.load`, as text, such as `0,4095`.
        region: as in `vitscope.load`, as text, such as `0,0,640,480`.
        calibration: as in `vitscope.load`.
        methods: one or more; each image has a row for each.
        targets: as the command line writes them; empty means the model's own answer. Each image has a row for each
            target of a method that uses targets.
        method_options: options of single methods; each goes to the methods that have it.
        gradient_rule: as in `vitscope.engine.options.Options`, like `refine`, `size` and `seed`.
        refine: see `gradient_rule`.
        size: see `gradient_rule`.
        seed: see `gradient_rule`.
        metrics: names as in `Scope.measure`, `default` and `all` among them; each costs many forwards.
        overlays: also draw each map over its photo.
        shard_size: images in a shard.
        batch_size: images in one forward, at most; None leaves it to `batch_tokens`.
        batch_tokens: tokens in one forward, at most; a single image may have more.
        workers: threads that read and decode; 0 chooses.
        max_pending_bytes: bytes of decoded images that may wait for the model.

    Raises:
        UsageError: a number below its minimum, no method, or a method or target given twice.
    """

    model: str
    revision: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    weights: str | None = None
    processor: str | None = None
    output: str | int | None = None
    labels: str | None = None
    multi_label: bool | None = None
    trust_remote_code: bool = False
    display: str | None = None
    window: str | None = None
    region: str | None = None
    calibration: "Calibrated" = None
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
        minima = {"shard_size": 1, "batch_tokens": 1, "max_pending_bytes": 1, "batch_size": 1, "workers": 0}
        for name, least in minima.items():
            value = getattr(self, name)
            if value is not None and not is_whole(value, least):
                raise UsageError.coded(
                    "batch.too-small",
                    "{@*name} must be at least {least}, got {value}",
                    name=name,
                    least=least,
                    value=value,
                )
            object.__setattr__(self, name, None if value is None else int(value))
        if not self.methods:
            raise UsageError(msg("batch.no-method", "a batch needs at least one method"))
        for values in (self.methods, self.targets):
            if twice := [value for value, count in Counter(values).items() if count > 1]:
                raise UsageError(msg("batch.given-twice", "'{name}' is given twice", name=twice[0]))

    def identity(self) -> dict[str, Any]:
        """Return the fields that rows depend on; a resumed run must have the same."""
        how = ("revision", "device", "calibration", "batch_size", "batch_tokens", "workers", "max_pending_bytes")
        return {name: value for name, value in asdict(self).items() if name not in how}

    def load(self) -> "Scope":
        """Load the model as the plan says."""
        from vitscope.scope import load

        return load(self.model, **{name: getattr(self, name) for name in _LOAD})


CommitCallback: TypeAlias = Callable[[Outcome], None]
ProgressCallback: TypeAlias = Callable[[int, int], None]
# tasks, plan, model, commit (in any order, from one thread at a time), progress, output folder; then its own options
BatchEngine: TypeAlias = "Callable[[Iterator[Task], BatchPlan, Scope, CommitCallback, ProgressCallback, Path], None]"


def split_tasks(refs: Iterable[Ref], size: int) -> Iterator[Task]:
    """Yield tasks of `size` refs each; the last may have fewer."""
    waiting, number = iter(refs), 0
    while part := tuple(islice(waiting, size)):
        yield Task(number, part)
        number += 1


def plan_file(out: "Path") -> "Path":
    """Return the file that says what a run's rows depend on.

    Raises:
        ResultError: the folder holds no run.
    """
    if not (path := out / PLAN).exists():
        raise ResultError.coded(
            "batch.no-run", "{path} holds no run of vitscope batch", "choose the output folder of a batch", path=out
        )
    return path
