"""The HTTP application: embeddings in OpenAI's shape, and where an index is given search and its page."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from gecko.serve.engine import Engine
from gecko.serve.errors import add_handlers
from gecko.serve.guard import Guard
from gecko.serve.metrics import CONTENT_TYPE
from gecko.serve.requests import embedding_body, refuse_cut, texts_of
from gecko.serve.search_api import add_search, add_thumbs
from gecko.serve.site import FAILS, Site, gone, unless_gone
from gecko.serve.wire import EmbeddingRequest, EmbeddingResponse


def create_app(site: Site) -> FastAPI:
    """Make the application."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        for column in site.columns:
            column.engine.batcher.close()

    app = FastAPI(title="gecko", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    add_handlers(app)
    site.metrics.watch(lambda: sum(column.engine.batcher.waiting for column in site.columns))
    _add_embeddings(app, site)
    _add_models(app, site)
    if site.model.index is not None:
        add_search(app, site)
    if site.thumbs is not None:
        add_thumbs(app, site, site.thumbs)
    paths = [str(getattr(route, "path", "")) for route in app.routes]
    app.add_middleware(
        Guard, metrics=site.metrics, paths=paths, key=site.key, most_bytes=site.most_bytes, hosts=site.hosts
    )
    return app


def _add_embeddings(app: FastAPI, site: Site) -> None:
    @app.post("/v1/embeddings", response_model=EmbeddingResponse, responses=FAILS)
    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """Encode texts to unit vectors."""
        engine = site.column(body.model).engine
        texts = await run_in_threadpool(texts_of, body, engine)
        encoded = await unless_gone(request, engine.embed(texts))
        if encoded is None:
            return gone()
        if not body.truncate:
            refuse_cut(encoded, engine.tokens.limit)
        site.metrics.texts.inc(len(encoded))
        site.metrics.tokens.inc(sum(one.tokens for one in encoded))
        site.metrics.cut.inc(sum(one.whole > one.tokens for one in encoded))
        answer = await run_in_threadpool(embedding_body, body, encoded, engine.name)
        return Response(answer, media_type="application/json")


def _add_models(app: FastAPI, site: Site) -> None:
    begun = int(time.time())

    @app.get("/v1/models", responses=FAILS)
    async def models() -> dict[str, Any]:
        """Name the models that are served."""
        return {"object": "list", "data": [_model_facts(column.engine, begun) for column in site.columns]}

    @app.get("/v1/models/{name:path}", responses=FAILS)
    async def model(name: str) -> dict[str, Any]:
        """Describe a model."""
        return _model_facts(site.column(name).engine, begun)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Say that the server answers."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {CONTENT_TYPE: {}}}, **FAILS})
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(site.metrics.render(), media_type=CONTENT_TYPE)


def _model_facts(engine: Engine, begun: int) -> dict[str, Any]:
    return {
        "id": engine.name,
        "object": "model",
        "created": begun,
        "owned_by": "gecko",
        "dimensions": engine.dim,
        "max_tokens": engine.tokens.limit,
    }
