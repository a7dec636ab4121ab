"""Videos made for tests."""

import av
import numpy as np


def write_video(path, pixels, rate=10):
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={"crf": "0", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:3], "yuv444p"
        for frame in pixels:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    return path


def numbered(count=24):
    """Frames that each have a grey of their own."""
    return np.stack([np.full((32, 48, 3), 10 * n, np.uint8) for n in range(count)])
