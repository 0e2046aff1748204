"""The leakage audit in a run, and alone (``gecko audit``): training rows against the evaluation sets.

In a run the stage ``audit`` comes before the training and says what it finds. With ``audit.action: drop`` the stages
that make the rows put those that leak into their quarantine, so that nothing later sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gecko.checks import beir_state, model_state, tasks_state
from gecko.context import RunContext
from gecko.errors import GeckoError, UsageError
from gecko.evaluate.folders import Skipped
from gecko.evaluate.texts import read_evaluation
from gecko.mixture.audit import Auditor, AuditReport, audit_rows, dropped_row, without_leaks
from gecko.mixture.audit_options import AuditOptions
from gecko.mixture.unified_files import read_unified
from gecko.recipe import PREFINETUNED, Recipe, load_recipe
from gecko.records import Quarantined, UnifiedRow
from gecko.shards import is_run, read_quarantine, read_rows, to_unified, write_json, write_json_lines

REPORT = "audit.json"
LEAKS = "leaks.jsonl"
_ROWS_OF = ("mixture", "pairs")  # the stages that make training rows


def audit(context: RunContext, folder: Path) -> dict[str, Any]:
    """Compare a run's training rows, dropped ones among them, with its evaluation sets, and say in a line what leaks.

    Raises:
        GeckoError: An evaluation set is broken.
    """
    recipe = context.recipe
    sets, skipped = read_evaluation(recipe.evaluation_places, documents=recipe.audit.documents)
    auditor = Auditor(sets, recipe.audit, context.miner if recipe.audit.cosine else None)
    places = [context.folder(name) for name in _ROWS_OF if name == "mixture" or recipe.prefinetune.active]
    kept = (row for place in places for row in read_rows(place, to_unified))
    dropped = [row for place in places for row in _dropped(place)] if recipe.audit.action == "drop" else []
    value = _audited([kept, dropped], auditor, folder / LEAKS)
    value = {"action": recipe.audit.action, "dropped": len(dropped), **value, **_said(recipe.audit, auditor, skipped)}
    write_json(folder / REPORT, value)
    if context.tell is not None and value["leaked"] > value["dropped"]:
        context.tell(f"audit: {summary_line(value)}; --set audit.action=drop leaves them out ({folder / REPORT})")
    return {name: value[name] for name in ("rows", "leaked", "overlapping", "dropped")}


def audit_mark(context: RunContext) -> list[object]:
    """What the audit depends on, beside the rows."""
    return [*_state(context.recipe), context.recipe.audit.documents, 1]


def dropping(
    context: RunContext, rows: Iterable[UnifiedRow | Quarantined], stage: str
) -> Iterator[UnifiedRow | Quarantined]:
    """Let a stage's rows pass; where the recipe says drop, those that leak go into quarantine."""
    recipe = context.recipe
    if not (recipe.audits and recipe.audit.action == "drop"):
        yield from rows
        return
    sets, _ = read_evaluation(recipe.evaluation_places, documents=False)
    # A miner that is made of the pairs cannot tell which of them to leave out.
    encodes = recipe.audit.cosine and not (stage == "pairs" and recipe.fret.miner == PREFINETUNED)
    auditor = Auditor(sets, recipe.audit, context.miner if encodes else None, leaks_only=True)
    yield from without_leaks(rows, auditor, stage)


def drop_mark(recipe: Recipe) -> list[object]:
    """What the rows of a run depend on because of the audit; nothing unless it drops some."""
    return [["drop", *_state(recipe)]] if recipe.audits and recipe.audit.action == "drop" else []


