"""Turn gathered facts into what the template places: pictures, and rows of tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from gecko.evaluate.table import task_notes
from gecko.evaluate.tasks import MAIN
from gecko.mixture.tasks import task_kind
from gecko.report import svg
from gecko.report.gather import LAST_RANK, FretFacts, PassageFacts

BINS = 24
SHOWN_TASKS = 12
SHOWN_REASONS = 12
SHOWN_CANDIDATES = 21
_NAMES = {"cosine_spearman": "Spearman", "max_ap": "AP", "v_measure": "V-measure", "ndcg_at_10": "nDCG@10", "f1": "F1"}


def evaluation_part(report: dict[str, Any]) -> dict[str, Any]:
    """Draw before/after bars and list every figure."""
    rows = [row for row in report["results"] if row["metric"] == "ndcg_at_10"]
    bars = []
    for row in rows:
        interval, note = None, f"{100 * row['tuned']:.1f}"
        if row.get("delta") is not None and row.get("ci95"):
            low, high = row["ci95"]
            interval = (row["base"] + low, row["base"] + high)
            note = f"{100 * row['base']:.1f} → {100 * row['tuned']:.1f}  ({100 * row['delta']:+.1f})"
        label = f"{row['dataset']} · {row['dim']} dim"
        bars.append(svg.Bar(label, row.get("base"), row["tuned"], interval, note, row.get("bm25")))
    return {
        "bars": svg.before_after(bars, "nDCG@10 before and after, by test set and dimension"),
        "rows": report["results"],
        "has_base": report.get("base") is not None,
        "has_bm25": any(row.get("bm25") is not None for row in rows),
        "base": report.get("base"),
    }


def tasks_part(report: dict[str, Any]) -> dict[str, Any]:
    """List the main figure of every general task, the mean of the types at each dimension, and what was passed over."""
    rows = [row for row in report["results"] if row["metric"] == MAIN[row["task_type"]]]
    rows = [{**row, "metric": _NAMES.get(row["metric"], row["metric"].replace("_", " "))} for row in rows]
    widest = max((row["dim"] for row in rows), default=0)
    means = {key: mean for key, mean in report["mean"].items() if key.startswith("types@")}
    tables = {"rows": rows, "means": [{"dim": int(key.rpartition("@")[2]), **mean} for key, mean in means.items()]}
    lost = [row for row in rows if row.get("ci95") and row["ci95"][1] < 0]
    return {
        "figures": len(rows),
        "wide": {name: [one for one in table if one["dim"] == widest] for name, table in tables.items()},
        "narrow": {name: [one for one in table if one["dim"] < widest] for name, table in tables.items()},
        "lost": len(lost),
        "has_base": report.get("base") is not None,
        "notes": task_notes(report),
    }


def passages_part(facts: PassageFacts) -> dict[str, Any]:
    """Draw passage lengths and list languages."""
    picture, median = _lengths(facts.words, "Words per passage")
    return {"rows": facts.rows, "lengths": picture, "median": median, "languages": _shares(facts.languages, 8)}


def fret_part(facts: FretFacts, passages: PassageFacts | None, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Draw what the teacher wrote and decided, and lay out the examples."""
    picture, median = _lengths(facts.query_words, "Words per query")
    overlap = list(passages.overlap.values()) if passages else []
    kinds: Counter[str] = Counter()
    for task, count in facts.tasks.items():
        kinds[task_kind(task)] += count
    return {
        "rows": facts.rows,
        "relabelled": facts.relabelled / max(facts.rows, 1),
        "relabelled_bar": svg.share_bar(facts.relabelled / max(facts.rows, 1), "Share relabelled"),
        "without_negative": facts.without_negative,
        "questions": facts.questions / max(facts.rows, 1),
        "questions_bar": svg.share_bar(facts.questions / max(facts.rows, 1), "Share of questions"),
        "overlap": float(np.mean(overlap)) if overlap else None,
        "overlap_bar": svg.share_bar(float(np.mean(overlap)), "Lexical overlap") if overlap else None,
        "overlap_rows": len(overlap),
        "tasks": _shares(facts.tasks, SHOWN_TASKS),
        "task_count": len(facts.tasks),
        "kinds": _shares(kinds, 8),
        "languages": _shares(facts.languages, 8),
        "cross_lingual": facts.cross_lingual,
        "origins": _shares(facts.origins, 6),
        "lengths": picture,
        "median": median,
        "ranks": [(who, _rank_picture(who, facts.ranks[who]), _first(facts.ranks[who])) for who in facts.ranks],
        "scores": _score_pictures(facts.sample),
        "sampled": len(facts.sample),
        "examples": [_example(row, passages) for row in examples],
    }


