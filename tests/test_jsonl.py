"""JSON Lines: one reader, and the three rooms that use it say the same of the same broken line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gecko.corpus.rows import read_jsonl
from gecko.errors import GeckoError
from gecko.evaluate.beir import load_beir
from gecko.jsonl import read_lines, read_objects
from gecko.records import Quarantined
from gecko.tabular import json_records

BROKEN = b'\xef\xbb\xbf{"_id": "a", "text": "good"}\r\n\n  \n{"text": \n[1]\n{"_id": "b", "text": "caf\xc3"}\n' + (
    b"[" * 100_000 + b"\n" + b"9" * 5000 + b"\n"
)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    (tmp_path / "corpus.jsonl").write_bytes(BROKEN)
    return tmp_path / "corpus.jsonl"


def test_lines_keep_their_numbers_and_say_what_is_wrong(broken: Path) -> None:
    lines = list(read_lines(broken))
    assert [line.number for line in lines] == [1, 4, 5, 6, 7, 8]  # blank ones are counted, and left out
    assert lines[0].value == {"_id": "a", "text": "good"}  # the byte order mark is no part of it
    assert [bool(line.fault) for line in lines] == [False, True, False, True, True, True]
    assert lines[1].fault == "not JSON in UTF-8: Expecting value at character 11"
    assert "'utf-8' codec" in lines[3].fault
    assert all(len(line.fault) <= 250 for line in lines)
    assert lines[1].raw == b'{"text": \n'


def test_a_mark_alone_is_a_blank_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf\n{}\n")
    assert [line.number for line in read_lines(tmp_path / "a.jsonl")] == [2]


def test_the_rooms_say_the_same_of_the_same_line(broken: Path) -> None:
    fault = list(read_lines(broken))[1].fault
    aside = [item for item in read_jsonl(broken, "corpus.jsonl") if isinstance(item, Quarantined)]
    assert (aside[0].item_id, aside[0].reason) == ("corpus.jsonl#4", fault)
    records = list(json_records(broken))
    assert records[0] == {"_id": "a", "text": "good"}
    assert records[1:3] == [f"line 4 is {fault}", "line 5 is not a JSON object"]
    with pytest.raises(GeckoError) as caught:
        load_beir(broken.parent)
    assert caught.value.message == f"{broken}, line 4: {fault}"


def test_objects_are_wanted_in_every_line(broken: Path, tmp_path: Path) -> None:
    rows = read_objects(broken, "a hint")
    assert next(rows) == ({"_id": "a", "text": "good"}, f"{broken}, line 1")
    with pytest.raises(GeckoError, match=r"corpus\.jsonl, line 4: not JSON in UTF-8: Expecting value"):
        next(rows)
    broken.write_text("[1]\n")
    with pytest.raises(GeckoError, match="line 1: not a JSON object"):
        next(read_objects(broken, ""))
    with pytest.raises(GeckoError, match="no such file") as caught:
        next(read_objects(tmp_path / "nope.jsonl", "a hint"))
    assert caught.value.hint == "a hint"
    with pytest.raises(GeckoError, match="cannot be read"):
        next(read_objects(tmp_path, ""))
