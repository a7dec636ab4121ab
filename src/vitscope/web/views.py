"""The questions of a server, their progress and their answers."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

import anyio
from fastapi import Request

from vitscope.images import Picture
from vitscope.scope import Scope
from vitscope.web import models, samples
from vitscope.web import schemas as s
from vitscope.web.http_errors import HTTPError
from vitscope.web.jobs import Job, Worker
from vitscope.web.limits import Limits
from vitscope.web.session_store import SessionStore

__all__ = ["Views", "events_of"]

_DECODERS = 2  # photos decoded at once: each may take several bytes a pixel
_TURN = 0.1  # seconds between two messages of progress


class Views:
    """The questions of a server and their answers."""

    def __init__(self, scopes: Mapping[str, Scope], limits: Limits) -> None:
        self.limits, self.models, self.worker = limits, models.Models(scopes), Worker(limits)
        self.photos: SessionStore[Picture] = SessionStore("photo", limits.kept // 2, limits.count)
        self.views: SessionStore[Job] = SessionStore("view", limits.kept // 2, limits.count)
        self.decoders = anyio.CapacityLimiter(_DECODERS)

    def begun(self, session: str, asked: s.ViewAsk) -> tuple[str, Job]:
        """A view that is being made: its id and its question."""
        if asked.size is not None and asked.size > self.limits.side:
            raise HTTPError(422, f"size is {self.limits.side} at most here, not {asked.size}")
        picture = self.photos.get(session, asked.photo) if asked.photo else samples.picture(str(asked.sample))
        scope = self.models.pick(asked.model)
        options = asked.model_dump(exclude={"photo", "sample", "model"})
        job = self.worker.ask(session, partial(models.made_view, scope, picture, options))
        name = self.views.put(session, job, picture.pixels.nbytes)
        job.answer.add_done_callback(lambda _: self.views.grow(name, _size(job)))
        return name, job

    def state(self, name: str, job: Job) -> s.ViewState:
        """How far a view is."""
        error = job.answer.exception() if job.answer.done() else None
        told = error.document() if isinstance(error, HTTPError) else {}
        ahead = self.worker.ahead(job)
        return s.ViewState(
            id=name, state=job.state, ahead=ahead, stage=job.stage, done=job.done, total=job.total, **told
        )

    async def answered(self, request: Request, job: Job) -> Any:
        """The answer to a question, for as long as the client waits for it."""
        answer = asyncio.wrap_future(job.answer)
        left = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({answer, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
            if not job.answer.done():
                self.worker.cancel(job, "nobody waits for it any more")
        return await answer


async def events_of(views: Views, name: str, job: Job) -> AsyncIterator[str]:
    """HiddenStates of a view as server-sent events, whenever something changed; the last one is the settled state."""
    answer = asyncio.wrap_future(job.answer)
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # told in the state
    before = ""
    while True:
        settled, _ = await asyncio.wait({answer}, timeout=_TURN if before else 0)
        told = views.state(name, job).model_dump()
        text = json.dumps(told, ensure_ascii=True)
        if text != before:
            yield f"event: state\ndata: {text}\n\n"
            before = text
        if settled:
            return


async def _left(request: Request) -> None:
    """Ends when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _size(job: Job) -> int:
    if job.answer.exception() is not None:
        return 1000
    viewed: models.Viewed = job.answer.result()
    return viewed.size
