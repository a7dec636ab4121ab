"""What a client is told when something goes wrong: one line of JSON and a hint, whoever raised it."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from vitscope.errors import VitscopeError
from vitscope.web.http_errors import HTTPError, refused

__all__ = ["handle"]


def handle(app: FastAPI) -> None:
    """Make every error one line of JSON and a hint."""

    def said(refusal: HTTPError) -> JSONResponse:
        return JSONResponse(refusal.document(), refusal.status, dict(refusal.headers))

    async def ours(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPError)
        return said(error)

    async def library(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, VitscopeError)
        return said(refused(error))

    async def framework(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        words = str(error.detail).lower()
        return said(HTTPError(error.status_code, words, "/openapi.json says what there is", error.headers or {}))

    async def form(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
        words = f"{where}: {first['msg']}".encode("utf-8", "backslashreplace").decode()
        return said(HTTPError(422, words, "/openapi.json says what is expected"))

    async def unforeseen(_: Request, error: Exception) -> JSONResponse:
        return said(HTTPError(500, f"this went wrong inside: {type(error).__name__}", "the server's log says more"))

    for kind, handler in (
        (HTTPError, ours),
        (VitscopeError, library),
        (HTTPException, framework),
        (RequestValidationError, form),
        (Exception, unforeseen),
    ):
        app.add_exception_handler(kind, handler)
