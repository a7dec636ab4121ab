"""A run that is killed, and killed again: `benchmarks/kills.py`, in short."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import faults

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_every_point_and_at_six_random_moments(tmp_path):
    """`benchmarks/kills.py` does the work and asserts; here its count is looked at."""
    points = 2 * len(faults.POINTS) - 2
    assert len(faults.POINTS) >= 8
    command = [sys.executable, ROOT / "benchmarks" / "kills.py", "--deadly", "--points", "--kills", str(points + 6)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] == points + 6
    assert told["killed_in_time"] >= points + 3
    assert told["finished_runs"] >= 1
    assert told["shards_kept"] > 0
    assert told["deadly_rows"] == 2
