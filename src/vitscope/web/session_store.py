"""What is kept in memory: by a random name, for the session that made it, within a bound."""

import secrets
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from vitscope.web.http_errors import HTTPError

__all__ = ["SessionStore"]

T = TypeVar("T")


@dataclass
class _Kept(Generic[T]):
    owner: str
    value: T
    size: int


class SessionStore(Generic[T]):
    """Things of sessions; when there are too many, the session that holds most bytes loses what it used longest ago.

    Args:
        kind: what they are called in messages.
        most: bytes.
        count: how many.
    """

    def __init__(self, kind: str, most: int, count: int) -> None:
        self.kind, self.most, self.count = kind, most, count
        self._kept: OrderedDict[str, _Kept[T]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, owner: str, value: T, size: int) -> str:
        """Keep a thing of so many bytes; its name."""
        name = secrets.token_urlsafe(18)
        with self._lock:
            self._kept[name] = _Kept(owner, value, size)
            self._fit(name)
        return name

    def grow(self, name: str, size: int) -> None:
        """The thing is now so large; nothing where it is gone."""
        with self._lock:
            if name in self._kept:
                self._kept[name].size = size
                self._fit(name)

    def get(self, owner: str, name: str) -> T:
        """The thing.

        Raises:
            HTTPError: 404: there is none of this name, or it is another session's, which is not told apart.
        """
        with self._lock:
            kept = self._kept.get(name)
            if kept is None or kept.owner != owner:
                hint = f"a {self.kind} is kept for a while only, and for the browser that made it: make it again"
                raise HTTPError(404, f"there is no such {self.kind}", hint)
            self._kept.move_to_end(name)
            return kept.value

    def drop(self, name: str) -> None:
        """Forget it."""
        with self._lock:
            self._kept.pop(name, None)

    @property
    def size(self) -> int:
        """Bytes of all."""
        with self._lock:
            return sum(kept.size for kept in self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)

    def _fit(self, newest: str) -> None:
        """Let go of what is too much, but not of the newest."""
        held: Counter[str] = Counter()
        for kept in self._kept.values():
            held[kept.owner] += kept.size
        while len(self._kept) > 1 and (held.total() > self.most or len(self._kept) > self.count):
            others = {kept.owner for name, kept in self._kept.items() if name != newest}
            greedy = max(others, key=lambda owner: held[owner])
            oldest = next(n for n, kept in self._kept.items() if kept.owner == greedy and n != newest)
            held[greedy] -= self._kept.pop(oldest).size
