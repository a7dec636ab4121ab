"""Images one after another, as a video or an animated image."""

from collections.abc import Iterable
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def film_suffix() -> str:
    """Return `.mp4` where PyAV is installed, else `.webp`, an animation that Pillow writes."""
    return ".mp4" if find_spec("av") else ".webp"


_DESCRIPTION = 0x010E  # the tag of Exif


def write_film(images: Iterable[Image.Image], path: Path, rate: float, comment: str = "") -> None:
    """Write images as a film: a video by PyAV, or an animation by Pillow for `.webp` and `.gif`.

    Args:
        images: of one size.
        path: where; its suffix chooses the format.
        rate: images per second.
        comment: what an animation says of itself: a GIF in its comment, a WebP in the description of its Exif.
    """
    suffix = path.suffix.lower()
    if suffix not in (".webp", ".gif"):
        encode_video(images, path, rate)
        return
    first, *others = images
    words, exif = comment.encode(), Image.Exif()
    if words and suffix == ".webp":
        exif[_DESCRIPTION] = words
    about: dict[str, Any] = {"comment": words} if suffix == ".gif" else {"exif": exif}
    first.save(path, save_all=True, append_images=others, duration=round(1000 / rate), loop=0, quality=90, **about)


def encode_video(images: Iterable[Image.Image], path: Path, rate: float) -> int:
    """Write images as one H.264 video by PyAV, in their order and at the size of the first; return how many."""
    import av

    count = 0
    with av.open(str(path), "w") as video:
        stream: Any = None
        for image in images:
            count += 1
            if stream is None:
                stream = video.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
                stream.width, stream.height = (max(side // 2 * 2, 2) for side in image.size)
                stream.pix_fmt = "yuv420p"
            fitted = image.convert("RGB").resize((stream.width, stream.height), Image.Resampling.BICUBIC)
            video.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(fitted), format="rgb24")))
        if stream is not None:
            video.mux(stream.encode(None))
    return count
