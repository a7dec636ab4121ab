"""What the model is asked, one question after the other: a bounded queue, one thread, progress, cancel, time limit."""

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from vitscope.errors import VitscopeError
from vitscope.web.http_errors import HTTPError, refused
from vitscope.web.limits import Limits

__all__ = ["Job", "State", "Stopped", "Worker"]

State: TypeAlias = Literal["waiting", "running", "done", "failed", "cancelled"]
log = logging.getLogger(__name__)


class Stopped(BaseException):
    """RelevanceTile inside a question that is not to be answered any more; no `except Exception` may keep it."""


@dataclass(eq=False)
class Job:
    """One question.

    Attributes:
        owner: the session that asks.
        work: answers it; given the job, whose `tick` and `look_up` it calls.
        seconds: how long the model may work on it.
        quick: goes before others that wait.
        state: how far it is.
        stage: what is done now, with `done` of `total`.
        answer: settled with what `work` returned, or with a HTTPError.
    """

    owner: str
    work: Callable[["Job"], Any]
    seconds: float
    quick: bool = False
    state: State = "waiting"
    stage: str = ""
    done: int = 0
    total: int = 0
    answer: "Future[Any]" = field(default_factory=Future)
    _until: float = math.inf
    _why: HTTPError | None = None

    def tick(self, stage: str, done: int, total: int) -> None:
        """So far it is; called from within the work.

        Raises:
            Stopped: cancelled, or out of time.
        """
        self.stage, self.done, self.total = stage, done, total
        self.look_up()

    def look_up(self) -> None:
        """Go on?

        Raises:
            Stopped: cancelled, or out of time.
        """
        if self._why is None and time.monotonic() > self._until:
            words = f"the model worked for {self.seconds:g} seconds and was stopped"
            self._why = HTTPError(422, words, "a smaller size, fewer methods, or without measuring; --seconds sets it")
        if self._why is not None:
            raise Stopped

    def stop(self, detail: str) -> None:
        """End it soon; a question that is settled stays so."""
        self._why = self._why or HTTPError(409, detail)

    def run(self) -> None:
        """Answer it, whatever happens."""
        self.state, self._until = "running", time.monotonic() + self.seconds
        try:
            self.look_up()
            found = self.work(self)
        except Stopped:
            self._settle(self._why)
        except HTTPError as refusal:
            self._settle(refusal)
        except VitscopeError as error:
            self._settle(refused(error))
        except BaseException as error:
            log.exception("a question could not be answered")
            self._settle(
                HTTPError(500, f"this went wrong inside: {type(error).__name__}", "the server's log says more")
            )
        else:
            self.state = "done"
            self.answer.set_result(found)

    def _settle(self, refusal: HTTPError | None) -> None:
        refusal = refusal or HTTPError(409, "cancelled")
        self.state = "cancelled" if refusal.status == 409 else "failed"
        self.answer.set_exception(refusal)


class Worker:
    """The one thread in which models run.

    Args:
        limits: how many may wait, of one session and of all, and how long one may take.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._waiting: list[Job] = []
        self._running: Job | None = None
        self._closed = False
        self._spent = 1.0  # seconds of a usual question
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="vitscope model", daemon=True)
        self._thread.start()

    def ask(self, owner: str, work: Callable[[Job], Any], *, quick: bool = False) -> Job:
        """Put a question into the queue.

        Raises:
            HTTPError: 429 where the session has enough waiting, 503 where all together have, with `retry-after`.
        """
        with self._change:
            if self._closed:
                raise HTTPError(503, "the server is being stopped")
            after = {"retry-after": str(max(1, min(60, round(self._spent * (len(self._waiting) + 1) / 2))))}
            if sum(job.owner == owner for job in self._waiting) >= self.limits.each:
                words = f"{self.limits.each} of your questions are waiting already"
                raise HTTPError(429, words, "wait for one of them, or cancel it", after)
            if len(self._waiting) >= self.limits.waiting:
                raise HTTPError(503, "the server is busy: its queue is full", "try again soon", after)
            job = Job(owner, work, self.limits.seconds, quick)
            at = sum(other.quick for other in self._waiting) if quick else len(self._waiting)
            self._waiting.insert(at, job)
            self._change.notify()
            return job

    def ahead(self, job: Job) -> int:
        """How many are answered before it."""
        with self._change:
            before = self._waiting.index(job) if job in self._waiting else 0
            return before + (self._running is not None and job in self._waiting)

    def cancel(self, job: Job, detail: str = "cancelled") -> None:
        """End a question: at once where it waits, else before the model's next forward."""
        job.stop(detail)
        with self._change:
            if job not in self._waiting:
                return
            self._waiting.remove(job)
        job.run()  # which sees that it is stopped

    def close(self, seconds: float) -> bool:
        """Cancel everything and end the thread; is it ended within so many seconds?"""
        with self._change:
            self._closed = True
            left, running = list(self._waiting), self._running
            self._change.notify()
        for job in [*left, *([running] if running else [])]:
            self.cancel(job, "the server is being stopped")
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._change:
                self._running = None
                self._change.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                job = self._running = self._waiting.pop(0)
            begun = time.monotonic()
            job.run()
            self._spent += 0.3 * (time.monotonic() - begun - self._spent)
