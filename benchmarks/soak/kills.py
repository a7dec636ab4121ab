"""Kill `batch` and go on, by `benchmarks/kills.py`, which looks at every row and shard itself."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.soak.counts import Counts

__all__ = ["run"]

_SCRIPT = Path(__file__).parents[1] / "kills.py"
_SECONDS_EACH, _SECONDS_MORE = 20, 300


def run(count: int, seed: int) -> Counts:
    """Kill it `count` times; a script that ends with an error has found a row or a shard that is not as it must be."""
    counts = Counts(tried=count)
    command = [sys.executable, _SCRIPT, "--kills", str(count), "--seed", str(seed)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=count * _SECONDS_EACH + _SECONDS_MORE, check=False
        )
    except subprocess.TimeoutExpired:
        counts.mark("hung", "the script did not end")
        return counts
    if done.returncode:
        counts.mark("lost", done.stderr.strip().rpartition("\n")[2])
        return counts
    told = json.loads(done.stdout.splitlines()[-1])
    counts.right = told["kills"]
    counts.figures = {name: told[name] for name in ("killed_in_time", "rows_compared", "shards_kept")}
    return counts
