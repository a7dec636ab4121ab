"""The HTTP endpoints of the web app; `create_app` puts them behind the middleware."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import Body, FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse

from vitscope._bands import Reading
from vitscope._catalogues import page_messages
from vitscope._decoder import guarded
from vitscope._header_scan import check_cost
from vitscope._messages import msg
from vitscope._version import __version__
from vitscope.images import decode_image
from vitscope.scope import Scope
from vitscope.web import models, samples
from vitscope.web import schemas as s
from vitscope.web.access import AccessPolicy
from vitscope.web.handlers import add_error_handlers
from vitscope.web.http_errors import HTTPError
from vitscope.web.limits import Limits
from vitscope.web.middleware import LimitsMiddleware
from vitscope.web.page import content_security_policy, start_page
from vitscope.web.views import Views, view_events

_NAME = re.compile(r"[^\w .,()+-]")
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": s.Problem, "description": words}
    for status, words in {
        400: "the request is malformed",
        401: "the token is missing",
        403: "the request has a wrong host or origin",
        404: "it does not exist, or belongs to another session",
        408: "the body arrived too slowly",
        409: "it was cancelled, or is not finished",
        413: "the body is too long",
        422: "a parameter is invalid, or the model or method cannot do this",
        429: "the session's queue is full",
        503: "the server is busy",
    }.items()
}
_BINARY = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string"}}}}}
_DOCUMENT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"schema": {"type": "object"}}}, "description": "the view document"},
    202: {"model": s.ViewStatus, "description": "the view is not finished"},
}
_PART = (
    "`first`: the document with the first map and all attention, as soon as it is made; "
    "`rest`: the document as far as it is made, without the arrays that are in `first`."
)
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "one ViewStatus an event"}
}
_PICTURE: dict[int | str, dict[str, Any]] = {200: {"content": {"image/*": {}}, "description": "the photo"}}


def create_app(scopes: Mapping[str, Scope], policy: AccessPolicy, limits: Limits | None = None) -> LimitsMiddleware:
    """Make the ASGI application for uvicorn, behind its middleware; its lifespan ends the model's thread.

    `scopes` has the models by the references that clients choose them by.
    """
    limits = limits or Limits()
    views = Views(scopes, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with guarded(limits.decode_seconds):
            yield
        await asyncio.to_thread(views.worker.close, limits.shutdown_seconds / 2)

    app = FastAPI(
        title="vitscope",
        version=__version__,
        summary="Show where a Vision Transformer looks, and measure how far the map can be believed.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=_PROBLEMS,
    )
    add_error_handlers(app)
    _add_start_page(app, views)
    _add_photos(app, views)
    _add_views(app, views)
    _add_live(app, views)
    return LimitsMiddleware(app, policy, limits, partial(views.worker.close, limits.shutdown_seconds / 2))


def _add_start_page(app: FastAPI, views: Views) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(start_page(), headers={"content-security-policy": content_security_policy()})

    @app.get("/api/health", summary="Check that the server is up")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/api/models", summary="List the models and the methods of each, with reasons where one does not apply")
    async def list_models() -> list[dict[str, Any]]:
        return views.models.describe()

    @app.get("/api/samples", summary="List the sample photos")
    async def list_samples() -> list[s.SampleResponse]:
        return [
            s.SampleResponse(
                name=name, about=one.subject, credit=one.credit, messages=page_messages([one.subject, one.credit])
            )
            for name, one in samples.SAMPLES.items()
        ]

    @app.get("/api/samples/{name}", summary="Download a sample photo", response_class=Response, responses=_PICTURE)
    async def sample(name: str) -> Response:
        data, kind = samples.sample_file(name)
        return Response(data, media_type=kind)


def _add_photos(app: FastAPI, views: Views) -> None:
    @app.post("/api/photos", status_code=201, summary="Upload a photo: the body is its file", openapi_extra=_BINARY)
    async def upload(
        request: Request, name: Annotated[str, Query(max_length=1000, description="For display only.")] = "photo"
    ) -> s.PhotoResponse:
        data, shown = await request.body(), _display_name(name)
        reading = Reading(**views.models.get(None).adapter.reading)  # as the default model's images are read
        bounded = await anyio.to_thread.run_sync(check_cost, data, shown)
        decode = partial(decode_image, data, shown, views.limits.pixels, reading=reading)
        picture = await anyio.to_thread.run_sync(decode, limiter=views.decoders if bounded else views.slow_decoders)
        key = views.photos.add(_session(request), picture, picture.nbytes)
        width, height = picture.size
        return s.PhotoResponse(
            id=key,
            name=picture.name,
            width=width,
            height=height,
            notes=list(picture.notes),
            messages=page_messages(picture.notes),
        )

    @app.delete("/api/photos/{photo}", status_code=204, summary="Delete a photo")
    async def delete_photo(request: Request, photo: str) -> None:
        views.photos.get(_session(request), photo)
        views.photos.remove(photo)


def _add_views(app: FastAPI, views: Views) -> None:
    @app.post("/api/views", status_code=202, summary="Explain a photo: submit a view")
    async def submit(request: Request, body: s.ViewRequest) -> s.ViewStatus:
        return views.status(*views.start(_session(request), body))

    @app.get(
        "/api/views/{view}",
        response_model=None,
        responses=_DOCUMENT,
        summary="Get the view document once it is done, or the parts of it that are made",
    )
    async def view(
        request: Request,
        view: str,
        part: Annotated[Literal["first", "rest"] | None, Query(description=_PART)] = None,
    ) -> Response:
        job = views.jobs.get(_session(request), view)
        if job.result.done():
            job.result.result()
        elif part is None or job.latest is None:
            return JSONResponse(views.status(view, job).model_dump(), 202)
        given = (job.first,) if part == "first" else (job.latest, job.first) if part == "rest" else (job.latest,)
        return Response(await anyio.to_thread.run_sync(models.document_of, *given), media_type="application/json")

    @app.get(
        "/api/views/{view}/events", response_class=StreamingResponse, responses=_STREAM, summary="Follow the progress"
    )
    async def events(request: Request, view: str) -> StreamingResponse:
        session = _session(request)
        job = views.jobs.get(session, view)
        return StreamingResponse(view_events(views, session, view, job), media_type="text/event-stream")

    @app.delete("/api/views/{view}", status_code=204, summary="Cancel and delete a view")
    async def delete_view(request: Request, view: str) -> None:
        views.worker.cancel(views.jobs.get(_session(request), view))
        views.jobs.remove(view)


def _add_live(app: FastAPI, views: Views) -> None:
    def finished(request: Request, view: str) -> models.FinishedView:
        job = views.jobs.get(_session(request), view)
        if not job.result.done():
            raise HTTPError(
                409,
                msg("web.not-finished", "this view is not finished"),
                msg("web.not-finished.hint", "wait until its state is done"),
            )
        found: models.FinishedView = job.result.result()
        return found

    @app.post("/api/views/{view}/maps", summary="Make a further map of the view's photo")
    async def make_map(request: Request, view: str, body: Annotated[s.MapRequest, Body()]) -> s.MapResponse:
        given = body.model_dump()
        work = partial(
            models.make_map, finished(request, view), given["method"], given["target"], given["method_options"]
        )
        job = views.worker.submit(_session(request), work, priority=True)
        return s.MapResponse(**await views.wait(request, job))

    @app.post("/api/views/{view}/mask", summary="Predict without some patches")
    async def mask(request: Request, view: str, body: Annotated[s.MaskRequest, Body()]) -> s.MaskResponse:
        work = partial(models.predict_without, finished(request, view), body.patches, body.mode)
        job = views.worker.submit(_session(request), work, priority=True)
        return s.MaskResponse(**await views.wait(request, job))


def _session(request: Request) -> str:
    session: str = request.scope["state"]["session"]
    return session


def _display_name(name: str) -> str:
    """Return a client's file name for display: no path, nothing that looks like an option, no odd characters."""
    last = re.split(r"[\\/]", name)[-1]
    return _NAME.sub("_", last)[:80].strip(" .-") or "photo"
