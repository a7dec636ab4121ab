"""Break the code in one line, run tests, and say whether they noticed: `python -m benchmarks.mutants --help`."""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.mutants.table import MUTANTS, SOURCE, Mutant

ROOT = Path(__file__).parents[2]
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", "-r", "fE")
TIERS = {"test": ("-m", "not slow"), "test-all": ()}
NO_TESTS = 5


def copied(folder: Path) -> Path:
    """Copy the files that git knows, or would add, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    (folder / ".cache").symlink_to(ROOT / ".cache")
    return folder


def run(tree: Path, *arguments: str) -> tuple[int, list[str]]:
    """Run pytest in a tree: its exit code, and the tests that failed."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, *PYTEST, *arguments], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    return ran.returncode, re.findall(r"^(?:FAILED|ERROR) (\S+)", ran.stdout, re.MULTILINE)


def judge(tree: Path, mutant: Mutant, chosen: list[str], everything: bool) -> str:
    """Return the first test that fails with the mutant, or an empty text.

    Args:
        tree: a copy of the repository; as before afterwards.
        mutant: the change.
        chosen: arguments of pytest.
        everything: run all tests where the expected files do not notice.
    """
    path = tree / SOURCE / mutant.file
    whole = path.read_text("utf-8")
    path.write_text(mutant.applied(whole), "utf-8")
    try:
        for files in ([f"tests/{name}" for name in mutant.tests], *([["tests"]] if everything else [])):
            code, failed = run(tree, "-x", *chosen, *files)
            if code not in (0, NO_TESTS):
                return failed[0] if failed else f"pytest ended with {code}"
        return ""
    finally:
        path.write_text(whole, "utf-8")


def main() -> int:
    """Judge the mutants, and print one line for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="mutants whose names hold one of these texts; all by default")
    parser.add_argument("--tier", choices=TIERS, default="test-all", help="of which tests: `make test` or all")
    parser.add_argument("--quick", action="store_true", help="run only the files that are expected to notice")
    parser.add_argument("--no-baseline", action="store_true", help="do not check first that unbroken code passes")
    parser.add_argument("--out", type=Path, help="JSON lines of what was found; those in it are not judged again")
    asked = parser.parse_args()
    chosen = [one for one in MUTANTS if not asked.names or any(text in one.name for text in asked.names)]
    found = read(asked.out)
    with tempfile.TemporaryDirectory(prefix="mutants-") as made:
        tree = copied(Path(made))
        files = sorted({f"tests/{name}" for mutant in chosen if mutant.name not in found for name in mutant.tests})
        options = [*TIERS[asked.tier]]
        if files and not asked.no_baseline:
            if failed := run(tree, *options, *files)[1]:
                print(f"{len(failed)} tests fail without a mutant, and are left out: {' '.join(failed)}")
            options += [f"--deselect={test}" for test in failed]
        for mutant in chosen:
            start = time.monotonic()
            if mutant.name not in found:
                found[mutant.name] = judge(tree, mutant, options, not asked.quick)
                if asked.out:
                    with asked.out.open("a") as file:
                        file.write(json.dumps({"mutant": mutant.name, "test": found[mutant.name]}) + "\n")
            by = found[mutant.name]
            print(
                f"{'caught  ' if by else 'SURVIVED'} {time.monotonic() - start:4.0f} s  {mutant.name}  {by}", flush=True
            )
    caught = sum(bool(found[one.name]) for one in chosen)
    print(f"{asked.tier}{' (expected files)' * asked.quick}: {caught} of {len(chosen)} mutants caught")
    return int(caught < len(chosen))


def read(path: Path | None) -> dict[str, str]:
    """Read what an earlier run found: for each mutant the test, or an empty text."""
    if path is None or not path.exists():
        return {}
    return {line["mutant"]: line["test"] for line in map(json.loads, path.read_text().splitlines())}


if __name__ == "__main__":
    sys.exit(main())
