"""One thread at a time for each model: whatever switches, watches or replaces parts of a model holds it meanwhile.

A model is its modules, parameters and configurations. Two models that share one of these (a wrapper and the model in
it, a part, a tied embedding) wait for each other; any others run side by side. Threads get a model in the order in
which they asked for it. While a thread runs a function of the caller's, such as a progress callback, others that have
waited a moment may have its models: the function may wait for them.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial, wraps
from types import FrameType
from typing import ParamSpec, Self, TypeVar

from torch import nn

from vitscope._messages import msg
from vitscope.attention._torch_private import MODULE_CALL
from vitscope.attention.changes import Changes, Guard
from vitscope.errors import CaptureError, UsageError

P = ParamSpec("P")
R = TypeVar("R")

_SECONDS = 0.1  # how soon a waiting thread looks again, should nobody wake it; how long a callback keeps its models


class _Table:
    """Which threads hold and wait for which models, in this process."""

    def __init__(self) -> None:
        self.guard = Guard()
        self.held: list[ModelHold] = []
        self.waiting: dict[ModelHold, threading.Lock] = {}
        self.resuming: set[ModelHold] = set()  # of `waiting`, those that were lent: they come first


_TABLE = _Table()
if hasattr(os, "register_at_fork"):  # the parent's other threads do not exist in a child
    os.register_at_fork(after_in_child=_TABLE.__init__)  # type: ignore[misc]


class ModelHold:
    """The right of one thread to a model; a thread that has it already gets it again.

    Args:
        model: the module; whatever it is a part of, or has a part of, is held as well.
        pristine: the model is as it was while only this right is held, so that it can be lent; see `lending`.
    """

    def __init__(self, model: nn.Module, *, pristine: bool = False) -> None:
        self.model, self.pristine, self.thread, self._parts = model, pristine, 0, frozenset[int]()
        self.idle_since: float | None = None
        self.is_exclusive = False  # or that of a caller's own forward within a `capture`

    def acquire(self) -> None:
        """Wait until no other thread holds a part of the model. Record `release` before.

        Raises:
            CaptureError: the threads that hold it wait for a model that this thread holds.
        """
        self.thread = threading.get_ident()
        own = [hold for hold in tuple(_TABLE.held) if hold.thread == self.thread]
        known = [hold._parts for hold in own if hold.model is self.model]
        self._parts = known[0] if known else _parts(self.model)
        gate = threading.Lock()
        while not self._taken(gate, bool(own)):
            gate.acquire(timeout=_SECONDS)

    def release(self) -> None:
        """Let other threads have the model; may be called where it is not held."""
        _TABLE.waiting.pop(self, None)
        _TABLE.resuming.discard(self)
        while self in _TABLE.held:
            _TABLE.held.remove(self)
        _wake()
        _TABLE.guard.free()

    def _taken(self, gate: threading.Lock, holds_others: bool) -> bool:
        """Take the model if it is free, and if no other thread asked before; else wait in line."""
        with _TABLE.guard:
            ahead = list(_TABLE.waiting)
            if self in ahead:
                ahead = [*ahead[: ahead.index(self)], *_TABLE.resuming]
            # who holds a model already goes first: those ahead may wait for that one
            if (holds_others or not self._blocking(ahead)) and _take([self]):
                _TABLE.waiting.pop(self, None)
                return True
            _TABLE.waiting.setdefault(self, gate)
            if holds_others and self._waits_for_itself():
                raise CaptureError(
                    msg("attention.models-in-a-circle", "two threads each hold a model that the other one waits for"),
                    msg("attention.models-in-a-circle.hint", "use several models in the same order in each thread"),
                )
            return False

    @property
    def _is_lent(self) -> bool:
        """Whether another thread may take it: its own has been in a callback for a while."""
        return self.idle_since is not None and time.monotonic() - self.idle_since > _SECONDS

    def _blocking(self, holds: "Iterable[ModelHold]") -> "list[ModelHold]":
        """Return those of other threads that have a part in common with this one."""
        return [hold for hold in holds if hold.thread != self.thread and not self._parts.isdisjoint(hold._parts)]

    def _waits_for_itself(self) -> bool:
        """Return whether a thread that this one waits for waits, maybe through others, for this one."""
        held = [hold for hold in tuple(_TABLE.held) if hold.idle_since is None]
        seen, threads = set[int](), [hold.thread for hold in self._blocking(held)]
        while threads:
            thread = threads.pop()
            if thread not in seen:
                seen.add(thread)
                wanted = [hold for hold in list(_TABLE.waiting) if hold.thread == thread]
                threads += [other.thread for hold in wanted for other in hold._blocking(held)]
        return self.thread in seen


def _take(holds: "list[ModelHold]") -> bool:
    """Take all of these models, or none where a thread has one of them that it does not lend."""
    in_the_way = {other for hold in holds for other in hold._blocking(_TABLE.held)}
    if not all(hold._is_lent for hold in in_the_way):
        return False
    for hold in in_the_way:  # their threads take them back when their callbacks have ended
        _TABLE.held.remove(hold)
    _TABLE.held += holds
    return True


def lending(callback: Callable[P, R]) -> Callable[P, R]:
    """Return a caller's function during which other threads may have the models that this thread holds.

    It may wait for a thread that uses the same model. Others take a model only from a function that runs for more than
    a moment, and only where the model is as it was: never while weights, modes or hooks of it are others. When the
    function ends, this thread waits until it has the models again.

    Raises:
        UsageError: it is no function.
    """
    if not callable(callback):
        raise UsageError(
            msg("attention.progress", "{@progress} is a function of (name, done, total), not {value}", value=callback)
        )

    @wraps(callback)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        own = [hold for hold in tuple(_TABLE.held) if hold.thread == threading.get_ident()]
        if not all(hold.pristine for hold in own):
            return callback(*args, **kwargs)
        own = [hold for hold in own if hold.idle_since is None]
        with Changes() as changes:
            changes.on_exit(partial(_keep, own))
            for hold in own:
                hold.idle_since = time.monotonic()
            try:
                result = callback(*args, **kwargs)
            except Exception:  # which a caller on the way may catch; after Ctrl-C nothing is waited for
                _take_back(own)
                raise
            _take_back(own)
            return result

    return run


def _keep(own: "list[ModelHold]") -> None:
    """Lend models no longer, without those that others have now."""
    for hold in own:
        _TABLE.waiting.pop(hold, None)
        _TABLE.resuming.discard(hold)
        hold.idle_since = None
    _TABLE.guard.free()


def _take_back(own: "list[ModelHold]") -> None:
    """Wait until no other thread has any of these models; they go on being lent meanwhile."""
    gate = threading.Lock()
    while True:
        with _TABLE.guard:
            lent = [hold for hold in own if hold not in _TABLE.held]
            if _take(lent):
                _keep(own)
                return
            for hold in lent:
                _TABLE.waiting.setdefault(hold, gate)
                _TABLE.resuming.add(hold)
        gate.acquire(timeout=_SECONDS)


def exclusive(model: nn.Module, *, pristine: bool = False) -> Changes:
    """Hold a model during a `with`, in which changes to it can be recorded; `pristine` where there will be none."""
    return _ChangesOfHeldModel(model, pristine)


class _ChangesOfHeldModel(Changes):
    def __init__(self, model: nn.Module, pristine: bool) -> None:
        super().__init__()
        self._hold = ModelHold(model, pristine=pristine)
        self._hold.is_exclusive = True

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.on_exit(self._hold.release)
            self._hold.acquire()
        except BaseException:
            self.undo()
            raise
        return self


def require_no_forward(frame: FrameType | None) -> None:
    """Raise a UsageError inside a forward that vitscope runs on this thread, as in a hook of the model.

    What is computed there would be taken for a part of that forward, and its modes and hooks would act on it. A
    caller's own forward is not meant.

    Args:
        frame: of the caller, around which a module is looked for that vitscope calls.
    """
    held = [hold for hold in tuple(_TABLE.held) if hold.is_exclusive and hold.thread == threading.get_ident()]
    if not held:
        return
    while frame is not None and frame.f_code is not MODULE_CALL:
        frame = frame.f_back
    while frame is not None and not frame.f_globals.get("__name__", "").startswith("vitscope."):
        frame = frame.f_back
    if frame is not None:
        problem = msg(
            "attention.within-forward",
            "this was called within a forward of {model} that vitscope runs, as by a hook of it",
            model=type(held[-1].model).__name__,
        )
        raise UsageError(problem, msg("attention.within-forward.hint", "call it before or after that forward"))


def _parts(model: nn.Module) -> frozenset[int]:
    """Return the identities of a model's modules, parameters and configurations."""
    found: set[int] = set()
    for module in model.modules():
        found.add(id(module))
        found.update(id(parameter) for parameter in module._parameters.values() if parameter is not None)
        config = vars(module).get("config")
        if hasattr(config, "__dict__"):
            found.add(id(config))
    return frozenset(found)


def _wake() -> None:
    """Let all threads that wait look again."""
    for gate in tuple(_TABLE.waiting.values()):
        if gate.locked():
            with suppress(RuntimeError):  # another thread did so just now
                gate.release()
