"""Changes to a model and to torch's state: each is recorded before it is made, and undone when its `with` ends.

An interrupt (Ctrl-C) can arrive between any two lines, also while changes are undone. Two rules make that harmless:

- A change is recorded before it is made, as an `undo` that can be called twice, and also where nothing has changed.
- It stays recorded until its `undo` has returned. What an interrupt left undone, the next enclosing `Changes` of the
  thread undoes; each `Changes` tries twice.

Tasks of asyncio that take turns on one thread have each their own open `Changes`, and those around where they began.
"""

import threading
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial, wraps
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from vitscope.attention._torch_private import add_hook, hook_numbers, remove_hook, remove_mode

P = ParamSpec("P")
R = TypeVar("R")


class Guard:
    """A lock around a few lines. `free`, to be called by what undoes them, unlocks it where an interrupt did not."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *raised: object) -> None:
        self.free()

    def free(self) -> None:
        """Unlock it, if this thread has locked it."""
        try:
            while True:
                self._lock.release()
        except RuntimeError:  # it is not, or no longer
            pass


# the `Changes` of a thread, or of a task on it, that are open, outermost first
_OPEN: "ContextVar[tuple[Changes, ...]]" = ContextVar("open changes", default=())


class Changes:
    """A context manager that undoes what was changed through it, the last change first."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    def __enter__(self) -> Self:
        try:
            _OPEN.set((*_OPEN.get(), self))
            return self  # noqa: TRY300 - an interrupt before it leaves them open
        except BaseException:
            self.undo()
            raise

    @property
    def is_open(self) -> bool:
        """Whether the caller's code runs inside its `with`, in the same task."""
        return self in _OPEN.get()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # on one line with its body, so that no interrupt comes between the two
        try: self.undo()  # fmt: skip # noqa: E701
        finally: self.undo()  # fmt: skip # noqa: E701

    def on_exit(self, undo: Callable[[], object]) -> None:
        """Record, before a change, how it is undone: by a call that may come twice, or where nothing has changed."""
        self._undo.append(undo)

    def set(self, owner: object, name: str, value: object) -> None:
        """Set an attribute of an object, in its own dictionary."""
        self.set_item(vars(owner), name, value)

    def set_item(self, values: dict[str, Any], name: str, value: object) -> None:
        """Set an item of a dictionary."""
        self.on_exit(
            partial(values.__setitem__, name, values[name]) if name in values else partial(_without, values, name)
        )
        values[name] = value

    def hook(self, module: nn.Module, hook: Callable[..., Any], *, before: bool = False, **options: bool) -> None:
        """Register a forward hook, or with `before` a pre-hook; the options are those of torch's function.

        It is called on this thread alone: a forward of the caller's own in another thread is not observed or changed.
        """
        number = next(hook_numbers)
        self.on_exit(partial(remove_hook, module, number))
        add_hook(module, number, _on_this_thread(hook, lambda *_: None), before=before, **options)

    def replace_forward(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        """Run a function in place of a module's forward, on this thread alone."""
        self.set(module, "forward", _on_this_thread(forward, module.forward))

    def mode(self, mode: TorchFunctionMode) -> None:
        """Enter a mode on this thread."""
        self.on_exit(partial(remove_mode, mode))
        mode.__enter__()  # type: ignore[no-untyped-call]

    def undo(self) -> None:
        """Undo what is recorded, and whatever is left of `Changes` opened later that an interrupt kept from it."""
        while self.is_open and (last := _OPEN.get()[-1]) is not self:
            last.undo()
        failure: Exception | None = None
        while self._undo:
            for _ in range(2):  # the error may be a signal handler's, such as that of a time limit, and not the undo's
                try:
                    self._undo[-1]()
                    break
                except Exception as error:  # the others are undone all the same
                    failure = failure or error
            del self._undo[-1]
        _OPEN.set(tuple(one for one in _OPEN.get() if one is not self))
        if failure is not None:
            raise failure


def restoring(function: Callable[P, R]) -> Callable[P, R]:
    """Undo, when a function ends, every change made during it that an interrupt left behind.

    Torch's own `no_grad` is among them: its end passes through the modes of this thread, whose code can be interrupted.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        changes = Changes()
        try:
            try:
                changes.__enter__()
                changes.on_exit(partial(torch.set_grad_enabled, torch.is_grad_enabled()))
                return function(*args, **kwargs)
            finally:
                changes.undo()
        finally:
            changes.undo()

    return run


def _on_this_thread(function: Callable[..., Any], elsewhere: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls `function` on the thread of now, and `elsewhere` on any other."""
    thread = threading.get_ident()

    def run(*args: Any, **kwargs: Any) -> Any:
        return (function if threading.get_ident() == thread else elsewhere)(*args, **kwargs)

    return run


def _without(values: dict[str, Any], name: str) -> None:
    values.pop(name, None)
