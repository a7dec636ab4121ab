"""Files and folders that appear whole or not at all."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitscope.errors import ResultError

__all__ = ["path_exists", "staged_folder"]


def path_exists(path: Path) -> bool:
    """Is something there? A path that cannot even be looked at is told of when it is written."""
    try:
        return path.exists()
    except OSError:
        return False


@contextmanager
def staged_folder(folder: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the `with` ends well, and vanishes otherwise.

    Raises:
        ResultError: `folder` is there already (without `force`), is not a result, or cannot be written.
    """
    if path_exists(folder) and not force:
        raise ResultError(f"{folder} is already there", "--force (force=True) replaces it, or choose another place")
    if path_exists(folder) and not _replaceable(folder):
        raise ResultError(f"{folder} is not a result of vitscope: it is not replaced", "choose another place")
    work = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name[:40]}.", dir=folder.parent))
        (stage := work / "new").mkdir()
        yield stage
        if folder.exists():
            folder.replace(work / "old")
        stage.replace(folder)
    except OSError as error:
        raise ResultError(f"{folder} cannot be written: {error.strerror or error}", "check the place") from error
    finally:
        if work is not None:
            if (work / "old").exists() and not folder.exists():  # interrupted between the two
                (work / "old").replace(folder)
            shutil.rmtree(work, ignore_errors=True)


def _replaceable(folder: Path) -> bool:
    """Is it a result, or an empty folder? A `manifest.json` alone is what web pages have, too."""
    try:
        if not any(folder.iterdir()):
            return True
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        return {"schema", "method", "layout", "region"} <= set(manifest)
    except (OSError, ValueError, TypeError):
        return False
