"""Engines without Ray: order, bounds, errors and dead workers of the local one, and how an engine is named."""

from __future__ import annotations

import importlib.util
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from engine_works import Counting, Deadly, Dying, Failing, Square
from gecko.corpus.build import CorpusOptions, build_passages
from gecko.embedder.embedder import Embedder
from gecko.engine.feed import AHEAD
from gecko.engine.local import LocalEngine
from gecko.engine.open import open_engine
from gecko.engine.ray import _room
from gecko.errors import GeckoError, UsageError

SQUARES = [number * number for number in range(20)]


def test_processes_give_results_in_order_and_are_never_far_ahead() -> None:
    source = Counting(range(20))
    found = source.counted(LocalEngine(2).map_batches(Square(slow=(5, 6, 11)), source))
    assert [square for square, _ in found] == SQUARES
    here = [process == os.getpid() for _, process in found]
    assert here == [True] * 4 + [False] * 16  # a small corpus starts no process
    assert 2 < source.most <= AHEAD * 2


@pytest.mark.parametrize(("engine", "model"), [(LocalEngine(0), False), (LocalEngine(2), True)])
def test_a_model_and_an_engine_without_workers_stay_in_this_process(engine: LocalEngine, model: bool) -> None:
    source = Counting(range(20))
    found = source.counted(engine.map_batches(Square(), source, model=model))
    assert found == [(square, os.getpid()) for square in SQUARES]
    assert source.most == 1


def test_a_worker_that_dies_is_replaced_and_its_batches_done_again(tmp_path: Path) -> None:
    engine = Deadly(LocalEngine(1), tmp_path)
    assert [square for square, _ in engine.map_batches(Square(), range(20))] == SQUARES
    assert engine.deaths == 1


def test_a_worker_that_dies_while_this_process_works_is_replaced_too(tmp_path: Path) -> None:
    found = []
    for square, _ in LocalEngine(1).map_batches(Dying(Square(), tmp_path / "died"), range(20)):
        found.append(square)
        time.sleep(0.1)  # by when the processes are known to be broken, before they are handed the next batch
    assert found == SQUARES
    assert (tmp_path / "died").exists()


def test_a_batch_that_no_worker_outlives_is_an_error_with_a_hint() -> None:
    with pytest.raises(GeckoError, match="4 workers died over the same batch") as told:
        list(LocalEngine(1).map_batches(Dying(Square()), range(6)))
    assert "memory" in told.value.hint
    assert "--engine local" not in told.value.hint  # it is this one
    assert "\n" not in told.value.message


def test_the_work_s_own_error_comes_in_its_turn_with_its_hint() -> None:
    found: list[int] = []
    with pytest.raises(UsageError, match="no 9 please") as told:
        found.extend(LocalEngine(1).map_batches(Failing(9), range(20)))
    assert told.value.hint == "leave it out"
    assert found == list(range(9))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(LocalEngine(1).map_batches(Failing(9, "bug"), range(20)))
    with pytest.raises(MemoryError, match="no room"):
        list(LocalEngine(1).map_batches(Failing(9, "memory"), range(20)))


def test_what_the_batches_raise_comes_after_the_results_before_it() -> None:
    def batches() -> Iterator[int]:
        yield from range(7)
        raise GeckoError("cannot read on", "mend it")

    found: list[int] = []
    with pytest.raises(GeckoError, match="cannot read on"):
        found.extend(square for square, _ in LocalEngine(1).map_batches(Square(), batches()))
    assert found == SQUARES[:7]


def test_whoever_stops_early_takes_no_more() -> None:
    source = Counting(range(1000))
    results = LocalEngine(1).map_batches(Square(), source)
    assert [next(results)[0] for _ in range(6)] == SQUARES[:6]
    results.close()  # type: ignore[attr-defined]
    assert source.taken <= 6 + AHEAD


def test_passages_are_the_same_whatever_the_batches_and_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        words = f"# Part {number}\n\nWorkers carry the red house number {number} along the road to the river.\n"
        (tmp_path / f"{number:02}.md").write_text(words if number % 7 else "---\n")
    (tmp_path / "40.md").write_bytes(b"\x00\x01\x02\xff")
    (tmp_path / "41.md").write_text((tmp_path / "01.md").read_text())
    options = CorpusOptions(sources=(str(tmp_path),))
    whole = list(build_passages(options))
    assert len(whole) == 42
    monkeypatch.setattr("gecko.corpus.cut._DOCUMENTS", 3)
    assert list(build_passages(options)) == whole
    assert list(build_passages(options, LocalEngine(1))) == whole
    monkeypatch.setattr("gecko.corpus.cut._CHARACTERS", 1)
    assert list(build_passages(options)) == whole


def test_what_was_read_before_a_failure_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("The first text speaks of apples.")
    (tmp_path / "b.txt").write_text("The second text speaks of pears.")

    def unreadable(path: Path, name: str) -> None:
        raise OSError("bad block")

    monkeypatch.setattr("gecko.corpus.read.read_jsonl", unreadable)
    (tmp_path / "c.jsonl").write_text("{}")
    found: list[object] = []
    with pytest.raises(GeckoError, match="bad block"):
        found.extend(build_passages(CorpusOptions(sources=(str(tmp_path),)), LocalEngine(1)))
    assert len(found) == 2


def test_an_embedder_is_sent_as_its_name_and_encodes_the_same(tiny_model: str) -> None:
    embedder = Embedder(tiny_model, dim=16, batch_size=4)
    sent = pickle.dumps(embedder)
    assert len(sent) < 1000
    there = pickle.loads(sent)
    texts = ["red house", "the road of the river", "owl"]
    assert np.array_equal(there.encode_queries(texts), embedder.encode_queries(texts))
    assert (there.dim, there.batch_size) == (16, 4)
    nameless = Embedder(embedder.model)
    with pytest.raises(TypeError, match="without a path"):
        pickle.dumps(nameless)


def node(**resources: float) -> dict[str, object]:
    return {"Alive": True, "Resources": resources}


def test_ray_workers_ask_for_this_process_s_threads_or_for_gpus_and_fill_the_cluster() -> None:
    nodes = [node(CPU=8.0), node(CPU=3.0, GPU=2.0), node(memory=1.0), {"Alive": False, "Resources": {"CPU": 64.0}}]
    cluster = SimpleNamespace(nodes=lambda: nodes)
    assert _room(cluster, None, 0.0) == ({"num_cpus": 1}, 11)
    assert _room(cluster, 2, 0.0) == ({"num_cpus": 2}, 5)
    assert _room(cluster, 16, 0.0) == ({"num_cpus": 8}, 1)  # no node has 16
    assert _room(cluster, 4, 1.0) == ({"num_cpus": 1, "num_gpus": 1.0}, 2)
    assert _room(cluster, 4, 0.5) == ({"num_cpus": 1, "num_gpus": 0.5}, 4)
    assert _room(cluster, 4, 8.0) == ({"num_cpus": 4}, 2)  # no node has 8 GPUs
    assert _room(SimpleNamespace(nodes=list), 4, 0.0) == ({"num_cpus": 1}, 1)  # a cluster that is still to grow


def test_engines_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_engine("local").name == "local"
    with pytest.raises(UsageError, match="no such engine"):
        open_engine("spark")
    with pytest.raises(UsageError, match="--ray-address"):
        open_engine("local", address="auto")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GeckoError, match="Ray is not installed") as told:
        open_engine("ray")
    assert told.value.hint == "pip install 'gecko-embed[ray]'"