def audit_place(
    place: Path,
    against: Sequence[Path],
    options: AuditOptions,
    *,
    split: str | None = None,
    model: str | None = None,
    out: Path | None = None,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Audit rows alone: those of a run, or unified rows in files.

    Args:
        place: A run, or a Parquet or JSON Lines file of unified rows, or a folder of such files.
        against: Evaluation sets; for a run without any, those of its recipe.
        options: What is looked for.
        split: Of the sets; default: that of a run's recipe, else ``test``.
        model: Encodes questions where ``options.cosine`` asks for it; for a run its miner, if it is not given.
        out: JSON Lines file for all leaks.
        tell: Receives a line on rows that could not be read.

    Returns:
        As ``audit.json`` of a run: ``{"rows", "leaked", "overlapping", "sources", "sets", "examples", …}``.

    Raises:
        UsageError: There is nothing to audit against, or no model to encode with.
        GeckoError: Rows or a set cannot be read.
    """
    recipe = load_recipe(place / "recipe.yaml") if is_run(place) else None
    sets_of = [(str(one), split or (recipe.evaluation.split if recipe else "test")) for one in against]
    sets_of = sets_of or (recipe.evaluation_places if recipe else [])
    if not sets_of:
        raise UsageError("there is nothing to audit against", "name evaluation sets: --against DIR")
    aside: list[Quarantined] = []
    if recipe is not None:
        folders = [place / name for name in _ROWS_OF if any((place / name).glob("part-*.parquet"))]
        if not folders:
            raise GeckoError(f"{place} holds no training rows yet", "gecko run makes them (stage mixture)")
        rows: Iterator[UnifiedRow] = (row for folder in folders for row in read_rows(folder, to_unified))
        model = model or (recipe.fret.miner if recipe.fret.miner != PREFINETUNED else str(place / "prefinetune/model"))
    else:
        rows = _readable(read_unified(place), aside)
    sets, skipped = read_evaluation(sets_of, documents=options.documents)
    auditor = Auditor(sets, options, _embedder(model) if options.cosine else None)
    value = {**_audited([rows], auditor, out), **_said(options, auditor, skipped), "unreadable": len(aside)}
    if aside:
        tell(f"{len(aside):,} rows could not be read, the first for: {aside[0].reason}")
    return value


def summary_line(value: dict[str, Any]) -> str:
    """Say in a line how many rows leak, and of which sets."""
    if not value["leaked"]:
        return f"none of {value['rows']:,} rows asks what an evaluation set asks"
    sets = sorted((one for one in value["sets"] if one["leaks"]["rows"]), key=lambda one: -one["leaks"]["rows"])
    named = ", ".join(f"{one['set']}: {one['leaks']['texts']:,} of {one['questions']:,} questions" for one in sets[:3])
    more = f" and {len(sets) - 3} more sets" if len(sets) > 3 else ""
    return f"{value['leaked']:,} of {value['rows']:,} rows ask what an evaluation set asks ({named}{more})"


def _state(recipe: Recipe) -> list[object]:
    """Settings and inputs that what leaks depends on."""
    own, evaluation = recipe.audit, recipe.evaluation
    miner = model_state(recipe.fret.miner) if own.cosine and recipe.fret.miner != PREFINETUNED else []
    settings = [own.action, own.ngram, own.common, own.near, own.cosine, recipe.fret.miner if own.cosine else None]
    places = [beir_state(evaluation.beir), tasks_state([*evaluation.tasks, *own.against])]
    return [settings, recipe.evaluation_places, places, miner]


def _audited(parts: Sequence[Iterable[UnifiedRow]], auditor: Auditor, out: Path | None) -> dict[str, Any]:
    """Audit rows, write every leak as a line where a file is named, and give the figures."""
    report = AuditReport(auditor.sets)
    found = (matches for part in parts for _, matches in audit_rows(part, auditor, report))
    if out is None:
        for _ in found:
            pass
    else:
        write_json_lines(out, (match.to_json() for matches in found for match in matches if match.leak))
    return report.to_json()


def _said(options: AuditOptions, auditor: Auditor, skipped: Sequence[Skipped]) -> dict[str, Any]:
    """What belongs beside the figures: how it was looked for, and what was not looked at."""
    return {
        "settings": options.model_dump(mode="json", include={"documents", "ngram", "common", "near", "cosine"}),
        "common_ngrams": auditor.ignored,
        "skipped": [{"place": item.place, "reason": item.reason} for item in skipped],
    }


def _dropped(place: Path) -> Iterator[UnifiedRow]:
    """The rows that the audit put into a stage's quarantine."""
    for item in read_quarantine(place):
        if (row := dropped_row(item)) is not None:
            yield row


def _readable(rows: Iterable[UnifiedRow | Quarantined], aside: list[Quarantined]) -> Iterator[UnifiedRow]:
    for row in rows:
        if isinstance(row, Quarantined):
            aside.append(row)
        else:
            yield row


def _embedder(model: str | None) -> Any:  # noqa: ANN401
    from gecko.embedder.embedder import Embedder

    if model is None:
        raise UsageError("audit.cosine needs a model to encode with", "name one with --model, such as all-MiniLM-L6-v2")
    return Embedder(model)
