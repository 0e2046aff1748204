"""The Ray engine: what the local one gives, whoever dies meanwhile; nothing where ray is not installed."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine_works import Counting, Deadly, Dying, Failing, Square
from gecko.engine.feed import AHEAD
from gecko.engine.local import LocalEngine
from gecko.engine.protocol import Engine
from gecko.engine.ray import RayEngine
from gecko.errors import GeckoError, UsageError
from gecko.recipe import load_recipe
from gecko.run import opened_run, run_stage
from gecko.stages import stages_for

ray = pytest.importorskip("ray", reason="the extra is not installed: make test-ray, or pip install -e '.[ray]'")

SQUARES = [number * number for number in range(20)]


@pytest.fixture(scope="module")
def engine() -> Iterator[RayEngine]:
    engine = RayEngine()
    with pytest.MonkeyPatch.context() as patch:  # workers import the works from here
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
        yield engine
    engine.close()
    assert not ray.is_initialized()


def test_results_come_in_order_from_several_processes_never_far_ahead(engine: RayEngine) -> None:
    source = Counting(range(20))
    found = source.counted(engine.map_batches(Square(slow=(0, 5, 11)), source))
    assert [square for square, _ in found] == SQUARES
    workers = int(ray.cluster_resources()["CPU"])
    assert source.most <= AHEAD * workers
    assert 1 <= len({process for _, process in found}) <= workers


def test_dead_workers_change_nothing_until_every_one_dies_of_a_batch(engine: RayEngine, tmp_path: Path) -> None:
    deadly = Deadly(engine, tmp_path)
    assert [square for square, _ in deadly.map_batches(Square(), range(20))] == SQUARES
    assert deadly.deaths == 1
    with pytest.raises(GeckoError, match="4 workers died over the same batch"):
        list(engine.map_batches(Dying(Square()), range(2)))


@pytest.mark.parametrize("first", [True, False])
def test_workers_that_ray_s_memory_monitor_kills_are_replaced_until_it_kills_every_one(
    engine: RayEngine, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    honest, killed = ray.get, list[Any]()

    def get(ref: Any, most: int) -> Any:
        """What Ray gives of a worker that its monitor killed; ``first`` as it starts, else over a batch."""
        value = honest(ref)
        if (value is None) == first and len(killed) < most:
            killed.append(value)
            raise ray.exceptions.OutOfMemoryError("1 worker(s) were killed: 7 GB used / 8 GB limit\nOOM kill\nRead on")
        return value

    with monkeypatch.context() as patch:
        patch.setattr(ray, "get", lambda ref: get(ref, 3))
        found = engine.map_batches(Square(), range(20))
        assert [square for square, _ in found] == SQUARES
    assert len(killed) == 3
    monkeypatch.setattr(ray, "get", lambda ref: get(ref, 1000))
    said = "no Ray worker starts" if first else "4 workers died over the same batch"
    with pytest.raises(GeckoError, match=rf"^{said}: 1 worker\(s\) were killed: 7 GB used / 8 GB limit$") as told:
        list(engine.map_batches(Square(), range(2)))
    assert "memory ran out" in told.value.hint


def test_errors_of_the_work_come_in_their_turn_with_their_hints(engine: RayEngine) -> None:
    found: list[int] = []
    with pytest.raises(UsageError, match="no 9 please") as told:
        found.extend(engine.map_batches(Failing(9), range(20)))
    assert (told.value.hint, found) == ("leave it out", list(range(9)))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(engine.map_batches(Failing(3, "bug"), range(20)))
    with pytest.raises(MemoryError, match=r"^no room$"):  # not Ray's traceback, of which a user would see one line
        list(engine.map_batches(Failing(3, "memory"), range(20)))
    with pytest.raises(UsageError, match="cannot open") as told:
        list(engine.map_batches(Failing(0, "opening"), range(20)))
    assert told.value.hint == "try another"


def write_recipe(folder: Path, tiny_model: str) -> Path:
    animals = "ant bear cat dog eel fox goat hen owl pig".split()
    rows = []
    for number in range(90):
        animal, other = animals[number % 10], animals[number * 7 % 9]
        text = f"The {animal} of house {number} walks along the road {number * 13} to the {other} by the red river."
        rows.append({"_id": f"d{number}", "title": f"{animal} {number}", "text": text if number % 20 else "---"})
    rows += [{"_id": "again", "title": rows[5]["title"], "text": rows[5]["text"]}]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = {
        "corpus": {"sources": [str(folder / "corpus.jsonl")]},
        "teacher": {"spec": "offline"},
        "fret": {"limit": 60, "miner": tiny_model, "neighbours": 5, "min_positive_rc": 0.0},
        "train": {"student": tiny_model, "dims": [32]},
        "evaluation": {"base": tiny_model, "dims": [32]},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder / "recipe.yaml"


def distilled(recipe_file: Path, out: Path, engine: Engine, last: str = "fret") -> list[bool]:
    """Make the stages of a run up to one; which of them were there already."""
    recipe = load_recipe(recipe_file)
    stages = stages_for(recipe, last)
    with opened_run(recipe, out, stages, tell=lambda line: None, engine=engine) as context:
        return [run_stage(stage, context, lambda line: None).skipped for stage in stages]


def made(run: Path) -> dict[str, Any]:
    """Rows of every stage in order, the vectors' bytes, and how many calls of each kind reached the teacher."""
    shards = {str(path.relative_to(run)): pq.read_table(path).to_pylist() for path in run.rglob("*.parquet")}
    with sqlite3.connect(run / "ledger.sqlite") as ledger:
        calls = ledger.execute("SELECT key, kind, error FROM teacher_calls ORDER BY key").fetchall()
    facts = json.loads((run / "fret" / "_stage.json").read_text())["calls_made"]
    return {**shards, "vectors": (run / "miner" / "vectors.npy").read_bytes(), "calls": calls, "fret": facts}


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small corpus has several batches a stage."""
    monkeypatch.setattr("gecko.corpus.cut._DOCUMENTS", 10)
    monkeypatch.setattr("gecko.miner.vectors.BLOCK_ROWS", 16)
    monkeypatch.setattr("gecko.fret.retrieve._SEARCHED", 8)


@pytest.mark.usefixtures("small_batches")
def test_a_run_is_the_local_one_s_byte_for_byte_although_every_stage_loses_a_worker(
    engine: RayEngine, tmp_path: Path, tiny_model: str
) -> None:
    recipe = write_recipe(tmp_path, tiny_model)
    distilled(recipe, tmp_path / "local", LocalEngine())
    deadly = Deadly(engine, tmp_path)
    assert distilled(recipe, tmp_path / "ray", deadly, "queries") == [False, False]
    assert distilled(recipe, tmp_path / "ray", deadly) == [True, False, True, False]
    assert deadly.deaths == 3  # passages, vectors, retrieval
    local, elsewhere = made(tmp_path / "local"), made(tmp_path / "ray")
    assert elsewhere == local
    assert len(local["passages/part-00000.parquet"]) == 85
    assert len(local["fret/part-00000.parquet"]) > 20
    # What was begun with one engine is done for another.
    assert distilled(recipe, tmp_path / "ray", LocalEngine()) == [True] * 4
    assert distilled(recipe, tmp_path / "local", engine) == [True] * 4
    assert np.load(tmp_path / "ray" / "miner" / "vectors.npy").shape == (85, 32)
