"""Stage directories: whole or not at all, known by their fingerprint, held by one process."""

from __future__ import annotations

import errno
import itertools
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gecko import shards
from gecko.errors import GeckoError, UsageError
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
    ScoredText,
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
SCORED = (ScoredText("pos", 3.0, 2.0), ScoredText("n1", None, 0.5))
UNIFIED_ROWS = [
    UnifiedRow("r", "t", "q", "pos", ("n1", "n2"), True, "fret", SCORED),
    UnifiedRow("r", "t", "q", "pos"),
]


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


@pytest.mark.parametrize("fails", [False, True])
def test_many_rejects_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 10)
    rejects = [Quarantined("corpus", f"x{i}", "unreadable", "raw") for i in range(25)]
    seen: list[int] = []

    def rows() -> Iterator[object]:
        yield PASSAGE
        for reject in rejects:
            seen.append(len(writer._aside))
            yield reject
        if fails:
            raise GeckoError("no more", "a hint")

    writer = shards.StageWriter(tmp_path, PASSAGES)
    monkeypatch.setattr(shards, "StageWriter", lambda folder, _: setattr(writer, "folder", folder) or writer)
    if fails:
        with pytest.raises(GeckoError) as caught:
            shards.write_stage(tmp_path, rows(), PASSAGES)
        assert "what was set aside is in" in caught.value.hint
    else:
        assert shards.write_stage(tmp_path, rows(), PASSAGES) == 1
    assert max(seen) < 10
    kept = pq.read_table(tmp_path / "quarantine.parquet")
    assert kept.schema.equals(QUARANTINE)
    assert kept.column("item_id").to_pylist() == [reject.item_id for reject in rejects]


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


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeckoError("no file at typo", "check the path")])
def test_a_stage_is_replaced_only_by_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 1)
    shards.write_stage(tmp_path, [PASSAGE, PASSAGE, Quarantined("a", "b", "c", "d")], PASSAGES)
    shards.finish_stage(tmp_path, "mark")
    before = sorted(tmp_path.iterdir())

    def rows():
        yield replace(PASSAGE, title="new")
        raise error

    with pytest.raises(type(error)):
        shards.write_stage(tmp_path, rows(), PASSAGES)
    assert sorted(tmp_path.iterdir()) == before
    assert shards.finished(tmp_path, "mark") is not None
    assert list(shards.read_rows(tmp_path, shards.to_passage)) == [PASSAGE, PASSAGE]

    shards.write_stage(tmp_path, [replace(PASSAGE, title="new")], PASSAGES)
    assert shards.finished(tmp_path, "mark") is None
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000.parquet"]


def test_a_stage_that_fails_keeps_what_was_set_aside_and_says_where(tmp_path: Path) -> None:
    def rows():
        yield Quarantined("corpus", "x", "not text", "")
        raise GeckoError("the corpus holds no usable passage", "name another")

    with pytest.raises(GeckoError, match="no usable passage") as caught:
        shards.write_stage(tmp_path, rows(), PASSAGES)
    assert caught.value.hint == f"name another; what was set aside is in {tmp_path / 'quarantine.parquet'}"
    assert pq.read_table(tmp_path / "quarantine.parquet").column("reason").to_pylist() == ["not text"]


def test_only_the_files_of_a_stage_are_removed(tmp_path: Path) -> None:
    shards.write_stage(tmp_path, [PASSAGE], PASSAGES)
    mine = ["data.parquet", "part-1.parquet", "part-00000.parquet.bak", "notes.txt", ".env"]
    for name in [*mine, ".part-00001.parquet.123.tmp"]:
        (tmp_path / name).touch()
    (tmp_path / ".fresh").mkdir()
    (tmp_path / ".fresh" / "part-00007.parquet").touch()  # of a process that was killed
    shards.write_stage(tmp_path, [PASSAGE], PASSAGES)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*mine, "part-00000.parquet"])


