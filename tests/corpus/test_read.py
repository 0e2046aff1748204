import json
import os
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gecko.corpus.decode import clean
from gecko.corpus.files import list_files
from gecko.corpus.read import read_sources, source_state
from gecko.errors import GeckoError, UsageError
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
    assert (document.source, document.markdown) == ("p.html", True)
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


def test_the_state_sees_a_change_whose_size_and_time_were_kept(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    before, facts = source_state([str(tmp_path)]), path.stat()
    path.write_text("two")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert source_state([str(tmp_path)]) != before


def write_all(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def test_files_of_one_name_are_told_apart_and_others_keep_theirs(tmp_path):
    rows = '{"text": "row of %s"}\n{"_id": "7", "text": "seven of %s"}\n{"_id": "7", "text": "again"}'
    files = {f"{f}/{name}": f"{f} {name}" for f in "ab" for name in ("README.md", "sub/x.txt", f"only-{f}.txt")}
    write_all(tmp_path, files | {f"{f}/part.jsonl": rows % (f, f) for f in "ab"})
    ids = [d.source_id for d in documents(tmp_path / "a", tmp_path / "b")]
    assert ids == [
        *("a/README.md", "only-a.txt", "a/part.jsonl#1", "7", "a/sub/x.txt"),
        *("b/README.md", "only-b.txt", "b/part.jsonl#1", "b/part.jsonl:7", "b/sub/x.txt"),
    ]
    assert [r.reason for r in rejects(tmp_path / "a", tmp_path / "b")] == ["duplicate id 7"] * 2
    assert [d.source_id for d in documents(tmp_path / "*" / "README.md")] == ["a/README.md", "b/README.md"]
    (tmp_path / "README.md").write_text("top")
    assert {d.source_id for d in documents(tmp_path / "**" / "README.md")} == {
        "README.md",
        "a/README.md",
        "b/README.md",
    }


def test_one_file_named_twice_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    assert [d.source_id for d in documents(tmp_path, tmp_path / "a.txt")] == ["a.txt"]
    assert [r.reason for r in rejects(tmp_path, tmp_path / "a.txt")] == ["duplicate id a.txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
def test_a_file_name_that_is_not_utf8(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("text of it")
    (tmp_path / os.fsdecode(b"b\xe9.jsonl")).write_text('{"text": "row"}')
    assert [(d.source_id, d.title) for d in documents(tmp_path)] == [
        ("b\\xe9.jsonl#1", ""),
        ("caf\\xe9.txt", "caf\\xe9"),
    ]
    source_state([str(tmp_path)])


def test_links_that_lead_to_no_file_are_set_aside(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("text")
    (tmp_path / "docs" / "dangling.txt").symlink_to(tmp_path / "no")
    (tmp_path / "docs" / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "docs" / "self").symlink_to(".")
    assert [d.source_id for d in documents(tmp_path / "docs")] == ["a.txt"]
    assert {r.item_id: r.reason for r in rejects(tmp_path / "docs")} == {
        "dangling.txt": "a link that leads nowhere",
        "loop.txt": "a link that leads nowhere",
        "self": "a link to a folder, which is not followed",
    }
    assert len(source_state([str(tmp_path / "docs")])) == 4


@pytest.mark.parametrize("sources", [[], [""], ["stdlib:", " "]])
def test_no_source_is_a_wrong_argument(sources):
    for use in (list_files, read_sources, source_state):
        with pytest.raises(UsageError):
            use(sources)


def test_sources_are_checked_without_reading(tmp_path):
    (tmp_path / "a.jsonl").write_text("{broken")
    (tmp_path / "empty").mkdir()
    list_files([str(tmp_path), "hf://who/knows", "stdlib:"])
    with pytest.raises(GeckoError, match="no file at"):
        list_files([str(tmp_path), str(tmp_path / "no")])
    with pytest.raises(GeckoError, match="no file in"):
        list_files([str(tmp_path / "empty")])


def test_the_commonest_reason_is_named_when_nothing_was_read(tmp_path):
    write_all(tmp_path, {"a.pdf": "x", "b.pdf": "x", "c.jsonl": "{"})
    with pytest.raises(GeckoError, match=r"3 set aside, most often: not a kind of file that is read: \.pdf"):
        documents(tmp_path)


GERMAN = "Die Prüfung der Schlüssel erfolgt täglich um zwölf Uhr. Änderungen bestätigt die Behörde schriftlich.\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize("suffix", ["txt", "csv"])
def test_encodings(tmp_path, encoding, suffix):
    content = GERMAN if suffix == "txt" else f"_id,text\n1,{GERMAN}"
    (tmp_path / f"a.{suffix}").write_bytes(content.encode(encoding))
    (document,) = documents(tmp_path)
    assert document.text.strip() == GERMAN.strip()


RUSSIAN = "Проверка ключей проводится каждый день в двенадцать часов. Изменения подтверждает ведомство письменно."


def test_a_table_in_another_code_page_is_read_as_its_text_or_set_aside(tmp_path):
    (tmp_path / "a.csv").write_bytes(f"text\n{RUSSIAN}\n".encode("cp1251"))
    assert [document.text for document in documents(tmp_path)] == [RUSSIAN]
    (tmp_path / "a.csv").write_bytes(b"text\n" + bytes(range(128, 256)) * 3 + b"\x00\x01\x02\n")
    (tmp_path / "b.txt").write_text("words")
    assert [document.text for document in documents(tmp_path)] == ["words"]
    assert [reject.item_id for reject in rejects(tmp_path)] == ["a.csv"]


@pytest.mark.parametrize("lines", [0, 1, 10_000], ids=["at once", "soon", "late"])
@pytest.mark.parametrize("ending", ["\n", ""])
def test_a_late_byte_of_another_code_page_is_no_replacement_character(tmp_path, lines, ending):
    plain = "7,plain words in a row of the table and more\n" * lines
    last = f"8,the garden of the café{ending}".encode("latin-1")
    (tmp_path / "a.txt").write_bytes(plain.encode() + last)
    (tmp_path / "b.csv").write_bytes(b"x,text\n" + plain.encode() + last)
    found = documents(tmp_path)
    assert found[0].text.rstrip().endswith("café")
    assert found[-1].text == "the garden of the café"
    assert len(found) == lines + 2


def test_damaged_utf8_is_set_aside(tmp_path):
    write_all(
        tmp_path, {"a.txt": GERMAN.encode() + b"bad \xff byte", "b.csv": f"text\n{GERMAN}".encode() + b"b\xffd\n"}
    )
    assert [d.source_id for d in documents(tmp_path)] == ["b.csv#1"]
    assert {r.item_id: r.reason.split(":")[0] for r in rejects(tmp_path)} == {
        "a.txt": "damaged text",
        "b.csv#2": "not UTF-8",
    }


def test_lone_surrogates_leave_ids_and_titles_too(tmp_path):
    rows = [{"_id": "i\ud800d", "title": "T\ud800", "text": "body"}, {"_id": "\ud800", "text": "other"}, "s\ud800"]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [(d.source_id, d.title) for d in documents(tmp_path)] == [("id", "T"), ("c.jsonl#2", "")]
    (rejected,) = rejects(tmp_path)
    assert rejected.raw == "s"


def test_a_line_too_deep_to_parse_costs_only_itself(tmp_path):
    (tmp_path / "c.jsonl").write_text("[" * 100_000 + '\n{"text": "good"}')
    assert [d.source_id for d in documents(tmp_path)] == ["c.jsonl#2"]
    assert [r.item_id for r in rejects(tmp_path)] == ["c.jsonl#1"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_delimiters(tmp_path, delimiter):
    rows = [("_id", "title", "text"), ("1", "A, B", "one; two"), ("2", "C", "three")]
    lines = [delimiter.join(f'"{value}"' for value in row) for row in rows]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    assert [(d.source_id, d.title, d.text) for d in documents(tmp_path)] == [tuple(row) for row in rows[1:]]


def test_a_broken_csv_row_costs_only_itself_and_an_open_quote_is_named(tmp_path):
    (tmp_path / "a.csv").write_text('_id,text\n1,fine\n2,"a"b\n3,fine too\n4,"never closed\n5,swallowed\n')
    assert [d.source_id for d in documents(tmp_path)] == ["1", "3"]
    reasons = {r.item_id: r.reason for r in rejects(tmp_path)}
    assert list(reasons) == ["a.csv#2", "a.csv#4"]
    assert reasons["a.csv#4"] == "not CSV: unexpected end of data, in lines 5 to 6"


def test_parquet_reads_its_columns_row_by_row(tmp_path):
    raw = pa.array([b"\xff\xfe bad", b"good text"], pa.binary())
    table = {
        "text": pa.StringArray.from_buffers(2, *raw.buffers()[1:]),
        "seen": pa.array([2**62, 2**62], pa.timestamp("us")),
    }
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    assert [(d.source_id, d.text) for d in documents(tmp_path)] == [("a.parquet#2", "good text")]
    assert [(r.item_id, r.reason.split(":")[0]) for r in rejects(tmp_path)] == [("a.parquet#1", "not readable")]


def test_a_corrupt_parquet_page_costs_only_its_file(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"row {i} of a table" for i in range(200)]}), path)
    raw = bytearray(path.read_bytes())
    raw[40:400] = b"\xa5" * 360
    path.write_bytes(raw)
    (tmp_path / "b.txt").write_text("still read")
    assert [d.source_id for d in documents(tmp_path)] == ["b.txt"]
    (rejected,) = rejects(tmp_path)
    assert "damaged" in rejected.reason
    assert "None" not in rejected.reason


def test_a_changed_bit_under_a_parquet_checksum_is_noticed(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["the road to the house"]})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    (tmp_path / "b.txt").write_text("still read")
    assert [d.text for d in documents(tmp_path)] == ["the road to the house", "still read"]
    path.write_bytes(path.read_bytes().replace(b"road", b"roae"))
    assert [d.text for d in documents(tmp_path)] == ["still read"]
    assert "damaged" in rejects(tmp_path)[0].reason


def test_html_drops_the_frame_of_a_page_and_keeps_blocks_apart(tmp_path):
    page = """<body><header>BAR</header><nav>MENU</nav><main><header><h1>Head</h1>by someone</header>Lead<p>para</p>tail
    <aside>note</aside><dl><dt>term</dt><dd>meaning</dd></dl><table><tr><td>a</td><td>b</td></tr></table></main>
    <aside>SIDE</aside><footer>FOOT</footer></body>"""
    (tmp_path / "p.html").write_text(page)
    (document,) = documents(tmp_path)
    assert document.text.split() == "# Head by someone Lead para tail note term meaning a b".split()
    (tmp_path / "p.html").write_text("<p>one<br>two</p><ul><li>a</li><li>b</li></ul>")
    assert documents(tmp_path)[0].text.rstrip() == "one\ntwo\n\na\nb"
    (tmp_path / "p.html").write_text("<header><h1>Title of it</h1></header>text")
    assert documents(tmp_path)[0].text.split("\n\n") == ["", "# Title of it", "", "text"]


def test_a_connection_that_breaks_is_one_clear_error(monkeypatch):
    def load(*args, **kwargs):
        yield {"text": "first"}
        raise ConnectionError("reset by peer")

    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(GeckoError, match="reset by peer"):
        documents("hf://who/what")
