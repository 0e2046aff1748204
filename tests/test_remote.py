"""Object stores: what lies there is read as what lies on a disk; what breaks on the way is never taken for whole."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from typer.testing import CliRunner

from gecko.checks import check_run_folder
from gecko.cli import app
from gecko.corpus.files import list_files
from gecko.corpus.read import read_sources, source_state
from gecko.errors import GeckoError, UsageError
from gecko.jobs.items import read_items
from gecko.mixture.load import check_sources, load_source, mixture_state
from gecko.mixture.options import MixtureOptions, SourceOptions
from gecko.records import Document, Quarantined
from gecko.remote import RemoteFile, any_file, list_remote
from gecko.shards import locked

BUCKET = "memory://bucket"


class Faulty(MemoryFileSystem):
    """A store that fails as told: by the end of a file's name, what happens after so many bytes of it."""

    protocol = "faulty"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    faults: ClassVar[dict[str, tuple[int, Exception | None]]] = {}
    refuses: ClassVar[dict[str, Exception]] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(str(path).removeprefix("faulty://"))

    def info(self, path: str, **more: Any) -> dict[str, Any]:
        self._refuse(path)
        return super().info(path, **more)

    def find(self, path: str, **more: Any) -> Any:
        self._refuse(path)
        return super().find(path, **more)

    def cat_file(self, path: str, *where: Any, **more: Any) -> bytes:
        with self.open(path) as opened:
            return opened.read()

    def _open(self, path: str, mode: str = "rb", **more: Any) -> Any:
        opened = super()._open(path, mode, **more)
        fault = next((fault for end, fault in self.faults.items() if path.endswith(end)), None)
        return opened if fault is None or mode != "rb" else Broken(opened, *fault)

    def _refuse(self, path: str) -> None:
        for start, error in self.refuses.items():
            if self._strip_protocol(path).startswith(start):
                raise error


class Broken:
    """An open file whose connection breaks: with an error, or as if the file ended there."""

    def __init__(self, opened: Any, after: int, error: Exception | None) -> None:
        self._opened, self._after, self._error = opened, after, error
        self.size = opened.getbuffer().nbytes
        self.seek, self.tell, self.close = opened.seek, opened.tell, lambda: None

    def __enter__(self) -> Broken:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def read(self, size: int = -1) -> bytes:
        left = max(self._after - self._opened.tell(), 0)
        if not left and self._error is not None:
            raise self._error
        return self._opened.read(left if size < 0 else min(size, left))


