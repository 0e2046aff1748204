"""The queries of a run's test sets, told one by one: the largest wins beside the largest losses, then every one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from gecko.report import svg
from gecko.report.gather import read_json

SHOWN_QUERIES = 1000
SHOWN_BYTES = 3_000_000  # of their texts, so that the page stays below 5 MB in any script
_BESIDE = 6  # wins and losses told at length
_BINS = 20
_ALIKE = 1e-9


def read_queries(run: Path, evaluation: dict[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """Return the queries of a run, each with its ``dataset``, and whether they are all.

    A run of an older version kept only those that changed most.

    Raises:
        ValueError: The file of queries is broken.
    """
    try:
        kept = read_json(run / "evaluation" / "queries.json")
    except FileNotFoundError:
        kept = {
            name: [*sides.get("won", []), *sides.get("lost", [])]
            for name, sides in (evaluation.get("queries") or {}).items()
        }
        return [_changed(name, row) for name, rows in kept.items() for row in rows], False
    return [{"dataset": name, **row} for name, rows in kept.items() for row in rows], True


def queries_part(rows: list[dict[str, Any]], complete: bool) -> dict[str, Any] | None:
    """Lay out the wins, the losses, the spread of the gains and the table; None without a query."""
    if not rows:
        return None
    rows = [{**row, "delta": _delta(row), "outcome": _outcome(_delta(row))} for row in rows]
    has_base = any(row["delta"] is not None for row in rows)
    ranked = _fitting(sorted(rows, key=lambda row: -abs(row["delta"] or 0.0)))
    counts = {name: sum(row["outcome"] == name for row in rows) for name in ("won", "lost", "alike")}
    return {
        "rows": sorted(ranked, key=lambda row: row["delta"] if has_base else row["tuned"]),
        "total": len(rows),
        "complete": complete,
        "has_base": has_base,
        "datasets": list(dict.fromkeys(row["dataset"] for row in rows)),
        "counts": counts,
        "won": [row for row in ranked if row["outcome"] == "won"][:_BESIDE],
        "lost": [row for row in ranked if row["outcome"] == "lost"][:_BESIDE],
        "gains": _gains([row["delta"] for row in rows if row["delta"] is not None]) if complete else None,
    }


def _changed(dataset: str, row: dict[str, Any]) -> dict[str, Any]:
    """A query as an older run kept it, in the shape of ``every_query``; ranks are not known."""
    known = {"title": row.get("relevant", ""), "text": "", "grade": None, "base_rank": None, "tuned_rank": None}
    first = {side: [{"text": row.get(f"{side}_top", ""), "judged": None}] for side in ("base", "tuned")}
    own = {key: row[key] for key in ("query_id", "query", "base", "tuned")}
    return {"dataset": dataset, **own, "judged": [known], "judged_count": 1, "first": first, "ranked": False}


def _fitting(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first rows, as many as the page has room for."""
    sizes = np.cumsum([len(json.dumps(row, ensure_ascii=False).encode()) for row in rows[:SHOWN_QUERIES]])
    return rows[: max(1, int(np.searchsorted(sizes, SHOWN_BYTES, side="right")))]


def _delta(row: dict[str, Any]) -> float | None:
    return None if row["base"] is None else row["tuned"] - row["base"]


def _outcome(delta: float | None) -> str:
    if delta is None or abs(delta) <= _ALIKE:
        return "alike"
    return "won" if delta > 0 else "lost"


def _gains(gains: list[float]) -> Markup | None:
    """Draw how many queries gained how much; those that did not change are counted in words, or they hide the rest."""
    changed = [gain for gain in gains if abs(gain) > _ALIKE]
    if not changed:
        return None
    counts = np.histogram(changed, np.linspace(-1, 1, _BINS + 1))[0] / len(changed)
    middle, nothing = _BINS // 2, [0.0] * (_BINS // 2)
    ticks = [(0.0, "−100"), (0.25, "−50"), (0.5, "0"), (0.75, "+50"), (1.0, "+100 points")]
    groups = [("warn", [*counts[:middle], *nothing]), ("accent", [*nothing, *counts[middle:]])]
    return svg.histogram(groups, ticks, "Gain of the queries that changed, in points of nDCG@10", apart=False)
