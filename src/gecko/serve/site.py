"""What a server serves, and what its routes share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response

from gecko.judge.thumbs import Thumbs
from gecko.serve.engine import Engine
from gecko.serve.errors import UnknownModel
from gecko.serve.metrics import Metrics
from gecko.serve.search import SearchIndex
from gecko.serve.wire import ErrorResponse

R = TypeVar("R")
FAILS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorResponse, "description": "What is wrong with the request."},
    "5XX": {"model": ErrorResponse, "description": "What is wrong with the server."},
}


@dataclass(frozen=True, slots=True)
class Column:
    """A model and, where it is searched with, its index."""

    engine: Engine
    index: SearchIndex | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """What is served.

    Attributes:
        model: The model of /v1/embeddings, and the one that is searched with.
        base: The model it is compared with on the page, with an index of its own.
        names: Other names of the model, such as its path.
        thumbs: Where a person's judgements go.
        key: What requests must show; None asks for none.
        most_bytes: Of a request.
        hosts: Names that the server may be called by; None allows all.
        metrics: What counts.
    """

    model: Column
    metrics: Metrics
    base: Column | None = None
    names: frozenset[str] = frozenset()
    thumbs: Thumbs | None = None
    key: str | None = None
    most_bytes: int = 16_000_000
    hosts: frozenset[str] | None = None

    @property
    def columns(self) -> list[Column]:
        """The model, and the base where there is one."""
        return [self.model, *([self.base] if self.base else [])]

    def column(self, name: str | None) -> Column:
        """The model of that name.

        Raises:
            UnknownModel: There is none.
        """
        if name is None or name in self.names:
            return self.model
        for column in self.columns:
            if column.engine.name == name:
                return column
        raise UnknownModel(name, [column.engine.name for column in self.columns])


async def unless_gone(request: Request, work: Awaitable[R]) -> R | None:
    """Do the work of a request; where its client goes away first, stop it and return None."""
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_leaving(request))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        leaving.cancel()
        doing.cancel()


async def _leaving(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def gone() -> Response:
    """Answer to a client that went away: nobody reads it, but it is counted."""
    return Response(status_code=499)
