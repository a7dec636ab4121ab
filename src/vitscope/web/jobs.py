"""The job queue: one thread runs the model; jobs report progress, can be cancelled and have a time limit."""

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from vitscope._messages import Message, msg
from vitscope.errors import OutOfMemoryError, VitscopeError, is_out_of_memory
from vitscope.web.http_errors import HTTPError, internal_error, stopping, to_http_error
from vitscope.web.limits import Limits

JobState: TypeAlias = Literal["waiting", "running", "done", "failed", "cancelled"]
log = logging.getLogger(__name__)

_CANCELLED = msg("web.cancelled", "cancelled")


class JobCancelled(BaseException):
    """Raised inside a job that must end; not an Exception, so that no `except Exception` swallows it."""


@dataclass(eq=False)
class Job:
    """One piece of work for the model.

    Attributes:
        session: that submitted it.
        work: does it, given the job; calls `report` and `check` now and then.
        seconds: for which it may run.
        priority: runs before jobs without priority.
        state: of its life cycle.
        stage: what it is doing, at `done` of `total`.
        parts: how often there was more of its result to be seen.
        first: what there was of it at first, and `latest` now; None before, and where it failed.
        result: settled with the return value of `work`, or with an HTTPError.
    """

    session: str
    work: Callable[["Job"], Any]
    seconds: float
    priority: bool = False
    state: JobState = "waiting"
    stage: str = ""
    done: int = 0
    total: int = 0
    parts: int = 0
    first: Any = field(default=None, repr=False)
    latest: Any = field(default=None, repr=False)
    result: "Future[Any]" = field(default_factory=Future)
    _deadline: float = math.inf
    _stop_error: HTTPError | None = None
    _settling: Any = field(default_factory=threading.Lock, repr=False)
    _settled: bool = False

    def report(self, stage: str, done: int, total: int) -> None:
        """Record the progress; raise JobCancelled where the job is cancelled or out of time."""
        self.stage, self.done, self.total = stage, done, total
        self.check()

    def show(self, part: Any) -> None:
        """Record what there is of the result so far, for those who wait for it."""
        self.first, self.latest = self.first or part, part
        self.parts += 1

    def check(self) -> None:
        """Raise JobCancelled where the job is cancelled or out of time."""
        if self._stop_error is None and time.monotonic() > self._deadline:
            self._stop_error = HTTPError(
                422,
                msg(
                    "web.out-of-time",
                    "the model was stopped after {seconds} seconds",
                    seconds=format(self.seconds, "g"),
                ),
                msg(
                    "web.out-of-time.hint",
                    "use a smaller size or fewer methods, or do not measure; `vitscope serve --seconds` sets the limit",
                ),
            )
        if self._stop_error is not None:
            raise JobCancelled

    def stop(self, reason: Message = _CANCELLED) -> None:
        """Ask the job to end; a settled job stays as it is."""
        self._stop_error = self._stop_error or HTTPError(409, reason)

    def run(self) -> None:
        """Do the work and settle the result, whatever happens."""
        self.state, self._deadline = "running", time.monotonic() + self.seconds
        try:
            self.check()
            result = self.work(self)
        except JobCancelled:
            self._fail(self._stop_error or HTTPError(409, _CANCELLED))
        except HTTPError as error:
            self._fail(error)
        except VitscopeError as error:
            self._fail(to_http_error(error))
        except BaseException as error:
            if is_out_of_memory(error):
                self._fail(to_http_error(OutOfMemoryError.of(error, "this view")))
                return
            log.exception("a job failed")
            self._fail(internal_error(error))
        else:
            if self._settle():
                self.state = "done"
                self.result.set_result(result)

    def abandon(self) -> None:
        """Settle the result of a job that does not end, for those who wait for it."""
        self._fail(self._stop_error or HTTPError(409, _CANCELLED))

    def _settle(self) -> bool:
        """Return True the first time."""
        with self._settling:
            first, self._settled = not self._settled, True
        return first

    def _fail(self, error: HTTPError) -> None:
        if not self._settle():
            return
        self.state = "cancelled" if error.status == 409 else "failed"
        self.first = self.latest = None
        self.result.set_exception(error)


class Worker:
    """The one thread in which models run.

    Args:
        limits: of the queue, for one session and for all, and of a job's time.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._waiting: list[Job] = []
        self._running: Job | None = None
        self._closed = False
        self._mean_seconds = 1.0  # of recent jobs, for retry-after
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run_jobs, name="vitscope model", daemon=True)
        self._thread.start()

    def submit(self, session: str, work: Callable[[Job], Any], *, priority: bool = False) -> Job:
        """Put a job into the queue.

        Raises:
            HTTPError: 429 where the session's queue is full, 503 where that of all sessions is, with `retry-after`.
        """
        with self._change:
            if self._closed:
                raise HTTPError(503, stopping())
            seconds = round(self._mean_seconds * (len(self._waiting) + 1) / 2)
            retry = {"retry-after": str(max(1, min(60, seconds)))}
            if sum(job.session == session for job in self._waiting) >= self.limits.queue_per_session:
                problem = msg(
                    "web.session-queue-full",
                    "{count} of your requests are already waiting",
                    count=self.limits.queue_per_session,
                )
                raise HTTPError(
                    429, problem, msg("web.session-queue-full.hint", "wait for one of them, or cancel it"), retry
                )
            if len(self._waiting) >= self.limits.queue:
                raise HTTPError(
                    503,
                    msg("web.queue-full", "the server is busy: its queue is full"),
                    msg("web.queue-full.hint", "try again soon"),
                    retry,
                )
            job = Job(session, work, self.limits.job_seconds, priority)
            position = sum(other.priority for other in self._waiting) if priority else len(self._waiting)
            self._waiting.insert(position, job)
            self._change.notify()
            return job

    def jobs_ahead(self, job: Job) -> int:
        """Return how many jobs will be finished before this one starts."""
        with self._change:
            before = self._waiting.index(job) if job in self._waiting else 0
            return before + (self._running is not None and job in self._waiting)

    def cancel(self, job: Job, reason: Message = _CANCELLED) -> None:
        """End a job: at once where it waits, else before the model's next forward."""
        job.stop(reason)
        with self._change:
            if job not in self._waiting:
                return
            self._waiting.remove(job)
        job.run()  # settles it: the stop request is seen first

    def close(self, seconds: float) -> bool:
        """Cancel all jobs and end the thread; return whether it ended within `seconds`; another call waits no more."""
        with self._change:
            seconds = 0 if self._closed else seconds
            self._closed = True
            jobs = [*self._waiting, *([self._running] if self._running else [])]
            self._change.notify()
        for job in jobs:
            self.cancel(job, stopping())
        self._thread.join(seconds)
        if self._thread.is_alive():
            for job in jobs:
                job.abandon()
        return not self._thread.is_alive()

    def _run_jobs(self) -> None:
        while True:
            with self._change:
                self._running = None
                self._change.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                job = self._running = self._waiting.pop(0)
            start = time.monotonic()
            job.run()
            self._mean_seconds += 0.3 * (time.monotonic() - start - self._mean_seconds)
