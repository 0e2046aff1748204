"""The parts of a data card on FRet rows: columns, how they were made, and what chose positive and negative."""

from __future__ import annotations

from typing import Any

from gecko.report.columns import CANDIDATE_COLUMNS, FRET_COLUMNS
from gecko.report.gather import FretFacts, PassageFacts
from gecko.report.markdown import table
from gecko.report.training_part import corpus_line, fret_line, task_lines, teacher_part

FRET_LIMITS = (
    "Queries were written by a machine; what people ask may differ.",
    "A positive is what one teacher ranked first among the candidates, not what people judged; passages that the "
    "miner did not find were never looked at. A hard negative is that ranking's word as well.",
    "Not filtered for what the corpus says of persons, or for what is offensive in it.",
)


def fret_parts(
    sources: list[str],
    fret: FretFacts,
    passages: PassageFacts,
    queries: dict[str, Any],
    calls: list[dict[str, Any]],
    options: dict[str, Any],
) -> list[str]:
    """Tell of FRet rows what is in them and how they came to be.

    Args:
        sources: Of the corpus.
        fret: The rows, counted.
        passages: The corpus, counted.
        queries: What step 1 noted of itself; empty if nothing.
        calls: The ledger's totals.
        options: The recipe's ``fret`` section.
    """
    return [
        f"{columns_table(FRET_COLUMNS)}\n\nEach of `candidates`:\n\n{columns_table(CANDIDATE_COLUMNS)}",
        f"### How they were made\n\n{corpus_line(sources, passages)}",
        f"{_seeds(queries, fret)} {fret_line(fret, options)}",
        _selection(options),
        f"Most frequent of {len(fret.tasks):,} tasks:\n\n{task_lines(fret.tasks)}",
        teacher_part(fret, calls, level=3),
    ]


def columns_table(columns: dict[str, str]) -> str:
    """The meanings of columns, as a table."""
    return table(("column", "meaning"), [(f"`{name}`", meaning) for name, meaning in columns.items()], 2)


def _seeds(queries: dict[str, Any], fret: FretFacts) -> str:
    if not queries:
        return ""
    return f"From {queries['seeds']:,} seed passages came {queries['rows']:,} queries, from these {fret.rows:,} rows."


def _selection(options: dict[str, Any]) -> str:
    """The rules of step 2 that chose positive and negative."""
    positive = "the first-ranked, unless its RC is below the seed's" if options["positive"] == "p1" else "the seed"
    chosen = {
        "last": "the last-ranked",
        "hardest": f"the best-ranked with an RC of at most {options['max_negative_rc']:g}",
        "random": "a random one",
    }.get(options["negative"])
    negative = (
        f"Hard negative: {chosen} of those with an RC below the positive's; where one of the two has no RC, of those "
        f"whose miner's score is at most {options['negative_margin']:g} of the positive's."
    )
    constant = f"{options['rrf_k']:g} + " if options["rrf_k"] else ""
    return (
        "Two rankings of the candidates, by query likelihood (QL) and by relevance (RC), were fused: 1 / "
        f"({constant}rank by QL) + 1 / ({constant}rank by RC). Positive: {positive}; queries none of whose candidates "
        f"reaches an RC of {options['min_positive_rc']:g} were set aside. "
        f"{negative if chosen else 'Hard negatives were not chosen.'}"
    )