def test_a_folder_is_claimed_only_if_it_is_empty_or_ours(tmp_path: Path) -> None:
    shards.claim_folder(tmp_path / "new", PASSAGES)
    shards.write_stage(tmp_path / "ours", [], PASSAGES)
    shards.claim_folder(tmp_path / "ours", PASSAGES)
    shards.write_stage(tmp_path / "others", [], UNIFIED)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "part-00000.parquet").touch()
    for name in ("others", "data"):
        with pytest.raises(UsageError, match="holds other files"):
            shards.claim_folder(tmp_path / name, PASSAGES)
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").touch()
    shards.claim_folder(run / "passages", PASSAGES)  # a recipe alone, as in a user's own folder
    (run / ".lock").touch()
    with pytest.raises(UsageError, match="is part of a run"):
        shards.claim_folder(run / "passages", PASSAGES)


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_stage_whose_files_are_gone_or_cut_is_not_finished(tmp_path: Path, harm) -> None:
    stage, model = tmp_path / "run" / "gate", tmp_path / "run" / "model"
    for folder in (stage, model / "part"):
        folder.mkdir(parents=True)
    (stage / "gate.json").write_text("{}")
    (model / "part" / "weights").write_text("weights")
    shards.finish_stage(stage, "mark", [*shards.files_under(stage), *shards.files_under(model)], rows=1)
    (model / "README.md").touch()
    assert shards.finished(stage, "mark") == {"fingerprint": "mark", "rows": 1}
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert shards.finished(moved / "gate", "mark") is not None
    harm(moved / "model" / "part" / "weights")
    assert shards.finished(moved / "gate", "mark") is None


