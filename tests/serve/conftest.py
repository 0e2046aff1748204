"""Indexes of two models, and servers that run until the test ends."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gecko.judge.folder import Settings
from gecko.judge.thumbs import Thumbs
from gecko.serve.index import build_index
from gecko.serve.search import SearchIndex

sys.path.insert(0, str(Path(__file__).parent))

from serve_parts import CORPUS, Running, Words


@pytest.fixture
def encoder() -> Words:
    return Words()


@pytest.fixture(scope="session")
def indexes(tmp_path_factory) -> tuple[Path, Path]:
    """Indexes of one corpus by two models."""
    folder = tmp_path_factory.mktemp("indexes")
    build_index(Words(), CORPUS, folder / "tuned")
    build_index(Words("base", "other"), CORPUS, folder / "base")
    return folder / "tuned", folder / "base"


@pytest.fixture
def start() -> Iterator[Callable]:
    """Serve a Site until the test ends."""
    uvicorn = pytest.importorskip("uvicorn")
    from gecko.serve.api import create_app
    from gecko.serve.engine import Engine
    from gecko.serve.metrics import Metrics
    from gecko.serve.site import Column, Site

    running = []

    def make(encoder, *, index=None, base=None, batch=64, room=4096, **site):
        metrics = Metrics()
        engine = Engine(encoder, "words", batch=batch, room=room, observe=metrics.batch.observe)
        other = base and Column(Engine(base[0], "base"), base[1])
        app = create_app(Site(Column(engine, index), metrics, other, **site))
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=20))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running.append(Running(server, thread, listener.getsockname()[1], engine))
        return running[-1]

    yield make
    for one in running:
        one.stop()


@pytest.fixture
def open_thumbs(tmp_path, indexes) -> Callable:
    """Open the judged set at ``mine``, made of the index or of the rows given."""

    def make(rows=None):
        passages = SearchIndex(indexes[0]).passages()
        documents = [{"_id": p["passage_id"], "title": p["title"], "text": p["text"]} for p in passages]
        return Thumbs(tmp_path / "mine", Settings("index", ("words",), "base"), documents if rows is None else rows)

    return make


@pytest.fixture
def whole_site(start, encoder, indexes, open_thumbs) -> Running:
    """Base and tuned model with their indexes, and thumbs."""
    tuned, base = (SearchIndex(folder) for folder in indexes)
    return start(encoder, index=tuned, base=(Words("base", "other"), base), thumbs=open_thumbs())
