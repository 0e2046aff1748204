"""The corpus by id and position, and the file of vectors beside it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from gecko.errors import GeckoError
from gecko.fret.generate import sample_seeds
from gecko.fret.store import PassageTable
from gecko.records import PASSAGES, Passage
from gecko.shards import StageWriter, write_stage

PASSAGE_LIST = [Passage(f"p{i}", f"s{i}", f"title {i}", f"text {i}", "src", "en") for i in range(11)]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PassageTable:
    monkeypatch.setattr("gecko.shards.SHARD_ROWS", 4)  # so that the corpus spans shards
    write_stage(tmp_path / "passages", PASSAGE_LIST, PASSAGES)
    assert len(list((tmp_path / "passages").glob("part-*.parquet"))) == 3
    return PassageTable(tmp_path / "passages")


def test_passages_by_id_position_and_in_order(table: PassageTable) -> None:
    assert len(table) == 11
    assert list(table) == PASSAGE_LIST
    assert [table.at(i) for i in range(11)] == PASSAGE_LIST
    assert [table.passage(passage.passage_id) for passage in PASSAGE_LIST] == PASSAGE_LIST
    assert table.position("p7") == 7
    assert table.position_of_source("s9") == 9
    assert table.position_of_source("p9") is None
    assert table.vectors is None


def test_an_unknown_passage_is_an_error_of_one_line(table: PassageTable) -> None:
    with pytest.raises(GeckoError, match="passage nope is not in this corpus"):
        table.passage("nope")


def test_a_missing_corpus_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(GeckoError, match="holds no Parquet shards"):
        PassageTable(tmp_path)


def test_an_empty_corpus_is_empty(tmp_path: Path) -> None:
    StageWriter(tmp_path, PASSAGES).close()
    table = PassageTable(tmp_path)
    assert len(table) == 0
    assert list(table) == []


@pytest.mark.parametrize("damage", ["cut", "header", "no file", "other corpus", "flat"])
def test_damaged_vectors_are_an_error_with_a_way_out(table: PassageTable, tmp_path: Path, damage: str) -> None:
    vectors = tmp_path / "miner" / "vectors.npy"
    vectors.parent.mkdir()
    np.save(vectors, np.ones((11, 3), np.float32))
    assert isinstance(PassageTable(tmp_path / "passages", vectors).vectors, np.memmap)
    if damage == "cut":
        vectors.write_bytes(vectors.read_bytes()[:-20])
    elif damage == "header":
        vectors.write_bytes(vectors.read_bytes()[:9])
    elif damage == "no file":
        vectors.unlink()
    else:
        np.save(vectors, np.zeros((4, 3) if damage == "other corpus" else 11, np.float32))
    with pytest.raises(GeckoError, match=r"vectors\.npy") as caught:
        PassageTable(tmp_path / "passages", vectors)
    assert f"delete {vectors.parent}" in caught.value.hint


def test_replies_for_another_corpus_are_counted(table: PassageTable, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert len(sample_seeds(table, 9, {"s1", "s2"}, 0)) == 2
        assert caplog.text == ""
        assert [seed.source_id for seed in sample_seeds(table, 9, {"s1", "gone", "s"}, 0)] == ["s1"]
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 3 recorded replies are for passages of this corpus; 2 left out"
    ]
