"""Join the front end's modules into one script for each host, and minify its style sheets: `make bundle`.

The bundles are part of the repository, so that a clone installs without Node. `SUMS` records what they were made from;
a test compares it with the files.
"""

import hashlib
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
    """Return the digests of esbuild's version and options, of each source and of each bundle, one a line."""
    return (
        "\n".join([ESBUILD, " ".join(OPTIONS), *(f"{_digest(path)}  {name}" for name, path in sorted(_files()))]) + "\n"
    )


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
