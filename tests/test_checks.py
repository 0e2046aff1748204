"""What a run finds out before it begins."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from gecko.checks import beir_state, check_recipe, check_run_folder, keep_apart, model_state, tasks_state, texts_state
from gecko.errors import GeckoError, UsageError
from gecko.recipe import Recipe, TrainOptions


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(json.dumps({"_id": "d", "text": "cat"}) + "\n")
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "cat"}) + "\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    return folder


def recipe(model: str, beir: Path | None, **changes: object) -> Recipe:
    """A recipe of the tiny model (width 32) with ``section__key`` changed."""
    values: dict[str, dict[str, object]] = {
        "fret": {"miner": model},
        "prefinetune": {"corpus": True},
        "train": {"student": model, "dims": [32]},
        "evaluation": {"base": model, "dims": [32, 16], "beir": [str(beir)] if beir else []},
    }
    for place, value in changes.items():
        section, key = place.split("__")
        values[section][key] = value
    return Recipe.model_validate(values)


def test_a_good_recipe_passes(tiny_model: str, beir: Path) -> None:
    check_recipe(recipe(tiny_model, beir))
    check_recipe(recipe(tiny_model, None, evaluation__dims=[384], evaluation__base="/nope"))  # nothing is evaluated
    check_recipe(recipe(tiny_model, None, evaluation__tasks=[str(beir)]))
    for wrong in ({"evaluation__dims": [384]}, {"evaluation__base": "/nope"}):
        with pytest.raises(GeckoError, match=r"evaluation\.(dims|base)"):
            check_recipe(recipe(tiny_model, None, evaluation__tasks=[str(beir)], **wrong))
    check_recipe(recipe(tiny_model, beir, fret__miner="prefinetuned"))  # which the run makes
    (beir / "queries.jsonl").rename(beir / "queries_dev.jsonl")
    (beir / "qrels" / "test.tsv").rename(beir / "qrels" / "dev.tsv")
    check_recipe(recipe(tiny_model, beir, evaluation__split="dev"))


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("train__student", "/nope", "train.student: no model directory at /nope"),
        ("train__rehearse", {"weight": 1, "texts": "/nope"}, "train.rehearse.texts /nope: No such file"),
        ("train__guard", {"embedder": "/nope"}, "train.guard.embedder: no model directory at /nope"),
        ("train__distill", {"embedder": "/nope"}, "train.distill.embedder: no model directory at /nope"),
        ("prefinetune__dims", [9999], "prefinetune.dims"),
        ("prefinetune__sources", [{"path": "/nope", "kind": "pairs"}], "source nope: no file or folder at /nope"),
        ("fret__miner", "/nope", "fret.miner: no model directory at /nope"),
        ("evaluation__base", "/nope", "evaluation.base: no model directory at /nope"),
        ("evaluation__dims", [9999], "evaluation.dims"),
        ("train__dims", [384, 32], "train.dims [384]"),
        ("train__backbone", {"projection": 16}, "train.dims [32]"),
        ("train__report_to", ["foo"], "train.report_to"),
        ("evaluation__split", "dev", "it has no qrels/dev.tsv"),
        ("evaluation__beir", ["/nope"], "it has no corpus.jsonl"),
        ("evaluation__tasks", ["/nope"], "/nope: no such folder"),
    ],
)
def test_what_no_stage_could_work_with_is_named(
    tiny_model: str, beir: Path, place: str, value: object, words: str
) -> None:
    with pytest.raises(GeckoError) as caught:
        check_recipe(recipe(tiny_model, beir, **{place: value}))
    assert words in caught.value.message
    assert caught.value.hint


def test_a_width_that_only_loading_would_tell_is_not_checked(tiny_model: str, beir: Path, tmp_path: Path) -> None:
    for name, text in (("modules.json", '[{"type": "sentence_transformers.models.Dense"}]'), ("config.json", "[")):
        model = tmp_path / name
        shutil.copytree(tiny_model, model)
        (model / name).write_text(text)
        check_recipe(recipe(str(model), beir, evaluation__dims=[64]))


@pytest.mark.parametrize("name", ["recipe.yaml", "model", "passages", "pairs", "prefinetune"])
def test_a_folder_with_files_of_another_origin_is_not_run_in(tmp_path: Path, name: str) -> None:
    check_run_folder(tmp_path / "new")
    (tmp_path / "notes.txt").touch()
    check_run_folder(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match=f"holds a {name} that no run wrote"):
        check_run_folder(tmp_path)


def test_a_foreign_model_folder_in_a_run_is_refused(tmp_path: Path) -> None:
    for name in ("recipe.yaml", ".lock", "model/modules.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    check_run_folder(tmp_path)
    (tmp_path / "model" / "modules.json").rename(tmp_path / "model" / "cad.step")
    with pytest.raises(UsageError, match="not a model of gecko"):
        check_run_folder(tmp_path)


def test_output_and_sources_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("docs/a.txt", "data/b.txt", "set/corpus.jsonl"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    good = [("out", "docs"), ("out", "docs/a.txt"), ("set/run", "set"), ("docs2", "docs"), (".", "stdlib:")]
    for out, source in good:
        keep_apart(Path(out), [source])
    for out, source in [("docs", "docs"), ("docs/out", "docs"), (".", "docs"), ("docs", "docs/*.txt"), ("set", "set")]:
        with pytest.raises(UsageError, match="source"):
            keep_apart(Path(out), ["data", source])
    with pytest.raises(GeckoError, match="no file at dosc"):
        keep_apart(Path("out"), ["dosc"])


def test_states_change_with_their_files(tiny_model: str, beir: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    assert model_state("all-MiniLM-L6-v2") == model_state("owner/name") == []
    for state, file in (
        (lambda: model_state(str(model)), model / "model.safetensors"),
        (lambda: beir_state([str(beir)]), beir / "queries.jsonl"),
        (lambda: beir_state([str(beir)]), beir / "qrels" / "test.tsv"),
        (lambda: tasks_state([str(beir.parent)]), beir / "qrels" / "test.tsv"),
        (lambda: tasks_state([str(beir / "queries.jsonl")]), beir / "corpus.jsonl"),  # what lies beside a file
    ):
        before = state()
        assert state() == before
        facts = file.stat()
        raw = file.read_bytes()
        file.write_bytes(raw[:-1] + b" ")
        os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # same size and time: the inode's own time tells
        assert state() != before


def test_a_changed_file_of_general_texts_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "general.txt"
    path.write_text("a text\n")
    own = TrainOptions.model_validate({"rehearse": {"weight": 1, "texts": str(path)}})
    before = texts_state(own)
    path.write_text("another text\n")
    assert before
    assert texts_state(own) != before
    assert texts_state(TrainOptions.model_validate({"rehearse": {"weight": 1}})) == []
