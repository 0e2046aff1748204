"""FRet step 2, first half: the miner retrieves each query's neighbours from the whole corpus (paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gecko.embedder.embedder import Embedder
from gecko.evaluate.retrieval import top_k
from gecko.fret.store import PassageTable
from gecko.records import GeneratedQuery


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """A query's candidates in the miner's order, the seed among them, with their cosines."""

    query: GeneratedQuery
    passage_ids: tuple[str, ...]
    miner_scores: tuple[float, ...]


def retrieve(
    queries: Sequence[GeneratedQuery], store: PassageTable, miner: Embedder, *, neighbours: int, with_task: bool
) -> Iterator[Neighbourhood]:
    """Find the top-N passages of every query by exact search, with the seed always included.

    Args:
        queries: A shard's queries.
        store: The corpus with the miner's vectors.
        miner: The first embedder.
        neighbours: N; the paper's samples suggest 20.
        with_task: Embed task and query together, as the paper does, instead of the query alone: in the unified format's
            own string where the miner was trained with it, else one after the other.

    Yields:
        One neighbourhood a query; N candidates, or N + 1 where the seed was not among them.
    """
    texts, tasks = [query.query for query in queries], None
    if with_task and miner.format == "gecko":
        tasks = [query.task for query in queries]
    elif with_task:
        texts = [f"{query.task} {query.query}" for query in queries]
    vectors = miner.encode_queries(texts, tasks)
    indices, scores = top_k(vectors, store.vectors, min(neighbours, len(store)))
    for row, query in enumerate(queries):
        found = [(store.ids[int(i)], float(s)) for i, s in zip(indices[row], scores[row], strict=True)]
        if all(passage_id != query.seed_id for passage_id, _ in found):
            position = store.position(query.seed_id)
            found.append((query.seed_id, float(np.dot(vectors[row], store.vectors[position]))))
        yield Neighbourhood(query, tuple(i for i, _ in found), tuple(s for _, s in found))
