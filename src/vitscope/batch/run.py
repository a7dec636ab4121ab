"""`vitscope batch` as a function: explains a source by a plan on an engine into an output folder."""

import importlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitscope._messages import msg
from vitscope.batch.sources import ImageSource
from vitscope.batch.types import BatchPlan, Outcome, ProgressCallback, split_tasks
from vitscope.errors import UnknownNameError, UsageError, require_package

if TYPE_CHECKING:
    from vitscope.scope import Scope

ENGINES = {"local": "vitscope.batch.local_engine", "ray": "vitscope.batch.ray_engine"}


_NAMED = 20  # images with an error that a summary names


@dataclass
class BatchSummary:
    """The result of a run.

    Attributes:
        out: the output folder.
        images: images processed in this run, with the failed ones.
        failed: those of them with an error in their rows.
        failures: their number by kind of error.
        errors: source and error of the first of them, 20 at most.
        skipped: images that earlier runs finished.
        failed_before: those of them with an error in their rows.
        damaged: shards of earlier runs that were not as they were written, by file with the reason; made again.
        ignored: files in the folder that have the ending of no image, counted by ending.
        results: folders in it that vitscope wrote, whose pictures are no photos.
        shards: shards written in this run.
        seconds: the duration without loading the model.
    """

    out: str
    images: int = 0
    failed: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    skipped: int = 0
    failed_before: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
    results: list[str] = field(default_factory=list)
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
    """Explain a collection into a folder, whose contents `vitscope.batch` describes.

    Args:
        source: the images.
        out: the output folder: new, empty, or with `resume` that of an earlier run with the same options.
        plan: how images are explained.
        scope: the model, where it is loaded already; engines on other machines load it by `plan.model`.
        engine: `local` or `ray`.
        engine_options: keywords of the engine.
        resume: continue the run in the folder.
        on_progress: called with the number of images done since the last call, and how many of them failed.
        on_start: called once with the number of images that earlier runs finished.

    Raises:
        UsageError: a source that does not exist, or a plan that does not fit the model; nothing is written.
        ResultError: the output folder is refused or cannot be written; finished shards stay.
    """
    require_engine(engine)
    from vitscope.batch.output import open_output
    from vitscope.batch.requests import fingerprint, method_requests
    from vitscope.engine.calibrated import NONE
    from vitscope.evaluation.evaluate import metric_names

    folder = Path(out)
    images = replace(ImageSource(source) if isinstance(source, str) else source, exclude=folder.resolve())
    run_engine = importlib.import_module(ENGINES[engine]).run
    if plan.metrics:  # "all" and "default" become the names of columns
        plan = replace(plan, metrics=metric_names(plan.metrics, "mean", "probability"))
    scope = scope or plan.load()
    if "auto" in plan.methods:  # workers on other machines take the same as this one
        plan = replace(plan, calibration=scope.engine.calibration.of(scope.adapter) or NONE)
    method_requests(scope, plan)
    if next(iter(images), None) is None:
        raise UsageError(
            msg("batch.no-images", "{path} has no images", path=images.location),
            msg("batch.no-images.hint", "choose a folder, a pattern, a list or a file of images"),
        )
    summary, kinds, start = BatchSummary(str(folder)), Counter[str](), time.perf_counter()
    summary.ignored, summary.results = images.ignored()
    with (
        _sigterm_as_interrupt(),
        open_output(folder, fingerprint(scope, plan, images.identity()), resume=resume) as sink,
    ):
        summary.skipped = sum(shard.images for shard in sink.shards)
        summary.failed_before = sum(shard.failed for shard in sink.shards)
        summary.damaged = dict(sink.damaged)
        on_start(summary.skipped)

        def commit(outcome: Outcome) -> None:
            sink.commit(outcome)
            summary.images += outcome.stats["images"]
            summary.failed += outcome.stats["failed"]
            summary.shards += 1
            kinds.update(outcome.stats["failures"])
            if outcome.stats["failed"]:
                rows = outcome.table.select(["source", "error"]).to_pylist()
                named = {row["source"]: row["error"] for row in rows if row["error"]}
                summary.errors.update(islice(named.items(), _NAMED - len(summary.errors)))

        try:
            tasks = sink.remaining(split_tasks(images, plan.shard_size))
            run_engine(tasks, plan, scope, commit, on_progress, folder, **(engine_options or {}))
        finally:
            summary.failures, summary.seconds = dict(kinds.most_common()), time.perf_counter() - start
    return summary


def require_engine(engine: str) -> None:
    """Raise where the packages of an engine are missing.

    Raises:
        UnknownNameError: an engine that does not exist.
        MissingDependencyError: pyarrow or the engine is not installed.
    """
    if engine not in ENGINES:
        raise UnknownNameError("engine", engine, ENGINES)
    if engine == "ray":  # first: its extra brings the other's packages
        require_package("ray", "Ray", extra="ray")
    require_package("pyarrow", extra="batch")


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Turn SIGTERM into a KeyboardInterrupt. The run then stops as by Ctrl-C, and finished shards stay."""
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
