"""Maps drawn over their photos, as image files and as a video."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
from PIL import Image

from vitscope._files import atomic_write
from vitscope._messages import msg
from vitscope.batch.output import RESUME, read_manifest
from vitscope.batch.types import Ref
from vitscope.errors import ResultError, require_package
from vitscope.render.film import encode_video

if TYPE_CHECKING:
    from vitscope.explanation import Explanation

__all__ = ["overlay_paths", "write_overlay", "write_video"]


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
    for shard in read_manifest(out):
        for row in pq.read_table(out / shard.file, columns=["id", "overlay"]).to_pylist():
            if row["overlay"] and row["id"] != last:
                last = row["id"]
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
            raise ResultError(
                msg("batch.no-overlays", "there are no overlays for a video"),
                msg("batch.no-overlays.hint", "run the batch with {@overlays=True}"),
            )
    return path


def _opened(images: Iterable[Path]) -> Iterator[Image.Image]:
    for one in images:
        with Image.open(one) as image:
            yield image
