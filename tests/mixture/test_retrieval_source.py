"""BEIR folders made into rows: judged positives, given and mined negatives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gecko.errors import GeckoError
from gecko.mixture.load import load_source
from gecko.mixture.options import SourceOptions

DOCS = {"d1": "moles dig", "d2": "moles dig deep", "d3": "cats sleep", "d4": "dogs run", "d5": "", "d6": "moles dig"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": d, "title": "T" if d == "d1" else "", "text": t}) + "\n" for d, t in DOCS.items())
    )
    queries = {"q1": "who digs", "q2": "who sleeps", "q3": "nothing fits", "q4": " "}
    (tmp_path / "queries_train.jsonl").write_text(
        "".join(json.dumps({"_id": q, "text": t}) + "\n" for q, t in queries.items())
    )
    (tmp_path / "qrels" / "train.tsv").write_text(
        "query-id\tcorpus-id\tscore\n"
        "q1\td1\t2\nq1\td2\t1\nq1\td3\t0\nq1\td6\t0\nq2\td3\t1\nq2\td5\t1\nq3\td4\t0\nq4\td1\t1\n"
    )
    return tmp_path


class Miner:
    """Vectors by the words of a text."""

    words = ("moles", "digs", "dig", "deep", "cats", "sleep", "sleeps", "dogs", "run", "who")

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        counts = np.array([[1.0 * (word in text.split()) for word in self.words] for text in texts])
        counts[:, 2] += counts[:, 1]  # digs is dig
        counts[:, 5] += counts[:, 6]
        counts[:, [1, 6]] = 0
        return (counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)).astype(np.float32)

    def encode_queries(self, queries: Sequence[str]) -> np.ndarray:
        return self._encode(queries)

    def encode_passages(self, passages: Sequence[tuple[str, str]]) -> np.ndarray:
        return self._encode([text for _, text in passages])


def load(folder: Path, miner: Miner | None = None, **more: object):
    options = SourceOptions.model_validate({"path": str(folder), "kind": "retrieval", **more})
    loaded = load_source(options, "gecko", 0, miner)
    assert loaded.read == loaded.used + sum(loaded.unused.values()) + len(loaded.quarantined)
    return loaded


def bare(text: str) -> str:
    return text.partition("text: ")[2]


def test_a_row_for_each_query_and_relevant_passage_with_given_negatives(folder: Path) -> None:
    loaded = load(folder)
    assert [(row.query, row.positive, row.negatives) for row in loaded.rows] == [
        ("who digs", "title: T | text: moles dig", ("title: none | text: cats sleep",)),
        ("who digs", "title: none | text: moles dig deep", ("title: none | text: cats sleep",)),
        ("who sleeps", "title: none | text: cats sleep", ()),
    ]
    assert {item.reason for item in loaded.quarantined} == {"an empty passage", "an empty query"}
    # d6 says what a positive says
    assert loaded.unused == {"irrelevant to a query": 1, "a query without a positive": 1}
    assert not any(row.negatives for row in load(folder, negatives="none").rows)


def test_pools_of_a_reranking_file_give_negatives_to_their_own_queries(folder: Path) -> None:
    pools = [
        {"query_id": "q2", "negative_ids": ["d4", "d3", "unknown"]},
        {"query_id": "of another split", "negative_ids": ["d1"]},
        {"query_id": "q1"},
    ]
    (folder / "reranking.jsonl").write_text("".join(json.dumps(pool) + "\n" for pool in pools))
    loaded = load(folder)
    assert loaded.rows[2].negatives == ("title: none | text: dogs run",)
    assert "reranking.jsonl#3" in {item.item_id for item in loaded.quarantined}


def test_mined_negatives_are_near_but_neither_positives_nor_unsafe(folder: Path) -> None:
    rows = load(folder, Miner(), negatives="mined", max_negatives=5).rows
    by_positive = {bare(row.positive): [bare(text) for text in row.negatives] for row in rows}
    # "moles dig" (d6) equals a positive; of a query's own positives none is a negative.
    assert by_positive["moles dig"] == ["cats sleep", "dogs run"]
    assert by_positive["moles dig deep"] == ["cats sleep", "dogs run"]
    assert set(by_positive["cats sleep"]) == {"moles dig", "moles dig deep", "dogs run"}
    (one,) = load(folder, Miner(), negatives="mined", limit=1).rows
    assert len(one.negatives) == 1


def test_a_neighbour_above_the_margin_is_skipped(folder: Path) -> None:
    class Close(Miner):
        def encode_queries(self, queries: Sequence[str]) -> np.ndarray:
            return np.tile(np.array([[1.0, 0.0]], np.float32), (len(queries), 1))

        def encode_passages(self, passages: Sequence[tuple[str, str]]) -> np.ndarray:
            cosines = {"moles dig": 0.8, "moles dig deep": 0.8, "cats sleep": 0.77, "dogs run": 0.75, "": 0.0}
            found = np.array([cosines[text] for _, text in passages])
            return np.stack([found, np.sqrt(1 - found**2)], axis=1).astype(np.float32)

    def negatives(**more: object) -> list[str]:
        row = load(folder, Close(), negatives="mined", **more).rows[0]
        return [bare(text) for text in row.negatives]

    assert negatives() == ["dogs run"]  # 0.77 is above 0.95 x 0.8, 0.75 is not
    assert negatives(negative_margin=0.99) == ["cats sleep"]
    assert negatives(negative_margin=0.5) == []


def test_mining_needs_a_miner(folder: Path) -> None:
    with pytest.raises(GeckoError, match="there is no miner"):
        load(folder, negatives="mined")


def test_a_symmetric_set_renders_passages_as_queries(folder: Path) -> None:
    row = load(folder, symmetric=True, task="search result").rows[0]
    assert row.positive == "task: search result | query: T moles dig"
    assert row.negatives == ("task: search result | query: cats sleep",)
