"""The before/after table, for terminals and READMEs alike (aligned Markdown)."""

from __future__ import annotations

from typing import Any

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
    widths = [max(len(row[column]) for row in [HEADINGS, *rows]) for column in range(len(HEADINGS))]

    def line(cells: tuple[str, ...]) -> str:
        first = cells[0].ljust(widths[0])
        return f"| {' | '.join([first, *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])} |"

    rule = "|".join([f":{'-' * (widths[0] + 1)}", *(f"{'-' * (width + 1)}:" for width in widths[1:])])
    return "\n".join(["nDCG@10 x 100", "", line(HEADINGS), f"|{rule}|", *map(line, rows)])


def _cells(row: dict[str, Any], name: str, queries: str) -> tuple[str, ...]:
    """Turn one result into the cells of its line."""
    gain = "-"
    if row.get("delta") is not None:
        gain = f"{100 * row['delta']:+.1f}"
        if row.get("ci95"):
            gain += f" [{100 * row['ci95'][0]:+.1f}, {100 * row['ci95'][1]:+.1f}]"
    return (
        name.replace("|", "\\|"),
        str(row["dim"]),
        _score(row.get("bm25")),
        _score(row.get("base")),
        _score(row.get("tuned")),
        gain,
        _score(row.get("hybrid_base")),
        _score(row.get("hybrid_tuned")),
        queries,
    )


def _score(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
