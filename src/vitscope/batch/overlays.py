"""Maps drawn over their photos, as image files and as a video."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from vitscope._files import atomic_write
from vitscope._messages import msg
from vitscope.batch.output import RESUME
from vitscope.batch.results import row_batches
from vitscope.batch.types import Ref
from vitscope.errors import ImageError, ResultError, require_package
from vitscope.images import load_image
from vitscope.render.film import encode_video

if TYPE_CHECKING:
    from vitscope.explanation import Explanation

_OVERLAY = re.compile(r"overlays/\d{6,}/[0-9a-f]{32}-[\w-]+-\d+\.png", re.ASCII)
_AGAIN = msg("batch.overlay.hint", "restore the file, or run the batch again into another {@out}")


def write_overlay(e: "Explanation", out: Path, number: int, ref: Ref, target_index: int) -> str:
    """Write the overlay of one row and return its path within the output folder.

    The style is the model's own where vitscope chose the method, as on the command line. The file appears whole; unlike
    the rows it is not synced.
    """
    inside = f"overlays/{number:06d}/{ref.id}-{e.method}-{target_index}.png"
    with atomic_write(out / inside, RESUME) as part:
        e.overlay(**dict(e.provenance.get("drawing", {}))).save(part, "PNG", compress_level=4)
    return inside


def overlay_paths(out: Path) -> Iterator[Path]:
    """Yield the first overlay of each image, in the order of the source."""
    last = None
    for part in row_batches(out, columns=["id", "overlay"]):
        for row in part.to_pylist():
            if row["overlay"] and row["id"] != last:
                last = row["id"]
                if not _OVERLAY.fullmatch(row["overlay"]):
                    problem = msg("batch.overlay-name", "row {id} names a file that is no overlay of the run", id=last)
                    raise ResultError(problem, _AGAIN)
                yield out / row["overlay"]


def write_video(images: Iterable[Path], path: Path, rate: float = 10.0) -> Path:
    """Write images as one video, in their order and at the size of the first.

    Args:
        images: overlays.
        path: where; its suffix chooses the container, such as `.mp4`.
        rate: images per second.

    Raises:
        MissingDependencyError: PyAV is not installed.
        ResultError: no images, or a path that cannot be written.
    """
    require_package("av", "PyAV", extra="video")
    with atomic_write(path) as part:
        if not encode_video(_opened(images), part, rate):
            raise ResultError.coded(
                "batch.no-overlays", "there are no overlays for a video", "run the batch with {@overlays=True}"
            )
    return path


def _opened(images: Iterable[Path]) -> Iterator[Image.Image]:
    for one in images:
        try:
            picture = load_image(one)
        except ImageError as error:
            problem = msg("batch.broken-overlay", "an overlay is damaged: {reason}", reason=error.message)
            raise ResultError(problem, _AGAIN) from error
        yield picture.pil()