def test_what_may_be_deleted_is_not_counted_among_a_stage_s_files(tmp_path: Path) -> None:
    kept = ["history.json", "model/vectors/a", "model/weights", "vectors.npy"]
    spare = [".lock", "checkpoints-ab12/checkpoint-2/whole", "checkpoints/training.json", "model/.x", "vectors/a.f32"]
    for name in (*kept, *spare, "_stage.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in shards.files_under(tmp_path)] == kept


def test_rows_of_another_kind_are_an_error_of_one_line(tmp_path: Path) -> None:
    shards.write_stage(tmp_path, [FRET_ROW], FRET)
    for build in (shards.to_passage, shards.to_query, shards.to_unified):
        with pytest.raises(GeckoError, match="holds rows of another kind"):
            list(shards.read_rows(tmp_path, build))


def test_unified_rows_of_an_older_version_have_no_candidates(tmp_path: Path) -> None:
    shards.write_stage(tmp_path, UNIFIED_ROWS, UNIFIED)
    shard = tmp_path / "part-00000.parquet"
    pq.write_table(pq.read_table(shard).drop_columns(["candidates"]), shard)
    expected = [replace(row, candidates=()) for row in UNIFIED_ROWS]
    assert list(shards.read_rows(tmp_path, shards.to_unified)) == expected
    shards.claim_folder(tmp_path, UNIFIED)


def test_rows_of_an_older_version_are_read_and_their_folder_is_ours(tmp_path: Path) -> None:
    older = pa.schema([column for column in FRET if column.name not in ("note", "ranker")])
    assert older.names == FRET.names[:-2]
    shards.write_table(tmp_path / "part-00000.parquet", [FRET_ROW], older)
    assert list(shards.read_rows(tmp_path, shards.to_fret)) == [FRET_ROW]
    shards.claim_folder(tmp_path, FRET)
    with pytest.raises(UsageError, match="holds other files"):
        shards.claim_folder(tmp_path, QUERIES)


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
    with pytest.raises(GeckoError, match="holds no Parquet shards") as caught:
        list(shards.read_batches(tmp_path))
    assert "delete" not in caught.value.hint  # it may be the user's own
    shards.finish_stage(tmp_path, "mark")
    with pytest.raises(GeckoError, match="holds no Parquet shards") as caught:
        list(shards.read_batches(tmp_path))
    assert caught.value.hint == "delete the folder and run again"


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
    with pytest.raises(GeckoError, match="cannot write"), shards.locked(tmp_path / "file"):
        pass


def test_a_changed_bit_is_noticed(tmp_path: Path) -> None:
    rows = [Passage(f"p{i}", f"s{i}", "", f"the road {i * 7919} to the house", "src", "en") for i in range(100)]
    shards.write_stage(tmp_path, rows, PASSAGES)
    shard = tmp_path / "part-00000.parquet"
    raw = shard.read_bytes()
    unnoticed = []
    for place in range(0, len(raw), 11):
        changed = bytearray(raw)
        changed[place] ^= 4
        shard.write_bytes(changed)
        try:
            unnoticed.append(list(shards.read_rows(tmp_path, shards.to_passage)) != rows)
        except GeckoError as error:
            assert "damaged" in error.message or "another kind" in error.message
            assert "\n" not in error.message
    # A page's header is under no checksum. Without them, it is a third of all.
    assert sum(unnoticed) <= 0.01 * len(range(0, len(raw), 11))


def test_a_damaged_quarantine_is_an_error_of_one_line(tmp_path: Path) -> None:
    assert list(shards.read_quarantine(tmp_path)) == []
    aside = [Quarantined("mixture", f"row {i}", "leaks", f"the road {i * 7919}") for i in range(50)]
    shards.write_stage(tmp_path, aside, PASSAGES)
    assert list(shards.read_quarantine(tmp_path)) == aside
    path = tmp_path / "quarantine.parquet"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 4
    path.write_bytes(raw)
    with pytest.raises(GeckoError, match=r"quarantine\.parquet is damaged") as told:
        list(shards.read_quarantine(tmp_path))
    assert told.value.hint == "delete the folder and run again"


def test_a_folder_whose_shards_were_moved_in_part_is_not_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 10)
    rows = [Passage(f"p{i}", "s", "", "x", "src", "en") for i in range(25)]
    replacements = itertools.count()

    def interrupted(path: Path, target: Path) -> None:
        if next(replacements) == 4:  # three shards are whole, and the first of them is in its place
            raise KeyboardInterrupt
        path.rename(target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", interrupted)
        shards.write_stage(tmp_path, rows, PASSAGES)
    assert len(list(tmp_path.glob("part-*"))) == 1
    with pytest.raises(GeckoError, match="is half-written"):
        list(shards.read_rows(tmp_path, shards.to_passage))
    with pytest.raises(GeckoError, match="cut off"):  # and once more, before it has anything in its place
        shards.write_stage(tmp_path, cut_off(rows), PASSAGES)
    with pytest.raises(GeckoError, match="no Parquet shards"):
        list(shards.read_rows(tmp_path, shards.to_passage))
    shards.write_stage(tmp_path, rows, PASSAGES)
    assert list(shards.read_rows(tmp_path, shards.to_passage)) == rows
    with pytest.raises(GeckoError, match="cut off"):  # what is whole stays
        shards.write_stage(tmp_path, cut_off(rows), PASSAGES)
    assert list(shards.read_rows(tmp_path, shards.to_passage)) == rows


def cut_off(rows: Iterable[Passage]) -> Iterator[Passage]:
    yield from rows
    raise GeckoError("cut off")


def test_texts_of_more_than_an_array_holds_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = pa.array

    def small(values: Any, kind: Any = None) -> Any:
        """Holds 3 texts, as ``pyarrow.array`` holds 2 GiB of them."""
        found = array(values, kind)
        if not pa.types.is_string(found.type) or len(found) <= 3:
            return found
        return pa.chunked_array([found[start : start + 3] for start in range(0, len(found), 3)])

    monkeypatch.setattr("gecko.shards.pa.array", small)
    scored = [tuple(ScoredText(f"text {i}-{j}", None, 0.5) for j in range(i % 4)) for i in range(9)]
    rows = [replace(UNIFIED_ROWS[0], candidates=candidates) for candidates in scored]
    shards.write_stage(tmp_path, rows, UNIFIED)
    assert list(shards.read_rows(tmp_path, shards.to_unified)) == rows
