"""One training alone: a stage of a run, or rows of the user's own (``gecko train``).

A stage of a run is made with all it needs, what is unchanged being kept; nothing after it is. Rows need neither corpus
nor teacher: of the recipe only the section of that training counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gecko.checks import check_training, training_state
from gecko.context import ASKING
from gecko.corpus.files import file_state
from gecko.errors import GeckoError, UsageError
from gecko.mixture.unified_files import read_unified, row_files
from gecko.recipe import Recipe
from gecko.records import QUARANTINE, Quarantined, UnifiedRow
from gecko.run import StageResult, opened_run, run_stage
from gecko.shards import (
    files_under,
    fingerprint,
    finish_stage,
    finished,
    is_run,
    locked,
    read_json,
    write_json,
    write_table,
)
from gecko.stages import stages_for

Training = Literal["prefinetune", "finetune"]

TRAININGS: dict[str, Training] = {"prefinetune": "prefinetune", "finetune": "finetune"}
_STAGE: dict[Training, str] = {"prefinetune": "prefinetune", "finetune": "train"}
_CLAIM = "training.json"


@dataclass(frozen=True, slots=True)
class TrainSummary:
    """What ``gecko train --json`` prints; ``quarantined`` counts the user's rows that were set aside."""

    out: str
    stage: str
    stages: tuple[StageResult, ...]
    model: str
    rows: int
    steps: int
    quarantined: int
    usd: float

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return asdict(self)


def train_stage(recipe: Recipe, out: Path, stage: Training, *, tell: Callable[[str], None]) -> TrainSummary:
    """Run one training of a recipe in its run directory, after the stages it reads.

    Args:
        recipe: The run's.
        out: The run directory; ``gecko run`` goes on from there.
        stage: Which training.
        tell: Receives one line a stage.

    Raises:
        GeckoError: A stage failed on something the user can mend; finished stages stay finished.
        UsageError: The directory holds files that are not a run's, or the recipe names no pairs to pre-finetune on.
    """
    if stage == "prefinetune" and not recipe.prefinetune.active:
        raise UsageError(
            "the recipe names no pairs to pre-finetune on",
            "--set prefinetune.corpus=true, prefinetune.queries=true or prefinetune.sources=[...]",
        )
    name = _STAGE[stage]
    needed = stages_for(recipe, name)
    asks = any(one.name in ASKING for one in needed)
    # Without a corpus a training on files alone is all that can be run of the recipe, and all that is marked.
    marked = stages_for(recipe) if recipe.corpus.sources else needed
    with opened_run(recipe, out, marked, tell=tell, asks=asks) as context:
        results = tuple(run_stage(one, context, tell) for one in needed)
        steps = int(context.facts(name).get("steps", 0))
        usd = float(context.ledger.stats()["usd"]) if asks else 0.0
        model = context.folder(name) / "model"
    return TrainSummary(str(out), stage, results, str(model), results[-1].rows, steps, 0, usd)


def train_rows(place: Path, recipe: Recipe, out: Path, stage: Training, *, tell: Callable[[str], None]) -> TrainSummary:
    """Train on unified rows of the user's own; the same call again resumes, or finds the training done.

    Args:
        place: A Parquet or JSON Lines file of rows, or a folder of such files.
        recipe: Its ``train`` section counts, or ``prefinetune`` with the student and text format of ``train``.
        out: Gets ``model``, ``history.json`` and the rows that were set aside.
        stage: Which training.
        tell: Receives the lines of the training.

    Raises:
        GeckoError: The rows cannot be read, or the disk or the memory is full.
        UsageError: The directory holds other files.
    """
    files = row_files(place)
    first = stage == "prefinetune"
    settings = recipe.prefinetune.training(recipe.train) if first else recipe.train
    check_training(settings, "prefinetune" if first else "train")
    _claim(out)
    section = recipe.prefinetune if first else recipe.mixture
    rows_state = [file_state(path, path.name) for path in files]
    read = training_state(settings)
    mark = fingerprint(stage, recipe.train.model_dump(), section.model_dump(), recipe.seed, read, rows_state, 2)
    with locked(out):
        facts = finished(out, mark)
        if skipped := facts is not None:
            tell(f"{stage} is done already, on the same rows and settings")
        else:
            (out / "_stage.json").unlink(missing_ok=True)
            write_json(out / _CLAIM, {"stage": stage, "rows": place.name})
            facts = _train(place, recipe, out, stage, mark, tell)
    result = StageResult(stage, int(facts["rows"]), float(facts["seconds"]), skipped=skipped)
    model = str(out / "model")
    return TrainSummary(str(out), stage, (result,), model, result.rows, facts["steps"], facts["quarantined"], 0.0)


def _train(
    place: Path, recipe: Recipe, out: Path, stage: Training, mark: str, tell: Callable[[str], None]
) -> dict[str, Any]:
    from gecko.train.finetune import finetune
    from gecko.train.prefinetune import prefinetune

    rows: list[UnifiedRow] = []
    aside: list[Quarantined] = []
    for row in read_unified(place, distinct=True):
        if isinstance(row, Quarantined):
            aside.append(row)
        else:
            rows.append(row)
    (out / "quarantine.parquet").unlink(missing_ok=True)
    if aside:
        write_table(out / "quarantine.parquet", aside, QUARANTINE)
        tell(f"{len(aside):,} rows set aside, the first for: {aside[0].reason} ({out / 'quarantine.parquet'})")
    if len(rows) < 2:
        raise GeckoError(
            f"{place} gives {len(rows)} rows to train on, repeats not counted",
            "give two different ones at least: a row's negatives are the other rows of its batch",
        )
    if stage == "prefinetune":
        history = prefinetune(rows, recipe.prefinetune, recipe.train, out / "model", seed=recipe.seed, tell=tell)
    else:
        history = finetune(rows, recipe.train, out / "model", seed=recipe.seed, mixture=recipe.mixture, tell=tell)
    write_json(out / "history.json", history)
    facts = {name: history[name] for name in ("rows", "steps", "seconds")} | {"quarantined": len(aside)}
    finish_stage(out, mark, [*files_under(out / "model"), out / "history.json"], **facts)
    return facts


def _claim(out: Path) -> None:
    """Refuse a folder where a training's files would replace those of something else."""
    if is_run(out) or is_run(out.resolve().parent):
        raise UsageError(
            f"{out} is, or is part of, a run", "choose another --out; without --rows a run's stage is made"
        )
    there = [path.name for path in out.iterdir() if not path.name.startswith(".")] if out.is_dir() else []
    if there and not isinstance(read_json(out / _CLAIM), dict):
        raise UsageError(f"{out} holds other files, such as {min(there)}", "choose a new folder for --out")
