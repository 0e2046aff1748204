"""Is a teacher's ranking worth training on? The paper's own test of its ranker (table 6), on a labelled corpus.

A teacher passes where the fused order is no worse than the better of its two scores, and that no worse than the miner.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gecko.corpus.language import detect
from gecko.errors import UsageError
from gecko.evaluate.beir import BeirSet, beir_files, load_beir
from gecko.evaluate.compare import paired_bootstrap
from gecko.evaluate.evaluate import Embedder
from gecko.evaluate.retrieval import ndcg_at_k, recall_at_k
from gecko.fret.rank import fuse
from gecko.miner.exact import top_k
from gecko.records import Candidate, GeneratedQuery, Passage
from gecko.teacher.protocol import AsksMany, Ranker, RankRequest, Scores, rank_all

_CUT = 10
_MOST_FAILED = 0.05  # of the queries; above it nothing is known of the teacher
_FLAT_K = 60.0
_SPLITS = (
    "train",
    "dev",
    "validation",
    "test",
)  # the first that is there; a test is for the model, not for its teacher
_ORDERS: dict[str, Callable[[Candidate], int]] = {
    "miner": lambda candidate: candidate.miner_rank,
    "ql": lambda candidate: candidate.ql_rank,
    "rc": lambda candidate: candidate.rc_rank,
    "rrf": lambda candidate: candidate.rank,
}


class JudgedCorpus:
    """The documents of a labelled set as the passages a teacher is prepared for; ids are the set's own.

    Attributes:
        ids: Document ids in corpus order.
        vectors: The miner's unit vectors in the same order.
    """

    def __init__(self, data: BeirSet, vectors: np.ndarray) -> None:
        self.ids: Sequence[str] = data.doc_ids
        self.vectors: Any = vectors
        self._passages = [
            Passage(doc_id, doc_id, title, text, data.name, detect(text))
            for doc_id, title, text in zip(data.doc_ids, data.titles, data.texts, strict=True)
        ]
        self._position = {doc_id: position for position, doc_id in enumerate(data.doc_ids)}

    def __len__(self) -> int:
        return len(self._passages)

    def __iter__(self) -> Iterator[Passage]:
        return iter(self._passages)

    def passage(self, passage_id: str) -> Passage:
        """Fetch one passage."""
        return self._passages[self._position[passage_id]]

    def at(self, position: int) -> Passage:
        """Fetch the passage at a corpus position."""
        return self._passages[position]

    def position(self, passage_id: str) -> int:
        """Corpus position of a passage."""
        return self._position[passage_id]


def check_ranking(
    teacher: Ranker,
    beir_folder: Path,
    *,
    miner: Embedder,
    sample: int = 200,
    neighbours: int = 20,
    split: str | None = None,
    seed: int = 0,
    scores_all: bool = True,
) -> dict[str, Any]:
    """Measure a teacher's orders of the miner's candidates against people's judgements.

    All orders are of the same candidates and are measured on the same judgements, so they differ in nothing but the
    order; an answer the miner did not find counts against each alike (``recall_in_candidates`` says how many it found).

    Args:
        teacher: Prepared here for the set's corpus.
        beir_folder: A labelled set in BEIR layout.
        miner: The first embedder.
        sample: Queries drawn; all where the split has no more.
        neighbours: Candidates a query.
        split: Which judgements; None takes those of train, dev or validation, where there are any, else those of the
            test: a teacher chosen by its score on a test would flatter every later score on it.
        seed: Seed of the draw and of the intervals.
        scores_all: Whether the teacher is to score every candidate; a thrifty schedule leaves some out on purpose.

    Returns:
        ``{"dataset", "split", "n", "available", "failed", "neighbours", "ndcg_at_10": {order: mean},
        "delta_to_miner": {order: {"delta", "ci95"}}, "fused_to_better": {"better", "delta", "ci95"},
        "recall_in_candidates"}``, JSON-ready; orders are ``miner``, ``ql``, ``rc``, ``rrf`` (k = 0) and ``rrf60``.
        ``available`` counts the split's queries; ``fused_to_better`` sets the fused order against the better of its
        two parts. ``failed`` counts the queries that
        were not ranked, or lack a score; there the miner's order fills the gaps.

    Raises:
        UsageError: ``sample`` or ``neighbours`` is below 1.
        GeckoError: The folder is broken.
    """
    if sample < 1 or neighbours < 1:
        raise UsageError(f"a check of {sample} queries with {neighbours} neighbours", "both must be at least 1")
    split = split or _default_split(beir_folder)
    data = load_beir(beir_folder, split)
    asked = _draw(list(data.queries), sample, seed)
    corpus = JudgedCorpus(data, miner.encode_passages(list(zip(data.titles, data.texts, strict=True))))
    teacher.prepare(corpus)
    texts = [data.queries[query_id] for query_id in asked]
    positions, cosines = top_k(miner.encode_queries(texts), corpus.vectors, neighbours)
    ranked: dict[str, list[list[int]]] = {name: [] for name in (*_ORDERS, f"rrf{_FLAT_K:g}")}
    failed = 0
    requests = [
        RankRequest(_query(text), [corpus.at(position) for position in found], scores)
        for text, found, scores in zip(texts, positions.tolist(), cosines.tolist(), strict=True)
    ]
    if isinstance(teacher, AsksMany):
        teacher.begin("rankings", len(requests))
    for found, scores, reply in zip(positions.tolist(), cosines.tolist(), rank_all(teacher, requests), strict=True):
        failed += _failed(reply, scores_all=scores_all)
        for name, candidates in _orders([corpus.ids[position] for position in found], scores, reply).items():
            ranked[name].append([corpus.position(passage_id) for passage_id in candidates])
    judged = [
        {corpus.position(doc_id): float(grade) for doc_id, grade in data.qrels[query_id].items()} for query_id in asked
    ]
    scored = {name: ndcg_at_k(np.asarray(rows), judged, _CUT) for name, rows in ranked.items()}
    better = max(("ql", "rc"), key=lambda name: float(scored[name].mean()))
    return {
        "dataset": data.name,
        "split": split,
        "n": len(asked),
        "available": len(data.queries),
        "failed": failed,
        "neighbours": positions.shape[1],
        "ndcg_at_10": {name: float(values.mean()) for name, values in scored.items()},
        "delta_to_miner": {
            name: _difference(scored["miner"], values, seed) for name, values in scored.items() if name != "miner"
        },
        "fused_to_better": {"better": better, **_difference(scored[better], scored["rrf"], seed)},
        "recall_in_candidates": float(recall_at_k(positions, judged, positions.shape[1]).mean()),
    }


def passes(check: dict[str, Any]) -> bool:
    """Whether the fused order is no worse than the better single score, and that no worse than the miner (paper).

    Where more than a twentieth of the queries failed, it is not: what was measured then is the miner.
    """
    figures = check["ndcg_at_10"]
    if too_many_failed(check):
        return False
    return bool(figures["rrf"] >= max(figures["ql"], figures["rc"]) >= figures["miner"])


def _default_split(folder: Path) -> str:
    there = (split for split in _SPLITS if beir_files(folder, split)[2].is_file())
    return next(there, _SPLITS[-1])


def _difference(before: np.ndarray, after: np.ndarray, seed: int) -> dict[str, Any]:
    return {"delta": float((after - before).mean()), "ci95": list(paired_bootstrap(before, after, seed=seed))}


def too_many_failed(check: dict[str, Any]) -> bool:
    """Whether so many queries failed that the figures say little of the teacher."""
    return bool(check["failed"] > _MOST_FAILED * check["n"])


def _draw(query_ids: Sequence[str], sample: int, seed: int) -> list[str]:
    """A sample in the set's own order; the same seed draws the same queries whatever the teacher."""
    if sample >= len(query_ids):
        return list(query_ids)
    drawn = set(random.Random(seed).sample(range(len(query_ids)), sample))  # noqa: S311
    return [query_id for position, query_id in enumerate(query_ids) if position in drawn]


def _failed(scores: Scores, *, scores_all: bool) -> bool:
    lacking = [score is None for kind in (scores.ql, scores.rc) for score in kind]
    return bool(scores.error) or (any(lacking) if scores_all else all(lacking))


def _query(text: str) -> GeneratedQuery:
    """A person's question as a teacher is given its own; nobody wrote it from a passage, so it has no seed."""
    return GeneratedQuery("", "", text, detect(text), "", "", 0, 0)


def _orders(passage_ids: Sequence[str], miner_scores: Sequence[float], scores: Scores) -> dict[str, list[str]]:
    fused = fuse(passage_ids, miner_scores, scores.ql, scores.rc)
    flat = fuse(passage_ids, miner_scores, scores.ql, scores.rc, _FLAT_K)
    orders = {name: [c.passage_id for c in sorted(fused, key=rank)] for name, rank in _ORDERS.items()}
    return {**orders, f"rrf{_FLAT_K:g}": [candidate.passage_id for candidate in flat]}
