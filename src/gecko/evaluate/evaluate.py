"""Measure a model on human judgements, beside BM25, the model it came from, and the hybrids of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gecko.errors import GeckoError, UsageError
from gecko.evaluate.beir import BeirSet, load_beir
from gecko.evaluate.bm25 import Bm25
from gecko.evaluate.compare import paired_bootstrap, wins_losses_ties
from gecko.evaluate.per_query import every_query, headline
from gecko.evaluate.retrieval import cut, ndcg_at_k, recall_at_k, reciprocal_rank, rrf
from gecko.miner.exact import top_k

logger = logging.getLogger(__name__)

METRICS: dict[str, Callable[..., np.ndarray]] = {
    "ndcg_at_10": lambda ranking, judged: ndcg_at_k(ranking, judged, 10),
    "recall_at_100": lambda ranking, judged: recall_at_k(ranking, judged, 100),
    "mrr": lambda ranking, judged: reciprocal_rank(ranking, judged, 10),
}
SYSTEMS = ("base", "tuned", "bm25", "hybrid_base", "hybrid_tuned")
SHOWN_QUERIES = 20
Keep = Callable[[str, list[dict[str, Any]]], None]


class Embedder(Protocol):
    """What the evaluation asks of a model (``gecko.embedder`` provides it; the rooms need not know each other)."""

    path: str
    dim: int

    def encode_queries(self, queries: Sequence[str], task: str | Sequence[str] | None = None) -> np.ndarray:
        """Return unit vectors (n, dim) float32 of queries, of one task or of one each."""
        ...

    def encode_symmetric(self, texts: Sequence[str], task: str, prompt_name: str = "") -> np.ndarray:
        """Return unit vectors (n, dim) float32 of texts that are compared with their like."""
        ...

    def encode_passages(self, passages: Sequence[tuple[str, str]]) -> np.ndarray:
        """Return unit vectors (n, dim) float32 of (title, text) pairs."""
        ...


def evaluate_models(
    model: Embedder,
    base: Embedder | None,
    folders: Sequence[Path],
    *,
    dims: Sequence[int] | None = None,
    split: str = "test",
    depth: int = 100,
    keep: Keep | None = None,
) -> dict[str, Any]:
    """Compare a tuned model with its base on BEIR folders, at each Matryoshka dimension.

    Every text is encoded once a model, at full width; smaller dimensions are cut from it and renormalised.

    Args:
        model: The tuned model.
        base: The model to beat; None leaves ``base``, ``delta`` and ``ci95`` null.
        folders: BEIR folders.
        dims: Dimensions to score; the model's own if None. A narrower base is scored at its full width there.
        split: Which judgements.
        depth: Documents ranked a query (at least 100, for recall at 100).
        keep: Is given each set's name and all its queries (``every_query``), scored by nDCG@10 at the widest dimension.

    Returns:
        ``{"model", "base", "results": [...], "mean": {...}, "queries": {...}}``, JSON-ready; every metric is a
        fraction 0-1.

    Raises:
        UsageError: No folder, or a dimension the model does not have.
        GeckoError: A folder is broken or a model returns something that is not a number.
    """
    if not folders:
        raise UsageError("nothing to evaluate on", "Name at least one BEIR folder.")
    widths = widths_of(model, dims)
    depth = max(depth, 100)
    report: dict[str, Any] = {"model": model.path, "base": base.path if base else None, "results": [], "queries": {}}
    for name, data in named_sets(folders, split):
        results, shown = evaluate_set(name, data, model, base, widths, depth, keep=keep)
        report["results"] += results
        report["queries"][name] = shown
    report["mean"] = _means(report["results"])
    return report


def named_sets(folders: Sequence[Path], split: str) -> Iterator[tuple[str, BeirSet]]:
    """Load BEIR folders one after the other, each once, under names that tell them apart.

    Raises:
        GeckoError: A folder is broken.
    """
    names: set[str] = set()
    for folder in dict.fromkeys(Path(folder).resolve() for folder in folders):
        data = load_beir(folder, split)
        name = data.name if data.name not in names else f"{folder.parent.name}/{data.name}"  # xquad/en beside mlqa/en
        names.add(name)
        logger.info("evaluating %s: %d queries, %d documents", name, len(data.queries), len(data.doc_ids))
        yield name, data


def widths_of(model: Embedder, dims: Sequence[int] | None) -> list[int]:
    """The dimensions to score, widest first; the model's own if none is named.

    Raises:
        UsageError: A dimension the model does not have.
    """
    widths = sorted({int(dim) for dim in dims} if dims else {model.dim}, reverse=True)
    for width in widths:
        if not 1 <= width <= model.dim:
            raise UsageError(f"dimension {width} is not between 1 and {model.dim}", f"{model.path} has {model.dim}.")
    return widths


def evaluate_set(
    name: str,
    data: BeirSet,
    model: Embedder,
    base: Embedder | None,
    widths: list[int],
    depth: int = 100,
    task: str | None = None,
    keep: Keep | None = None,
) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """Score one dataset: (a result for each dimension and metric, the queries most won and lost).

    ``task`` is put before the queries of a model with gecko's format; its default word if None.
    ``keep`` is given all queries (see ``evaluate_models``).
    """
    position = {doc_id: index for index, doc_id in enumerate(data.doc_ids)}
    judged = [{position[doc]: grade for doc, grade in grades.items()} for grades in data.qrels.values()]
    keyword = Bm25(data.titles, data.texts).search(list(data.queries.values()), depth)[0]
    keyword_scores = {metric: measure(keyword, judged) for metric, measure in METRICS.items()}
    encoded = {"tuned": encode_set(model, data, task)} | ({"base": encode_set(base, data, task)} if base else {})

    results: list[dict[str, Any]] = []
    shown: dict[str, list[dict[str, Any]]] = {"won": [], "lost": []}
    for width in widths:
        rankings = {side: _rank(*vectors, width, depth) for side, vectors in encoded.items()}
        rankings |= {f"hybrid_{side}": rrf([keyword, ranking], depth=depth) for side, ranking in rankings.items()}
        for metric, measure in METRICS.items():
            scores = {system: measure(ranking, judged) for system, ranking in rankings.items()}
            scores["bm25"] = keyword_scores[metric]
            results.append(_result(name, metric, width, scores))
            if base and metric == "ndcg_at_10" and width == widths[0]:
                shown = won_and_lost(data, scores, rankings)
            if keep and metric == "ndcg_at_10" and width == widths[0]:
                keep(name, every_query(data, scores, rankings))
    return results, shown


def encode_set(model: Embedder, data: BeirSet, task: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the full-width (query vectors, document vectors), checked to be numbers."""
    queries = np.asarray(model.encode_queries(list(data.queries.values()), task), np.float32)
    documents = np.asarray(model.encode_passages(list(zip(data.titles, data.texts, strict=True))), np.float32)
    check_finite(model, queries, documents)
    return queries, documents


