"""In-memory storage of each session's photos and views, bounded in bytes and number."""

import secrets
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from vitscope._messages import Message, msg
from vitscope.web.http_errors import HTTPError

T = TypeVar("T")


@dataclass
class _Item(Generic[T]):
    session: str
    value: T
    size: int


class SessionStore(Generic[T]):
    """Items by random id; when they exceed the bound, the session that holds most bytes loses its least recently used.

    Args:
        kind: of item, which error messages name.
        max_bytes: of all items.
        max_items: of all sessions.
    """

    def __init__(self, kind: Literal["photo", "view"], max_bytes: int, max_items: int) -> None:
        self.kind, self.max_bytes, self.max_items = kind, max_bytes, max_items
        self._items: OrderedDict[str, _Item[T]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, session: str, value: T, size: int) -> str:
        """Store an item of `size` bytes and return its id."""
        key = secrets.token_urlsafe(18)
        with self._lock:
            self._items[key] = _Item(session, value, size)
            self._evict(key)
        return key

    def resize(self, key: str, size: int) -> None:
        """Record an item's new size in bytes; do nothing where the item is gone."""
        with self._lock:
            if key in self._items:
                self._items[key].size = size
                self._evict(key)

    def get(self, session: str, key: str) -> T:
        """Return an item; raise an HTTPError (404) for an unknown id, and for another session's item alike."""
        with self._lock:
            item = self._items.get(key)
            if item is None or item.session != session:
                raise HTTPError(404, *_not_found(self.kind))
            self._items.move_to_end(key)
            return item.value

    def remove(self, key: str) -> None:
        """Remove an item, if it is there."""
        with self._lock:
            self._items.pop(key, None)

    @property
    def size(self) -> int:
        """Bytes of all items."""
        with self._lock:
            return sum(item.size for item in self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    def _evict(self, newest: str) -> None:
        """Remove items until the rest is within the bound; never the newest."""
        held: Counter[str] = Counter()
        for item in self._items.values():
            held[item.session] += item.size
        while len(self._items) > 1 and (held.total() > self.max_bytes or len(self._items) > self.max_items):
            others = {item.session for key, item in self._items.items() if key != newest}
            largest = max(others, key=lambda session: held[session])
            oldest = next(k for k, item in self._items.items() if item.session == largest and k != newest)
            held[largest] -= self._items.pop(oldest).size


def _not_found(kind: str) -> tuple[Message, Message]:
    if kind == "photo":
        return (
            msg("web.no-such-photo", "this photo does not exist"),
            msg(
                "web.no-such-photo.hint", "photos are kept for a while, for the browser that sent them: upload it again"
            ),
        )
    return (
        msg("web.no-such-view", "this view does not exist"),
        msg("web.no-such-view.hint", "views are kept for a while, for the browser that made them: make it again"),
    )
