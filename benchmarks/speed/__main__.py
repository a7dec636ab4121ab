"""Measure speed and memory, row by row, and write docs/performance.md and its plots from the figures alone.

    python -m benchmarks.speed [--rows rollout-518,torchcam-196] [--again] [--quick] [--out FOLDER]
    python -m benchmarks.speed --report

Each row is a process of its own, and its figures are in docs/performance.json as soon as it has ended. A row that is
there is not run again, unless `--again` says so or the machine or its versions are others. `--quick` tries every row on
a tiny model, to see that it runs: its figures mean nothing and go to the folder `out`.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.speed.report import write

if TYPE_CHECKING:
    from benchmarks.speed.rows import Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def run_row(name: str, quick: bool, limit: float) -> dict[str, Any]:
    """Run one row in its process; return what it found, or why it found nothing."""
    command = [sys.executable, "-m", "benchmarks.speed", "--child", name, *(["--quick"] if quick else [])]
    began, load = time.perf_counter(), os.getloadavg()[0]
    told: dict[str, Any] = {"when": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"), "load": load}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd=ROOT, check=False)
    except subprocess.TimeoutExpired:
        return told | {"crashed": f"ended after {limit:.0f} seconds"}
    told["took"] = round(time.perf_counter() - began, 1)
    if done.returncode < 0:
        return told | {"crashed": f"ended by signal {-done.returncode}"}
    if done.returncode:
        return told | {"crashed": (done.stderr.strip().splitlines() or ["failed"])[-1][:240]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told | found


def child(measure: Callable[["Settings"], dict[str, Any]], settings: "Settings") -> None:
    """Measure and print what was found, as JSON, on the last line."""
    from vitscope.cli.malloc import keep_freed_memory

    os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    keep_freed_memory()
    if os.access("/proc/self/oom_score_adj", os.W_OK):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory ends, this process goes and no other
    print(json.dumps(measure(settings)))


def main() -> int:
    """Return the number of rows whose process ended without figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="names or their beginnings, with commas; all without")
    parser.add_argument("--again", action="store_true", help="run also rows that are there")
    parser.add_argument("--quick", action="store_true", help="only try whether rows run")
    parser.add_argument("--report", action="store_true", help="run nothing, write the page anew")
    parser.add_argument("--list", action="store_true", help="only name the rows")
    parser.add_argument("--out", type=Path, help="folder of performance.json and performance.md; docs, or out if quick")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if given.child or given.alone:
        from benchmarks.speed.rows import ROWS, Settings, alone

        name, side = (given.alone or ",0").split(",")
        child(partial(alone, name, int(side)) if name else ROWS[given.child].measure, Settings(given.quick))
        return 0
    folder = given.out or (ROOT / "out" if given.quick else DOCS)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "performance.json"
    told: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {"rows": {}}
    bad = 0
    if not given.report:
        from benchmarks.speed.rows import ROWS, machine

        begins = [text for text in given.rows.split(",") if text]
        chosen = [name for name in ROWS if not begins or any(name.startswith(text) for text in begins)]
        if given.list:
            print("\n".join(chosen))
            return 0
        if told.get("machine") != (here := machine()):
            told = {"machine": here, "rows": {}}
        for name in chosen:
            if name in told["rows"] and "crashed" not in told["rows"][name] and not given.again:
                continue
            print(f"{name} ...", end=" ", flush=True)
            found = run_row(name, given.quick, ROWS[name].limit)
            told["rows"][name] = {"group": ROWS[name].group, "about": ROWS[name].about} | found
            ordered = {one: told["rows"][one] for one in ROWS if one in told["rows"]}
            file.write_text(json.dumps(told | {"rows": ordered}, indent=1) + "\n", "utf-8")
            bad += "crashed" in found
            print(found.get("crashed") or f"{found['took']:.0f} s", flush=True)
    write(told, folder)
    return bad


if __name__ == "__main__":
    sys.exit(main())
