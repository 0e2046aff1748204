"""What the server counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """A server's counters; a registry of its own, so that two servers in a process do not meet."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own = self._registry
        ProcessCollector(registry=own)
        self.requests = Counter("gecko_requests", "Requests answered.", ["path", "status"], registry=own)
        self.seconds = Histogram(
            "gecko_request_seconds", "From a request to its answer.", ["path"], buckets=_SECONDS, registry=own
        )
        self.texts = Counter("gecko_texts", "Texts encoded.", registry=own)
        self.tokens = Counter("gecko_tokens", "Tokens the model read.", registry=own)
        self.cut = Counter("gecko_texts_cut", "Texts longer than the model reads.", registry=own)
        self.batch = Histogram("gecko_batch_texts", "Texts of a batch.", buckets=_TEXTS, registry=own)
        self.waiting = Gauge(
            "gecko_queue_texts", "Texts that wait for their batch, long ones counted as several.", registry=own
        )
        self.open = Gauge("gecko_requests_open", "Requests being answered.", registry=own)

    def watch(self, waiting: Callable[[], int]) -> None:
        """Read the length of the queue when the counters are asked for."""
        self.waiting.set_function(waiting)

    def render(self) -> bytes:
        """The counters as text."""
        return generate_latest(self._registry)
