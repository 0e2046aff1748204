"""FRet step 2, first half: the miner retrieves each query's neighbours from the whole corpus (paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gecko.embedder.embedder import Embedder
from gecko.fret.store import PassageTable
from gecko.miner.search import ExactSearch, Search
from gecko.records import GeneratedQuery

_ENCODED = 256  # queries encoded at once
_SEARCHED = 8192  # queries searched at once: each time, all vectors are read


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """A query's candidates in the miner's order, the seed among them, with their cosines."""

    query: GeneratedQuery
    passage_ids: tuple[str, ...]
    miner_scores: tuple[float, ...]


def retrieve(
    queries: Sequence[GeneratedQuery],
    store: PassageTable,
    miner: Embedder,
    *,
    neighbours: int,
    with_task: bool,
    search: Search | None = None,
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

    Yields:
        One neighbourhood a query; N candidates, or N + 1 where the seed was not among them.
    """
    search = search or ExactSearch(store.vectors)
    for first in range(0, len(queries), _SEARCHED):
        block = queries[first : first + _SEARCHED]
        parts = [block[start : start + _ENCODED] for start in range(0, len(block), _ENCODED)]
        vectors = np.concatenate([_encode(part, miner, with_task) for part in parts])
        indices, scores = search.find(vectors, min(neighbours, len(store)))
        for row, query in enumerate(block):
            found = [(store.ids[int(i)], float(s)) for i, s in zip(indices[row], scores[row], strict=True)]
            if all(passage_id != query.seed_id for passage_id, _ in found):
                position = store.position(query.seed_id)
                found.append((query.seed_id, float(np.dot(vectors[row], store.vectors[position]))))
            yield Neighbourhood(query, tuple(i for i, _ in found), tuple(s for _, s in found))


def _encode(queries: Sequence[GeneratedQuery], miner: Embedder, with_task: bool) -> np.ndarray:
    texts, tasks = [query.query for query in queries], None
    if with_task and miner.format == "gecko":
        tasks = [query.task for query in queries]
    elif with_task:
        texts = [f"{query.task} {query.query}" for query in queries]
    return miner.encode_queries(texts, tasks)
