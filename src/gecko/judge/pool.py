"""What a person is asked to judge: the documents that any of the systems finds, without a word on which one did."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from gecko.evaluate.bm25 import Bm25
from gecko.evaluate.evaluate import Embedder as Encoder
from gecko.evaluate.evaluate import check_finite
from gecko.judge.queries import Query
from gecko.miner.exact import top_k
from gecko.shards import atomic

logger = logging.getLogger(__name__)

BM25 = "bm25"
Documents = tuple[list[str], list[str], list[str]]  # ids, titles and texts
RANKED = 10  # documents of a ranking that are kept: as many as nDCG@10 looks at


class Embedder(Encoder, Protocol):
    """A model whose vectors can be kept: they depend on nothing but its fingerprint and the texts."""

    @property
    def fingerprint(self) -> str:
        """Hash of what its vectors depend on."""
        ...


@dataclass(frozen=True, slots=True)
class Pool:
    """A query and its candidates.

    Attributes:
        query_id, query: The query.
        candidates: Document ids in the order in which they are shown.
        rankings: What each system found, best first; a person who judges does not see it.
    """

    query_id: str
    query: str
    candidates: tuple[str, ...]
    rankings: Mapping[str, tuple[str, ...]]


def new_candidates(query_id: str, known: Sequence[str], found: Collection[str]) -> list[str]:
    """The candidates that are new, shuffled from an order that no system made: nothing can be read from their place."""
    fresh = sorted(set(found).difference(known))
    random.Random(f"{query_id} {len(known)}").shuffle(fresh)  # noqa: S311
    return fresh


class Pooler:
    """Makes the pools of queries over one corpus (BM25's candidates, and each model's).

    Args:
        documents: Ids, titles and texts of the corpus, in parallel.
        models: How to load each system's model; they are loaded when first needed.
        vectors: Folder that keeps the corpus's vectors of each model, so that more queries come quickly.
        depth: Candidates of each system.
    """

    def __init__(
        self, documents: Documents, models: Mapping[str, Callable[[], Embedder]], vectors: Path, depth: int
    ) -> None:
        self._doc_ids, self._titles, self._texts = documents
        self._load = models
        self._vectors = vectors
        self._depth = depth
        self._systems: dict[str, Callable[[Sequence[str], int], np.ndarray]] | None = None

    def pool(self, queries: Sequence[Query], before: Mapping[str, Pool]) -> list[Pool]:
        """Make the pools anew; candidates that a query had stay where they were, new ones come after them."""
        depth = max(self._depth, RANKED)
        systems = self._ready()
        texts = [query.text for query in queries]
        ranked = {name: search(texts, depth) for name, search in systems.items()}
        pools = []
        for row, query in enumerate(queries):
            rankings = {
                name: tuple(self._doc_ids[position] for position in found[row].tolist() if position >= 0)
                for name, found in ranked.items()
            }
            known = before[query.query_id].candidates if query.query_id in before else ()
            found = {doc_id for ranking in rankings.values() for doc_id in ranking[: self._depth]}
            fresh = new_candidates(query.query_id, known, found)
            pools.append(Pool(query.query_id, query.text, (*known, *fresh), rankings))
        return pools

    def _ready(self) -> dict[str, Callable[[Sequence[str], int], np.ndarray]]:
        if self._systems is None:
            keyword = Bm25(self._titles, self._texts)
            self._systems = {BM25: lambda queries, depth: keyword.search(queries, depth)[0]}
            passages = list(zip(self._titles, self._texts, strict=True))
            for name, load in self._load.items():
                self._systems[name] = _searcher(load(), passages, self._vectors)
        return self._systems


def _searcher(
    model: Embedder, passages: Sequence[tuple[str, str]], folder: Path
) -> Callable[[Sequence[str], int], np.ndarray]:
    """Encode the corpus, or take the vectors that were kept, and give what ranks it."""
    path = folder / f"{model.fingerprint}.npy"
    documents = _kept(path, len(passages))
    if documents is None:
        logger.info("encoding %s documents with %s", f"{len(passages):,}", model.path)
        vectors = np.asarray(model.encode_passages(passages), np.float32)
        check_finite(model, vectors)
        with atomic(path) as temporary, temporary.open("wb") as handle:
            np.save(handle, vectors, allow_pickle=False)
        documents = vectors

    def search(queries: Sequence[str], depth: int) -> np.ndarray:
        vectors = np.asarray(model.encode_queries(queries), np.float32)
        check_finite(model, vectors)
        return top_k(vectors, documents, depth)[0]

    return search


def _kept(path: Path, size: int) -> np.ndarray | None:
    """Vectors of an earlier session, memory-mapped; None where there are none that fit."""
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return vectors if vectors.ndim == 2 and len(vectors) == size else None