@pytest.fixture(autouse=True)
def stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Empty stores, of which the faulty one can be named in a URL."""
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    for store in (MemoryFileSystem, Faulty):
        monkeypatch.setattr(store, "store", {})
        monkeypatch.setattr(store, "pseudo_dirs", [""])
    monkeypatch.setattr(Faulty, "faults", {})
    monkeypatch.setattr(Faulty, "refuses", {})
    yield


def put(url: str, content: str | bytes) -> None:
    system, path = fsspec.core.url_to_fs(url)
    system.pipe_file(path, content if isinstance(content, bytes) else content.encode())


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


ROWS = [{"_id": str(n), "title": f"T{n}", "text": f"row {n} über a table of things"} for n in range(3)]
FILES = {
    "a.txt": "plain text",
    "b/two.md": "# Two\n\nsecond",
    "b/page.html": "<title>P</title><p>of a page</p>",
    "latin.txt": "Müller fährt täglich mit der Straßenbahn über die Brücke".encode("latin-1"),
    "r.jsonl": "\n".join(json.dumps({**row, "_id": f"j{row['_id']}"}) for row in ROWS) + "\n{broken\n",
    "t.csv": "_id;text\nc1;eins, über\nc2;zwei\n",
    "u.parquet": parquet([{**row, "_id": f"p{row['_id']}"} for row in ROWS]),
    "x.bin": b"\x00",
    ".hidden.txt": "no",
    "b/.hidden/c.txt": "no",
}


def everything(*sources: object) -> list[Document | Quarantined]:
    return list(read_sources([str(source) for source in sources]))


def test_a_folder_of_a_store_reads_as_the_same_folder_of_a_disk(tmp_path: Path) -> None:
    for name, content in FILES.items():
        put(f"{BUCKET}/docs/{name}", content)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    put(f"{BUCKET}/docs2/no.txt", "of a neighbour whose name begins alike")
    there = everything(tmp_path)
    assert len(there) == 4 + 4 + 2 + 3 + 1
    for url in (f"{BUCKET}/docs", f"{BUCKET}/docs/"):
        assert everything(url) == there


def test_files_globs_and_beir_folders() -> None:
    put(f"{BUCKET}/one.txt", "one")
    for name in ("x1.txt", "x2.txt", "y.txt", "sub/x3.txt"):
        put(f"{BUCKET}/docs/{name}", name)
    put(f"{BUCKET}/beir/corpus.jsonl", '{"_id": "d1", "text": "body"}\n')
    put(f"{BUCKET}/beir/queries.jsonl", '{"_id": "q1", "text": "secret question"}\n')

    def ids(*urls: str) -> list[str]:
        return [item.source_id for item in everything(*urls) if isinstance(item, Document)]

    assert ids(f"{BUCKET}/one.txt") == ["one.txt"]
    assert ids(f"{BUCKET}/docs/x*.txt") == ["x1.txt", "x2.txt"]
    assert ids(f"{BUCKET}/docs/**/x*.txt") == ["x3.txt", "x1.txt", "x2.txt"]
    assert ids(f"{BUCKET}/beir") == ["d1"]


def test_files_of_one_name_are_told_apart_also_from_those_of_a_disk(tmp_path: Path) -> None:
    for name in ("a/README.md", "b/README.md"):
        put(f"{BUCKET}/{name}", name)
    assert [item.source_id for item in everything(f"{BUCKET}/a", f"{BUCKET}/b")] == ["a/README.md", "b/README.md"]
    (tmp_path / "README.md").write_text("of the disk")
    sources = (tmp_path, f"{BUCKET}/a")
    assert len({item.source_id for item in everything(*sources) if isinstance(item, Document)}) == 2
    again = everything(f"{BUCKET}/a", f"{BUCKET}/a/README.md")
    assert [item.reason for item in again if isinstance(item, Quarantined)] == ["duplicate id README.md"]


def test_the_state_is_that_of_the_files_and_of_a_disk_what_it_was(tmp_path: Path) -> None:
    put(f"{BUCKET}/docs/a.txt", "one")
    before = source_state([f"{BUCKET}/docs"])
    assert source_state([f"{BUCKET}/docs"]) == before
    put(f"{BUCKET}/docs/a.txt", "two")  # of the same length
    changed = source_state([f"{BUCKET}/docs"])
    assert changed != before
    put(f"{BUCKET}/docs/b.txt", "new")
    assert len(source_state([f"{BUCKET}/docs"])) == 2
    path = tmp_path / "a.txt"
    path.write_text("x")
    facts = path.stat()
    assert source_state([str(path)]) == [(str(path), 1, facts.st_mtime_ns, facts.st_ctime_ns)]


@pytest.mark.parametrize("facts", [{"ETag": '"%d"'}, {"etag": "%d"}, {"LastModified": "%d"}, {"odd": "%d"}])
def test_what_stores_tell_of_a_version_is_in_the_state(monkeypatch: pytest.MonkeyPatch, facts: dict[str, str]) -> None:
    put("faulty://b/a.txt", "one")
    versions = []
    for number in (1, 1, 2):
        said = {key: value % number for key, value in facts.items()}
        known = {"name": "/b/a.txt", "size": 3, "type": "file", **said}
        monkeypatch.setattr(Faulty, "info", lambda self, path, known=known, **more: known)
        versions.append(list_remote("faulty://b/a.txt")[0]["a.txt"].version)
    assert versions[0] == versions[1] != versions[2]


BIG = {
    "a.txt": "words of it " * 400_000,
    "a.jsonl": '{"text": "row of words in a line"}\n' * 100_000,
    "a.csv": "text\n" + "row of words in a line\n" * 100_000,
    "a.parquet": None,
}


@pytest.mark.parametrize("name", BIG)
@pytest.mark.parametrize("error", [ConnectionError("reset by peer"), OSError("no errno"), TimeoutError(), None])
def test_a_connection_that_breaks_is_no_end_and_no_damage(name: str, error: Exception | None) -> None:
    """Without an error the file seems to end there, which is told by its size."""
    raw = BIG[name] or parquet([{"text": f"{n} {n * n} words {n**3}"} for n in range(100_000)])
    put(f"faulty://b/{name}", raw)
    assert all(isinstance(item, Document) for item in everything(f"faulty://b/{name}"))
    Faulty.faults[name] = (len(raw) // 2, error)
    with pytest.raises(GeckoError, match=rf"cannot read faulty://b/{name}: ") as caught:
        everything(f"faulty://b/{name}")
    assert "run the same command again" in caught.value.hint and "\n" not in str(caught.value)
    assert any(word in str(caught.value) for word in ("reset by peer", "no errno", "Timeout", "ended at byte"))


REFUSED = [
    ({"/b": PermissionError("Access Denied")}, "no permission to read", "AWS_ACCESS_KEY_ID"),
    ({"/b": RuntimeError("Unable to locate credentials")}, "no permission to read", "AWS_ACCESS_KEY_ID"),
    ({"/b": FileNotFoundError("The specified bucket does not exist")}, "no file at faulty://b/docs", "bucket"),
    ({"/b": ConnectionError("no route to https://key:secret@host/x?sig=1")}, r"no route to …", "reachable"),
]


@pytest.mark.parametrize(("refuses", "message", "hint"), REFUSED)
def test_a_store_that_refuses_is_one_line(refuses: dict[str, Exception], message: str, hint: str) -> None:
    Faulty.refuses.update(refuses)
    for use in (list_files, source_state, read_sources):
        with pytest.raises(GeckoError, match=message) as caught:
            use(["faulty://b/docs"])
        assert hint in caught.value.hint
        assert "secret" not in str(caught.value)


def test_nothing_there_is_one_line() -> None:
    put(f"{BUCKET}/docs/a.txt", "one")
    for url in (f"{BUCKET}/no", "memory://nowhere/docs/", f"{BUCKET}/docs/*.md"):
        with pytest.raises(GeckoError, match="no file at"):
            everything(url)
    with pytest.raises(GeckoError, match="no file at"):
        RemoteFile(f"{BUCKET}/no.jsonl").open("rb")


@pytest.mark.parametrize(
    ("url", "message", "hint"),
    [
        ("s3://bucket/docs", "needs the package s3fs", "pip install s3fs"),
        ("gs://bucket/docs", "needs the package gcsfs", "pip install gcsfs"),
        ("nostore://bucket", "no kind of store", "s3://"),
        ("s3://KEY:secret@bucket/docs", "holds a key", "environment"),
        ("https://host/docs?sig=secret", "https://host/docs is a web address", "download it"),
        ("file:///docs", "is a path of this machine", "leave out"),
        ("simplecache::s3://bucket", "no file at", "check the path"),
        ("s3://bucket/a::memory://b", "chain", "plain"),
    ],
)
def test_urls_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, url: str, message: str, hint: str) -> None:
    for package in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, package, None)
        # As if nothing had been read from there before; fsspec's own name for the module is taken by a dict.
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, url.partition(":")[0], raising=False)
    with pytest.raises(GeckoError, match=message) as caught:
        everything(url)
    assert hint in caught.value.hint
    assert "secret" not in str(caught.value)


def test_what_breaks_leaves_no_stage_and_the_next_run_makes_it(tmp_path: Path) -> None:
    for number in range(30):
        put(f"faulty://b/{number:02}.txt", f"document {number} says something of its own, {number**5}, in a sentence")
    out = tmp_path / "passages"
    command = ["corpus", "faulty://b", "--out", str(out)]
    Faulty.faults["20.txt"] = (5, ConnectionError("reset by peer"))
    broken = CliRunner().invoke(app, command)
    assert broken.exit_code == 1 and "gecko: cannot read faulty://b/20.txt" in broken.stderr
    assert not list(out.glob("*.parquet")) and not (out / "_stage.json").exists()
    Faulty.faults.clear()
    assert CliRunner().invoke(app, command).exit_code == 0
    assert pq.read_table(out / "part-00000.parquet").num_rows == 30
    Faulty.faults["20.txt"] = (5, ConnectionError("reset by peer"))
    assert CliRunner().invoke(app, command).exit_code == 1
    assert pq.read_table(out / "part-00000.parquet").num_rows == 30  # what was whole is whole still


PAIRS = "".join(json.dumps({"query": f"what is {n}", "positive": f"the number {n}"}) + "\n" for n in range(4))


def test_sources_of_the_mixture() -> None:
    put(f"{BUCKET}/pairs/train.jsonl", PAIRS)
    put(f"{BUCKET}/pairs/deep/train.jsonl", PAIRS)
    put(f"{BUCKET}/parts/data/train-00001.csv", "query,positive\nq2,p2\n")
    put(f"{BUCKET}/parts/data/train-00000.csv", "query,positive\nq1,p1\n")

    def source(path: str, **more: str) -> SourceOptions:
        return SourceOptions.model_validate({"path": path, "kind": "pairs", **more})

    for path, rows in ((f"{BUCKET}/pairs", 4), (f"{BUCKET}/pairs/train.jsonl", 4), (f"{BUCKET}/parts", 2)):
        check_sources(MixtureOptions(sources=(source(path),)))
        assert len(load_source(source(path), "gecko", 0).rows) == rows
    assert source(f"{BUCKET}/pairs").name == "pairs"
    state = mixture_state(MixtureOptions(sources=(source(f"{BUCKET}/parts"),)))
    assert [name for name, *_ in state] == [f"{BUCKET}/parts/data/train-0000{n}.csv" for n in (0, 1)]
    put(f"{BUCKET}/parts/data/train-00000.csv", "query,positive\nq3,p3\n")
    assert mixture_state(MixtureOptions(sources=(source(f"{BUCKET}/parts"),))) != state
    with pytest.raises(GeckoError, match=r"has no file of split 'test' \(train.jsonl\)"):
        check_sources(MixtureOptions(sources=(source(f"{BUCKET}/pairs", split="test"),)))
    with pytest.raises(GeckoError, match="source no: no file at"):
        check_sources(MixtureOptions(sources=(source(f"{BUCKET}/no"),)))
    with pytest.raises(GeckoError, match=r"retrieval reads BEIR folders|is no folder of this machine"):
        check_sources(MixtureOptions(sources=(source(f"{BUCKET}/pairs", kind="retrieval"),)))


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.tsv", "t.parquet", "t.txt"])
def test_texts_of_the_jobs(tmp_path: Path, name: str) -> None:
    separator = "\t" if name.endswith("tsv") else ","
    table = f"id{separator}text\n1{separator}über one\n2{separator}two\n"
    content = {
        "t.jsonl": '{"id": 1, "text": "über one"}\n{"id": 2, "text": "two"}\n',
        "t.parquet": parquet([{"id": 1, "text": "über one"}, {"id": 2, "text": "two"}]),
        "t.txt": "über one\ntwo\n",
    }.get(name, table)
    raw = content if isinstance(content, bytes) else content.encode()
    put(f"faulty://b/{name}", raw)
    (tmp_path / name).write_bytes(raw)
    place = any_file(f"faulty://b/{name}")
    assert read_items(place).items == read_items(tmp_path / name).items
    assert [item.text for item in read_items(place).items] == ["über one", "two"]
    Faulty.faults[name] = (len(raw) - 5, ConnectionError("reset by peer"))
    with pytest.raises(GeckoError, match="reset by peer"):
        read_items(place)


def test_a_run_is_never_written_to_a_folder_called_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (
        ["corpus", "stdlib:", "--out", "s3://bucket/passages"],
        ["run", "recipe.yaml", "--out", "s3://bucket/run"],
        ["report", "s3://bucket/run"],
        ["index", "m", "--corpus", "s3://bucket/passages", "--out", "index"],
    ):
        refused = CliRunner().invoke(app, command)
        assert refused.exit_code == 2, command
        assert "of this machine" in refused.stderr and "copy" in refused.stderr
    for out in (Path("s3://bucket/run"), Path("memory:/x")):
        with pytest.raises(UsageError, match="no folder of this machine"):
            check_run_folder(out)
        with pytest.raises(UsageError, match="no folder of this machine"), locked(out):
            pass
    assert not list(tmp_path.iterdir())


def test_small_texts_are_fetched_together_and_stay_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(8, timeout=20)  # breaks where they come one by one
    fetch = Faulty.cat_file

    def wait(self: Faulty, path: str, *where: Any, **more: Any) -> bytes:
        together.wait()
        return fetch(self, path)

    monkeypatch.setattr(Faulty, "cat_file", wait)
    names = [f"{number:02}.txt" for number in range(40)]
    for name in names:
        put(f"faulty://b/{name}", f"text of {name}")
    found = everything("faulty://b")
    assert [(item.source_id, item.text) for item in found] == [(name, f"text of {name}") for name in names]
