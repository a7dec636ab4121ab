"""The web app: what can be asked over HTTP. `create_app` puts it together, its guard in front."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

import anyio.to_thread
from fastapi import Body, FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse

from vitscope._version import __version__
from vitscope.images import decoded
from vitscope.scope import Scope
from vitscope.web import models, samples
from vitscope.web import schemas as s
from vitscope.web.access import AccessPolicy
from vitscope.web.handlers import handle
from vitscope.web.http_errors import HTTPError
from vitscope.web.limits import Limits
from vitscope.web.middleware import LimitsMiddleware
from vitscope.web.page import policy, start_page
from vitscope.web.views import Views, events_of

__all__ = ["create_app"]

_NAME = re.compile(r"[^\w .,()+-]")
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": s.Problem, "description": words}
    for status, words in {
        400: "not a request that makes sense",
        401: "without the token",
        403: "from another page, or under another name",
        404: "there is none, or it is another session's",
        408: "the body came too slowly",
        409: "cancelled",
        413: "the body is too long",
        422: "it does not fit",
        429: "this session has enough questions waiting",
        503: "busy",
    }.items()
}
_BINARY = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string"}}}}}
_DOCUMENT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"schema": {"type": "object"}}}, "description": "the view document"},
    202: {"model": s.ViewState, "description": "not there yet"},
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "one ViewState an event"},
}
_PICTURE: dict[int | str, dict[str, Any]] = {200: {"content": {"image/*": {}}, "description": "the photo"}}


def create_app(scopes: Mapping[str, Scope], door: AccessPolicy, limits: Limits | None = None) -> LimitsMiddleware:
    """The app, as an ASGI application behind its guard.

    Args:
        scopes: the models, by the references that clients choose them by.
        door: who comes in.
        limits: how much they get.

    Returns:
        What uvicorn runs; its lifespan ends the model's thread.
    """
    limits = limits or Limits()
    views = Views(scopes, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(views.worker.close, limits.farewell)

    app = FastAPI(
        title="vitscope",
        version=__version__,
        summary="See where a Vision Transformer looks, and how far to believe the picture.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=_PROBLEMS,
    )
    handle(app)
    _start(app, views)
    _photos(app, views)
    _making(app, views)
    _asking(app, views)
    return LimitsMiddleware(app, door, limits, partial(views.worker.close, limits.farewell))


def _start(app: FastAPI, views: Views) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(start_page(), headers={"content-security-policy": policy()})

    @app.get("/api/health", summary="Is it there?")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/api/models", summary="The models, and the methods of each, with a reason where one cannot fit")
    async def list_models() -> list[dict[str, Any]]:
        return views.models.about()

    @app.get("/api/samples", summary="Photos that come with vitscope")
    async def list_samples() -> list[s.Sample]:
        return [s.Sample(name=name, about=about, credit=by) for name, (_, about, by) in samples.SAMPLES.items()]

    @app.get("/api/samples/{name}", summary="One of them", response_class=Response, responses=_PICTURE)
    async def sample(name: str) -> Response:
        data, kind = samples.raw(name)
        return Response(data, media_type=kind)


def _photos(app: FastAPI, views: Views) -> None:
    @app.post("/api/photos", status_code=201, summary="Upload a photo: its bytes are the body", openapi_extra=_BINARY)
    async def upload(
        request: Request, name: Annotated[str, Query(max_length=1000, description="For display only.")] = "photo"
    ) -> s.PhotoMade:
        data, called = await request.body(), _called(name)
        picture = await anyio.to_thread.run_sync(decoded, data, called, views.limits.pixels, limiter=views.decoders)
        made = views.photos.put(_session(request), picture, picture.pixels.nbytes)
        width, height = picture.size
        return s.PhotoMade(id=made, name=picture.name, width=width, height=height, notes=list(picture.notes))

    @app.delete("/api/photos/{photo}", status_code=204, summary="Forget a photo")
    async def forget(request: Request, photo: str) -> None:
        views.photos.get(_session(request), photo)
        views.photos.drop(photo)


def _making(app: FastAPI, views: Views) -> None:
    @app.post("/api/views", status_code=202, summary="Explain a photo")
    async def ask(request: Request, asked: s.ViewAsk) -> s.ViewState:
        return views.state(*views.begun(_session(request), asked))

    @app.get("/api/views/{view}", response_model=None, responses=_DOCUMENT, summary="The view document, once there")
    async def view(request: Request, view: str) -> Response:
        job = views.views.get(_session(request), view)
        if not job.answer.done():
            return JSONResponse(views.state(view, job).model_dump(), 202)
        viewed: models.Viewed = job.answer.result()
        return Response(viewed.document, media_type="application/json")

    @app.get("/api/views/{view}/events", response_class=StreamingResponse, responses=_STREAM, summary="Its progress")
    async def events(request: Request, view: str) -> StreamingResponse:
        job = views.views.get(_session(request), view)
        return StreamingResponse(events_of(views, view, job), media_type="text/event-stream")

    @app.delete("/api/views/{view}", status_code=204, summary="Cancel a view, and forget it")
    async def cancel(request: Request, view: str) -> None:
        views.worker.cancel(views.views.get(_session(request), view))
        views.views.drop(view)


def _asking(app: FastAPI, views: Views) -> None:
    def finished(request: Request, view: str) -> models.Viewed:
        job = views.views.get(_session(request), view)
        if not job.answer.done():
            raise HTTPError(409, "this view is still being made", "wait for it")
        found: models.Viewed = job.answer.result()
        return found

    @app.post("/api/views/{view}/maps", summary="One more map of its photo")
    async def more(request: Request, view: str, asked: Annotated[s.MapAsk, Body()]) -> s.MapMade:
        viewed, given = finished(request, view), asked.model_dump()
        work = partial(models.one_more, viewed, given["method"], given["target"], given["params"])
        job = views.worker.ask(_session(request), work, quick=True)
        return s.MapMade(**await views.answered(request, job))

    @app.post("/api/views/{view}/mask", summary="What the model says without some patches")
    async def mask(request: Request, view: str, asked: Annotated[s.MaskAsk, Body()]) -> s.MaskMade:
        viewed = finished(request, view)
        work = partial(models.without, viewed, asked.patches, asked.how)
        job = views.worker.ask(_session(request), work, quick=True)
        return s.MaskMade(**await views.answered(request, job))


def _session(request: Request) -> str:
    session: str = request.scope["state"]["session"]
    return session


def _called(name: str) -> str:
    """A client's file name as it is shown: no path, nothing that looks like an option, no odd characters."""
    last = re.split(r"[\\/]", name)[-1]
    return _NAME.sub("_", last)[:80].strip(" .-") or "photo"
