"""A run: the stages of a recipe in order, each resumable, with one progress line each.

Started again on the same directory, a stage whose fingerprint (settings, inputs, code version) is unchanged is skipped,
and one that was interrupted starts from what is safe: finished teacher calls come from the ledger, training from its
checkpoint.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gecko.checks import check_run_folder
from gecko.context import RunContext
from gecko.engine.local import LocalEngine
from gecko.engine.protocol import Engine
from gecko.recipe import Recipe, dump_recipe
from gecko.shards import MARKS, atomic, files_under, finish_stage, finished, locked, read_json, write_json
from gecko.stages import Stage, stages_for

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StageResult:
    """One line of a run's summary; ``seconds`` is what the stage took when it was made."""

    name: str
    rows: int
    seconds: float
    skipped: bool


@dataclass(slots=True)
class RunSummary:
    """What ``gecko run --json`` prints (design: command line)."""

    run: str
    stages: list[StageResult] = field(default_factory=list)
    evaluation: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    report: str = ""
    usd: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The binding JSON shape."""
        return {
            "run": self.run,
            "stages": [
                {"name": stage.name, "rows": stage.rows, "seconds": stage.seconds, "skipped": stage.skipped}
                for stage in self.stages
            ],
            "evaluation": self.evaluation,
            "model": self.model,
            "report": self.report,
            "usd": self.usd,
        }


def run_recipe(
    recipe: Recipe, out: Path, *, tell: Callable[[str], None] = logger.info, engine: Engine | None = None
) -> RunSummary:
    """Run every stage of a recipe into a directory, or resume it.

    Args:
        recipe: What to do.
        out: The run directory.
        tell: Receives one line a stage.
        engine: Runs what is done batch by batch; None does it on this machine. A run may go on with another one.

    Raises:
        GeckoError: A stage failed on something the user can mend; finished stages stay finished.
        UsageError: The directory holds files that are not a run's.
    """
    stages = stages_for(recipe)
    with opened_run(recipe, out, stages, tell=tell, engine=engine) as context:
        (out / "summary.json").unlink(missing_ok=True)
        summary = RunSummary(run=str(out))
        for stage in stages:
            summary.stages.append(run_stage(stage, context, tell))
        tell(_shipped(read_json(context.folder("gate") / "gate.json") or {}))
        summary.evaluation = context.evaluation()
        summary.model = str(context.model_path())
        summary.report = str(out / "report.html")
        summary.usd = context.ledger.stats()["usd"]
        write_json(out / "summary.json", summary.to_json())
        from gecko.report.card import write_cards
        from gecko.report.report import write_report

        _draw_map(out, tell)
        write_report(out, out / "report.html")
        write_cards(out)
    return summary


@contextmanager
def opened_run(
    recipe: Recipe,
    out: Path,
    stages: Sequence[Stage],
    *,
    tell: Callable[[str], None],
    asks: bool = True,
    engine: Engine | None = None,
) -> Iterator[RunContext]:
    """Hold a run directory for one process, with the recipe checked, written and its stages marked.

    Args:
        recipe: What to do.
        out: The run directory.
        stages: Those that are checked and marked.
        tell: Receives the lines of the stages.
        asks: Whether a teacher will be asked anything; without, none needs a key.
        engine: Runs what is done batch by batch; None does it on this machine.

    Raises:
        GeckoError: The recipe cannot be run, or another process holds the directory.
        UsageError: The directory holds files that are not a run's.
    """
    check_run_folder(out)
    with (
        locked(out),
        RunContext(recipe=recipe, out=out, tell=tell, asks=asks, engine=engine or LocalEngine()) as context,
    ):
        context.check([stage.name for stage in stages])
        with atomic(out / "recipe.yaml") as temporary:
            temporary.write_text(dump_recipe(recipe), encoding="utf-8")
        # The report shows of what lies here only what was made under these marks.
        marks = {stage.name: stage.mark(context) for stage in stages}
        if read_json(out / MARKS) != marks:
            (out / "summary.json").unlink(missing_ok=True)
        write_json(out / MARKS, marks)
        yield context


def _draw_map(out: Path, tell: Callable[[str], None]) -> None:
    """Draw the report's map; whatever goes wrong is told in a line, since a picture must not cost a finished run."""
    from gecko.report.embedding_map import write_map

    try:
        write_map(out)
    except Exception as error:  # of a model, the disk or scikit-learn
        said = " ".join(str(error).split())[:300]
        tell(f"map        not drawn, the report has none: {type(error).__name__}: {said}")


def _shipped(verdict: dict[str, Any]) -> str:
    """Say in a line which model the gate let through, and why."""
    alpha = float(verdict.get("alpha", 0.0))
    model = f"tuned model, alpha {alpha:g}" if alpha else "base, unchanged"
    return f"shipped    {model}: {verdict.get('reason', '')}"


def run_stage(stage: Stage, context: RunContext, tell: Callable[[str], None]) -> StageResult:
    """Run a stage unless it is done, and tell in a line."""
    result = _result_of(stage, context)
    state = "unchanged" if result.skipped else f"{result.seconds:.1f} s"
    tell(f"{result.name:<10} {result.rows:>8,} {stage.unit:<12} {state}")
    return result


def _result_of(stage: Stage, context: RunContext) -> StageResult:
    folder, mark = context.folder(stage.name), stage.mark(context)
    facts = finished(folder, mark)
    if facts is not None:
        return StageResult(stage.name, int(facts.get("rows", 0)), float(facts.get("seconds", 0.0)), skipped=True)
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_stage.json").unlink(missing_ok=True)
    facts = stage.execute(context, folder)
    seconds = round(time.monotonic() - started, 2)
    written = [file for place in (folder, *(context.out / name for name in stage.also)) for file in files_under(place)]
    finish_stage(folder, mark, written, seconds=seconds, **facts)
    return StageResult(stage.name, int(facts.get("rows", 0)), seconds, skipped=False)
