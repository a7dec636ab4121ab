"""One thread at a time for each model: whatever switches, watches or replaces parts of a model holds it meanwhile.

A model is its modules, parameters and configurations. Two models that share one of these (a wrapper and the model in
it, a part, a tied embedding) wait for each other; any others run side by side. Threads get a model in the order in
which they asked for it.
"""

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from torch import nn

from vitscope._messages import msg
from vitscope.attention.changes import Changes, Guard
from vitscope.errors import CaptureError

_SECONDS = 0.1  # how soon a waiting thread looks again, should nobody wake it


class _Table:
    """Which threads hold and wait for which models, in this process."""

    def __init__(self) -> None:
        self.guard = Guard()
        self.held: list[ModelHold] = []
        self.waiting: dict[ModelHold, threading.Lock] = {}


_TABLE = _Table()
if hasattr(os, "register_at_fork"):  # the parent's other threads do not exist in a child
    os.register_at_fork(after_in_child=_TABLE.__init__)  # type: ignore[misc]


class ModelHold:
    """The right of one thread to a model; a thread that has it already gets it again.

    Args:
        model: the module; whatever it is a part of, or has a part of, is held as well.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.thread, self._parts = model, 0, frozenset[int]()

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
        while self in _TABLE.held:
            _TABLE.held.remove(self)
        for gate in tuple(_TABLE.waiting.values()):
            if gate.locked():
                _open(gate)
        _TABLE.guard.free()

    def _taken(self, gate: threading.Lock, holds_others: bool) -> bool:
        """Take the model if it is free, and if no other thread asked before; else wait in line."""
        with _TABLE.guard:
            ahead = list(_TABLE.waiting)
            if self in ahead:
                ahead = ahead[: ahead.index(self)]
            # who holds a model already goes first: those ahead may wait for that one
            if not self._blocking(tuple(_TABLE.held)) and (holds_others or not self._blocking(ahead)):
                _TABLE.held.append(self)
                _TABLE.waiting.pop(self, None)
                return True
            _TABLE.waiting.setdefault(self, gate)
            if holds_others and self._waits_for_itself():
                raise CaptureError(
                    msg("attention.models-in-a-circle", "two threads each hold a model that the other one waits for"),
                    msg("attention.models-in-a-circle.hint", "use several models in the same order in each thread"),
                )
            return False

    def _blocking(self, holds: "Sequence[ModelHold]") -> "list[ModelHold]":
        """Return those of other threads that have a part in common with this one."""
        return [hold for hold in holds if hold.thread != self.thread and not self._parts.isdisjoint(hold._parts)]

    def _waits_for_itself(self) -> bool:
        """Return whether a thread that this one waits for waits, maybe through others, for this one."""
        seen, threads = set[int](), [hold.thread for hold in self._blocking(tuple(_TABLE.held))]
        while threads:
            thread = threads.pop()
            if thread not in seen:
                seen.add(thread)
                wanted = [hold for hold in list(_TABLE.waiting) if hold.thread == thread]
                threads += [other.thread for hold in wanted for other in hold._blocking(tuple(_TABLE.held))]
        return self.thread in seen


def exclusive(model: nn.Module) -> Changes:
    """Hold a model during a `with`, in which changes to it can be recorded."""
    return _ChangesOfHeldModel(model)


class _ChangesOfHeldModel(Changes):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._hold = ModelHold(model)

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.on_exit(self._hold.release)
            self._hold.acquire()
        except BaseException:
            self.undo()
            raise
        return self


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


def _open(gate: threading.Lock) -> None:
    """Wake the thread that waits at a gate, if another did not do so just now."""
    with suppress(RuntimeError):
        gate.release()
