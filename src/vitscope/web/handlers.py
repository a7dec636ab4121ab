"""Exception handlers: every error becomes one line of JSON with a code and a hint."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from vitscope._messages import msg
from vitscope.errors import VitscopeError
from vitscope.web.http_errors import HTTPError, internal_error, to_http_error


def add_error_handlers(app: FastAPI) -> None:
    """Answer every exception of the app with an `HTTPError` document."""

    async def answer(_: Request, error: Exception) -> JSONResponse:
        found = _http_error(error)
        return JSONResponse(found.document(), found.status, dict(found.headers))

    for kind in (HTTPError, VitscopeError, StarletteHTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, answer)


def _http_error(error: Exception) -> HTTPError:
    if isinstance(error, HTTPError):
        return error
    if isinstance(error, VitscopeError):
        return to_http_error(error)
    if isinstance(error, StarletteHTTPException):
        return HTTPError(
            error.status_code,
            msg("web.bad-request", "{reason}", reason=str(error.detail).lower()),
            msg("web.bad-request.hint", "/openapi.json lists the endpoints"),
            error.headers or {},
        )
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
        printable = {"field": field, "problem": first["msg"]}
        problem = msg(
            "web.invalid-request",
            "{field}: {problem}",
            **{name: text.encode("utf-8", "backslashreplace").decode() for name, text in printable.items()},
        )
        return HTTPError(422, problem, msg("web.invalid-request.hint", "/openapi.json describes the expected request"))
    return internal_error(error)
