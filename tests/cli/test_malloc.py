"""The C allocator's setting: freed memory stays with the process, and only where the command line asks for it."""

import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, sys
from pathlib import Path
if sys.argv[1] == "kept":
    from vitscope.cli.malloc import keep_freed_memory
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
blocks = [libc.malloc(2**20) for _ in range(64)]
for block in blocks:
    ctypes.memset(block, 1, 2**20)
for block in blocks:
    libc.free(block)
line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
print(int(line.split()[1]) // 1024)
"""


def resident(how):
    """Resident megabytes of a new process after it freed 64."""
    return int(subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's, and resident memory Linux's")
def test_freed_memory_is_kept_only_where_asked():
    assert resident("kept") - resident("as it is") > 50
