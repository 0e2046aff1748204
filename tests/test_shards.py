"""Stage directories: whole or not at all, known by their fingerprint, held by one process."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gecko import shards
from gecko.errors import GeckoError
from gecko.records import (
    FRET,
    PASSAGES,
    QUARANTINE,
    QUERIES,
    UNIFIED,
    Candidate,
    FretRow,
    GeneratedQuery,
    Passage,
    Quarantined,
    UnifiedRow,
)

FULL = OSError(errno.ENOSPC, "No space left on device")

PASSAGE = Passage("p", "s", "Τίτλος", "naïve {text} \n 漢字", "src", "en")
QUERY = GeneratedQuery("p", "task", "query?", "en", "teacher", "v1", 10, 2**40)
CANDIDATES = (
    Candidate("p", 0.5, 1, -1.25, 1, 3.0, 1, 2.0, 1),
    Candidate("q", 0.25, 2, None, 2, None, 2, 1.0, 2),
)
FRET_ROW = FretRow("r", "t", "q", "en", "p", "p", "", CANDIDATES, False, "teacher", "listwise", "v1", 1, 2)
UNIFIED_ROWS = [UnifiedRow("r", "t", "q", "pos", ("n1", "n2"), True, "fret"), UnifiedRow("r", "t", "q", "pos")]


@pytest.mark.parametrize(
    ("rows", "schema", "build"),
    [
        ([PASSAGE], PASSAGES, shards.to_passage),
        ([QUERY], QUERIES, shards.to_query),
        ([FRET_ROW], FRET, shards.to_fret),
        (UNIFIED_ROWS, UNIFIED, shards.to_unified),
    ],
)
def test_rows_come_back_equal(tmp_path: Path, rows, schema, build) -> None:
    assert shards.write_stage(tmp_path, rows, schema) == len(rows)
    assert list(shards.read_rows(tmp_path, build)) == rows
    assert pq.read_schema(tmp_path / "part-00000.parquet").equals(schema)


def test_rows_span_shards_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 10)
    rows = [Passage(f"p{i}", "s", "", "x", "src", "en") for i in range(25)]
    assert shards.write_stage(tmp_path, iter(rows), PASSAGES) == 25
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"part-{i:05}.parquet" for i in range(3)]
    assert list(shards.read_rows(tmp_path, shards.to_passage)) == rows


def test_rejects_are_kept_apart_and_nothing_is_lost(tmp_path: Path) -> None:
    reject = Quarantined("corpus", "x", "unreadable", "raw \x00 text")
    assert shards.write_stage(tmp_path, [PASSAGE, reject], PASSAGES) == 1
    assert list(shards.read_rows(tmp_path, shards.to_passage)) == [PASSAGE]
    kept = pq.read_table(tmp_path / "quarantine.parquet")
    assert kept.schema.equals(QUARANTINE)
    assert kept.to_pylist() == [{"stage": "corpus", "item_id": "x", "reason": "unreadable", "raw": "raw \x00 text"}]


def test_an_empty_stage_is_readable(tmp_path: Path) -> None:
    assert shards.write_stage(tmp_path, [], PASSAGES) == 0
    assert list(shards.read_rows(tmp_path, shards.to_passage)) == []


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    shards.write_stage(tmp_path, [PASSAGE], PASSAGES)
    (batch,) = shards.read_batches(tmp_path, ["title", "text"])
    assert batch.schema.names == ["title", "text"]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"

    def write() -> None:
        with shards.atomic(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(target.parent.iterdir()) == []


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    shards.write_json(tmp_path / "a.json", {"version": 1})
    with pytest.raises(TypeError):
        shards.write_json(tmp_path / "a.json", {"version": object()})
    assert shards.read_json(tmp_path / "a.json") == {"version": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_the_final_name_appears_only_at_the_end(tmp_path: Path) -> None:
    with shards.atomic(tmp_path / "file") as temporary:
        temporary.write_text("all")
        assert not (tmp_path / "file").exists()
        assert not list(tmp_path.glob("part-*"))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("call", ["write_table", "fsync"])
def test_a_full_disk_is_an_error_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise FULL

    monkeypatch.setattr(shards.pq if call == "write_table" else shards.os, call, full)
    with pytest.raises(GeckoError, match=r"cannot write .*part-00000.parquet: No space left") as caught:
        shards.write_stage(tmp_path, [PASSAGE], PASSAGES)
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GeckoError, match="cannot write"):
        shards.write_json(tmp_path / "file" / "a.json", {})
    with pytest.raises(GeckoError, match="cannot write"):
        shards.write_stage(tmp_path / "file" / "stage", [PASSAGE], PASSAGES)


def test_finished_knows_its_inputs(tmp_path: Path) -> None:
    mark = shards.fingerprint({"limit": 3}, "input")
    assert shards.finished(tmp_path, mark) is None
    shards.write_stage(tmp_path, [PASSAGE], PASSAGES)
    assert shards.finished(tmp_path, mark) is None
    shards.finish_stage(tmp_path, mark, rows=1)
    assert shards.finished(tmp_path, mark) == {"fingerprint": mark, "rows": 1}
    assert shards.finished(tmp_path, shards.fingerprint({"limit": 4}, "input")) is None


def test_a_stage_begun_again_is_unfinished_from_the_first_moment(tmp_path: Path) -> None:
    shards.write_stage(tmp_path, [PASSAGE, Quarantined("a", "b", "c", "d")], PASSAGES)
    shards.finish_stage(tmp_path, "mark")

    def rows():
        assert shards.finished(tmp_path, "mark") is None
        yield PASSAGE
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards.write_stage(tmp_path, rows(), PASSAGES)
    assert shards.finished(tmp_path, "mark") is None
    assert list(tmp_path.iterdir()) == []


def test_fingerprints_differ_by_content_and_not_by_order_of_keys() -> None:
    assert shards.fingerprint({"a": 1, "b": 2}) == shards.fingerprint({"b": 2, "a": 1})
    assert shards.fingerprint("a", "b") != shards.fingerprint("ab")
    assert shards.fingerprint(["a"]) != shards.fingerprint(["b"])
    assert shards.fingerprint(Path("x")) == shards.fingerprint(Path("x"))


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "inside"])
def test_a_damaged_shard_is_an_error_of_one_line(tmp_path: Path, damage: str) -> None:
    rows = [Passage(f"p{i}", "s", "", f"{i * 7919}", "src", "en") for i in range(500)]
    shards.write_stage(tmp_path, rows, PASSAGES)
    shard = tmp_path / "part-00000.parquet"
    raw = shard.read_bytes()
    middle = len(raw) // 4
    broken = {
        "cut": raw[: len(raw) // 2],
        "empty": b"",
        "text": b"not parquet at all",
        "inside": raw[:4] + b"\xff" * middle + raw[4 + middle :],
    }
    shard.write_bytes(broken[damage])
    with pytest.raises(GeckoError, match=r"part-00000.parquet is damaged"):
        list(shards.read_rows(tmp_path, shards.to_passage))


def test_a_damaged_json_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "_stage.json").write_text('{"fingerprint": ')
    with pytest.raises(GeckoError, match="is damaged"):
        shards.finished(tmp_path, "mark")
    (tmp_path / "_stage.json").write_text(json.dumps(["mark"]))
    assert shards.finished(tmp_path, "mark") is None


def test_a_folder_without_shards_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GeckoError, match="holds no Parquet shards"):
        list(shards.read_batches(tmp_path))


HOLD = """
import sys
from pathlib import Path
from gecko.shards import locked
with locked(Path(sys.argv[1])):
    sys.stdout.write("held")
    sys.stdout.flush()
    sys.stdin.read()
"""


def test_a_run_is_held_by_one_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment()
    )
    try:
        assert other.stdout is not None
        assert other.stdout.read(4) == b"held"
        with pytest.raises(GeckoError, match="another process is working on"), shards.locked(run):
            pytest.fail("two processes hold the run")
    finally:
        other.kill()
        other.communicate()
    with shards.locked(run):
        pass  # the lock went with the process that held it
    with shards.locked(run):
        pass


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(Path(shards.__file__).parents[1])}


def test_a_run_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GeckoError, match="cannot write to"), shards.locked(tmp_path / "file"):
        pass
