"""From options to a running server: port, models, indexes, and an end that answers what was begun."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gecko.errors import GeckoError, UsageError
from gecko.serve.precision import Precision
from gecko.serve.search import SearchIndex

if TYPE_CHECKING:
    from gecko.judge.thumbs import Thumbs
    from gecko.serve.metrics import Metrics
    from gecko.serve.site import Column

logger = logging.getLogger(__name__)

KEY = "GECKO_API_KEY"
_DRAIN_SECONDS = 60
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What a server is made of.

    Attributes:
        model: A path, a Hub id or all-MiniLM-L6-v2.
        name: What requests call it; by default the name of its folder, or of the run whose model it is.
        index: Folder or URL of its index; adds search and the page.
        base: Folder or URL of the base model's index, for the page's other column.
        judged: Folder of the judged set that thumbs go to.
        host, port: Where it listens; port 0 takes a free one.
        batch: Texts of a forward call at most.
        queue: Texts that may wait, a long one counted as several; more are answered 429.
        most_bytes: Of a request.
        key: What requests must show.
        precision: Of the forward pass; int8 is made at the first start and kept in the user's cache.
    """

    model: str
    name: str | None = None
    index: Path | str | None = None
    base: Path | str | None = None
    judged: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    batch: int = 64
    queue: int = 4096
    most_bytes: int = 16_000_000
    key: str | None = None
    precision: Precision = Precision.auto

    def __post_init__(self) -> None:
        """Refuse options that nothing would read."""
        for option, value in (("--base", self.base), ("--judged", self.judged)):
            if value is not None and self.index is None:
                raise UsageError(f"{option} is of the search page", "name the index too: --index DIR")


def serve(options: ServeOptions, tell: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that were taken are answered first.

    Args:
        options: What to serve.
        tell: Receives the lines for the user.

    Raises:
        UsageError: The port is taken or the host unknown.
        GeckoError: A model or an index cannot be opened, is half-written, or is of another model.
    """
    _need_extra()
    with _bound(options.host, options.port) as listener:  # first: a taken port is told before a model is loaded
        host, port = listener.getsockname()[:2]
        local = ipaddress.ip_address(host).is_loopback
        named = f"[{host}]" if ":" in host else host
        app = _app(options, tell, hosts=_LOOPBACK | {named} if local and not options.key else None)
        import uvicorn

        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=_DRAIN_SECONDS
        )
        server = uvicorn.Server(config)

        def stop(*_: object) -> None:
            server.should_exit = True

        # uvicorn has its own while it runs, and raises the signal again when it is done: to be told to stop is no
        # failure, neither then nor just before.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        with _listening(host, port):
            listener.listen(config.backlog)  # uvicorn does it later; who reads the address may ask at once
        for line in _welcome(options, f"http://{named}:{port}", local=local):
            tell(line)
        server.run(sockets=[listener])
    tell("stopped")


def _need_extra() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise GeckoError(f"{error.name} is not installed", "pip install 'gecko-embed[serve]'") from error


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"--host {host}: no such address", "for example 127.0.0.1, or 0.0.0.0 for all") from error
    # With its protocol named, asyncio sends answers at once (TCP_NODELAY); without, each waits 40 ms for the client.
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with _listening(host, port):
        listener.bind(address)
    return listener


@contextmanager
def _listening(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"cannot listen at {host}, port {port}: {error.strerror or error}",
            "choose another --port, 0 takes a free one; or another --host",
        ) from error


def _app(options: ServeOptions, tell: Callable[[str], None], hosts: frozenset[str] | None) -> Any:  # noqa: ANN401
    from gecko.serve.api import create_app
    from gecko.serve.metrics import Metrics
    from gecko.serve.site import Site

    index, base_index = _open_index(options.index), _open_index(options.base)
    metrics = Metrics()
    name = options.name or short_name(options.model)
    model = _column(options, metrics, options.model, name, index, tell)
    base = None
    if index is not None and base_index is not None:
        if index.size != base_index.size:
            logger.warning(
                "%s holds %d passages and %s %d: what the page compares is not of one corpus",
                options.index,
                index.size,
                options.base,
                base_index.size,
            )
        other = short_name(base_index.model)
        other = other if other != name else f"{other} (base)"
        base = _column(options, metrics, base_index.model, other, base_index, tell)
    return create_app(
        Site(
            model,
            metrics,
            base,
            names=frozenset({options.model}),
            thumbs=_thumbs(options, index, base_index),
            key=options.key,
            most_bytes=options.most_bytes,
            hosts=hosts,
        )
    )


def _column(
    options: ServeOptions,
    metrics: Metrics,
    spec: str,
    name: str,
    index: SearchIndex | None,
    tell: Callable[[str], None],
) -> Column:
    from gecko.serve.engine import Engine, open_encoder
    from gecko.serve.site import Column

    encoder = open_encoder(spec, batch=options.batch, precision=options.precision, tell=tell)
    if index is not None:
        index.check(encoder)
    engine = Engine(encoder, name, batch=options.batch, room=options.queue, observe=metrics.batch.observe)
    return Column(engine, index)


def _thumbs(options: ServeOptions, index: SearchIndex | None, base: SearchIndex | None) -> Thumbs | None:
    from gecko.embedder.open import lasting_name
    from gecko.judge.folder import Settings
    from gecko.judge.thumbs import Thumbs

    if options.judged is None or index is None:
        return None
    corpus = index.place.lasting
    settings = Settings(corpus, (lasting_name(options.model),), base.model if base else None)
    rows = ({"_id": p["passage_id"], "title": p["title"], "text": p["text"]} for p in index.passages())
    return Thumbs(options.judged, settings, rows)


def _open_index(folder: Path | str | None) -> SearchIndex | None:
    if folder is None:
        return None
    index = SearchIndex(folder)
    if not index.complete:
        raise GeckoError(f"the index in {folder} is not finished", "run gecko index again: it goes on where it stopped")
    return index


def short_name(spec: str) -> str:
    """Name a model for requests: its folder, or the run's where that is only ``model``."""
    parts = [part for part in Path(spec).parts if part not in {"/", "..", "."}]
    if len(parts) > 1 and parts[-1] == "model":
        parts.pop()
    return parts[-1] if parts else "model"


def _welcome(options: ServeOptions, address: str, *, local: bool) -> list[str]:
    lines = [f"serving {options.name or short_name(options.model)} at {address}/v1 (Ctrl-C ends it)"]
    if options.index is not None:
        lines.append(f"search page: {address}/")
    if not local and options.key is None:
        lines.append(f"anybody who reaches this machine can use it: set {KEY} to ask for a key")
    return lines
