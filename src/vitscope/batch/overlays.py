"""Maps drawn over their photos, and over a video."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from vitscope.batch.output import OVERLAYS, read_manifest, write_errors
from vitscope.batch.types import Ref
from vitscope.errors import MissingDependencyError, ResultError

if TYPE_CHECKING:
    from vitscope.explanation import Explanation

__all__ = ["overlay_paths", "write_overlay", "write_video"]


def write_overlay(e: "Explanation", out: Path, number: int, ref: Ref, which: int) -> str:
    """Write the overlay of one row; its path within the output folder.

    The style is the model's own where vitscope chose the method, as on the command line. The file appears whole; it is
    not synced, as the rows are.
    """
    inside = f"{OVERLAYS}/{number:06d}/{ref.id}-{e.method}-{which}.png"
    path = out / inside
    part = path.with_name(f".{path.name}.part")
    with write_errors(out):
        path.parent.mkdir(parents=True, exist_ok=True)
        e.overlay(**dict(e.provenance.get("drawing", {}))).save(part, "PNG", compress_level=4)
        part.replace(path)
    return inside


def overlay_paths(out: Path) -> Iterator[Path]:
    """The overlays of an output folder in the order of its source, of each photo the first."""
    last = None
    for shard in read_manifest(out):
        for row in pq.read_table(out / shard.file, columns=["id", "overlay"]).to_pylist():
            if row["overlay"] and row["id"] != last:
                last = row["id"]
                yield out / row["overlay"]


def write_video(pictures: Iterable[Path], path: Path, rate: float = 10.0) -> Path:
    """One video of pictures, in their order, at the size of the first.

    Args:
        pictures: overlays.
        path: where; its ending says the container, such as `.mp4`.
        rate: pictures a second.

    Raises:
        MissingDependencyError: PyAV is not installed.
        ResultError: no pictures, or a place that cannot be written.
    """
    if find_spec("av") is None:
        raise MissingDependencyError("writing videos needs PyAV, which", "video")
    part = path.with_name(f".part.{path.name}")
    try:
        with write_errors(path, "check the path"):
            _encode(pictures, part, rate)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _encode(pictures: Iterable[Path], path: Path, rate: float) -> None:
    import av

    with av.open(str(path), "w") as video:
        stream: Any = None
        for picture in pictures:
            with Image.open(picture) as image:
                if stream is None:
                    stream = video.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
                    stream.width, stream.height = (max(side // 2 * 2, 2) for side in image.size)
                    stream.pix_fmt = "yuv420p"
                fitted = image.convert("RGB").resize((stream.width, stream.height), Image.Resampling.BICUBIC)
            video.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(fitted), format="rgb24")))
        if stream is None:
            raise ResultError("there are no pictures to make a video of", "run with --overlays")
        video.mux(stream.encode(None))