def quarantine_part(counts: Counter[tuple[str, str]]) -> dict[str, Any]:
    """List what was set aside, most frequent reason first."""
    total = sum(counts.values())
    rows = [
        {"stage": stage, "reason": reason[:200], "n": n, "bar": svg.share_bar(n / total, f"{n} of {total}")}
        for (stage, reason), n in counts.most_common(SHOWN_REASONS)
    ]
    return {"rows": rows, "total": total, "more": max(0, len(counts) - SHOWN_REASONS)}


def training_part(history: dict[str, Any]) -> dict[str, Any]:
    """Draw the loss and the learning rate over the steps."""
    loss = [(p["step"], p["loss"]) for p in history.get("loss", []) if np.isfinite(p.get("loss", np.nan))]
    rate = [(p["step"], p["learning_rate"]) for p in history.get("loss", []) if p.get("learning_rate") is not None]
    return {
        "loss": svg.curves([svg.Line("loss", "accent", loss)], "Training loss", x_name="step"),
        "rate": svg.curves([svg.Line("learning rate", "muted", rate)], "Learning rate", x_name="step", height=130),
        "rows": history.get("rows"),
        "seconds": history.get("seconds"),
        "first": loss[0][1] if loss else None,
        "last": float(np.mean([y for _, y in loss[-max(1, len(loss) // 10) :]])) if loss else None,
    }


def prefinetuning_part(history: dict[str, Any]) -> dict[str, Any]:
    """Draw the loss and the learning rate of pre-finetuning, beside where its pairs come from."""
    sources = (history.get("mixture") or {}).get("sources") or []
    pairs = [{"name": source["source"], "rows": source["rows"]} for source in sources]
    return {**training_part(history), "steps": history.get("steps"), "pairs": pairs}


def gate_part(gate: dict[str, Any]) -> dict[str, Any]:
    """Draw the gate's scores against alpha, the share of the tuned weights."""
    scores = sorted(gate.get("scores") or [], key=lambda point: point["alpha"])
    lines = [
        svg.Line(name, style, [(p["alpha"], p[name]) for p in scores if p.get(name) is not None])
        for name, style in (("dev", "accent"), ("probe", "muted"))
    ]
    picture = svg.curves(
        lines,
        "Gate scores against alpha",
        x_name="alpha: 0 is the base, 1 the tuned model",
        marker=gate.get("alpha"),
        dots=True,
    )
    reason = gate.get("reason") or ""
    return {
        "picture": picture,
        "chosen": gate.get("chosen", "?"),
        "alpha": gate.get("alpha"),
        "reason": reason[:1].upper() + reason[1:],
        "dev_queries": gate.get("dev_queries"),
        "has_probe": bool(lines[1].points),
    }


def summary_part(summary: dict[str, Any], aside: dict[str, int], calls: list[dict[str, Any]]) -> dict[str, Any]:
    """List the stages with what they set aside and their share of the time, the teacher's calls and the money."""
    stages = summary.get("stages") or []
    longest = max([stage.get("seconds") or 0 for stage in stages] + [1e-9])
    rows = [
        {
            "name": stage["name"],
            "rows": stage.get("rows"),
            "aside": aside.get(stage["name"], 0),
            "seconds": stage.get("seconds") or 0,
            "skipped": bool(stage.get("skipped")),
            "bar": svg.share_bar((stage.get("seconds") or 0) / longest, f"Time of {stage['name']}"),
        }
        for stage in stages
    ]
    return {"stages": rows, "seconds": sum(row["seconds"] for row in rows), "usd": summary.get("usd")} | {
        "calls": calls
    }


def _lengths(words: Counter[int], label: str) -> tuple[Markup, int]:
    """Draw a histogram of word counts up to the 99th percentile; (picture, median)."""
    lengths = np.array(sorted(words), np.int64)
    counts = np.array([words[int(length)] for length in lengths], np.int64)
    if not len(lengths):
        return svg.histogram([], [], label), 0
    reached = np.cumsum(counts) / counts.sum()
    median, end = (int(lengths[np.searchsorted(reached, share)]) for share in (0.5, 0.99))
    width = max(1, -(-(end + 1) // BINS))
    bins = np.bincount(np.minimum(lengths // width, end // width), weights=counts)
    size = len(bins) * width
    ticks = [(0.0, "0"), (0.5, f"{size // 2}"), (1.0, f"{size} words")]
    return svg.histogram([("accent", (bins / bins.sum()).tolist())], ticks, label), median


def _rank_picture(who: str, counts: np.ndarray) -> Markup:
    ticks = [((rank - 0.5) / LAST_RANK, str(rank)) for rank in (1, 5, 10, 15)]
    ticks.append(((LAST_RANK - 0.5) / LAST_RANK, f"{LAST_RANK}+"))
    style = "muted" if who == "negative" else "accent"
    return svg.histogram([(style, (counts / max(counts.sum(), 1)).tolist())], ticks, f"Miner rank of the {who}")


def _first(counts: np.ndarray) -> float:
    """Return the share that stood at rank 1."""
    return float(counts[0] / max(counts.sum(), 1))


def _score_pictures(sample: Sequence[dict[str, Any]]) -> list[tuple[str, Markup, int]]:
    """Draw, for each score, where positives and negatives of the sample lie; scores nobody gave are left out."""
    pictures = []
    for key, name in (("rc", "Relevance classification"), ("ql", "Query likelihood"), ("miner_score", "Miner score")):
        sides: dict[str, list[float]] = {"positive_id": [], "negative_id": []}
        for row in sample:
            scores = {c["passage_id"]: c[key] for c in row["candidates"] or ()}
            for side, values in sides.items():
                value = scores.get(row[side])
                if value is not None and np.isfinite(value):
                    values.append(value)
        everything = sides["positive_id"] + sides["negative_id"]
        if not everything:
            continue
        low, high = np.percentile(everything, [0.5, 99.5])
        edges = np.linspace(low, high if high > low else low + 1, BINS // 2 + 1)
        shares = [
            (style, (np.histogram(np.clip(values, low, high), edges)[0] / max(len(values), 1)).tolist())
            for style, values in (("accent", sides["positive_id"]), ("muted", sides["negative_id"]))
        ]
        ticks = [(0.0, f"{edges[0]:.3g}"), (1.0, f"{edges[-1]:.3g}")]
        pictures.append((name, svg.histogram(shares, ticks, f"{name} of positives and negatives"), len(everything)))
    return pictures


def _shares(counts: Counter[str], most: int) -> list[dict[str, Any]]:
    """List the most frequent values with their share of all."""
    total = max(sum(counts.values()), 1)
    return [
        {"name": (name or "none")[:240], "n": n, "share": n / total, "bar": svg.share_bar(n / total, f"{n} of {total}")}
        for name, n in counts.most_common(most)
    ]


def _example(row: dict[str, Any], passages: PassageFacts | None) -> dict[str, Any]:
    """Lay out one FRet row with its candidates in the order of their final rank."""
    texts = passages.shown if passages else {}
    candidates = []
    for candidate in sorted(row["candidates"] or (), key=lambda c: c["rank"])[:SHOWN_CANDIDATES]:
        passage_id = candidate["passage_id"]
        title, text = texts.get(passage_id, ("", ""))
        roles = [role for role in ("seed", "positive", "negative") if row[f"{role}_id"] == passage_id]
        candidates.append(
            {
                **candidate,
                "title": title,
                "text": text if len(text) <= 180 else f"{text[:180].rstrip()}…",
                "roles": roles,
            }
        )
    return {
        "task": row["task"],
        "query": row["query"],
        "relabelled": row["relabelled"],
        "candidates": candidates,
        "positive": texts.get(row["positive_id"], ("", "")),
    }
