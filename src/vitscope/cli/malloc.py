"""Settings of the C allocator for work that frees and allocates the same large blocks again and again."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # as in malloc.h
_TRIM_BYTES, _MMAP_BYTES = 512 * 2**20, 32 * 2**20


def keep_freed_memory() -> bool:
    """Let glibc keep up to 512 MB of freed memory for the next forward, and take blocks below 32 MB from it.

    By default glibc returns freed blocks to the system after each image, and the next image pays for every page again:
    some 3 % of a forward on one machine. The setting holds for the whole process, so only programs make it (the command
    line does), never the library.

    Returns:
        Whether the setting was made: False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    settings = ((_M_TRIM_THRESHOLD, _TRIM_BYTES), (_M_MMAP_THRESHOLD, _MMAP_BYTES))
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in settings)
