"""What became of every query of a test set: its scores, and where each model puts the passages that people judged."""

from __future__ import annotations

from typing import Any

import numpy as np

from gecko.evaluate.beir import BeirSet

JUDGED = 8  # judged documents kept a query, the most relevant first
_FIRST = 3  # documents kept of what each model puts first
_SHOWN = 240  # characters of a text


def every_query(data: BeirSet, scores: dict[str, np.ndarray], rankings: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """List all queries of a set with what lies behind their scores.

    Args:
        data: The test set.
        scores: One score a query of ``tuned`` and, where there is a base, ``base``.
        rankings: (queries, depth) document positions of the same, best first, -1 where nothing was found.

    Returns:
        For each query ``query_id``, ``query``, ``base`` and ``tuned`` (None without a base), ``judged`` (its most
        relevant documents: ``title``, ``text``, ``grade``, and ``base_rank`` and ``tuned_rank`` from 1, None beyond
        the depth), ``judged_count``, ``first`` (of each model, what it puts first)
        and ``first_rank`` (where each puts the first relevant document).
    """
    position = {doc_id: index for index, doc_id in enumerate(data.doc_ids)}
    sides = [side for side in ("base", "tuned") if side in scores]
    rows = []
    for row, (query_id, query) in enumerate(data.queries.items()):
        grades = {position[doc_id]: grade for doc_id, grade in data.qrels[query_id].items() if grade > 0}
        places = {side: {int(doc): at for at, doc in enumerate(rankings[side][row], 1) if doc >= 0} for side in sides}
        best = sorted(grades, key=lambda doc: (-grades[doc], doc))[:JUDGED]
        judged = [
            {"title": data.titles[doc].strip(), "text": _short(data.texts[doc]), "grade": int(grades[doc])}
            | {f"{side}_rank": places[side].get(doc) if side in places else None for side in ("base", "tuned")}
            for doc in best
        ]
        first = {
            side: [{"text": headline(data, doc), "judged": doc in grades} for doc in list(places[side])[:_FIRST]]
            for side in sides
        }
        hits = {side: [places[side][doc] for doc in grades if doc in places[side]] for side in sides}
        figures = {side: float(scores[side][row]) if side in scores else None for side in ("base", "tuned")}
        rows.append(
            {"query_id": query_id, "query": query, **figures, "judged": judged, "judged_count": len(grades)}
            | {"first": first}
            | {"first_rank": {side: min(hits.get(side, ()), default=None) for side in ("base", "tuned")}}
        )
    return rows


def headline(data: BeirSet, row: int) -> str:
    """Name a document for a reader: its title, else how its text begins; empty where none was found."""
    if row < 0:
        return ""
    return data.titles[row].strip() or " ".join(data.texts[row][:400].split())[:100]


def _short(text: str) -> str:
    text = " ".join(text[: 4 * _SHOWN].split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
