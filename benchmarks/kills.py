"""Kill `batch` with `kill -9` again and again, go on each time, and compare what is there with an undisturbed run.

    python benchmarks/kills.py --kills 1000

One process loads a tiny random model and forks a child for each attempt, so that an attempt costs tenths of a second.
Each child is killed at a random moment, none to four shards after it began, then the next goes on with `resume`.
After every kill the folder is looked at: each shard that the manifest lists must be there, hash to what is listed,
and be the very file that was there before (finished shards are not made again). When an attempt ends by itself, its
rows are compared with those of the undisturbed run, column by column, bit for bit; then a new folder is begun.
`--points` kills once or twice at each named point of `tests.helpers.faults` first. `--deadly` begins with a
image that kills each process that decodes it: it gets an error in its rows, and all others are as they would be.
What is not simulated: power that goes off while the system's own cache holds data that was reported as synced.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # a fork takes no threads along

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from vitscope.batch.run import run
from vitscope.batch.types import BatchPlan
from vitscope.scope import Scope, load

sys.path.append(str(Path(__file__).parents[1]))
from tests.helpers import faults

SHARD, DEADLY = 2, "005.png"
PLAN = BatchPlan("tiny", methods=("rollout", "relevance"), shard_size=SHARD, batch_size=2, workers=2)


@dataclass
class Counts:
    """Counts of what happened."""

    kills: int = 0
    killed_in_time: int = 0  # before the run had ended by itself
    finished_runs: int = 0
    rows_compared: int = 0
    shards_kept: int = 0  # listed shards found untouched after a kill, added up
    deadly_rows: int = 0  # of the image that kills, with its error
    seconds: float = 0.0


def tiny() -> Scope:
    from torchvision.models import VisionTransformer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 32, "num_classes": 3}
    return load(VisionTransformer(image_size=32, patch_size=8, **sizes).eval())


def photos(folder: Path, count: int) -> None:
    draw = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"{number // 16}" / f"{number:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (40, 48, 3), np.uint8)).save(place)
    (folder / "0" / "broken.png").write_bytes(b"not a picture")


def forked(work: Callable[[], object]) -> int:
    """Fork a child that does the work and exits with 0, or 70 after an exception; return its process id."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """How a child ended: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def moment(child: int, manifest: Path, chance: random.Random, gap: float) -> float:
    """Wait for a random moment: none to four shards later, and some time more; the mean time between shards.

    Counted in shards and not in seconds, so that it stays random over the whole run when the machine gets slower.
    """

    def written() -> int:
        return manifest.stat().st_mtime_ns if manifest.exists() else 0

    def alive() -> bool:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    left, last, since = chance.randrange(5), written(), None
    while left and alive():
        time.sleep(0.001)
        if (now := written()) != last:
            moment_now = time.monotonic()
            gap = 0.8 * gap + 0.2 * (moment_now - since) if since else gap
            last, since, left = now, moment_now, left - 1
    time.sleep(chance.uniform(0, 2 * gap))
    return gap


