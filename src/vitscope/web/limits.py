"""Resource limits of the web app."""

from dataclasses import dataclass

from vitscope._messages import msg
from vitscope.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """What one request, one session and all sessions together may use.

    Attributes:
        body_bytes: of one request.
        total_body_bytes: of all requests that are being received or decoded.
        body_seconds: within which a request's body must arrive.
        requests: in progress at once, event streams included.
        requests_per_session: of these, requests of one session.
        streams_per_session: event streams of one session; the oldest is closed for a new one.
        strangers: open connections without a session, half of them from one peer; the oldest is closed for a new one.
        pixels: of one photo.
        decode_seconds: for which a photo of unknown cost may be decoded.
        input_size: the largest input size of the model, in pixels.
        job_seconds: for which the model may work on one job.
        queue: jobs that wait for the model.
        queue_per_session: of these, jobs of one session.
        memory_bytes: of stored photos and views; the session that holds most of it loses its oldest items first.
        items: photos, and views, that are stored.
        shutdown_seconds: within which the server ends after a signal; the running job has half of them.
    """

    body_bytes: int = 20_000_000
    total_body_bytes: int = 160_000_000
    body_seconds: float = 20.0
    requests: int = 128
    requests_per_session: int = 32
    streams_per_session: int = 8
    strangers: int = 128
    pixels: int = 25_000_000
    decode_seconds: float = 5.0
    input_size: int = 1036
    job_seconds: float = 300.0
    queue: int = 16
    queue_per_session: int = 4
    memory_bytes: int = 500_000_000
    items: int = 64
    shutdown_seconds: float = 5.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise UsageError(
                    msg("web.bad-limit", "the limit '{name}' must be above zero, not {value}", name=name, value=value)
                )
