"""Rows that a user hands over: read as they are meant, or set aside with the reason."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gecko.errors import GeckoError
from gecko.mixture.unified_files import read_unified, row_files
from gecko.records import UNIFIED, Quarantined, UnifiedRow
from gecko.shards import write_stage

WHOLE = UnifiedRow("r1", "fact checking", "a claim", "title: T | text: b", ("title: none | text: c",), True, "mine")


def write_lines(path: Path, *records: object) -> Path:
    path.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records))
    return path


def test_a_run_s_own_rows_come_back_as_they_were(tmp_path: Path) -> None:
    write_stage(tmp_path / "mixture", [WHOLE, Quarantined("mixture", "x", "bad", "")], UNIFIED)
    assert (tmp_path / "mixture" / "quarantine.parquet").exists()
    assert list(read_unified(tmp_path / "mixture")) == [WHOLE]


def test_what_a_row_leaves_out_has_a_default(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "mine.jsonl", {"query": " q ", "positive": "p", "negatives": "n"}, {"query": "r", "positive": "p"}
    )
    first, second = read_unified(path)
    assert isinstance(first, UnifiedRow)
    assert isinstance(second, UnifiedRow)
    assert (first.task, first.query, first.positive, first.negatives) == ("search result", "q", "p", ("n",))
    assert (first.symmetric, first.source) == (False, "mine")
    assert first.row_id != second.row_id


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"query": "", "positive": "p"}, "query: an empty text, or none"),
        ({"query": "q", "positive": 3}, "positive: an empty text, or none"),
        ({"query": "q", "positive": "q"}, "the same text"),
        ({"query": "q", "positive": "p", "negatives": ["n", ""]}, "negatives: not a list of texts"),
        ({"query": "q", "positive": "p", "negatives": 7}, "negatives: not a list of texts"),
        ({"query": "q", "positive": "p", "symmetric": "yes"}, "symmetric: neither true nor false"),
        ("{broken", "is not JSON"),
        ("[1]", "not a JSON object"),
    ],
)
def test_a_bad_row_is_set_aside_and_costs_no_neighbour(tmp_path: Path, record: object, reason: str) -> None:
    good = {"query": "q", "positive": "p"}
    first, bad, last = read_unified(write_lines(tmp_path / "x.jsonl", good, record, {**good, "query": "r"}))
    assert isinstance(first, UnifiedRow)
    assert isinstance(last, UnifiedRow)
    assert isinstance(bad, Quarantined)
    assert reason in bad.reason
    assert bad.item_id == "x.jsonl#2"


def test_a_repeat_is_what_says_the_same_in_all_but_its_id(tmp_path: Path) -> None:
    row = {"query": "q", "positive": "p", "negatives": ["n"], "row_id": "1"}
    others = [{**row, "task": "t"}, {**row, "negatives": ["m"]}, {**row, "symmetric": True}, {**row, "source": "s"}]
    path = write_lines(tmp_path / "x.jsonl", row, *others, {**row, "row_id": "2"}, others[0])
    *kept, again, last = read_unified(path, distinct=True)
    assert all(isinstance(one, UnifiedRow) for one in kept)
    assert len(kept) == 5
    for repeat, where in ((again, "x.jsonl#6"), (last, "x.jsonl#7")):
        assert isinstance(repeat, Quarantined)
        assert (repeat.reason, repeat.item_id) == ("a repeat of an earlier row", where)
    assert len([one for one in read_unified(path) if isinstance(one, UnifiedRow)]) == 7


def test_a_changed_bit_under_a_checksum_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"query": ["the road"], "positive": ["to the house"]})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    assert len(list(read_unified(path))) == 1
    path.write_bytes(path.read_bytes().replace(b"road", b"roae"))
    with pytest.raises(GeckoError, match=r"cannot read .*x\.parquet"):
        list(read_unified(path))


def test_wrong_columns_and_files_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pq.write_table(pa.table({"query": ["q"], "answer": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(GeckoError, match="no column 'positive'; there are answer, query") as caught:
        list(read_unified(tmp_path / "x.parquet"))
    assert "positive" in caught.value.hint
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(GeckoError, match=r"cannot read .*torn\.parquet"):
        list(read_unified(tmp_path / "torn.parquet"))
    for place in (tmp_path / "nothing", tmp_path / "notes.txt"):
        with pytest.raises(GeckoError, match="no rows at"):
            row_files(place)
    with caplog.at_level(logging.WARNING):
        list(read_unified(write_lines(tmp_path / "more.jsonl", {"query": "q", "positive": "p", "negative": "n"})))
    assert "not read: negative" in caplog.text
