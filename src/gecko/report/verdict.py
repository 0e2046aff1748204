"""The report's first line: is the model better than the one it came from, by how much, and how sure is that."""

from __future__ import annotations

import math
from typing import Any

from gecko.evaluate.tasks import widest_main


def verdict(evaluation: dict[str, Any] | None, gate: dict[str, Any] | None) -> dict[str, str]:
    """Judge a run by its human judgements if it has them, else by its gate.

    Args:
        evaluation: What ``evaluate_models`` returned, or None.
        gate: The gate's decision, or None.

    Returns:
        ``word`` (a heading), ``line`` (one sentence), ``kind``: better, same, worse or unknown, and, where a
        difference is shown, ``gain`` (how much, in points).
    """
    rows = widest_main((evaluation or {}).get("results", []))
    compared = [r for r in rows if r.get("delta") is not None and r.get("ci95")]
    if gate and gate.get("chosen") == "base":
        return _kept_base(gate, compared)
    if compared:
        return _compared(compared)
    if rows:
        mean = sum(row["tuned"] for row in rows) / len(rows)
        line = f"nDCG@10 is {100 * mean:.1f} on {_where(rows)}; no base model was measured beside it."
        return {"word": "Measured alone", "line": line, "kind": "unknown"}
    if gate:
        line = f"The gate chose the {gate.get('chosen', '?')} model: {gate.get('reason', 'no reason given')}. "
        return {
            "word": "Not yet judged by people",
            "line": line + "No human judgements were scored.",
            "kind": "unknown",
        }
    line = "This run holds neither an evaluation nor a gate decision."
    return {"word": "Not measured", "line": line, "kind": "unknown"}


def combined(rows: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Average the gains of independent test sets: (mean, low, high), half-widths added in squares."""
    mean = sum(row["delta"] for row in rows) / len(rows)
    below = math.sqrt(sum((row["delta"] - row["ci95"][0]) ** 2 for row in rows)) / len(rows)
    above = math.sqrt(sum((row["ci95"][1] - row["delta"]) ** 2 for row in rows)) / len(rows)
    return mean, mean - below, mean + above


def _compared(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Word the difference: a claim only where the interval leaves zero out."""
    gain, low, high = combined(rows)
    before, after = (sum(row[side] for row in rows) / len(rows) for side in ("base", "tuned"))
    span = f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
    figures = f"nDCG@10 {100 * before:.1f} → {100 * after:.1f} ({100 * gain:+.1f} points, {span}) on {_where(rows)}."
    # A good mean must not hide a test set that got worse.
    worse = [str(row["dataset"]) for row in rows if row["ci95"][1] < 0]
    if worse and high >= 0:
        figures += f" Worse on {', '.join(worse)}."
    points = f"{100 * gain:+.1f} points"
    if low > 0:
        return {"word": "Better than the base", "line": figures, "kind": "better", "gain": points}
    if high < 0:
        return {"word": "Worse than the base", "line": figures, "kind": "worse", "gain": points}
    line = figures + " The interval includes zero, so no difference is shown."
    return {"word": "No clear difference", "line": line, "kind": "same"}


def _kept_base(gate: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, str]:
    reason = str(gate.get("reason") or "no reason given").rstrip(". ")
    line = f"This run's model is the base itself: {reason}."
    if rows and any(row["delta"] for row in rows):
        line += f" {_compared(rows)['line']}"
    elif rows:
        mean = sum(row["tuned"] for row in rows) / len(rows)
        line += f" Its nDCG@10 is {100 * mean:.1f} on {_where(rows)}."
    return {"word": "The gate kept the base", "line": line, "kind": "same"}


def _where(rows: list[dict[str, Any]]) -> str:
    """Name the test sets, their questions and the dimension."""
    names = [str(row["dataset"]) for row in rows]
    named = (
        names[0] if len(names) == 1 else f"{len(names)} test sets ({', '.join(names[:6])}{', …' * (len(names) > 6)})"
    )
    return f"{named}, {sum(row['n'] for row in rows):,} queries, {rows[0]['dim']} dimensions"
