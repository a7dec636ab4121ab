"""Views in the making: their jobs, progress and results."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

import anyio
from fastapi import Request

from vitscope._messages import msg
from vitscope.images import Picture
from vitscope.scope import Scope
from vitscope.web import models, samples
from vitscope.web import schemas as s
from vitscope.web.http_errors import HTTPError
from vitscope.web.jobs import Job, Worker
from vitscope.web.limits import Limits
from vitscope.web.session_store import SessionStore

_DECODERS = 2  # photos decoded at once, quick ones and those of unknown cost: each may take several bytes a pixel
_EVENT_INTERVAL = 0.1  # seconds between two progress events


class Views:
    """The photos, views and jobs of a server."""

    def __init__(self, scopes: Mapping[str, Scope], limits: Limits) -> None:
        self.limits, self.models, self.worker = limits, models.Models(scopes), Worker(limits)
        self.photos: SessionStore[Picture] = SessionStore("photo", limits.memory_bytes // 2, limits.items)
        self.jobs: SessionStore[Job] = SessionStore("view", limits.memory_bytes // 2, limits.items)
        self.streams: dict[str, list[object]] = {}  # of events, by session, the oldest first
        self.decoders, self.slow_decoders = (anyio.CapacityLimiter(_DECODERS) for _ in range(2))

    def start(self, session: str, request: s.ViewRequest) -> tuple[str, Job]:
        """Submit a view; return its id and its job."""
        if request.size is not None and request.size > self.limits.input_size:
            problem = msg(
                "web.size-too-large",
                "size must be at most {most} here, not {size}",
                most=self.limits.input_size,
                size=request.size,
            )
            raise HTTPError(422, problem)
        if request.photo:
            picture = self.photos.get(session, request.photo)
        else:
            picture = samples.sample_picture(str(request.sample))
        scope = self.models.get(request.model)
        options = request.model_dump(exclude={"photo", "sample", "model"})
        job = self.worker.submit(session, partial(models.make_view, scope, picture, options))
        key = self.jobs.add(session, job, picture.nbytes)
        job.result.add_done_callback(lambda _: self.jobs.resize(key, _size(job)))
        return key, job

    def status(self, key: str, job: Job) -> s.ViewStatus:
        """Return a view's state and progress."""
        error = job.result.exception() if job.result.done() else None
        problem = error.document() if isinstance(error, HTTPError) else {}
        ahead = self.worker.jobs_ahead(job)
        return s.ViewStatus(
            id=key,
            state=job.state,
            ahead=ahead,
            stage=job.stage,
            done=job.done,
            total=job.total,
            parts=job.parts,
            **problem,
        )

    async def wait(self, request: Request, job: Job) -> Any:
        """Return a job's result; cancel the job when the client disconnects."""
        result = asyncio.wrap_future(job.result)
        disconnected = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({result, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            disconnected.cancel()
            if not job.result.done():
                self.worker.cancel(job, msg("web.disconnected", "the client disconnected"))
        return await result


async def view_events(views: Views, session: str, key: str, job: Job) -> AsyncIterator[str]:
    """Yield a view's status as server-sent events, one for each change; the last has the final state.

    A session's oldest stream ends where it has too many.
    """
    result = asyncio.wrap_future(job.result)
    result.add_done_callback(lambda done: done.cancelled() or done.exception())  # the status carries the error
    stream, previous = object(), ""
    streams = views.streams.setdefault(session, [])
    streams.append(stream)
    del streams[: -views.limits.streams_per_session]
    try:
        while stream in streams:
            settled, _ = await asyncio.wait({result}, timeout=_EVENT_INTERVAL if previous else 0)
            status = json.dumps(views.status(key, job).model_dump(), ensure_ascii=True, allow_nan=False)
            if status != previous:
                yield f"event: state\ndata: {status}\n\n"
                previous = status
            if settled:
                return
    finally:
        streams[:] = [one for one in streams if one is not stream]
        if not streams:
            views.streams.pop(session, None)


async def _disconnected(request: Request) -> None:
    """Return when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _size(job: Job) -> int:
    if job.result.exception() is not None:
        return 1000
    view: models.FinishedView = job.result.result()
    return view.size
