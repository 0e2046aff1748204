import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gecko.recipe import load_recipe
from gecko.run import run_recipe

TOPICS = ["engine", "garden", "planet", "bridge", "violin", "harbour", "kitchen", "forest", "market", "castle"]
VERBS = ["repairs", "measures", "paints", "moves", "describes", "protects", "cleans", "builds"]


def write_corpus(path: Path, count: int = 80) -> None:
    draw = random.Random(0)
    rows = []
    for i in range(count):
        topic, other = draw.sample(TOPICS, 2)
        verb = draw.choice(VERBS)
        rows.append(
            {
                "_id": f"d{i}",
                "title": f"{topic} part {i}",
                "text": f"The {topic} number {i} is a thing that {verb} the {other}. Workers use it to carry the {other} {i} home.",
            }
        )
    path.write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture
def recipe_file(tmp_path, tiny_model):
    write_corpus(tmp_path / "corpus.jsonl")
    recipe = {
        "corpus": {"sources": [str(tmp_path / "corpus.jsonl")], "near_duplicate": 0},
        "teacher": {"spec": "offline"},
        "fret": {"limit": 60, "miner": tiny_model, "neighbours": 5, "min_positive_rc": 0.0},
        "train": {
            "student": tiny_model,
            "epochs": 2,
            "batch_size": 8,
            "dims": [32, 16],
            "max_length": 32,
            "bf16": False,
        },
        "gate": {"probe": False, "dev_share": 0.2, "alphas": [0.5, 1.0]},
        "evaluation": {"base": tiny_model, "dims": [32, 16]},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def fret_rows(run: Path):
    return pq.read_table(run / "fret" / "part-00000.parquet").to_pylist()


def test_a_run_ends_with_a_model_a_report_and_rows_that_add_up(recipe_file, tmp_path):
    lines = []
    summary = run_recipe(load_recipe(recipe_file), tmp_path / "run", tell=lines.append)
    assert [stage.name for stage in summary.stages] == [
        "passages",
        "miner",
        "queries",
        "fret",
        "mixture",
        "train",
        "gate",
        "evaluation",
    ]
    assert len(lines) == len(summary.stages)
    assert (tmp_path / "run" / "model" / "modules.json").exists()
    assert "<html" in (tmp_path / "run" / "report.html").read_text()
    queries = next(stage for stage in summary.stages if stage.name == "queries").rows
    quarantine = tmp_path / "run" / "fret" / "quarantine.parquet"
    aside = pq.read_table(quarantine).num_rows if quarantine.exists() else 0
    rows = fret_rows(tmp_path / "run")
    assert len(rows) + aside == queries
    for row in rows:
        ids = [candidate["passage_id"] for candidate in row["candidates"]]
        assert row["seed_id"] in ids
        assert row["positive_id"] in ids
        assert row["relabelled"] == (row["positive_id"] != row["seed_id"])
        assert row["negative_id"] != row["positive_id"]
    history = json.loads((tmp_path / "run" / "train" / "history.json").read_text())
    assert history["rows"] < len(rows)  # the held-out seeds are not trained on


def test_run_again_does_nothing_and_a_change_redoes_only_what_depends_on_it(recipe_file, tmp_path):
    run_recipe(load_recipe(recipe_file), tmp_path / "run")
    again = run_recipe(load_recipe(recipe_file), tmp_path / "run")
    assert all(stage.skipped for stage in again.stages)
    changed = run_recipe(load_recipe(recipe_file, ["train.learning_rate=1e-4"]), tmp_path / "run")
    assert [stage.name for stage in changed.stages if not stage.skipped] == ["train", "gate", "evaluation"]


def test_json_summary_has_the_binding_shape(recipe_file, tmp_path):
    value = run_recipe(load_recipe(recipe_file), tmp_path / "run").to_json()
    assert set(value) == {"run", "stages", "evaluation", "model", "report", "usd"}
    assert set(value["stages"][0]) == {"name", "rows", "seconds", "skipped"}


def test_killed_runs_end_as_an_uninterrupted_one(recipe_file, tmp_path):
    """Kill -9 at a few moments; the exhaustive version is bench/kill.py."""
    # Both runs are processes of their own: the number of threads changes the last digits of a sum.
    command = [sys.executable, "-m", "gecko.cli", "run", str(recipe_file), "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    command.append(str(tmp_path / "killed"))
    for seconds in (4.0, 7.0):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, capture_output=True)
    assert fret_rows(tmp_path / "killed") == fret_rows(tmp_path / "whole")
    gates = [json.loads((tmp_path / run / "gate" / "gate.json").read_text()) for run in ("killed", "whole")]
    assert gates[0] == gates[1]
