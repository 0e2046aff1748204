"""Which search a run uses, and what an approximate one misses: its recall, measured against exact search."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gecko.errors import UsageError
from gecko.miner.exact import Found, top_k

EXACT_MOST = 5_000_000  # vectors that ``auto`` searches exactly
MEASURED = 200  # queries on which the recall of an index is measured
_LOW = 0.95


class Search(Protocol):
    """Finds the vectors nearest to queries."""

    def find(self, queries: np.ndarray, k: int) -> Found:
        """Return positions (n, min(k, m)) int64 and inner products float32, best first."""
        ...

    def facts(self) -> dict[str, Any]:
        """What a stage notes of the search."""
        ...


class ExactSearch:
    """Exact search over vectors that may be memory-mapped.

    Args:
        vectors: Unit vectors (m, d).
    """

    def __init__(self, vectors: Any) -> None:  # noqa: ANN401
        self._vectors = vectors

    def find(self, queries: np.ndarray, k: int) -> Found:
        """As :func:`gecko.miner.exact.top_k`."""
        return top_k(queries, self._vectors, k)

    def facts(self) -> dict[str, Any]:
        """Nothing: it misses nothing."""
        return {}


class MeasuredSearch:
    """An approximate search whose recall is measured on a sample of the first queries that come.

    Args:
        kind: Its name.
        index: The approximate search.
        vectors: What it searches (m, d).
        tell: Receives the recall in a line, once it is known.
    """

    def __init__(self, kind: str, index: Any, vectors: Any, tell: Callable[[str], None] | None = None) -> None:  # noqa: ANN401
        self._kind = kind
        self._index = index
        self._vectors = vectors
        self._tell = tell
        self._facts: dict[str, Any] = {"search": kind}

    def find(self, queries: np.ndarray, k: int) -> Found:
        """As the index."""
        found: Found = self._index.find(queries, k)
        if len(self._facts) == 1 and found[0].size:
            sample = np.unique(np.linspace(0, len(queries) - 1, MEASURED).astype(np.int64))
            recall = recall_of(found[0][sample], queries[sample], self._vectors)
            self._facts |= {"recall": recall, "recall_at": found[0].shape[1], "recall_queries": len(sample)}
            if self._tell:
                self._tell(_told(self._facts))
        return found

    def facts(self) -> dict[str, Any]:
        """Its kind and, once something was searched, ``recall`` at ``recall_at`` on ``recall_queries`` queries."""
        return dict(self._facts)


def check_search(kind: str) -> None:
    """Find out before any work is done whether a search can be had.

    Raises:
        UsageError: It needs faiss, which is not installed.
    """
    if kind in {"hnsw", "ivfpq"} and find_spec("faiss") is None:
        raise UsageError(f"fret.search is {kind}, and faiss is not installed", "pip install 'gecko-embed[faiss]'")


def open_search(
    kind: str,
    vectors: Any,  # noqa: ANN401
    folder: Path,
    mark: str,
    tell: Callable[[str], None] | None = None,
) -> Search:
    """Open the search that a recipe names.

    Args:
        kind: ``exact``, ``hnsw``, ``ivfpq``, or ``auto``: exact up to ``EXACT_MOST`` vectors, then ``ivfpq``.
        vectors: Unit vectors (m, d); may be memory-mapped.
        folder: Keeps the index of an approximate search.
        mark: Fingerprint of the vectors; an index of others is not reused.
        tell: Receives a line where the search is not what was asked for, and the recall of an approximate one.

    Raises:
        UsageError: An index is named, and faiss is not installed.
        GeckoError: The kept index is damaged.
    """
    check_search(kind)
    if kind == "auto":
        kind = "exact" if len(vectors) <= EXACT_MOST else "ivfpq"
        if kind == "ivfpq" and find_spec("faiss") is None:
            kind = "exact"
            if tell:
                tell("search     exact: faiss is not installed (pip install 'gecko-embed[faiss]')")
    if kind == "exact":
        return ExactSearch(vectors)
    from gecko.miner.indexes import LEAST, IndexSearch

    if len(vectors) < LEAST:
        if tell:
            tell(f"search     exact, not {kind}: {len(vectors):,} vectors are too few for an index")
        return ExactSearch(vectors)
    return MeasuredSearch(kind, IndexSearch(kind, vectors, folder / f"{kind}-{mark}.faiss"), vectors, tell)


def recall_of(positions: np.ndarray, queries: np.ndarray, vectors: Any) -> float:  # noqa: ANN401
    """Share of the true nearest among the found ones; of equally near ones the lower positions are the true ones.

    Args:
        positions: What was found (n, k).
        queries: For these vectors (n, d).
        vectors: Among these (m, d).
    """
    truth, _ = top_k(queries, vectors, positions.shape[1])
    same = sum(len(np.intersect1d(*rows)) for rows in zip(truth, positions, strict=True))
    return same / truth.size


def _told(facts: dict[str, Any]) -> str:
    said = f"{facts['recall']:.3f} of the true {facts['recall_at']} nearest found, on {facts['recall_queries']} queries"
    hint = "; too few? fret.search=exact finds all" if facts["recall"] < _LOW else ""
    return f"search     {facts['search']}: {said}{hint}"
