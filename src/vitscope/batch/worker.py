"""The worker of every engine: reads images ahead in threads, batches them by size, explains them and makes rows.

The model runs in the caller's thread. Reading, decoding and preprocessing run in other threads, ahead of the model by
as many images as fit into `BatchPlan.max_pending_bytes`, across the ends of shards.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from vitscope._messages import msg
from vitscope.batch.fetch import ImageReader, image_reader
from vitscope.batch.requests import MethodRequest, explain_batch, method_requests
from vitscope.batch.rows import error_row, explanation_row, to_table
from vitscope.batch.types import BatchPlan, Outcome, ProgressCallback, Ref, Task
from vitscope.errors import OutOfMemoryError, VitscopeError, is_out_of_memory
from vitscope.evaluation.evaluate import number_names

if TYPE_CHECKING:
    from vitscope.batch.crash_log import CrashLog
    from vitscope.engine.prepared import Prepared
    from vitscope.explanation import Explanation
    from vitscope.scope import Scope

_FIRST_GUESS = 4 * 2**20  # bytes of an image, before there is a mean
_FEWEST_TOKENS = 50  # of an image, to estimate how many make a batch


@dataclass(frozen=True, eq=False)
class _LoadedImage:
    """An image that is ready for the model, or the error."""

    ref: Ref
    index: int
    sha256: str = ""
    prepared: "Prepared | None" = None
    error: VitscopeError | None = None

    @property
    def nbytes(self) -> int:
        return self.prepared.nbytes if self.prepared else 0


@dataclass(eq=False)
class _ShardRows:
    """The rows of one task so far, by the index of their image."""

    task: Task
    started: float = field(default_factory=time.perf_counter)
    rows: dict[int, list[dict[str, Any]]] = field(default_factory=dict)

    def outcome(self, plan: BatchPlan) -> Outcome:
        """Return the finished shard, its rows in the order of the source."""
        rows = [row for index in sorted(self.rows) for row in self.rows[index]]
        failed = {row["id"]: row["error_kind"] for row in rows if row.get("error")}
        fine = [row for row in rows if not row.get("error")]
        names = ("effective_patches", "largest_share", "prefix_share")
        stats = {
            "images": len(self.task.refs),
            "rows": len(rows),
            "failed": len(failed),
            "failures": dict(sorted(Counter(failed.values()).items())),
            "seconds": round(time.perf_counter() - self.started, 3),
            "means": {name: sum(row[name] for row in fine) / len(fine) for name in names} if fine else {},
        }
        return Outcome(self.task.number, self.task.digest, to_table(rows, number_names(plan.metrics)), stats)


def outcomes(
    tasks: Iterable[Task],
    plan: BatchPlan,
    scope: "Scope",
    *,
    out: Path | None = None,
    on_progress: ProgressCallback = lambda images, failed: None,
    crash_log: "CrashLog | None" = None,
) -> Generator[Outcome, None, None]:
    """Yield the outcome of each task, in their order.

    An error of one image goes into its rows. The caller has checked that the plan fits the model.

    Args:
        tasks: consumed up to `BatchPlan.max_pending_bytes` bytes of images ahead.
        plan: how images are explained.
        scope: the model.
        out: the output folder, for overlays.
        on_progress: called with the number of images done since the last call, and how many of them failed.
        crash_log: records the images in progress, and names those to skip.
    """
    requests = method_requests(scope, plan, validate=False)

    def explain(items: list[_LoadedImage], shard: _ShardRows) -> None:
        with crash_log.in_progress(*(item.ref for item in items)) if crash_log else nullcontext():
            _explain(scope, plan, requests, items, shard, out, on_progress)

    with _prefetched(tasks, plan, scope, crash_log) as stream:
        shard: _ShardRows | None = None
        waiting: dict[tuple[int, int], list[_LoadedImage]] = {}
        for task, item in stream:
            if shard is None or task is not shard.task:
                shard = _ShardRows(task)
            if item.prepared is None:
                assert item.error is not None
                shard.rows[item.index] = _failed(requests, item, item.error)
                on_progress(1, 1)
            else:
                size = item.prepared.region.input
                waiting.setdefault(size, []).append(item)
                if len(waiting[size]) >= _max_batch(plan, scope, size):
                    explain(waiting.pop(size), shard)
                elif sum(item.nbytes for items in waiting.values() for item in items) > plan.max_pending_bytes:
                    fullest = max(waiting, key=lambda size: (len(waiting[size]), size))
                    explain(waiting.pop(fullest), shard)
            if item.index == len(task.refs) - 1:
                for size in sorted(waiting):
                    explain(waiting[size], shard)
                waiting.clear()
                yield shard.outcome(plan)


def abandoned_outcome(task: Task, plan: BatchPlan, scope: "Scope", error: VitscopeError) -> Outcome:
    """Return the outcome of a task that no worker survived. Each of its images has rows with this error."""
    requests, shard = method_requests(scope, plan), _ShardRows(task)
    for index, ref in enumerate(task.refs):
        shard.rows[index] = _failed(requests, _LoadedImage(ref, index), error)
    return shard.outcome(plan)


def _max_batch(plan: BatchPlan, scope: "Scope", size: tuple[int, int]) -> int:
    """Return how many images of an input size go through the model together."""
    if not scope.adapter.supports_batches:
        return 1
    by_tokens = max(plan.batch_tokens // scope.adapter.layout(size).tokens, 1)
    return plan.batch_size or by_tokens


def _explain(
    scope: "Scope",
    plan: BatchPlan,
    requests: tuple[MethodRequest, ...],
    items: list[_LoadedImage],
    shard: _ShardRows,
    out: Path | None,
    on_progress: ProgressCallback,
) -> None:
    """Explain one batch by all methods and add its rows to the shard."""
    prepared = [item.prepared for item in items if item.prepared]
    rows: list[list[dict[str, Any]]] = [[] for _ in items]
    for request in requests:
        for item, made, found in zip(items, rows, explain_batch(scope, request, prepared), strict=True):
            made.extend(_rows(scope, plan, request, item, found, shard.task.number, out))
    for item, made in zip(items, rows, strict=True):
        shard.rows[item.index] = made
    on_progress(len(items), sum(any(row.get("error") for row in made) for made in rows))


def _rows(
    scope: "Scope",
    plan: BatchPlan,
    request: MethodRequest,
    item: _LoadedImage,
    found: "list[Explanation] | VitscopeError",
    number: int,
    out: Path | None,
) -> list[dict[str, Any]]:
    """Return the rows of one image and method, one for each target."""
    if isinstance(found, VitscopeError):
        return _failed((request,), item, found)
    rows = []
    for target, e in zip(request.targets, found, strict=True):
        try:
            measurement = scope.measure(e, metrics=plan.metrics, seed=plan.seed) if plan.metrics else None
            overlay = None
            if plan.overlays and out is not None:
                from vitscope.batch.overlays import write_overlay

                overlay = write_overlay(e, out, number, item.ref, request.targets.index(target))
            rows.append(explanation_row(item.ref, item.sha256, target, e, measurement, overlay))
        except VitscopeError as error:
            rows.append(error_row(item.ref, item.sha256, target, request.name, error))
    return rows


def _failed(requests: tuple[MethodRequest, ...], item: _LoadedImage, error: VitscopeError) -> list[dict[str, Any]]:
    return [
        error_row(item.ref, item.sha256, target, request.name, error)
        for request in requests
        for target in request.targets
    ]


@contextmanager
def _prefetched(
    tasks: Iterable[Task], plan: BatchPlan, scope: "Scope", crash_log: "CrashLog | None"
) -> Iterator[Iterator[tuple[Task, _LoadedImage]]]:
    """Yield the images of all tasks in order, loaded ahead by threads."""
    keep = bool(plan.overlays or plan.metrics)
    with (
        image_reader(scope.adapter.reading) as fetch,
        ThreadPoolExecutor(plan.workers or default_decode_threads(), "vitscope-decode") as pool,
    ):
        try:
            yield _prefetch(
                tasks, pool, plan, lambda ref, index: _load(scope, plan, fetch, ref, index, keep, crash_log)
            )
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _prefetch(
    tasks: Iterable[Task], pool: ThreadPoolExecutor, plan: BatchPlan, make: Callable[[Ref, int], _LoadedImage]
) -> Iterator[tuple[Task, _LoadedImage]]:
    lock, held, seen, total = Lock(), 0, 0, 0

    def ready(ref: Ref, index: int) -> _LoadedImage:
        nonlocal held, seen, total
        item = make(ref, index)
        with lock:
            held, total, seen = held + item.nbytes, total + item.nbytes, seen + 1
        return item

    pending: deque[tuple[Task, Future[_LoadedImage]]] = deque()
    coming = ((task, index, ref) for task in tasks for index, ref in enumerate(task.refs))
    most = max(64, 2 * (plan.batch_size or plan.batch_tokens // _FEWEST_TOKENS))
    more = True
    while more or pending:
        while more and len(pending) < most:
            with lock:
                mean = total / seen if seen else _FIRST_GUESS
                room = plan.max_pending_bytes - held - mean * sum(not future.done() for _, future in pending)
            if pending and room < mean:
                break
            nxt = next(coming, None)
            if nxt is None:
                more = False
                break
            task, index, ref = nxt
            pending.append((task, pool.submit(ready, ref, index)))
        if not pending:
            return
        task, future = pending.popleft()
        item = future.result()
        with lock:
            held -= item.nbytes
        yield task, item


def _load(
    scope: "Scope",
    plan: BatchPlan,
    fetch: ImageReader,
    ref: Ref,
    index: int,
    keep: bool,
    crash_log: "CrashLog | None" = None,
) -> _LoadedImage:
    """Read, hash, decode and preprocess one image; keep an error as its result."""
    if crash_log and (error := crash_log.crash_error(ref)):
        return _LoadedImage(ref, index, error=error)
    sha256 = ""
    try:
        with crash_log.in_progress(ref) if crash_log else nullcontext():
            picture, sha256 = fetch(ref)
            prepared = scope.prepare(picture, size=plan.size)
    except VitscopeError as error:
        return _LoadedImage(ref, index, sha256, error=error)
    except Exception as error:  # preprocessing that breaks on one image
        if is_out_of_memory(error):
            return _LoadedImage(ref, index, sha256, error=OutOfMemoryError.of(error, ref.source))
        message = msg(
            "batch.preprocessing-failed",
            "{source}: {error}",
            source=ref.source,
            error=f"{type(error).__name__}: {error}",
        )
        return _LoadedImage(ref, index, sha256, error=VitscopeError(message))
    return _LoadedImage(ref, index, sha256, prepared if keep else prepared.without_photo())


def cpu_count() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_decode_threads() -> int:
    """Return the default number of decoding threads: one per core, 16 at most."""
    return min(cpu_count(), 16)
