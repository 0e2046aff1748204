"""Checks before a run begins: mistakes that would otherwise show only after the work before them is paid for."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gecko.corpus.files import FileState, file_state
from gecko.corpus.read import source_state
from gecko.embedder.open import PACKAGED_MODEL, resolve_model
from gecko.errors import GeckoError, UsageError
from gecko.evaluate.beir import beir_files
from gecko.evaluate.folders import find_sets
from gecko.evaluate.tasks import open_sets
from gecko.miner.search import check_search
from gecko.mixture.load import check_sources
from gecko.recipe import PREFINETUNED, Recipe, TrainOptions
from gecko.shards import MARKS, is_run, refuse_url
from gecko.tabular import SUFFIXES
from gecko.teacher.wishes import SAME
from gecko.train.fit import check_adapters, trained_sizes
from gecko.train.general_texts import general_texts

State = list[FileState]

_WIDTHS = ("hidden_size", "d_model", "dim", "n_embd")  # what families of models call it

# What a run writes into its folder.
_FILES = ("recipe.yaml", MARKS, "evaluation.json", "summary.json", "report.html", "map.json")
_FOLDERS = (
    "model",
    "train",
    "passages",
    "queries",
    "fret",
    "mixture",
    "miner",
    "gate",
    "pairs",
    "prefinetune",
    "audit",
)


def check_run_folder(out: Path) -> None:
    """Refuse to run in a folder where the run's files would replace files that no run wrote.

    Raises:
        UsageError: The folder is not a run and holds something by the name of a run's file, or a foreign model; or it
            is a URL.
    """
    refuse_url(out)
    there = [name for name in _FILES + _FOLDERS if (out / name).exists()]
    if there and not is_run(out):
        raise UsageError(f"{out} holds a {there[0]} that no run wrote", "choose another --out")
    model = out / "model"
    if model.exists() and any(model.iterdir()) and not (model / "modules.json").exists():
        raise UsageError(f"{model} holds something that is not a model of gecko", "choose another --out")


def keep_apart(out: Path, sources: Sequence[str]) -> None:
    """Refuse to write into what is read.

    Args:
        out: The folder to write.
        sources: The corpus, as ``read_sources`` takes it.

    Raises:
        UsageError: The folder is a source, holds one or lies in one; or there is no source.
        GeckoError: A source is not there.
    """
    place = out.resolve()
    files = [Path(name) for name, *_ in source_state(sources)]
    for source in sources:
        folder = Path(source).resolve()
        beir = (folder / "corpus.jsonl").is_file()  # of which only that file is read
        if folder.is_dir() and not beir and (place == folder or folder in place.parents):
            raise UsageError(f"--out {out} lies in the source {source}", "choose a folder outside of it")
    for file in files:
        if file.exists() and place in file.resolve().parents:  # "stdlib:" is none
            raise UsageError(f"--out {out} holds the source {file}", "choose another folder")


def check_recipe(recipe: Recipe) -> None:
    """Find what no stage could work with: models, dimensions and test sets that are not there.

    Raises:
        UsageError: A dimension is wider than the student, or the library of adapters, indexes or a tracker is missing.
        GeckoError: A model, test set or source of the mixture or of pre-finetuning is not there.
    """
    train, evaluation = recipe.train, recipe.evaluation
    check_sources(recipe.mixture)
    check_sources(recipe.prefinetune.mixture)
    check_search(recipe.fret.search)
    if recipe.fret.miner != PREFINETUNED:
        _model("fret.miner", recipe.fret.miner)
    width = check_training(train)
    if recipe.prefinetune.active:
        check_sizes("prefinetune.dims", recipe.prefinetune.dims, train.student, width)
    if recipe.audits and recipe.audit.against:
        find_sets([Path(place) for place in recipe.audit.against], evaluation.split)
    if evaluation.beir or evaluation.tasks:
        _check_evaluation(recipe, width)


def _check_evaluation(recipe: Recipe, width: int | None) -> None:
    """Find what the evaluation could not work with; ``width`` is the student's, where it is known."""
    train, evaluation = recipe.train, recipe.evaluation
    base = _model("evaluation.base", recipe.base)
    for name, own in ((train.student, width), (recipe.base, _width(base))):
        if own and evaluation.dims and max(evaluation.dims) > own:
            raise UsageError(
                f"evaluation.dims {list(evaluation.dims)}: the width of {name} is {own}", f"for example [{own}]"
            )
    for folder in map(Path, evaluation.beir):
        for path in beir_files(folder, evaluation.split):
            if not path.is_file():
                raise GeckoError(
                    f"{folder} is not a BEIR folder: it has no {path.relative_to(folder).as_posix()}",
                    "it should hold corpus.jsonl, queries.jsonl and qrels/<evaluation.split>.tsv",
                )
    if evaluation.tasks:
        open_sets([Path(folder) for folder in evaluation.tasks])


