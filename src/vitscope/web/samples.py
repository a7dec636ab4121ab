"""The photos that come with the web app, so that there is something to look at."""

from functools import cache
from importlib.resources import files

from vitscope.images import Picture, decoded
from vitscope.web.http_errors import HTTPError

__all__ = ["SAMPLES", "picture", "raw"]

# name: file, what it shows, whose it is
SAMPLES = {
    "cat": ("cat.jpg", "a cat", "Stéfan van der Walt, CC0"),
    "astronaut": ("astronaut.jpg", "Eileen Collins", "NASA, public domain"),
    "coffee": ("coffee.jpg", "a cup of coffee", "Rachel Michetti, CC0"),
    "rocket": ("rocket.jpg", "a Falcon 9", "SpaceX, public domain"),
    "digits": ("digits.png", "two handwritten digits", "composed; digits: E. Alpaydin and C. Kaynak, UCI"),
}


def raw(name: str) -> tuple[bytes, str]:
    """A sample's file and its media type.

    Raises:
        HTTPError: 404: there is none of this name.
    """
    if name not in SAMPLES:
        raise HTTPError(404, "there is no such sample", f"choices: {', '.join(SAMPLES)}")
    file = SAMPLES[name][0]
    kind = "image/png" if file.endswith("png") else "image/jpeg"
    return (files("vitscope.web") / "samples" / file).read_bytes(), kind


@cache
def picture(name: str) -> Picture:
    """The same, decoded."""
    return decoded(raw(name)[0], SAMPLES[name][0] if name in SAMPLES else name)
