"""Every failure as OpenAI's clients expect it: JSON with a message, a type and the parameter."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from gecko.errors import GeckoError, UsageError
from gecko.serve.batching import QueueFull
from gecko.serve.requests import BadField
from gecko.serve.search import FIELDS
from gecko.serve.wire import MOST_CHARS, MOST_INPUTS, error_body

logger = logging.getLogger(__name__)

_SHAPES = {
    "input": f"input must be a text of 1 to {MOST_CHARS:,} characters, token ids, or 1 to {MOST_INPUTS:,} such",
    "where": f"where must hold a value, or a list of values, of {', '.join(FIELDS)}",
}


class UnknownModel(Exception):
    """A request names a model that is not served."""

    def __init__(self, name: str, served: list[str]) -> None:
        super().__init__(f"no model {name[:200]!r} here; there is {', '.join(served)}")


def add_handlers(app: FastAPI) -> None:
    """Answer every exception with OpenAI's shape."""

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        message, param = _misshapen(request, error)
        return _answer(HTTPStatus.BAD_REQUEST, message, param=param)

    @app.exception_handler(BadField)
    async def _bad_field(_request: Request, error: BadField) -> JSONResponse:
        return _answer(HTTPStatus.BAD_REQUEST, _told(error), param=error.param)

    @app.exception_handler(UsageError)
    async def _usage(_request: Request, error: UsageError) -> JSONResponse:
        return _answer(HTTPStatus.BAD_REQUEST, _told(error))

    @app.exception_handler(GeckoError)
    async def _gecko(request: Request, error: GeckoError) -> JSONResponse:
        logger.error("%s: %s", request.url.path, error.message)
        return _answer(HTTPStatus.SERVICE_UNAVAILABLE, _told(error), "server_error")

    @app.exception_handler(UnknownModel)
    async def _unknown(_request: Request, error: UnknownModel) -> JSONResponse:
        return _answer(HTTPStatus.NOT_FOUND, str(error), param="model", code="model_not_found")

    @app.exception_handler(QueueFull)
    async def _full(_request: Request, _error: QueueFull) -> JSONResponse:
        message = "too many texts wait: try again in a moment"
        answer = _answer(HTTPStatus.TOO_MANY_REQUESTS, message, "rate_limit_error", code="rate_limit_exceeded")
        answer.headers["Retry-After"] = "1"
        return answer

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        message = str(error.detail)
        if error.status_code == HTTPStatus.NOT_FOUND:
            message = f"there is no {request.url.path[:200]} here"
        answer = _answer(HTTPStatus(error.status_code), message)
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s: unexpected %s: %s", request.url.path, type(error).__name__, error)
        return _answer(HTTPStatus.INTERNAL_SERVER_ERROR, "a fault of the server; its log says more", "server_error")


def _misshapen(request: Request, error: RequestValidationError) -> tuple[str, str | None]:
    """What is wrong with a body, and in which field."""
    if "json" not in request.headers.get("content-type", ""):
        return "the body must be JSON, sent with Content-Type: application/json", None
    found = error.errors()[0]
    place = [str(part)[:100] for part in found["loc"] if part != "body"]
    param = place[0] if place and not place[0].isdigit() else None
    reason = found["msg"][:1].lower() + found["msg"][1:]
    return _SHAPES.get(param or "", f"{param or 'the body'}: {reason}"), param


def _told(error: GeckoError) -> str:
    return f"{error.message}: {error.hint}" if error.hint else error.message


def _answer(
    status: HTTPStatus,
    message: str,
    kind: str = "invalid_request_error",
    *,
    param: str | None = None,
    code: str | None = None,
) -> JSONResponse:
    return JSONResponse(error_body(message, kind, param=param, code=code), status)
