"""Open videos: files that hold their own frames, and no lists of other files, addresses or devices."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vitscope._messages import msg
from vitscope._pillow import MAX_PIXELS, too_large
from vitscope.errors import ImageError, require_package
from vitscope.images import BinaryFile

# FFmpeg's names; others of its formats open what a file names (playlists), wait for a network (SDP) or run scripts
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,ogg,flv,asf,nut,mxf,gxf,rm,dv,wtv,swf,nsv,"
    "ivf,obu,av1,h261,h263,h264,hevc,vvc,m4v,vc1,dirac,cavsvideo,mjpeg,yuv4mpegpipe,apng,gif,jpegxl_anim,"
    "wav,w64,mp3,aac,flac,aiff,ac3"  # sounds, of which it is said that they hold no video
)


@contextmanager
def opened_video(file: BinaryFile, source: str) -> Iterator[Any]:
    """Open the video in a binary file; nothing but that file is read, and no frame beyond 100 million pixels is made.

    Args:
        file: from which PyAV reads; a name would be taken for an address where it looks like one.
        source: for messages.

    Yields: the container, with a video among its streams.

    Raises:
        ImageError: it holds no video, or one of larger frames.
        MissingDependencyError: PyAV is not installed.
    """
    require_package("av", "PyAV", extra="video")
    import av

    with av.open(file, "r", options={"format_whitelist": _FORMATS, "protocol_whitelist": ""}) as video:
        stream: Any = next(iter(video.streams.video), None)
        if not getattr(stream, "width", 0):
            raise ImageError(msg("media.no-video", "{source} holds no video", source=source))
        if stream.width * stream.height > MAX_PIXELS:
            raise too_large(f"{source} ({stream.width} x {stream.height})")
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # frames may be larger than their header says
        yield video
