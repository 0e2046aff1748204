"""Retrieval of candidates: exact, and the seed is always among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gecko.errors import GeckoError
from gecko.fret.retrieve import retrieve
from gecko.fret.store import PassageTable
from gecko.records import PASSAGES, GeneratedQuery, Passage
from gecko.shards import write_stage

SIZE, DIM = 200, 8


class Miner:
    """Gives every text its own random unit vector."""

    dim = DIM

    def __init__(self, text_format: str = "plain") -> None:
        self.format = text_format
        self.seen: list[str] = []
        self.tasks: list[str] = []

    def encode_queries(self, queries: Sequence[str], task: Sequence[str] | None = None) -> np.ndarray:
        self.seen += queries
        self.tasks += task or ()
        vectors = np.stack(
            [np.random.default_rng(int.from_bytes(query.encode(), "big") % 2**32).normal(size=DIM) for query in queries]
        )
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> PassageTable:
    passages = [Passage(f"p{i:03}", f"s{i}", "", f"text {i}", "src", "en") for i in range(SIZE)]
    write_stage(tmp_path / "passages", passages, PASSAGES)
    vectors = np.random.default_rng(0).normal(size=(SIZE, DIM))
    np.save(tmp_path / "v.npy", (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))
    return PassageTable(tmp_path / "passages", tmp_path / "v.npy")


def query(seed: int, text: str) -> GeneratedQuery:
    return GeneratedQuery(f"p{seed:03}", "find", text, "en", "t", "1", 0, 0)


def test_the_nearest_are_found_exactly_and_the_seed_is_added(store: PassageTable) -> None:
    queries = [query(seed, f"query {seed}") for seed in range(0, SIZE, 5)]
    miner = Miner()
    hoods = list(retrieve(queries, store, miner, neighbours=7, with_task=False))
    assert [hood.query for hood in hoods] == queries
    added = 0
    for asked, hood in zip(queries, hoods, strict=True):
        cosines = np.asarray(store.vectors, np.float64) @ Miner().encode_queries([asked.query])[0].astype(np.float64)
        best = [store.ids[i] for i in np.argsort(-cosines)[:7]]
        assert list(hood.passage_ids[:7]) == best
        assert asked.seed_id in hood.passage_ids
        assert [store.ids[position] for position in hood.positions] == list(hood.passage_ids)
        assert len(set(hood.passage_ids)) == len(hood.passage_ids) == len(hood.miner_scores)
        assert len(hood.passage_ids) == (7 if asked.seed_id in best else 8)
        added += len(hood.passage_ids) == 8
        expected = [cosines[store.position(passage_id)] for passage_id in hood.passage_ids]
        assert np.allclose(hood.miner_scores, expected, atol=1e-6)
        assert all(isinstance(score, float) for score in hood.miner_scores)
    assert added > 0
    assert miner.seen == [asked.query for asked in queries]


def test_a_small_corpus_gives_all_it_has(store: PassageTable) -> None:
    (hood,) = retrieve([query(3, "x")], store, Miner(), neighbours=10_000, with_task=False)
    assert sorted(hood.passage_ids) == store.ids


def test_task_and_query_are_embedded_together_on_request(store: PassageTable) -> None:
    miner = Miner()
    list(retrieve([query(3, "x")], store, miner, neighbours=2, with_task=True))
    assert (miner.seen, miner.tasks) == (["find x"], [])
    unified = Miner("gecko")
    list(retrieve([query(3, "x")], store, unified, neighbours=2, with_task=True))
    assert (unified.seen, unified.tasks) == (["x"], ["find"])


def test_a_seed_of_another_corpus_is_an_error(store: PassageTable) -> None:
    with pytest.raises(GeckoError, match="p999"):
        list(retrieve([query(999, "x")], store, Miner(), neighbours=2, with_task=False))
