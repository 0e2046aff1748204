"""The part of a data card on the rows trained on: sources, licences, what became of records, what is left out."""

from __future__ import annotations

from typing import Any

from gecko.report.columns import UNIFIED_COLUMNS
from gecko.report.fret_part import columns_table
from gecko.report.licences import stated_licence
from gecko.report.markdown import safe, short, table
from gecko.report.run_facts import RunFacts


def mixture_parts(facts: RunFacts) -> list[str]:
    """Tell of a run's mixture what is in it and what is not."""
    shape = "`title: {title} | text: {text}`, both sides of symmetric rows `task: {task} | query: {text}`"
    if facts.recipe["train"]["text_format"] == "plain":
        shape = "the text alone, a passage's title before it"
    rows = sum(source.rows for source in facts.mixture.values())
    return [
        f"{columns_table(UNIFIED_COLUMNS)}\n\nPositives and negatives are rendered: {shape}. How often the model drew "
        "from each source is said in its card.",
        f"### Sources\n\n{rows:,} rows:\n\n{_source_table(facts)}",
        _accounts(facts),
        f"### Held out and left out\n\nOf {facts.fret.rows:,} FRet rows {facts.held_out:,} were held out for the gate "
        f"and are not in `mixture`.{_chosen(facts.recipe['mixture'])}{_dropped(facts)}",
    ]


def _source_table(facts: RunFacts) -> str:
    rows = []
    for name, source in facts.mixture.items():
        own = facts.sources.get(name)
        licence = safe(stated_licence(own["path"])) if own else "of the corpus and the teacher"
        both = "yes" if source.symmetric else "no"
        mean = f"{source.negatives / source.rows:.2f}"
        kind = own["kind"] if own else "fret"
        rows.append((safe(short(name)), kind, licence, source.rows, mean, len(source.tasks), both))
    headings = ("source", "kind", "licence", "rows", "negatives a row", "task strings", "symmetric")
    return table(headings, rows, 3)


def _accounts(facts: RunFacts) -> str:
    """What became of the records of each human-labelled source."""
    accounts = facts.stages.get("mixture", {}).get("sources") or []
    if not accounts:
        return "No human-labelled source is among them."
    rows = [
        (
            safe(short(one["source"])),
            one["read"],
            one["used"],
            sum(one["unused"].values()),
            one["quarantined"],
            one["left_out"],
        )
        for one in accounts
    ]
    headings = ("records of", "read", "used", "unused", "set aside", "rows beyond the limit")
    return f"Records read = used + unused + set aside:\n\n{table(headings, rows)}"


def _dropped(facts: RunFacts) -> str:
    dropped = int(facts.audit.get("dropped", 0)) if facts.audit else 0
    return f" {dropped:,} rows were dropped because they ask what an evaluation set asks." if dropped else ""


def _chosen(mixture: dict[str, Any]) -> str:
    """Which of the FRet rows were chosen, where it is not all of them."""
    said = ""
    if mixture.get("fret_kinds"):
        said += f" Of the others, those of the kinds {', '.join(mixture['fret_kinds'])} were taken."
    if mixture.get("fret_limit"):
        said += f" At most {mixture['fret_limit']:,} were taken, a sample by the seed."
    return said
