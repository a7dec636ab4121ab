"""The line of a process that is ended from within."""

import os
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys
from vitscope._messages import msg
from vitscope.batch.last_words import last_words

try:
    with last_words(msg("batch.ray-ended-this", "it ended; go on with {@resume=True}")):
        exec(sys.argv[1])
except ValueError:
    pass
"""


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("os._exit(1)", 1, "vitscope: it ended; go on with --resume\n"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, "vitscope: it ended; go on with --resume\n"),
        ("pass", 0, ""),
        ("raise ValueError", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("os.fork() or os._exit(0); os.wait()", 0, ""),
    ],
)
def test_a_line_is_written_where_no_line_of_python_runs_any_more(end, code, said):
    command = [sys.executable, "-c", PROGRAM, end]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ.copy())
    assert (made.returncode, made.stderr, made.stdout) == (code, said, "")
