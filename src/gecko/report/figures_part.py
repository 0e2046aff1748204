"""The parts of a model card that say how good it is: figures with intervals, leakage, limits, and the Hub's index."""

from __future__ import annotations

from typing import Any

from gecko.evaluate.table import render_table, render_tasks, task_notes
from gecko.evaluate.tasks import MAIN, widest_main
from gecko.report.leakage import leakage_lines
from gecko.report.markdown import details, safe
from gecko.report.run_facts import RunFacts
from gecko.report.training_part import languages_of

# MTEB's names of the types of task, which the Hub shows.
_MTEB_TYPES = {
    "retrieval": "Retrieval",
    "reranking": "Reranking",
    "sts": "STS",
    "classification": "Classification",
    "pair_classification": "PairClassification",
    "clustering": "Clustering",
    "bitext": "BitextMining",
    "summarization": "Summarization",
}


def figures(facts: RunFacts) -> str:
    """The table of figures on human judgements, and what the gate measured on its own held-out queries."""
    parts = [render_table(facts.evaluation)] if facts.evaluation.get("results") else []
    parts += _general(facts.evaluation.get("tasks") or {})
    if parts:
        parts.append(
            "Gains with 95 % paired bootstrap intervals over the queries, pairs or texts, of this one training."
        )
    else:
        parts = ["Not measured on human judgements in this run."]
    return "\n\n".join(filter(None, ("## Figures", *parts, _held_out(facts.gate))))


def leakage(facts: RunFacts) -> str:
    """Say what an audit of the training rows against the evaluation sets found, or that there was none."""
    if not facts.audit:
        return "## Leakage\n\nTraining rows were not audited against evaluation sets in this run."
    return "\n".join(["## Leakage", "", *leakage_lines(facts.audit)])


def limits(facts: RunFacts) -> str:
    """Say what the model was not made for, what was not measured, and what it lost."""
    train, limit = facts.recipe["train"], "## Limits\n\n"
    if not facts.alpha:
        return f"{limit}- The weights are the base's, and so are the limits.\n- {_not_measured(facts)}"
    lines = [
        f"Language: tuned on passages in {', '.join(languages_of(facts.passages)) or 'no language that was told'}; "
        "what that did to other languages was not measured.",
        f"Length: texts were cut at {train['max_length']} tokens in training; split what is longer.",
        "Subject: FRet rows are of one corpus. Their queries were written by a machine; what people ask may differ, "
        "so measure on your own judged questions.",
        _not_measured(facts),
        _forgotten(facts),
        "Figures are of float vectors and one seed: an interval does not hold how much another seed would differ.",
    ]
    return limit + "\n".join(f"- {line}" for line in lines)


def model_index(name: str, evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """The Hub's format of a model's figures: a result for each test set, its main metric at the widest dimension."""
    results = []
    for row in main_rows(evaluation):
        kind = row.get("task_type", "retrieval")
        results.append(
            {
                "task": {"type": _MTEB_TYPES[kind]},
                "dataset": {"name": str(row["dataset"]), "type": str(row["dataset"])},
                "metrics": [{"type": row["metric"], "value": round(float(row["tuned"]), 5)}],
            }
        )
    return [{"name": name, "results": results}] if results else []


def main_rows(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """The main metric of each test set and general task, each part of the evaluation at its widest dimension."""
    parts = (evaluation.get("results", []), (evaluation.get("tasks") or {}).get("results", []))
    return [row for rows in parts for row in widest_main(rows) if row.get("tuned") is not None]


def _general(tasks: dict[str, Any]) -> list[str]:
    """The table of general tasks at the widest dimension, all of it folded away, and what belongs beside them."""
    results = tasks.get("results") or []
    if not results:
        return []
    widest = max(row["dim"] for row in results)
    bare = tasks | {"sets": (), "skipped": ()}
    at_widest = bare | {
        "results": [row for row in results if row["dim"] == widest],
        "mean": {key: mean for key, mean in tasks.get("mean", {}).items() if key.rpartition("@")[2] == str(widest)},
    }
    parts = [render_tasks(at_widest)]
    if len(at_widest["results"]) < len(results):
        parts.append(details("General tasks at all dimensions", render_tasks(bare)))
    notes = "\n".join(f"- {safe(note)}" for note in task_notes(tasks))
    return [*parts, notes] if notes else parts


def _held_out(gate: dict[str, Any]) -> str:
    """What the blend that was shipped gained on held-out queries of the teacher, and on the probe."""
    shipped = next((one for one in gate.get("scores", ()) if one["alpha"] == gate.get("alpha")), None)
    if not shipped or not shipped["alpha"]:
        return ""
    low, high = (100 * bound for bound in shipped["dev_ci95"])
    probe = "The gate's probe of general questions was not asked."
    if shipped.get("probe_gain") is not None:
        probe = f"Its probe of general questions changed by {100 * shipped['probe_gain']:+.1f} points."
    return (
        f"On {gate['dev_queries']:,} held-out queries that the teacher wrote, the gate measured "
        f"{100 * shipped['dev_gain']:+.1f} points of nDCG@10 [{low:+.1f}, {high:+.1f}] over the base. {probe}"
    )


def _not_measured(facts: RunFacts) -> str:
    measured = {row.get("task_type", "retrieval") for row in main_rows(facts.evaluation)}
    left = [name.replace("_", " ") for name in MAIN if name not in measured]
    return f"Not measured in this run: {', '.join(left)}." if left else "Every type of task was measured in this run."


def _forgotten(facts: RunFacts) -> str:
    """What tuning cost on other tasks: those whose interval lies below zero, or that nobody looked."""
    general = [row for row in main_rows(facts.evaluation) if "task_type" in row and row.get("delta") is not None]
    if not general:
        return "Forgetting: what tuning costs on other tasks was not measured but by the gate's probe."
    lost = [row for row in general if row["delta"] < 0]
    sure = [row for row in lost if (row.get("ci95") or (0, 0))[1] < 0]
    worst = min(general, key=lambda row: row["delta"])
    named = ", ".join(f"{safe(str(row['dataset']))} {100 * row['delta']:+.1f}" for row in sure)
    said = (
        f"Forgetting: of {len(general)} general tasks at {worst['dim']} dimensions {len(lost)} are below the base, "
        f"{len(sure)} with an interval wholly below zero{f' ({named})' if named else ''}"
    )
    if lost:
        said += f"; the lowest is {safe(str(worst['dataset']))}, {100 * worst['delta']:+.1f} points"
    return f"{said}."
