"""The comparison of several models as text: figures, what was forgotten, and the queries won and lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gecko.evaluate.side_by_side import LEVEL
from gecko.evaluate.table import gain_cell, plain, score_cell, table_lines, task_notes
from gecko.evaluate.tasks import MAIN

_HEADINGS = ("dataset", "system", "vectors", "dim", "bytes", "nDCG@10", "gain [95 %]", "p", "p (Holm)", "won/lost/same")
_MEANS = ("system", "vectors", "dim", "nDCG@10", "gain", "better", "worse", "same")


def render_comparison(report: Mapping[str, Any], shown: int = 3) -> str:
    """Draw a comparison, x 100.

    Args:
        report: What ``compare_models`` returns; under ``tasks``, what ``compare_tasks`` returned for each model.
        shown: Queries won and lost that are listed, of each set and system.
    """
    parts = []
    if report.get("results"):
        parts += [_figures(report), _over_sets(report), _queries(report, shown)]
    if report.get("tasks"):
        parts.append(_forgetting(report["tasks"], report["against_model"]))
    return "\n\n".join(part for part in parts if part)


def _figures(report: Mapping[str, Any]) -> str:
    rows = [
        (
            plain(row["dataset"]),
            plain(row["system"]),
            "-" if row["bytes"] is None else row["vectors"],
            str(row["dim"]),
            "-" if row["bytes"] is None else f"{row['bytes']:,}",
            score_cell(row["value"]),
            "reference" if row["delta"] is None else gain_cell(row),
            _p(row["p"]),
            _p(row["p_holm"]),
            "" if row["delta"] is None else f"{row['wins']}/{row['losses']}/{row['ties']}",
        )
        for row in report["results"]
    ]
    said = [
        f"gain: beside {report['against']} in the same form of vectors, with its paired bootstrap interval",
        f"p: paired randomisation test; p (Holm): corrected for all {report['comparisons']} comparisons of this table",
    ]
    return "\n".join(["nDCG@10 x 100", "", *table_lines(_HEADINGS, rows, 3), "", *said])


def _over_sets(report: Mapping[str, Any]) -> str:
    """The means, where there is more than one set, and on how many sets a system is better and worse."""
    if report["mean"][0]["sets"] < 2:
        return ""
    rows = [
        (
            plain(row["system"]),
            row["vectors"],
            str(row["dim"]),
            score_cell(row["value"]),
            "reference" if row["delta"] is None else gain_cell(row),
            *("" if row["delta"] is None else str(row[word]) for word in ("better", "worse", "same")),
        )
        for row in report["mean"]
    ]
    head = f"Mean of {report['mean'][0]['sets']} sets, and on how many a difference is shown (p (Holm) < {LEVEL})"
    return "\n".join([head, "", *table_lines(_MEANS, rows, 2)])


def _queries(report: Mapping[str, Any], shown: int) -> str:
    """The queries that gained and lost most: with what was found first before and after."""
    lines = []
    for dataset, systems in report["queries"].items():
        for system, sides in systems.items():
            for side, entries in sides.items():
                if not entries[:shown]:
                    continue
                lines += ["", f"{dataset}: {system} {side} most, beside {report['against']}"]
                for entry in entries[:shown]:
                    lines += [
                        f"  {100 * entry['delta']:+6.1f}  {_line(entry['query'])}",
                        f"          first before   {_line(entry['base_top']) or '(nothing)'}",
                        f"          first after    {_line(entry['tuned_top']) or '(nothing)'}",
                        f"          judged best    {_line(entry['relevant'])}",
                    ]
    return "\n".join(lines[1:])


def _forgetting(tasks: Mapping[str, dict[str, Any]], against: str) -> str:
    """General tasks: what each model gained or lost there, beside the reference."""
    first = next(iter(tasks.values()))
    figures = {
        name: {_key(row): row for row in report["results"] if row["metric"] == MAIN[row["task_type"]]}
        for name, report in tasks.items()
    }
    rows = []
    for key in figures[next(iter(figures))]:
        of_key = [figures[name][key] for name in tasks]
        gains = (f"{score_cell(row['tuned'])} {gain_cell(row)}" for row in of_key)
        rows.append((key[0], plain(key[1]), key[2], str(key[3]), score_cell(of_key[0]["base"]), *map(str, gains)))
    for key, mean in first["mean"].items():
        kind, _, dim = key.rpartition("@")
        if kind == "types":
            means = [report["mean"][key] for report in tasks.values()]
            cells = (f"{score_cell(each['tuned'])} {gain_cell(each)}" for each in means)
            rows.append(("mean of types", "", "", dim, score_cell(mean["base"]), *cells))
    lost = [
        f"{name}: worse on {sum(_forgot(row) for row in rows.values())} of {len(rows)} "
        "(the interval is below zero; not corrected for their number)"
        for name, rows in figures.items()
    ]
    headings = ("task type", "dataset", "metric", "dim", plain(against), *(plain(name) for name in tasks))
    notes = task_notes(first)
    return "\n".join(["General tasks, x 100", "", *table_lines(headings, rows, 3), "", *lost, *notes])


def _key(row: Mapping[str, Any]) -> tuple[str, str, str, int]:
    return row["task_type"], row["dataset"], row["metric"], row["dim"]


def _forgot(row: Mapping[str, Any]) -> bool:
    return bool(row["ci95"]) and row["ci95"][1] < 0


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _line(text: str) -> str:
    """A text on one line of a terminal."""
    flat = " ".join(text.split())
    return "".join(letter for letter in flat if letter.isprintable())[:100]
