"""One shard after another: pictures are read and prepared ahead in threads, batched by size, explained, made into rows.

This is the worker of every engine. The model runs in the caller's thread; reading, decoding and preprocessing run in a
few others, ahead of it by as many pictures as fit into `Plan.ahead` bytes, across the ends of shards.
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

from vitscope.batch.fault_injection import reach
from vitscope.batch.fetch import Reader, reading
from vitscope.batch.requests import MethodRequest, answers, questions_of
from vitscope.batch.rows import failed_row, row_of, table_of
from vitscope.batch.types import Advance, Outcome, Plan, Ref, Task
from vitscope.errors import VitscopeError

if TYPE_CHECKING:
    from vitscope.batch.crash_log import CrashLog
    from vitscope.engine.engine import Prepared
    from vitscope.explanation import Explanation
    from vitscope.scope import Scope

__all__ = ["cores", "decoders", "given_up", "outcomes"]

_FIRST_GUESS = 4 * 2**20  # bytes of a picture, before there is a mean
_FEWEST_TOKENS = 50  # of a picture, where it is guessed how many make a batch


@dataclass(frozen=True, eq=False)
class _Item:
    """A picture that is ready for the model, or why it is not."""

    ref: Ref
    place: int
    sha256: str = ""
    prepared: "Prepared | None" = None
    error: VitscopeError | None = None

    @property
    def nbytes(self) -> int:
        return self.prepared.nbytes if self.prepared else 0


@dataclass(eq=False)
class _Shard:
    """The rows of one task, while they are made."""

    task: Task
    begun: float = field(default_factory=time.perf_counter)
    rows: dict[int, list[dict[str, Any]]] = field(default_factory=dict)

    def outcome(self, plan: Plan) -> Outcome:
        """Everything in the order of the source."""
        rows = [row for place in sorted(self.rows) for row in self.rows[place]]
        failed = {row["id"]: row["error_kind"] for row in rows if row.get("error")}
        fine = [row for row in rows if not row.get("error")]
        told = ("effective_patches", "largest_share", "prefix_share")
        stats = {
            "images": len(self.task.refs),
            "rows": len(rows),
            "failed": len(failed),
            "failures": dict(sorted(Counter(failed.values()).items())),
            "seconds": round(time.perf_counter() - self.begun, 3),
            "means": {name: sum(row[name] for row in fine) / len(fine) for name in told} if fine else {},
        }
        return Outcome(self.task.number, self.task.digest, table_of(rows, plan.metrics), stats)


def outcomes(
    tasks: Iterable[Task],
    plan: Plan,
    scope: "Scope",
    *,
    out: Path | None = None,
    advance: Advance = lambda images, failed: None,
    watch: "CrashLog | None" = None,
) -> Generator[Outcome, None, None]:
    """The outcome of each task, in their order.

    Args:
        tasks: taken as they are needed: up to `Plan.ahead` bytes of pictures before their turn.
        plan: what is asked.
        scope: the model.
        out: the output folder, for overlays.
        advance: called with how many more pictures are done, and how many of them failed.
        watch: told what is in work, and asked what is not to be.

    What goes wrong with a picture is in its rows. That the questions fit the model is looked at before, by `run`.
    """
    questions = questions_of(scope, plan, settle=False)

    def explain(items: list[_Item], shard: _Shard) -> None:
        with watch.working(*(item.ref for item in items)) if watch else nullcontext():
            _explain(scope, plan, questions, items, shard, out, advance)

    with _ahead(tasks, plan, scope, watch) as stream:
        shard: _Shard | None = None
        waiting: dict[tuple[int, int], list[_Item]] = {}
        for task, item in stream:
            if shard is None or task is not shard.task:
                shard = _Shard(task)
            if item.prepared is None:
                assert item.error is not None
                shard.rows[item.place] = _failed(questions, item, item.error)
                advance(1, 1)
            else:
                size = item.prepared.region.input
                waiting.setdefault(size, []).append(item)
                if len(waiting[size]) >= _most(plan, scope, size):
                    explain(waiting.pop(size), shard)
                elif sum(item.nbytes for items in waiting.values() for item in items) > plan.ahead:
                    fullest = max(waiting, key=lambda size: (len(waiting[size]), size))
                    explain(waiting.pop(fullest), shard)
            if item.place == len(task.refs) - 1:
                for size in sorted(waiting):
                    explain(waiting[size], shard)
                waiting.clear()
                yield shard.outcome(plan)


def given_up(task: Task, plan: Plan, scope: "Scope", error: VitscopeError) -> Outcome:
    """The outcome of a task that no worker survived: each of its pictures has rows with this error."""
    questions, shard = questions_of(scope, plan), _Shard(task)
    for place, ref in enumerate(task.refs):
        shard.rows[place] = _failed(questions, _Item(ref, place), error)
    return shard.outcome(plan)


def _most(plan: Plan, scope: "Scope", size: tuple[int, int]) -> int:
    """How many pictures of that input size go through the model together."""
    if not scope.adapter.supports_batches:
        return 1
    by_tokens = max(plan.batch_tokens // scope.adapter.layout(size).tokens, 1)
    return plan.batch_size or by_tokens


def _explain(
    scope: "Scope",
    plan: Plan,
    questions: tuple[MethodRequest, ...],
    items: list[_Item],
    shard: _Shard,
    out: Path | None,
    advance: Advance,
) -> None:
    """One batch, all questions."""
    prepared = [item.prepared for item in items if item.prepared]
    rows: list[list[dict[str, Any]]] = [[] for _ in items]
    for question in questions:
        for item, made, found in zip(items, rows, answers(scope, question, prepared), strict=True):
            made.extend(_rows(scope, plan, question, item, found, shard.task.number, out))
    reach("after-forward")
    for item, made in zip(items, rows, strict=True):
        shard.rows[item.place] = made
    advance(len(items), sum(any(row.get("error") for row in made) for made in rows))


def _rows(
    scope: "Scope",
    plan: Plan,
    question: MethodRequest,
    item: _Item,
    found: "list[Explanation] | VitscopeError",
    number: int,
    out: Path | None,
) -> list[dict[str, Any]]:
    """The rows of one picture and method, one for each target."""
    if isinstance(found, VitscopeError):
        return _failed((question,), item, found)
    rows = []
    for asked, e in zip(question.asked, found, strict=True):
        try:
            measurement = scope.measure(e, metrics=plan.metrics, seed=plan.seed) if plan.metrics else None
            overlay = None
            if plan.overlays and out is not None:
                from vitscope.batch.overlays import draw

                overlay = draw(e, out, number, item.ref, question.asked.index(asked))
            rows.append(row_of(item.ref, item.sha256, asked, e, measurement, overlay))
        except VitscopeError as error:
            rows.append(failed_row(item.ref, item.sha256, asked, question.name, error))
    return rows


def _failed(questions: tuple[MethodRequest, ...], item: _Item, error: VitscopeError) -> list[dict[str, Any]]:
    return [
        failed_row(item.ref, item.sha256, asked, question.name, error)
        for question in questions
        for asked in question.asked
    ]


@contextmanager
def _ahead(
    tasks: Iterable[Task], plan: Plan, scope: "Scope", watch: "CrashLog | None"
) -> Iterator[Iterator[tuple[Task, _Item]]]:
    """The pictures of all tasks in their order, made ready by threads, and not too many at a time."""
    keep = bool(plan.overlays or plan.metrics)
    with reading() as fetch, ThreadPoolExecutor(plan.workers or decoders(), "vitscope-decode") as pool:
        try:
            yield _stream(tasks, pool, plan, lambda ref, place: _item(scope, plan, fetch, ref, place, keep, watch))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _stream(
    tasks: Iterable[Task], pool: ThreadPoolExecutor, plan: Plan, make: Callable[[Ref, int], _Item]
) -> Iterator[tuple[Task, _Item]]:
    lock, held, seen, total = Lock(), 0, 0, 0

    def ready(ref: Ref, place: int) -> _Item:
        nonlocal held, seen, total
        item = make(ref, place)
        with lock:
            held, total, seen = held + item.nbytes, total + item.nbytes, seen + 1
        return item

    pending: deque[tuple[Task, Future[_Item]]] = deque()
    coming = ((task, place, ref) for task in tasks for place, ref in enumerate(task.refs))
    most = max(64, 2 * (plan.batch_size or plan.batch_tokens // _FEWEST_TOKENS))
    more = True
    while more or pending:
        while more and len(pending) < most:
            with lock:
                mean = total / seen if seen else _FIRST_GUESS
                room = plan.ahead - held - mean * sum(not future.done() for _, future in pending)
            if pending and room < mean:
                break
            nxt = next(coming, None)
            if nxt is None:
                more = False
                break
            task, place, ref = nxt
            pending.append((task, pool.submit(ready, ref, place)))
        if not pending:
            return
        task, future = pending.popleft()
        item = future.result()
        reach("after-decode")
        with lock:
            held -= item.nbytes
        yield task, item


def _item(
    scope: "Scope", plan: Plan, fetch: Reader, ref: Ref, place: int, keep: bool, watch: "CrashLog | None" = None
) -> _Item:
    """Read, hash, decode and preprocess one picture; what goes wrong is its own."""
    if watch and (error := watch.verdict(ref)):
        return _Item(ref, place, error=error)
    sha256 = ""
    try:
        with watch.working(ref) if watch else nullcontext():
            picture, sha256 = fetch(ref)
            prepared = scope.prepare(picture, size=plan.size)
    except VitscopeError as error:
        return _Item(ref, place, sha256, error=error)
    except Exception as error:  # a preprocessing that breaks on one picture
        return _Item(ref, place, sha256, error=VitscopeError(f"{ref.source}: {type(error).__name__}: {error}"))
    return _Item(ref, place, sha256, prepared if keep else prepared.without_photo())


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def decoders() -> int:
    """Threads that read and decode ahead of the model: as many as there are cores, 16 at most."""
    return min(cores(), 16)
