"""What building and searching an index share: what is written of it, and how its damage is told."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import numpy as np

from gecko.errors import GeckoError
from gecko.serve.places import AGAIN, FACTS, IndexPlace

logger = logging.getLogger(__name__)


class TextEncoder(Protocol):
    """What an index asks of a model."""

    path: str
    dim: int

    @property
    def fingerprint(self) -> str:
        """Hash of what its vectors depend on."""
        ...

    @property
    def origin(self) -> str:
        """Fingerprint of the model that its vectors stand for: an export's is that of what was exported."""
        ...

    def encode_queries(self, queries: Sequence[str], task: str | Sequence[str] | None = None) -> np.ndarray:
        """Unit vectors (n, dim)."""
        ...

    def encode_passages(self, passages: Sequence[tuple[str, str]]) -> np.ndarray:
        """Unit vectors (n, dim) of (title, text) pairs."""
        ...


def facts_of(place: IndexPlace) -> dict[str, Any] | None:
    """What index.json says: model, weights, dim; None where there is no index."""
    with intact(place):
        facts = place.facts()
    known = isinstance(facts, dict) and isinstance(facts.get("model"), str) and isinstance(facts.get("dim"), int)
    if facts is not None and not known:
        raise GeckoError(f"{place}/{FACTS} is damaged", AGAIN)
    return cast("dict[str, Any] | None", facts)


@contextmanager
def intact(place: IndexPlace) -> Iterator[None]:
    """Tell what goes wrong inside LanceDB as a full disk or a damaged index; it has no error class of its own."""
    try:
        yield
    except GeckoError:
        raise
    except Exception as error:
        logger.debug("%s", place, exc_info=True)
        raise place.trouble(error) from error
