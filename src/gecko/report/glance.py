"""What a product owner asks first, answered in plain words: who gains, what it cost, what else changed, is it fair."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from gecko.evaluate.tasks import widest_main

_NAMED = 3  # test sets named in a line


def glance(
    evaluation: dict[str, Any] | None,
    summary: dict[str, Any] | None,
    calls: list[dict[str, Any]],
    leakage: dict[str, Any] | None,
) -> list[tuple[str, str]]:
    """Word what the run's figures mean, one (heading, sentence) each; what was not measured is said.

    Args:
        evaluation: What ``evaluate_models`` returned, or None.
        summary: The run's summary, or None.
        calls: The ledger's totals, a row a kind and model.
        leakage: What the audit found, or None.
    """
    lines = [
        ("Who gains", _who(evaluation or {})),
        ("Beside word search", _words(evaluation or {})),
        ("Elsewhere", _elsewhere((evaluation or {}).get("tasks"))),
        ("Cost", _cost(summary, calls)),
        ("Shorter vectors", _shorter(evaluation or {})),
        ("Fair test", _fair(leakage, evaluation or {})),
    ]
    return [(heading, line) for heading, line in lines if line]


def _who(evaluation: dict[str, Any]) -> str:
    rows = widest_main(evaluation.get("results") or [])
    if not rows or any(row.get("wins") is None for row in rows):
        return ""
    wins, losses, ties = (sum(row[name] for row in rows) for name in ("wins", "losses", "ties"))
    return (
        f"Of {wins + losses + ties:,} questions with answers that people judged, {wins:,} now find these higher up, "
        f"{losses:,} lower down and {ties:,} where they were."
    )


def _words(evaluation: dict[str, Any]) -> str:
    """Whether the model is worth having where a search by words is there already."""
    rows = widest_main(evaluation.get("results") or [])
    if not rows or any(row.get("bm25") is None for row in rows):
        return ""
    words, tuned = (fmean([row[name] for row in rows]) for name in ("bm25", "tuned"))
    compared = "less than" if words < tuned else "no less than"
    line = f"Search by words (BM25) reaches {100 * words:.1f}, {compared} the model's {100 * tuned:.1f}"
    both = [row.get("hybrid_tuned") for row in rows]
    known = [score for score in both if score is not None]
    return line + (f"; both together reach {100 * fmean(known):.1f}." if len(known) == len(rows) else ".")


def _elsewhere(tasks: dict[str, Any] | None) -> str:
    if not tasks or not tasks.get("results"):
        return "Not measured: the recipe names no general tasks, so it is not known whether anything was forgotten."
    rows = [row for row in widest_main(tasks["results"]) if row.get("delta") is not None]
    if not rows:
        return ""
    judged = [row for row in rows if row.get("ci95")]
    lost = [row for row in judged if row["ci95"][1] < 0]
    gained = [row for row in judged if row["ci95"][0] > 0]
    line = (
        f"Of {len(rows)} general tasks that it was not tuned for, {len(gained)} rose and {len(lost)} fell by more than "
    )
    line += f"chance explains; {len(judged) - len(gained) - len(lost)} show no clear difference."
    line += _named("Fell", lost)
    line += _named(
        "Changed, but without an interval that would tell chance apart", [r for r in rows if r not in judged]
    )
    mean = (tasks.get("mean") or {}).get(f"types@{rows[0]['dim']}", {}).get("delta")
    return line + (f" On average {100 * mean:+.1f} points." if mean is not None else "")


def _named(heading: str, rows: list[dict[str, Any]]) -> str:
    """Name the tasks that lost most, in points."""
    if not rows:
        return ""
    worst = sorted(rows, key=lambda row: float(row["delta"]))
    named = ", ".join(f"{row['dataset']} {100 * row['delta']:+.1f}" for row in worst[:_NAMED])
    return f" {heading}: {named}{', …' if len(rows) > _NAMED else ''}."


def _cost(summary: dict[str, Any] | None, calls: list[dict[str, Any]]) -> str:
    if not summary:
        return ""
    stages = summary.get("stages") or []
    line = f"{_time(sum(stage.get('seconds') or 0 for stage in stages))} of computing"
    usd = summary.get("usd")
    made = sum(row["calls"] for row in calls)
    if usd is not None:
        line += f" and {usd:,.2f} US dollars for the teacher"
    if made:
        tokens = sum(row["input_tokens"] + row["output_tokens"] for row in calls)
        line += f", which was asked {made:,} times" + (f" ({_many(tokens)} tokens)" if tokens else "")
    return line + "."


def _shorter(evaluation: dict[str, Any]) -> str:
    """The narrowest vectors that still do as well as the base at its full width."""
    rows = [row for row in evaluation.get("results") or [] if row["metric"] == "ndcg_at_10"]
    dims = sorted({row["dim"] for row in rows})
    if len(dims) < 2 or any(row.get("base") is None for row in rows):
        return ""
    scores = {dim: fmean([row["tuned"] for row in rows if row["dim"] == dim]) for dim in dims}
    full = dims[-1]
    base = fmean([row["base"] for row in rows if row["dim"] == full])
    dim = next((dim for dim in dims[:-1] if scores[dim] >= base), dims[-2])
    compared = "no less than" if scores[dim] >= base else "less than"
    return (
        f"With {dim} of {full} dimensions, {100 * dim / full:.0f} % of the storage, nDCG@10 is {100 * scores[dim]:.1f}"
        f", {compared} the base's {100 * base:.1f} with all of them."
    )


def _fair(leakage: dict[str, Any] | None, evaluation: dict[str, Any]) -> str:
    if not leakage:
        return "Not checked whether training rows repeat questions of the test sets." if evaluation else ""
    sets = len(leakage["sets"])
    against = f"{leakage['rows']:,} training rows were compared with {sets} test set{'s' if sets > 1 else ''}"
    if not leakage["leaked"]:
        return f"{against}; none repeats one of their questions."
    left = leakage["leaked"] - leakage.get("dropped", 0)
    if not left:
        return f"{against}; repeated a question and left out of training: {leakage['leaked']:,}."
    return f"Doubtful: {against} and {left:,} that repeat a question of them were trained on."


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _many(count: float) -> str:
    if count < 10_000:
        return f"{count:,.0f}"
    return f"{count / 1000:,.0f} thousand" if count < 1_000_000 else f"{count / 1_000_000:,.1f} million"
