"""``gecko train``: one training of a run, or on rows of the user's own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from gecko.cli import app
from gecko.embedder.open import load_model

ANIMALS = ("ant", "bear", "cat", "dog", "eel", "fox", "goat", "hen", "ibis", "jay", "koala", "lion", "mole", "newt")


def call(*arguments: str) -> tuple[int, dict[str, Any], str]:
    result = CliRunner().invoke(app, ["train", *arguments, "--json"])
    return result.exit_code, json.loads(result.stdout) if result.exit_code == 0 else {}, result.stderr


def sets(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


@pytest.fixture
def few_steps(tiny_model: str) -> list[str]:
    values = [f"train.student={tiny_model}", "train.dims=[32]", "train.batch_size=8", "train.bf16=false"]
    return sets(*values, "train.epochs=1", "prefinetune.batch_size=8", "prefinetune.learning_rate=1e-3")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    made = [
        {"task": "t", "query": f"the {animal}", "positive": f"title: none | text: {animal} in the {place}"}
        for animal in ANIMALS
        for place in ("river", "road", "house")
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, [*made, {"query": "", "positive": "x"}])))
    return path


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: str) -> Path:
    texts = [
        {"_id": f"{a}{p}", "title": f"{a} {p}", "text": f"The {a} lives by the {p}."} for a in ANIMALS for p in "xyz"
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, texts)))
    values = {
        "corpus": {"sources": [str(tmp_path / "corpus.jsonl")], "near_duplicate": 0},
        "prefinetune": {"corpus": True},
        "fret": {"limit": 40, "miner": tiny_model, "neighbours": 3, "min_positive_rc": 0},
        "gate": {"probe": False},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(values))
    return tmp_path / "recipe.yaml"


def weights(model: str | Path) -> dict[str, torch.Tensor]:
    return load_model(str(model), device="cpu").state_dict()


def same(one: str | Path, other: str | Path) -> bool:
    there = weights(other)
    return all(torch.equal(value, there[name]) for name, value in weights(one).items())


def made(value: dict[str, Any]) -> list[str]:
    return [stage["name"] for stage in value["stages"] if not stage["skipped"]]


def test_a_stage_is_made_with_what_it_needs_and_the_run_goes_on_from_it(
    recipe: Path, few_steps: list[str], tmp_path: Path
) -> None:
    run = str(tmp_path / "run")
    # A teacher that would need a key: pre-finetuning on titles asks none.
    keyless = [*few_steps, *sets("teacher.spec=openai:gpt-x")]
    code, value, _ = call(str(recipe), "--stage", "prefinetune", "--out", run, *keyless)
    assert code == 0
    assert set(value) == {"out", "stage", "stages", "model", "rows", "steps", "quarantined", "usd"}
    assert (value["stage"], value["rows"], value["steps"]) == ("prefinetune", 42, 5)
    assert made(value) == ["passages", "pairs", "prefinetune"]
    assert value["model"] == str(tmp_path / "run" / "prefinetune" / "model")
    again = call(str(recipe), "--stage", "prefinetune", "--out", run, *keyless)[1]
    assert made(again) == []
    assert (again["rows"], again["steps"]) == (42, 5)
    code, tuned, _ = call(str(recipe), "--stage", "finetune", "--out", run, *few_steps)
    assert code == 0
    assert made(tuned) == ["miner", "queries", "fret", "mixture", "train"]
    assert not (tmp_path / "run" / "gate").exists()
    result = CliRunner().invoke(app, ["run", str(recipe), "--out", run, *few_steps, "--json"])
    assert made(json.loads(result.stdout)) == ["gate", "evaluation"]
    assert (tmp_path / "run" / "summary.json").exists()
    call(str(recipe), "--stage", "finetune", "--out", run, *few_steps)
    assert (tmp_path / "run" / "summary.json").exists()  # nothing changed, so it is still true
    call(str(recipe), "--stage", "finetune", "--out", run, *few_steps, *sets("train.learning_rate=1e-4"))
    assert not (tmp_path / "run" / "summary.json").exists()


def test_pairs_of_files_alone_need_no_corpus(rows: Path, few_steps: list[str], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        json.dumps({"prefinetune": {"sources": [{"path": str(rows), "kind": "pairs"}]}})
    )
    code, value, said = call(
        str(tmp_path / "recipe.yaml"), "--stage", "prefinetune", "--out", str(tmp_path / "r"), *few_steps
    )
    assert code == 0, said
    assert [stage["name"] for stage in value["stages"]] == ["pairs", "prefinetune"]


@pytest.mark.parametrize("stage", ["prefinetune", "finetune"])
def test_rows_of_the_user_s_own(rows: Path, few_steps: list[str], tmp_path: Path, tiny_model: str, stage: str) -> None:
    out = tmp_path / "mine"
    code, value, said = call("--stage", stage, "--rows", str(rows), "--out", str(out), *few_steps)
    assert code == 0, said
    assert (value["stage"], value["rows"], value["steps"], value["quarantined"]) == (stage, 42, 5, 1)
    assert "1 rows set aside, the first for: query: an empty text, or none" in said
    assert (out / "quarantine.parquet").exists()
    assert not same(out / "model", tiny_model)
    before = (out / "model" / "model.safetensors").stat().st_mtime_ns
    _, again, said = call("--stage", stage, "--rows", str(rows), "--out", str(out), *few_steps)
    assert "done already" in said
    assert [one["skipped"] for one in again["stages"]] == [True]
    assert {**again, "stages": 0} == {**value, "stages": 0}
    assert (out / "model" / "model.safetensors").stat().st_mtime_ns == before
    changed = call("--stage", stage, "--rows", str(rows), "--out", str(out), *few_steps, *sets("seed=1"))[1]
    assert [one["skipped"] for one in changed["stages"]] == [False]


def test_rows_are_trained_on_again_where_another_input_changed(
    rows: Path, few_steps: list[str], tmp_path: Path, tiny_model: str
) -> None:
    """The recipe is the same: what changed are the files that it names."""
    texts, guide = tmp_path / "general.txt", tmp_path / "guide"
    texts.write_text("a text\nthe road\n")
    shutil.copytree(tiny_model, guide)
    files = sets("train.rehearse.weight=1", f"train.rehearse.texts={texts}", f"train.guard.embedder={guide}")
    arguments = ["--stage", "finetune", "--rows", str(rows), "--out", str(tmp_path / "mine"), *few_steps, *files]

    def skipped() -> bool:
        code, value, said = call(*arguments)
        assert code == 0, said
        return bool(value["stages"][0]["skipped"])

    assert [skipped(), skipped()] == [False, True]
    texts.write_text("a text\nthe river\n")
    assert [skipped(), skipped()] == [False, True]
    os.utime(guide / "modules.json")
    assert skipped() is False


@pytest.mark.parametrize("stage", ["prefinetune", "finetune"])
def test_repeats_of_a_row_are_set_aside_and_alone_are_an_error(
    rows: Path, few_steps: list[str], tmp_path: Path, stage: str
) -> None:
    lines = rows.read_text().splitlines()[:-1]
    rows.write_text("\n".join([*lines, *lines[:5]]))
    code, value, said = call("--stage", stage, "--rows", str(rows), "--out", str(tmp_path / "a"), *few_steps)
    assert code == 0, said
    assert (value["rows"], value["quarantined"]) == (42, 5)
    assert "5 rows set aside, the first for: a repeat of an earlier row" in said
    rows.write_text("\n".join(lines[:1] * 40))
    code, _, said = call("--stage", stage, "--rows", str(rows), "--out", str(tmp_path / "b"), *few_steps)
    assert code == 1
    assert "gives 1 rows to train on, repeats not counted" in said


def test_the_same_rows_give_another_model_by_each_training(rows: Path, few_steps: list[str], tmp_path: Path) -> None:
    equal = sets("train.learning_rate=1e-3", "prefinetune.max_length=256")
    for stage in ("prefinetune", "finetune"):
        assert call("--stage", stage, "--rows", str(rows), "--out", str(tmp_path / stage), *few_steps, *equal)[0] == 0
    assert not same(tmp_path / "prefinetune" / "model", tmp_path / "finetune" / "model")  # same-tower terms
    off = sets("train.same_tower=false", "train.negatives=0")
    assert (
        call("--stage", "finetune", "--rows", str(rows), "--out", str(tmp_path / "x"), *few_steps, *equal, *off)[0] == 0
    )
    assert same(tmp_path / "prefinetune" / "model", tmp_path / "x" / "model")


def test_a_folder_of_other_files_or_of_a_run_is_refused(
    rows: Path, recipe: Path, few_steps: list[str], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    (other / "model").mkdir(parents=True)
    (other / "model" / "modules.json").write_text("mine")
    run = tmp_path / "run"
    assert call(str(recipe), "--stage", "prefinetune", "--out", str(run), *few_steps)[0] == 0
    for out, words in ((other, "holds other files, such as model"), (run, "is part of"), (run / "new", "is part of")):
        code, _, said = call("--stage", "finetune", "--rows", str(rows), "--out", str(out), *few_steps)
        assert code == 2
        assert words in said
    assert (other / "model" / "modules.json").read_text() == "mine"


@pytest.mark.parametrize("count", [0, 1])
def test_rows_too_few_to_train_on(count: int, few_steps: list[str], tmp_path: Path) -> None:
    path = tmp_path / "few.jsonl"
    path.write_text(
        "\n".join([json.dumps({"query": "q", "positive": "p"})] * count + [json.dumps({"query": "", "positive": "p"})])
    )
    code, _, said = call("--stage", "finetune", "--rows", str(path), "--out", str(tmp_path / "o"), *few_steps)
    assert code == 1
    assert f"gives {count} rows to train on" in said
    assert (tmp_path / "o" / "quarantine.parquet").exists()


def test_killed_in_the_middle_it_ends_with_the_same_weights_to_the_bit(
    rows: Path, few_steps: list[str], tmp_path: Path
) -> None:
    """Kill -9 once a checkpoint is whole; the command is given again."""
    arguments = ["--stage", "prefinetune", "--rows", str(rows), *few_steps, *sets("prefinetune.epochs=12"), "--out"]
    assert call(*arguments, str(tmp_path / "whole"))[0] == 0
    command = [sys.executable, "-m", "gecko.cli", "train", *arguments, str(tmp_path / "cut")]
    checkpoints = tmp_path / "cut" / "checkpoints"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    while not any(checkpoints.glob("checkpoint-*/whole")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "cut" / "model").exists()
    assert call(*arguments, str(tmp_path / "cut"))[0] == 0
    assert same(tmp_path / "cut" / "model", tmp_path / "whole" / "model")
    # The means that are logged are not compared: the one over the kill lacks the steps before it.
    steps = [json.loads((tmp_path / name / "history.json").read_text())["steps"] for name in ("cut", "whole")]
    assert steps == [63, 63]
