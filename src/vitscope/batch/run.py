"""`vitscope batch` as a function: a source, a plan, an engine, an output folder."""

import importlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitscope.batch.sources import ImageSource
from vitscope.batch.types import BatchPlan, Outcome, ProgressCallback, split_tasks
from vitscope.errors import MissingDependencyError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from vitscope.scope import Scope

__all__ = ["ENGINES", "BatchSummary", "require_engine", "run"]

ENGINES = {"local": "vitscope.batch.local_engine", "ray": "vitscope.batch.ray_engine"}


@dataclass
class BatchSummary:
    """What a run did.

    Attributes:
        out: the output folder.
        images: pictures explained now, failed ones with them.
        failed: those of them that have an error in their row.
        failures: how many of each kind.
        skipped: pictures that earlier runs had finished.
        failed_before: those of them that have an error in their row.
        shards: shards written now.
        seconds: how long it took, the loading of the model left out.
    """

    out: str
    images: int = 0
    failed: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    skipped: int = 0
    failed_before: int = 0
    shards: int = 0
    seconds: float = 0.0


def run(
    source: ImageSource | str,
    out: str | Path,
    plan: BatchPlan,
    *,
    scope: "Scope | None" = None,
    engine: str = "local",
    engine_options: Mapping[str, Any] | None = None,
    resume: bool = False,
    on_progress: ProgressCallback = lambda images, failed: None,
    on_start: Callable[[int], None] = lambda skipped: None,
) -> BatchSummary:
    """Explain a collection into a folder; see `vitscope.batch` for what is in it.

    Args:
        source: where pictures come from.
        out: the output folder: new, empty, or, with `resume`, one that was begun with the same options.
        plan: what is asked of every picture.
        scope: the model, where it is loaded already; engines on other machines load it by `plan.model`.
        engine: `local` or `ray`.
        engine_options: keywords of the engine's own.
        resume: go on with what is there.
        on_progress: called with how many more pictures are done, and how many of them failed.
        on_start: called once with how many pictures were finished by earlier runs.

    Raises:
        UsageError: a source that is not there, or a question that does not fit the model; nothing is written then.
        ResultError: an output that is refused or cannot be written; what is finished stays.
    """
    require_engine(engine)
    from vitscope.batch.output import open_output
    from vitscope.batch.requests import fingerprint, method_requests
    from vitscope.scope import load

    folder = Path(out)
    images = replace(ImageSource(source) if isinstance(source, str) else source, exclude=folder.resolve())
    work = importlib.import_module(ENGINES[engine]).run
    scope = scope or load(plan.model, revision=plan.revision, device=plan.device, dtype=plan.dtype)
    method_requests(scope, plan)
    if next(iter(images), None) is None:
        raise UsageError(
            f"there are no pictures in {images.location}", "name a folder, a pattern, a list or a file of them"
        )
    summary, kinds, start = BatchSummary(str(folder)), Counter[str](), time.perf_counter()
    with (
        _sigterm_as_interrupt(),
        open_output(folder, fingerprint(scope, plan, images.identity()), resume=resume) as sink,
    ):
        summary.skipped = sum(shard.images for shard in sink.shards)
        summary.failed_before = sum(shard.failed for shard in sink.shards)
        on_start(summary.skipped)

        def commit(outcome: Outcome) -> None:
            sink.commit(outcome)
            summary.images += outcome.stats["images"]
            summary.failed += outcome.stats["failed"]
            summary.shards += 1
            kinds.update(outcome.stats["failures"])

        try:
            tasks = sink.remaining(split_tasks(images, plan.shard_size))
            work(tasks, plan, scope, commit, on_progress, folder, **(engine_options or {}))
        finally:
            summary.failures, summary.seconds = dict(kinds.most_common()), time.perf_counter() - start
    return summary


def require_engine(engine: str) -> None:
    """The parts that a run needs are there.

    Raises:
        UnknownNameError: an engine that does not exist.
        MissingDependencyError: pyarrow or the engine is not installed.
    """
    if engine not in ENGINES:
        raise UnknownNameError("engine", engine, ENGINES)
    for package, extra in (("pyarrow", "batch"), *((("ray", "ray"),) if engine == "ray" else ())):
        if find_spec(package) is None:
            raise MissingDependencyError(package, extra)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM stops the run as Ctrl-C does: what is finished stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