def check_finite(model: Embedder, *vectors: np.ndarray) -> None:
    """Refuse vectors that are not numbers.

    Raises:
        GeckoError: Some are not.
    """
    if not all(np.isfinite(part).all() for part in vectors):
        raise GeckoError(f"{model.path}: some vectors are not numbers", "The training diverged: lower its rate.")


def _rank(queries: np.ndarray, documents: np.ndarray, width: int, depth: int) -> np.ndarray:
    """Rank the documents by cosine of the first ``width`` dimensions; (n, depth)."""
    return top_k(cut(queries, width), cut(documents, width), depth)[0]


def _result(name: str, metric: str, width: int, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """Sum up one dataset, metric and dimension as the report's row."""
    row: dict[str, Any] = {"dataset": name, "metric": metric, "dim": width}
    row |= {system: float(scores[system].mean()) if system in scores else None for system in SYSTEMS}
    row |= {"delta": None, "ci95": None, "wins": None, "losses": None, "ties": None, "n": len(scores["tuned"])}
    if "base" in scores:
        row["delta"] = row["tuned"] - row["base"]
        row["ci95"] = list(paired_bootstrap(scores["base"], scores["tuned"]))
        row["wins"], row["losses"], row["ties"] = wins_losses_ties(scores["base"], scores["tuned"])
    return row


def won_and_lost(
    data: BeirSet, scores: dict[str, np.ndarray], rankings: dict[str, np.ndarray]
) -> dict[str, list[dict[str, Any]]]:
    """List the queries that changed most, with what each model put first; both mappings have ``base`` and ``tuned``."""
    delta = scores["tuned"] - scores["base"]
    query_ids = list(data.queries)

    def entry(row: int) -> dict[str, Any]:
        query_id = query_ids[row]
        best = max(data.qrels[query_id].items(), key=lambda item: item[1])[0]
        return {
            "query_id": query_id,
            "query": data.queries[query_id],
            "base": float(scores["base"][row]),
            "tuned": float(scores["tuned"][row]),
            "delta": float(delta[row]),
            "base_top": headline(data, int(rankings["base"][row, 0])),
            "tuned_top": headline(data, int(rankings["tuned"][row, 0])),
            "relevant": headline(data, data.doc_ids.index(best)),
        }

    order = np.argsort(-delta, kind="stable")
    return {
        "won": [entry(int(row)) for row in order[:SHOWN_QUERIES] if delta[row] > 1e-9],
        "lost": [entry(int(row)) for row in order[::-1][:SHOWN_QUERIES] if delta[row] < -1e-9],
    }


def _means(results: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Average each metric and dimension over the datasets, every dataset alike."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in results:
        groups.setdefault(f"{row['metric']}@{row['dim']}", []).append(row)
    return {
        key: {
            column: None if rows[0][column] is None else float(np.mean([row[column] for row in rows]))
            for column in ("base", "tuned", "delta", "bm25", "hybrid_base", "hybrid_tuned")
        }
        for key, rows in groups.items()
    }
