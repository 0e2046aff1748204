"""FRet step 2, first half: the miner retrieves each query's neighbours from the whole corpus (paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gecko.embedder.embedder import Embedder
from gecko.engine.local import LocalEngine
from gecko.engine.protocol import Engine
from gecko.fret.store import PassageTable
from gecko.miner.search import ExactSearch, Search
from gecko.records import GeneratedQuery

_ENCODED = 256  # queries encoded at once
_SEARCHED = 2048  # queries searched at once: each time, all vectors are read


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """A query's candidates in the miner's order, the seed among them: corpus positions, ids and cosines."""

    query: GeneratedQuery
    positions: tuple[int, ...]
    passage_ids: tuple[str, ...]
    miner_scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """Some queries as the search sees them: texts, tasks where they are apart, and positions of the seeds."""

    texts: list[str]
    tasks: list[str] | None
    seeds: list[int]


@dataclass(frozen=True, slots=True)
class Found:
    """What the search found, row by row: positions (n, k), their cosines, and those of the seeds (n,)."""

    positions: np.ndarray
    scores: np.ndarray
    seeds: np.ndarray


@dataclass(frozen=True, slots=True)
class Retrieving:
    """How queries are searched for (:class:`gecko.engine.protocol.Work`).

    Sent to another process it is the names of the model and of the file of vectors, which both must be there, and the
    search is exact.

    Attributes:
        miner: The first embedder.
        vectors: Those of the corpus, (m, d), memory-mapped.
        search: Over them.
        neighbours: N.
    """

    miner: Embedder
    vectors: Any
    search: Search
    neighbours: int

    def __reduce__(self) -> tuple[Any, ...]:
        return _on_disk, (self.miner, Path(self.vectors.filename).resolve(), self.neighbours)

    def open(self) -> Callable[[Asked], Found]:
        """The search; model and vectors are open already."""
        return self.find

    def find(self, asked: Asked) -> Found:
        """Search for some queries."""
        parts = []
        for start in range(0, len(asked.texts), _ENCODED):
            rows = slice(start, start + _ENCODED)
            parts.append(self.miner.encode_queries(asked.texts[rows], asked.tasks[rows] if asked.tasks else None))
        vectors = np.concatenate(parts)
        positions, scores = self.search.find(vectors, self.neighbours)
        seeds = [np.dot(vectors[row], self.vectors[position]) for row, position in enumerate(asked.seeds)]
        return Found(positions, scores, np.asarray(seeds, np.float32))


def _on_disk(miner: Embedder, vectors: Path, neighbours: int) -> Retrieving:
    mapped = np.load(vectors, mmap_mode="r")
    return Retrieving(miner, mapped, ExactSearch(mapped), neighbours)


def retrieve(
    queries: Sequence[GeneratedQuery],
    store: PassageTable,
    miner: Embedder,
    *,
    neighbours: int,
    with_task: bool,
    search: Search | None = None,
    engine: Engine | None = None,
) -> Iterator[Neighbourhood]:
    """Find the top-N passages of every query, with the seed always included.

    Args:
        queries: As many as there are; some thousands are in work at a time.
        store: The corpus with the miner's vectors.
        miner: The first embedder.
        neighbours: N; the paper's samples suggest 20.
        with_task: Embed task and query together, as the paper does, instead of the query alone: in the unified format's
            own string where the miner was trained with it, else one after the other.
        search: Over the store's vectors; exact if None.
        engine: Runs an exact search; None does it in this process. An approximate one stays in this process, which
            holds its index and measures its recall.

    Yields:
        One neighbourhood a query; N candidates, or N + 1 where the seed was not among them.
    """
    search = search or ExactSearch(store.vectors)
    if engine is None or not isinstance(search, ExactSearch):
        engine = LocalEngine(workers=0)
    work = Retrieving(miner, store.vectors, search, min(neighbours, len(store)))
    blocks = [queries[start : start + _SEARCHED] for start in range(0, len(queries), _SEARCHED)]
    asked = (_asked(block, store, with_task, miner.format) for block in blocks)
    for block, found in zip(blocks, engine.map_batches(work, asked, model=True), strict=True):
        for row, query in enumerate(block):
            yield _neighbourhood(query, store, found, row)


def _asked(queries: Sequence[GeneratedQuery], store: PassageTable, with_task: bool, text_format: str) -> Asked:
    texts, tasks = [query.query for query in queries], None
    if with_task and text_format == "gecko":
        tasks = [query.task for query in queries]
    elif with_task:
        texts = [f"{query.task} {query.query}" for query in queries]
    return Asked(texts, tasks, store.positions([query.seed_id for query in queries]))


def _neighbourhood(query: GeneratedQuery, store: PassageTable, found: Found, row: int) -> Neighbourhood:
    positions, scores = found.positions[row].tolist(), found.scores[row].tolist()
    ids = [store.ids[position] for position in positions]
    if query.seed_id not in ids:
        positions.append(store.position(query.seed_id))
        ids.append(query.seed_id)
        scores.append(float(found.seeds[row]))
    return Neighbourhood(query, tuple(positions), tuple(ids), tuple(scores))
