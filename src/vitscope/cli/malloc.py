"""The C allocator, set for work that frees and takes the same large blocks over and over."""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT, _OWN_PAGES = 512 * 2**20, 32 * 2**20


def keep_freed_memory() -> bool:
    """Let glibc keep up to 512 MB of freed memory for the next forward, and take blocks below 32 MB from it.

    By default glibc hands freed blocks back to the system after each picture, and the next picture pays for every page
    again: some 3 % of a forward on one machine. This is a setting of the whole process, so that only programs make
    it (the command line does), never the library.

    Returns:
        Whether the setting was made: False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        mallopt(name, value) == 1 for name, value in ((_M_TRIM_THRESHOLD, _KEPT), (_M_MMAP_THRESHOLD, _OWN_PAGES))
    )
