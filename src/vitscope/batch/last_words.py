"""One line on stderr where this process is ended from within, by a library that asks nobody, or for want of memory."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from vitscope._messages import Message

# it reads the line, then waits: an empty line is an orderly end, the end of the pipe is none
_WATCH = "import sys; said, end = sys.stdin.readline(), sys.stdin.readline(); end or sys.stderr.write(said)"


@contextmanager
def last_words(line: Message) -> Iterator[None]:
    """Have another process write a line where this one ends before the `with` does, also by SIGKILL.

    A thread of Ray ends the process where a connection breaks: no handler, `finally` or `atexit` of Python runs then.

    Cost: a process without any imports, some 10 MB.
    """
    command = [sys.executable, "-I", "-S", "-c", _WATCH]
    watch = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    assert watch.stdin is not None
    try:
        watch.stdin.write(f"vitscope: {line.spoken('cli')}\n".encode())
        watch.stdin.flush()
        yield
    finally:
        watch.communicate(b"\n")
