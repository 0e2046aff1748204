"""Before a request is looked at: its key, its size and where it comes from. After it: how long it took."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Collection
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gecko.serve.metrics import Metrics
from gecko.serve.wire import error_body

OPEN_PATHS = ("/", "/health")  # the page itself holds nothing; it asks for the key


class Guard:
    """ASGI middleware around the whole application.

    Args:
        app: The application.
        metrics: What counts the requests.
        paths: The paths there are; all others are counted as one.
        key: What ``Authorization: Bearer`` must hold; None lets everybody in.
        most_bytes: Of a request's body.
        hosts: Names the server may be called by, for one that only this machine is to reach: another site in the
            same browser could point a name of its own here. None allows all.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        paths: Collection[str],
        key: str | None,
        most_bytes: int,
        hosts: Collection[str] | None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = frozenset(paths)
        self._key = os.fsencode(key) if key else None
        self._most = most_bytes
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application do it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        status = HTTPStatus.INTERNAL_SERVER_ERROR.value
        begun = time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._metrics.open.inc()
        try:
            refused = self._refusal(scope)
            if refused is not None:
                await refused(scope, receive, noting)
            else:
                await self._app(scope, self._bounded(receive), noting)
        finally:
            self._metrics.open.dec()
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - begun)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self._hosts is not None and not _from_here(headers, self._hosts):
            return _error(
                HTTPStatus.FORBIDDEN,
                "this server answers to this machine only; start it with --host 0.0.0.0 and a key for others",
                "permission_error",
            )
        if self._key is not None and scope["path"] not in OPEN_PATHS:
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not secrets.compare_digest(given.strip().encode("latin-1"), self._key):
                refused = _error(
                    HTTPStatus.UNAUTHORIZED,
                    "the key is missing or wrong: send Authorization: Bearer KEY",
                    "invalid_request_error",
                    "invalid_api_key",
                )
                refused.headers["WWW-Authenticate"] = "Bearer"
                return refused
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._most:
            return _error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._too_large(), "invalid_request_error")
        return None

    def _bounded(self, receive: Receive) -> Receive:
        """Stop reading a body that does not say how long it is where it gets too long."""
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._too_large())
            return message

        return counted

    def _too_large(self) -> str:
        return f"the request is larger than {self._most / 1e6:g} MB: send fewer or shorter texts"


def _from_here(headers: Headers, hosts: Collection[str]) -> bool:
    """Whether a request is addressed to one of these names, and not sent by a page of another site."""
    host, origin = headers.get("host"), headers.get("origin")
    return (host is None or _host(host) in hosts) and (origin is None or _host(origin.partition("://")[2]) in hosts)


def _host(name: str) -> str:
    """The host of ``host:port``; an IPv6 address keeps its brackets."""
    return name[: name.rindex("]") + 1] if name.startswith("[") and "]" in name else name.partition(":")[0].lower()


def _error(status: HTTPStatus, message: str, kind: str, code: str | None = None) -> Response:
    return JSONResponse(error_body(message, kind, code=code), status)
