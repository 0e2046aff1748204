import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gecko.corpus.read import clean, read_sources, source_state
from gecko.errors import GeckoError
from gecko.records import Document, Quarantined


def documents(*sources):
    return [item for item in read_sources([str(source) for source in sources]) if isinstance(item, Document)]


def rejects(*sources):
    return [item for item in read_sources([str(source) for source in sources]) if isinstance(item, Quarantined)]


def test_folder_is_read_recursively_in_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.md").write_text("# Two\n\nsecond")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / ".hidden.txt").write_text("no")
    assert [d.source_id for d in documents(tmp_path)] == ["a.txt", "b/two.md"]


def test_glob(tmp_path):
    for name in ("x1.txt", "x2.txt", "y.txt"):
        (tmp_path / name).write_text(name)
    assert [d.text for d in documents(tmp_path / "x*.txt")] == ["x1.txt", "x2.txt"]


def test_beir_folder_reads_only_the_corpus(tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "title": "T", "text": "body"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "secret question"}\n')
    assert documents(tmp_path) == [Document("d1", "T", "body", "corpus.jsonl")]


def test_records_of_every_kind_agree(tmp_path):
    rows = [{"id": "1", "title": "A", "text": "alpha"}, {"id": "2", "title": "B", "text": "beta"}]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "r.csv").write_text("id,title,text\n1,A,alpha\n2,B,beta\n")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    found = [
        [(d.source_id, d.title, d.text) for d in documents(tmp_path / f"r.{s}")] for s in ("jsonl", "csv", "parquet")
    ]
    assert found[0] == found[1] == found[2] == [("1", "A", "alpha"), ("2", "B", "beta")]


def test_html_keeps_headings_and_drops_scripts(tmp_path):
    page = "<title>Page</title><script>evil()</script><nav>menu</nav><h2>Part</h2><p>words of it</p>"
    (tmp_path / "p.html").write_text(page)
    (document,) = documents(tmp_path)
    assert document.title == "Page"
    assert "## Part" in document.text
    assert "words of it" in document.text
    assert "evil" not in document.text
    assert "menu" not in document.text


def test_other_encodings_are_recognised_and_binaries_set_aside(tmp_path):
    (tmp_path / "latin.txt").write_bytes("Müller fährt täglich mit der Straßenbahn über die Brücke".encode("latin-1"))
    (tmp_path / "image.txt").write_bytes(b"\x89PNG\x00\x00\x01\x02" * 20)
    (tmp_path / "a.bin").write_bytes(b"\x00")
    assert "Straßenbahn" in documents(tmp_path)[0].text
    assert {(r.item_id, r.reason.split(",")[0]) for r in rejects(tmp_path)} == {
        ("image.txt", "binary"),
        ("a.bin", "not a kind of file that is read: .bin"),
    }


def test_bad_lines_are_set_aside_with_their_number(tmp_path):
    lines = [
        '{"text": "good"}',
        "{broken",
        '{"title": "no text"}',
        "[1]",
        '{"_id": "x", "text": "ok"}',
        '{"_id": "x", "text": "again"}',
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    assert [d.source_id for d in documents(tmp_path)] == ["c.jsonl#1", "x"]
    reasons = {r.item_id: r.reason for r in rejects(tmp_path)}
    assert "not JSON" in reasons["c.jsonl#2"]
    assert "no text field" in reasons["c.jsonl#3"]
    assert "not a record" in reasons["c.jsonl#4"]
    assert reasons["x"] == "duplicate id x"


def test_a_megabyte_on_one_line(tmp_path):
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": "word " * 200_000}))
    assert len(documents(tmp_path)[0].text) == 1_000_000


def test_reading_is_lazy(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"text": "first"}\n' + "{broken}\n" * 1000)
    stream = read_sources([str(tmp_path)])
    assert isinstance(next(stream), Document)


@pytest.mark.parametrize("make", ["missing", "empty", "none"])
def test_nothing_to_read_is_one_clear_error(tmp_path, make):
    (tmp_path / "empty").mkdir()
    sources = {"missing": [str(tmp_path / "no")], "empty": [str(tmp_path / "empty")], "none": []}[make]
    with pytest.raises(GeckoError) as caught:
        list(read_sources(sources))
    assert caught.value.hint


def test_unreadable_file_is_named(tmp_path, monkeypatch):
    from pathlib import Path

    (tmp_path / "a.txt").write_text("x")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(GeckoError, match=r"a\.txt: Permission denied"):
        list(read_sources([str(tmp_path)]))


def test_clean_removes_what_breaks_tokenizers():
    assert clean("a\x00b\r\nc\ud800d") == "ab\ncd"


def test_source_state_changes_with_the_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("x")
    before = source_state([str(tmp_path)])
    path.write_text("longer")
    assert source_state([str(tmp_path)]) != before
