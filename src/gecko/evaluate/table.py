"""The before/after table, for terminals and READMEs alike (aligned Markdown)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gecko.evaluate.tasks import MAIN

TASK_HEADINGS = ("task type", "dataset", "metric", "dim", "base", "tuned", "gain [95 %]", "items")
HEADINGS = ("dataset", "dim", "BM25", "base", "tuned", "gain [95 %]", "BM25+base", "BM25+tuned", "queries")


def render_table(report: dict[str, Any]) -> str:
    """Draw nDCG@10 x 100 of an evaluation report, one row a dataset and dimension, BM25 and hybrids beside.

    Args:
        report: What ``evaluate_models`` returns.

    Returns:
        A Markdown table whose columns also line up in a terminal; a dash where there is no figure.
    """
    results = [row for row in report.get("results", []) if row["metric"] == "ndcg_at_10"]
    rows = [_cells(row, str(row["dataset"]), str(row.get("n", ""))) for row in results]
    if len({row["dataset"] for row in results}) > 1:
        for dim in dict.fromkeys(row["dim"] for row in results):
            mean = report.get("mean", {}).get(f"ndcg_at_10@{dim}", {})
            rows.append(_cells({**mean, "dim": dim}, "mean", ""))
    return "\n".join(["nDCG@10 x 100", "", *table_lines(HEADINGS, rows, 1)])


def render_evaluation(report: dict[str, Any]) -> str:
    """Draw all that a run measured: retrieval, and general tasks where its recipe names any; empty if nothing."""
    parts = [render_table(report)] if report.get("results") else []
    return "\n\n".join(parts + ([render_tasks(report["tasks"])] if report.get("tasks") else []))


def render_tasks(report: dict[str, Any]) -> str:
    """Draw the main metrics x 100 of an evaluation on general tasks, their means, and what was passed over.

    Args:
        report: What ``evaluate_tasks`` returns.
    """
    results = [row for row in report.get("results", []) if row["metric"] == MAIN[row["task_type"]]]
    rows = _task_rows(results, report.get("mean", {}))
    notes = task_notes(report)
    return "\n".join(
        ["General tasks, x 100", "", *table_lines(TASK_HEADINGS, rows, 3), *([""] if notes else []), *notes]
    )


def _task_rows(results: Sequence[Mapping[str, Any]], means: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The lines of tasks, and below them the means of types that have several."""
    rows: list[tuple[str, ...]] = [
        (row["task_type"], plain(row["dataset"]), row["metric"], *_figures(row), str(row["n"])) for row in results
    ]
    sets = Counter((row["task_type"], row["dim"]) for row in results)
    for key, mean in means.items():
        kind, _, dim = key.rpartition("@")
        if kind == "types":
            rows.append(("mean of types", "", "", *_figures({**mean, "dim": dim}), ""))
        elif sets[kind, int(dim)] > 1:
            metrics = {row["metric"] for row in results if row["task_type"] == kind}
            metric = metrics.pop() if len(metrics) == 1 else "main scores"
            rows.append((kind, "mean", metric, *_figures({**mean, "dim": dim}), ""))
    return rows


def render_mteb(report: dict[str, Any]) -> str:
    """Draw the main scores x 100 that MTEB gives, their means, and what belongs beside them.

    Args:
        report: What ``evaluate_mteb`` returns.
    """
    rows = _task_rows(report["results"], report["mean"])
    lines = [f"MTEB {report['version']}, main scores x 100", "", *table_lines(TASK_HEADINGS, rows, 3), ""]
    return "\n".join([*lines, *mteb_notes(report)])


def mteb_notes(report: dict[str, Any]) -> list[str]:
    """Say of MTEB's figures what they are over, whether a model knew the set, and what is known of its training."""
    notes = [report["interval"]]
    for fact in report["sets"]:
        said = [f"split {fact['split']}"] if fact["split"] != "test" else []
        if len(fact["subsets"]) < fact["of_subsets"]:
            said.append(f"the mean of {len(fact['subsets'])} of {fact['of_subsets']} subsets")
        said += [f"{side} trained on it" for side, unseen in fact["zero_shot"].items() if unseen is False]
        said += [f"superseded by {fact['superseded_by']}"] if fact["superseded_by"] else []
        said += [f"the data's README: {fact['note']}"] if fact["note"] else []
        if said:
            notes.append(f"{fact['dataset']}: {'; '.join(said)}")
    for side, model in report["models"].items():
        sets = model["training_datasets"]
        known = "training data unknown" if sets is None else f"trained on {', '.join(sets) or 'nothing more'}"
        known += f", beside what {model['adapted_from']} was" if sets is not None and model["adapted_from"] else ""
        notes.append(f"{side} is {model['name']}: {known} ({model['training_known_from']})")
    return [*notes, f"MTEB's own files: {report['files']}"]


def task_notes(report: dict[str, Any]) -> list[str]:
    """Say what belongs beside the figures: other splits, samples, rows left out, and what was passed over."""
    notes = [f"{fact['dataset']}: {_note(fact)}" for fact in report.get("sets", ()) if _note(fact)]
    return notes + [f"skipped {item['place']}: {item['reason']}" for item in report.get("skipped", ())]


def table_lines(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]], names: int) -> list[str]:
    """Line up a Markdown table whose first columns are names and all others figures."""
    widths = [max(len(row[column]) for row in [headings, *rows]) for column in range(len(headings))]

    def line(cells: tuple[str, ...]) -> str:
        padded = [c.ljust(w) if i < names else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = "|".join(f":{'-' * (w + 1)}" if i < names else f"{'-' * (w + 1)}:" for i, w in enumerate(widths))
    return [line(headings), f"|{rule}|", *map(line, rows)]


def _note(fact: dict[str, Any]) -> str:
    """How much of a set was scored; nothing where it is all of its test split."""
    said = []
    if fact["split"] != "test":
        said.append(f"split {fact['split']}")
    if fact["items"] < fact["of"]:
        said.append(f"a sample of {fact['items']:,} of {fact['of']:,}")
    if fact["left_out"]:
        said.append(f"{fact['left_out']:,} left out, which order nothing")
    return "; ".join(said)


def _cells(row: dict[str, Any], name: str, queries: str) -> tuple[str, ...]:
    """Turn one result into the cells of its line."""
    dim, base, tuned, gain = _figures(row)
    hybrids = (score_cell(row.get("hybrid_base")), score_cell(row.get("hybrid_tuned")))
    return (plain(name), dim, score_cell(row.get("bm25")), base, tuned, gain, *hybrids, queries)


def _figures(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """The cells of dimension, base, tuned and gain."""
    return str(row["dim"]), score_cell(row.get("base")), score_cell(row.get("tuned")), gain_cell(row)


def gain_cell(row: Mapping[str, Any]) -> str:
    """The gain of a result with its interval, x 100; a dash where there is none."""
    if row.get("delta") is None:
        return "-"
    gain = f"{100 * row['delta']:+.1f}"
    bounds = row.get("ci95")
    return f"{gain} [{100 * bounds[0]:+.1f}, {100 * bounds[1]:+.1f}]" if bounds else gain


def plain(name: str) -> str:
    """A name as a cell of a Markdown table."""
    return name.replace("|", "\\|")


def score_cell(value: float | None) -> str:
    """A fraction as a cell, x 100."""
    return "-" if value is None else f"{100 * value:.1f}"