def check_folder(out: Path, before: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Inode and time of each listed shard, after looking that it is whole and the same as before."""
    if not (out / "manifest.json").exists():
        assert not before, "the manifest is gone"
        return {}
    found = {}
    for entry in json.loads((out / "manifest.json").read_text())["shards"]:
        path = out / entry["file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"], f"{path} is not what is listed"
        status = path.stat()
        found[entry["file"]] = (status.st_ino, status.st_mtime_ns)
    for name, was in before.items():
        assert found.get(name) == was, f"{name} was finished and made again"
    return found


def compare(out: Path, reference: Path, without: str = "") -> int:
    """Assert that two folders have equal rows, save those of the source `without`; return how many those are."""
    names = sorted(path.name for path in (reference / "data").iterdir())
    assert names == sorted(path.name for path in (out / "data").iterdir()), "other files than undisturbed"
    mine, other = (pq.read_table(folder / "data", use_threads=False) for folder in (out, reference))
    assert mine.num_rows == other.num_rows
    keys = list(zip(*(mine[name].to_pylist() for name in ("id", "method", "requested_target")), strict=True))
    assert len({*keys}) == len(keys), "a row is there twice"
    ends = [bool(without) and source.endswith(without) for source in other["source"].to_pylist()]
    assert {row["error_kind"] for row in mine.filter(pa.array(ends)).to_pylist()} <= {"CrashingImage"}
    fine = pa.array([not end for end in ends])
    for name in mine.column_names:
        assert mine[name].filter(fine).equals(other[name].filter(fine)), f"the column {name} differs"
    return sum(ends)


def kill_and_resume(arguments: argparse.Namespace, work: Path, report: Callable[[Counts], None]) -> Counts:
    source, reference, out, counts = work / "photos", work / "reference", work / "out", Counts()
    photos(source, arguments.images)
    rows = (arguments.images + 1) * len(PLAN.methods)
    scope, chance, start = tiny(), random.Random(arguments.seed), time.monotonic()
    begun = time.monotonic()  # undisturbed, and here: what is imported and hashed on first use is every child's
    run(str(source), reference, PLAN, scope=scope)
    usual = time.monotonic() - begun
    compare(reference, reference)
    assert threading.active_count() == 1, "a fork takes no threads along"

    def attempt(folder: Path, fault: str = "", plan: BatchPlan = PLAN) -> int:
        def go() -> None:
            if fault:
                faults.install(fault)
            if "decode" in fault:  # which processes apart do, and they import for seconds what they are to be struck in
                os.environ.update(faults.environment(fault, work / "faults"))
            run(str(source), folder, plan, scope=scope, resume=folder.exists())

        return forked(go)

    def fine(child: int) -> None:
        assert ended(child) == 0, "an attempt failed by itself"

    def finish() -> None:
        fine(attempt(out))
        fine(forked(lambda: compare(out, reference)))
        counts.finished_runs += 1
        counts.rows_compared += rows
        shutil.rmtree(out)

    if arguments.deadly:
        alone = replace(PLAN, batch_size=1)  # a batch that lacks a picture rounds differently
        fine(attempt(work / "alone", plan=alone))
        for code in (-signal.SIGKILL, -signal.SIGKILL, 0):
            assert ended(attempt(out, f"during-decode@{DEADLY}", alone)) == code, "a deadly image costs two runs"
        counts.deadly_rows = compare(out, work / "alone", DEADLY)
        assert counts.deadly_rows == len(PLAN.methods)
        shutil.rmtree(out)

    gap, listed = usual * SHARD / arguments.images, dict[str, tuple[int, int]]()
    waiting = [(point, nth) for point in (faults.POINTS if arguments.points else ()) for nth in (1, 3)]
    while waiting:  # one after another in the same folder, as long as there is something left to do in it
        point, nth = waiting.pop(0)
        if nth == 3 and point in ("after-lock", "after-plan"):  # reached once in a run
            continue
        code = ended(attempt(out, f"{point}:{nth}"))
        if code == 0:
            finish()
            listed = {}
            waiting.insert(0, (point, nth))
            continue
        assert code == -signal.SIGKILL, f"an attempt failed by itself: {code}"
        counts.kills += 1
        counts.killed_in_time += 1
        listed = check_folder(out, listed)
        counts.shards_kept += len(listed)
    while counts.kills < arguments.kills:
        child = attempt(out)
        gap = moment(child, out / "manifest.json", chance, gap)
        os.kill(child, signal.SIGKILL)
        code = ended(child)
        assert code in (0, -signal.SIGKILL), f"an attempt failed by itself: {code}"
        counts.kills += 1
        counts.killed_in_time += code != 0
        listed = check_folder(out, listed)
        counts.shards_kept += len(listed)
        if code == 0 or chance.random() < 0.03:
            finish()
            listed = {}
        counts.seconds = round(time.monotonic() - start, 1)
        report(counts)
    if out.exists():
        finish()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--points", action="store_true", help="first once or twice at each named point")
    parser.add_argument("--deadly", action="store_true", help="before that, with an image that kills")
    arguments = parser.parse_args()

    def report(counts: Counts) -> None:
        if counts.kills % 50 == 0:
            print(json.dumps(asdict(counts)), file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="vitscope-kills-") as work:
        print(json.dumps(asdict(kill_and_resume(arguments, Path(work), report))))


if __name__ == "__main__":
    main()
