"""The copy of a corpus that is mapped: made once, never another corpus's, and not needed where it cannot be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gecko.errors import GeckoError
from gecko.fret import mapped
from gecko.fret.mapped import MappedPassages
from gecko.records import PASSAGES, Passage
from gecko.shards import MAPPED, write_stage

ROWS = [Passage(f"p{i}", f"s{i % 9}", f"title {i}", f"text {i} ä", "src", "en") for i in range(23)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("gecko.shards.SHARD_ROWS", 10)
    write_stage(tmp_path / "passages", ROWS, PASSAGES)
    return tmp_path / "passages"


def test_rows_and_columns(folder: Path) -> None:
    rows = MappedPassages(folder)
    assert list(rows) == ROWS
    assert [rows.at(place) for place in range(23)] == ROWS
    ids = rows.column("passage_id")
    assert (len(ids), ids[0], ids[22], ids[-1], ids[9:12]) == (23, "p0", "p22", "p22", ["p9", "p10", "p11"])
    assert ids == [row.passage_id for row in ROWS]
    assert [row.passage_id for row in ROWS] == ids
    assert ids != ["p0"]
    assert rows.column("source_id").position("s4") == 22  # the last of those that have it
    for place in (23, -1):
        with pytest.raises(IndexError):
            rows.at(place)


def test_the_copy_is_made_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MappedPassages(folder)
    assert (folder / MAPPED).is_file()
    monkeypatch.setattr(mapped, "_copy", lambda *_: pytest.fail("copied again"))
    assert list(MappedPassages(folder)) == ROWS


def test_another_corpus_is_copied_anew_and_leaves_no_old_copy(folder: Path) -> None:
    old = MappedPassages(folder)
    write_stage(folder, ROWS[:5], PASSAGES)
    assert not (folder / MAPPED).exists()
    assert list(MappedPassages(folder)) == ROWS[:5]
    assert list(old) == ROWS  # what was mapped stays whole
    # Also where the shards were replaced by other hands, with the copy left in its place.
    shard = folder / "part-00000.parquet"
    before = (folder / MAPPED).read_bytes()
    write_stage(folder, ROWS[5:10], PASSAGES)
    (folder / MAPPED).write_bytes(before)
    os.utime(shard, ns=(1, 1))
    assert list(MappedPassages(folder)) == ROWS[5:10]


@pytest.mark.parametrize("damage", [b"", b"ARROW1\0\0 and no more"])
def test_a_damaged_copy_is_made_anew(folder: Path, damage: bytes) -> None:
    MappedPassages(folder)
    (folder / MAPPED).write_bytes(damage)
    assert list(MappedPassages(folder)) == ROWS


def test_a_copy_with_a_changed_bit_is_made_anew(folder: Path) -> None:
    MappedPassages(folder)
    raw = (folder / MAPPED).read_bytes()
    assert raw.count(b"title 17") == 1
    for harm in (raw.replace(b"title 17", b"title 77"), raw.replace("text 17 ä".encode(), b"text 17 \xc3\xff")):
        (folder / MAPPED).write_bytes(harm)
        assert list(MappedPassages(folder)) == ROWS
        assert (folder / MAPPED).read_bytes() == raw


def test_a_folder_that_cannot_be_written_is_read_all_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped.os, "access", lambda *_: False)
    rows = MappedPassages(folder)
    assert not (folder / MAPPED).exists()
    assert [rows.at(place) for place in (22, 0, 11)] == [ROWS[22], ROWS[0], ROWS[11]]


def test_a_damaged_shard_is_an_error_and_leaves_no_copy(folder: Path) -> None:
    (folder / "part-00001.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(GeckoError, match="part-00001"):
        MappedPassages(folder)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
