"""Seconds, processor seconds and peak memory of several ways to do something, in turn within one process.

Ratios are of neighbours in time, because the speed of a shared machine drifts. Every way first runs once to be warm and
once for its memory: the peak of the process's resident memory during that run, less what was resident before any way
had run. Before it the allocator gives back what it holds, so that no way inherits the pages of another. A way that
takes long has no separate warm run, and the run for its memory counts for its time as well.
"""

import ctypes
import gc
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Run = Callable[[], object]
LONG = 40.0  # seconds: such a way runs once, the others take turns beside it


def reset_peak() -> None:
    """Give freed memory back to the system, and let the peak of resident memory begin anew."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def resident() -> tuple[float, float]:
    """Return resident memory now and at its peak since `reset_peak`, in MB (Linux)."""
    lines = (line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    fields = dict(lines)
    now, peak = (int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


def timed(run: Run) -> tuple[float, float]:
    """Return the seconds of the clock and of the processor that a call takes."""
    began, used = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - began, time.process_time() - used


def measured(ways: Mapping[str, Run], rounds: int, seconds: float) -> dict[str, dict[str, Any]]:
    """Measure ways in turn.

    Args:
        ways: by name; the first is the floor.
        rounds: at most so many.
        seconds: no round begins after so many.

    Returns:
        For each way its `seconds` and `cpu`, a number for each round, and `mb`. A way that fails has `failed`, its own
        message, and no further round.
    """
    began = time.perf_counter()
    reset_peak()
    before, _ = resident()
    found: dict[str, dict[str, Any]] = {name: {"seconds": [], "cpu": [], "mb": None} for name in ways}
    for name, run in ways.items():
        try:
            reset_peak()
            first = timed(run)
            if first[0] < LONG:
                reset_peak()
                run()
            else:
                found[name] |= {"seconds": [first[0]], "cpu": [first[1]], "long": True}
            found[name]["mb"] = round(resident()[1] - before, 1)
        except Exception as error:  # of a peer, whatever it is
            found[name]["failed"] = said(error)
    again = {name: run for name, run in ways.items() if "failed" not in found[name] and "long" not in found[name]}
    for number in range(rounds):
        if number and time.perf_counter() - began > seconds:
            break
        for name, run in again.items():
            wall, cpu = timed(run)
            found[name]["seconds"].append(round(wall, 5))
            found[name]["cpu"].append(round(cpu, 5))
    return found


def said(error: BaseException) -> str:
    """Return an error's kind and first line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:240]
