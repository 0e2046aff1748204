"""The routes of an index: search, the page, and its thumbs."""

from __future__ import annotations

import asyncio
import importlib.resources
from dataclasses import asdict
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool

from gecko.corpus.decode import clean
from gecko.errors import UsageError
from gecko.judge.pool import BM25, RANKED
from gecko.judge.thumbs import Thumbs
from gecko.serve.engine import Text
from gecko.serve.highlight import highlights
from gecko.serve.requests import BadField
from gecko.serve.search import Hit, SearchIndex
from gecko.serve.site import FAILS, Column, Site, gone, unless_gone
from gecko.serve.wire import SearchFacts, SearchRequest, SearchResponse, ThumbRequest, ThumbResponse

_WIDTHS = (1024, 768, 512, 256, 128, 64, 32)  # of Matryoshka models; the page offers those below the whole
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"


def add_search(app: FastAPI, site: Site) -> None:
    """Add the page, and searching with every model that has an index."""
    html = importlib.resources.files("gecko.serve").joinpath("page.html").read_bytes()
    headers = {
        "Content-Security-Policy": _POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(html, media_type="text/html; charset=utf-8", headers=headers)

    @app.get("/search", response_model=SearchFacts, responses=FAILS)
    async def facts() -> dict[str, Any]:
        """Say what can be searched."""
        return await run_in_threadpool(_facts, site)

    @app.post("/search", response_model=SearchResponse, responses=FAILS)
    async def search(body: SearchRequest, request: Request) -> Response:
        """Find passages."""
        column = site.column(body.model)
        if column.index is None:
            raise BadField("model", f"{column.engine.name} has no index here")
        if body.dimensions is not None and body.dimensions > column.index.dim:
            raise BadField("dimensions", f"the index has {column.index.dim} dimensions, not {body.dimensions}")
        query = _query(body.query)
        vector = None
        if body.mode != "text":
            text = Text(query, "query", clean(body.task) if body.task else None)
            encoded = await unless_gone(request, column.engine.embed([text]))
            if encoded is None:
                return gone()
            vector = encoded[0].vector
        answer = await run_in_threadpool(_searched, site, column, column.index, body, query, vector)
        return Response(answer, media_type="application/json")


def add_thumbs(app: FastAPI, site: Site, thumbs: Thumbs) -> None:
    """Add judging what was found."""
    one_at_a_time = asyncio.Lock()  # there is one file of judgements

    @app.post("/thumbs", response_model=ThumbResponse, responses=FAILS)
    async def thumb(body: ThumbRequest) -> JSONResponse:
        """Judge a passage for a query; what is judged goes on in gecko judge."""
        query = _query(body.query)
        try:
            async with one_at_a_time:
                pooled = await run_in_threadpool(thumbs.pooled, query, body.passage_id)
                rankings = {} if pooled else await _rankings(site, query)
                done = await run_in_threadpool(thumbs.mark, query, body.passage_id, body.grade, rankings)
        except UsageError as error:
            raise BadField("passage_id", error.message, error.hint) from error
        return JSONResponse(done)


def _facts(site: Site) -> dict[str, Any]:
    searched = [(column, column.index) for column in site.columns if column.index]
    least = min(index.dim for _, index in searched)
    return {
        "models": [
            {"model": column.engine.name, "base": column is site.base, "dimensions": index.dim}
            for column, index in searched
        ],
        "dimensions": [least, *(width for width in _WIDTHS if width < least)],
        "passages": searched[0][1].size,
        "thumbs": site.thumbs is not None,
    }


async def _rankings(site: Site, query: str) -> dict[str, list[str]]:
    """What each system finds first, in all dimensions: the page's switches are not in a judged set."""
    found: dict[str, list[str]] = {}
    for system, column in (("base", site.base), ("model", site.model)):
        if column is None or column.index is None:
            continue
        vector = (await column.engine.embed([Text(query, "query")]))[0].vector
        hits = await run_in_threadpool(column.index.search, query, vector, k=RANKED, mode="dense")
        found[system] = [hit.passage_id for hit in hits]
        if column is site.model:
            hits = await run_in_threadpool(column.index.search, query, None, k=RANKED, mode="text")
            found[BM25] = [hit.passage_id for hit in hits]
    return found


def _query(text: str) -> str:
    query = clean(text)
    if not query.strip():
        raise BadField("query", "the query is empty", "say what you look for")
    return query


def _searched(
    site: Site, column: Column, index: SearchIndex, body: SearchRequest, query: str, vector: np.ndarray | None
) -> bytes:
    where = {str(field): values for field, values in body.where.items()}
    hits = index.search(query, vector, k=body.k, mode=body.mode, dim=body.dimensions, where=where)
    grades = site.thumbs.grades(query) if site.thumbs else {}
    return to_json(
        {
            "query": query,
            "model": column.engine.name,
            "mode": body.mode,
            "dimensions": body.dimensions or index.dim,
            "hits": [_found(query, hit, grades.get(hit.passage_id)) for hit in hits],
        }
    )


def _found(query: str, hit: Hit, grade: int | None) -> dict[str, Any]:
    return {
        **asdict(hit),
        "highlights": highlights(query, hit.text, hit.lang),
        "title_highlights": highlights(query, hit.title, hit.lang),
        "grade": grade,
    }
