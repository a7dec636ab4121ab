"""How many threads do what."""

import os

__all__ = ["cores", "decoders"]


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def decoders() -> int:
    """Threads that read and decode ahead of the model: as many as there are cores, 16 at most."""
    return min(cores(), 16)
