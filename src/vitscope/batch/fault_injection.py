"""Points at which a test can have the process killed or an error raised; without `VITSCOPE_FAULT` they do nothing."""

import errno
import os
import signal
from collections import Counter

__all__ = ["POINTS", "reach"]

POINTS = (
    "after-lock",
    "after-plan",
    "during-decode",
    "after-decode",
    "after-forward",
    "before-shard-write",
    "during-shard-write",
    "after-shard-write",
    "after-shard-sync",
    "after-shard-rename",
    "after-stats-rename",
    "during-manifest-write",
    "after-manifest-sync",
    "after-manifest-rename",
)
_times: Counter[str] = Counter()


def reach(point: str, source: str = "") -> None:
    """Say that a point is reached.

    `VITSCOPE_FAULT=POINT` kills the process there, as `kill -9` does; `POINT:3` the third time; `POINT@03.png` with a
    picture whose source ends so; `POINT=ENOSPC` or another name of an error number raises that error, each time from
    then on.
    """
    wanted = os.environ.get("VITSCOPE_FAULT")
    if not wanted:
        return
    where, _, error = wanted.partition("=")
    place, _, ending = where.partition("@")
    name, _, nth = place.partition(":")
    if name != point or not source.endswith(ending):
        return
    _times[point] += 1
    if _times[point] < int(nth or 1):
        return
    if error:
        number = int(getattr(errno, error))
        raise OSError(number, os.strerror(number))
    os.kill(os.getpid(), signal.SIGKILL)
