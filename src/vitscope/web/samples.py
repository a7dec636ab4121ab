"""Sample photos that come with the web app."""

from functools import cache
from importlib.resources import files
from typing import NamedTuple

from vitscope._messages import Message, msg
from vitscope.images import Picture, decode_image
from vitscope.web.http_errors import HTTPError


class _Sample(NamedTuple):
    file: str
    subject: Message
    credit: Message


SAMPLES = {
    "cat": _Sample(
        "cat.jpg", msg("web.sample.cat", "a cat"), msg("web.credit.cc0", "{author}, CC0", author="Stéfan van der Walt")
    ),
    "astronaut": _Sample(
        "astronaut.jpg",
        msg("web.sample.astronaut", "Eileen Collins"),
        msg("web.credit.public-domain", "{author}, public domain", author="NASA"),
    ),
    "coffee": _Sample(
        "coffee.jpg",
        msg("web.sample.coffee", "a cup of coffee"),
        msg("web.credit.cc0", "{author}, CC0", author="Rachel Michetti"),
    ),
    "rocket": _Sample(
        "rocket.jpg",
        msg("web.sample.rocket", "a Falcon 9"),
        msg("web.credit.public-domain", "{author}, public domain", author="SpaceX"),
    ),
    "digits": _Sample(
        "digits.png",
        msg("web.sample.digits", "two handwritten digits"),
        msg("web.credit.digits", "composed; digits: {authors}", authors="E. Alpaydin and C. Kaynak, UCI"),
    ),
}


def sample_file(name: str) -> tuple[bytes, str]:
    """Return a sample's bytes and media type; raise an HTTPError (404) for an unknown name."""
    if name not in SAMPLES:
        raise HTTPError(
            404,
            msg("web.no-such-sample", "this sample does not exist"),
            msg("web.no-such-sample.hint", "choices: {choices}", choices=", ".join(SAMPLES)),
        )
    file = SAMPLES[name].file
    kind = "image/png" if file.endswith("png") else "image/jpeg"
    return (files("vitscope.web") / "samples" / file).read_bytes(), kind


@cache
def sample_picture(name: str) -> Picture:
    """Return a sample, decoded; raise an HTTPError (404) for an unknown name."""
    data, _ = sample_file(name)
    return decode_image(data, SAMPLES[name].file)
