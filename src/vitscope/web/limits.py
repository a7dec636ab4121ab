"""How much of everything the web app gives to its users."""

from dataclasses import dataclass

from vitscope.errors import UsageError

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """What one request, one session and all of them together may take.

    Attributes:
        body: bytes of one request.
        bodies: bytes of all requests that are being received or decoded.
        patience: seconds in which a request's body must have arrived.
        requests: requests in work at once, streams of progress included.
        pixels: of one photo.
        side: input size that may be asked for, in pixels.
        seconds: the model may work on one question.
        waiting: questions that wait for the model.
        each: of one session.
        kept: bytes of photos and views in memory; the session that holds most of it loses its oldest first.
        count: photos, and views, in memory.
        farewell: seconds that running work has to end when the server is stopped.
    """

    body: int = 20_000_000
    bodies: int = 160_000_000
    patience: float = 20.0
    requests: int = 128
    pixels: int = 25_000_000
    side: int = 1036
    seconds: float = 300.0
    waiting: int = 16
    each: int = 4
    kept: int = 500_000_000
    count: int = 64
    farewell: float = 5.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise UsageError(f"the limit '{name}' is above zero, not {value}")