def check_training(train: TrainOptions, section: str = "train") -> int | None:
    """Find what would stop a training: a student that is not there, dimensions too wide for it, a missing library.

    Args:
        train: The training's settings.
        section: Where the recipe has them.

    Returns:
        The width of the student's vectors, after a projection; None where only loading it would tell.

    Raises:
        UsageError: A dimension is wider than the student, or a tracker or the library of adapters is not installed.
        GeckoError: There is no such student, or no general texts for its rehearsal.
    """
    student = _model("train.student", train.student)
    width = train.backbone.projection or _width(student)
    for key, name in (("guard", train.guard.embedder), ("distill", train.distill.embedder)):
        if name is not None:
            _model(f"train.{key}.embedder", name)
    check_sizes(f"{section}.dims", train.dims, train.student, width)
    if train.rehearse.weight:
        general_texts(train.rehearse.texts, 1, random.Random(0))  # noqa: S311
    check_adapters(train.backbone)
    _check_trackers(train.report_to)
    return width


def check_sizes(key: str, dims: Sequence[int], student: str, width: int | None) -> None:
    """Refuse Matryoshka sizes wider than the student, where its width is known.

    Raises:
        UsageError: One is.
    """
    if width:
        trained_sizes(dims, width, student, key)


def check_languages(recipe: Recipe) -> list[str]:
    """Hold the languages that queries are wished in against what the teacher of step 1 and the miner can do.

    Returns:
        Lines that the user should read before queries are written.

    Raises:
        UsageError: The teacher can write in the passage's own language only.
    """
    spec, options = recipe.teacher.of_writer()
    wished = ", ".join(name for name in options.prompts.language_mix if name != SAME)
    own_tasks = options.prompts.task_language != "English"
    teacher = spec.partition(":")[0]
    if teacher == "offline" and (wished or own_tasks):
        cannot = f"it writes in the passage's own language, not in {wished}" if wished else "its tasks are in English"
        raise UsageError(
            f"the offline teacher cannot translate: {cannot}",
            "teacher.prompts.language=same and task_language=English, or name a language model as teacher.writer",
        )
    lines = []
    if teacher == "recorded" and (wished or own_tasks):
        lines.append("recorded replies stay in the languages they were recorded in: none is translated or written anew")
    if wished and recipe.fret.miner == PACKAGED_MODEL:
        lines.append(f"fret.miner {PACKAGED_MODEL} knows English only: queries in {wished} find few neighbours")
    return lines


def model_state(spec: str) -> State:
    """What tells whether a model given as a path was changed; empty for a name, which stands for itself."""
    folder = Path(spec)
    return _state(folder, folder.rglob("*")) if folder.is_dir() else []


def texts_state(train: TrainOptions) -> State:
    """What tells whether the user's own file of general texts was changed; empty where rehearsal reads none."""
    path = Path(train.rehearse.texts)
    return _state(path.parent, [path]) if train.rehearse.weight and path.is_file() else []


def training_state(train: TrainOptions) -> list[object]:
    """What tells whether anything that a fine-tuning reads beside its rows was changed: models, then general texts."""
    return [[model_state(name) for name in (train.student, *train.embedders)], *texts_state(train)]


def beir_state(folders: Sequence[str]) -> list[State]:
    """What tells whether BEIR folders were changed."""
    patterns = ("corpus.jsonl", "queries*.jsonl", "qrels/*.tsv")
    return [_state(Path(folder), (path for p in patterns for path in Path(folder).glob(p))) for folder in folders]


def tasks_state(places: Sequence[str]) -> list[State]:
    """What tells whether general tasks were changed: the data files in a folder; of a file, those beside it."""
    state = []
    for place in map(Path, places):
        folder, pattern = (place, "**/*") if place.is_dir() else (place.parent, "*")
        state.append(_state(folder, (path for path in folder.glob(pattern) if path.suffix.lower() in SUFFIXES)))
    return state


def _state(folder: Path, paths: Any) -> State:  # noqa: ANN401
    """Each file's name, size and times of change (ns): cheap, and changed whenever a file is."""
    files = [(path.relative_to(folder), path) for path in sorted(paths) if path.is_file()]
    return [
        file_state(path, name.as_posix())
        for name, path in files
        if not any(part.startswith(".") for part in name.parts)
    ]


def _model(key: str, spec: str) -> Path:
    try:
        return Path(resolve_model(spec))
    except GeckoError as error:
        raise GeckoError(f"{key}: {error.message}", error.hint) from error


def _width(model: Path) -> int | None:
    """Width of a model's vectors as its files tell it; None where only loading it would."""
    try:
        modules = json.loads(_text(model / "modules.json") or '[{"type": "Transformer", "path": ""}]')
        places = {module["type"].rsplit(".", 1)[-1]: model / module["path"] for module in modules}
        if "Dense" in places:  # the last one sets the width
            width = json.loads(_text(places["Dense"] / "config.json"))["out_features"]
        else:
            config = json.loads(_text(places["Transformer"] / "config.json"))
            width = next(config[key] for key in _WIDTHS if key in config)
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration):
        return None
    return width if isinstance(width, int) else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _check_trackers(names: Sequence[str]) -> None:
    """Make each tracker's callback as the trainer will."""
    wanted = [name for name in names if name not in {"all", "none"}]
    if not wanted:
        return
    from transformers.integrations import get_reporting_integration_callbacks

    try:
        for tracker in get_reporting_integration_callbacks(wanted):
            tracker()
    except (ValueError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"train.report_to {list(names)}: {reason}", "for example [tensorboard], or []") from error
