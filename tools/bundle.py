"""Join the front end's modules into one script for each host, and minify its style sheets: `make bundle`.

The bundles are part of the repository, so that a clone installs without Node. `SUMS` records what they were made from,
the libraries in `package.json` included; a test compares it with the files.
"""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

ESBUILD = "esbuild@0.28.2"
OPTIONS = ("--bundle", "--minify", "--format=esm", "--target=es2022", "--log-level=warning")
ROOT = Path(__file__).parents[1] / "src" / "vitscope"
ENTRIES = (
    "viewer/assets/page.js",
    "viewer/assets/notebook.js",
    "viewer/assets/viewer.css",
    "web/assets/app.js",
    "web/assets/app.css",
    "batch/assets/explore.js",
    "batch/assets/explore.css",
)
SUMS = Path(__file__).with_name("bundles.txt")


def bundle_of(entry: str) -> Path:
    """Return where the bundle of an entry module is."""
    return ROOT / entry.replace("/assets/", "/bundles/")


def sums() -> str:
    """Return the versions of esbuild and each library, the options, and the digests of the files, one a line."""
    used = json.loads((ROOT.parents[1] / "package.json").read_text("utf-8"))["dependencies"]
    libraries = [f"{name}@{version}" for name, version in used.items()]
    digests = [f"{_digest(path)}  {name}" for name, path in sorted(_files())]
    return "\n".join([ESBUILD, *libraries, " ".join(OPTIONS), *digests]) + "\n"


def main() -> None:
    """Make all bundles."""
    for entry in ENTRIES:
        out = bundle_of(entry)
        out.parent.mkdir(exist_ok=True)
        subprocess.run(["npx", "--yes", ESBUILD, entry, *OPTIONS, f"--outfile={out}"], cwd=ROOT, check=True)
    SUMS.write_text(sums(), "utf-8")


def _files() -> Iterator[tuple[str, Path]]:
    for folder in ("viewer", "web", "batch"):
        for place in ("assets", "bundles"):
            for path in (ROOT / folder / place).iterdir():
                if path.suffix in (".js", ".css"):
                    yield path.relative_to(ROOT).as_posix(), path


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


if __name__ == "__main__":
    main()
