"""An index in an object store: what a folder's does, without a file of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_parts import CORPUS, Words, passage
from typer.testing import CliRunner

from gecko.cli import app
from gecko.errors import GeckoError, UsageError
from gecko.serve.index import build_index
from gecko.serve.places import FolderPlace, StorePlace, index_place
from gecko.serve.search import SearchIndex, search_index


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A URL that LanceDB reads and writes by itself, as it does s3://; here it is one of the disk."""
    for room in ("gecko.serve.index", "gecko.serve.search"):
        monkeypatch.setattr(f"{room}.index_place", StorePlace)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    yield f"file://{tmp_path}/store/index"


def found(url: str, text: str, mode: str = "text", encoder: Any = None) -> list[str]:
    return [hit.source_id for hit in search_index(url, text, mode=mode, embedder=encoder or Words())]


def test_it_is_made_searched_and_extended(store: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(GeckoError, match="no index in file://"):
        found(store, "keys")
    assert build_index(Words(), CORPUS, store) == len(CORPUS)
    assert {found(store, "rotate the signing keys", mode)[0] for mode in ("dense", "text", "hybrid")} == {"a"}
    more = passage("new", "Users", "adding somebody to a team")
    assert build_index(Words(), [*CORPUS[:2], more], store) == 1
    index = SearchIndex(store)
    assert (index.size, index.complete, index.dim, str(index.place)) == (3, True, Words().dim, store)
    assert found(store, "adding somebody") == ["new"]
    assert not (tmp_path / "file:").exists() and not list(tmp_path.rglob("index.json"))
    assert capfd.readouterr().err == ""


def test_an_open_one_sees_what_was_added_and_refuses_another_model(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build_index(Words(), CORPUS[:2], store)
    index = SearchIndex(store)
    build_index(Words(), [*CORPUS[:2], passage("new", "Users", "adding somebody to a team")], store)
    assert index.search("adding somebody", None, mode="text") == []  # the store is not asked at every search
    monkeypatch.setattr("gecko.serve.places._LOOK_EVERY", 0)
    assert [hit.source_id for hit in index.search("adding somebody", None, mode="text")] == ["new"]
    other = Words("words", "other weights")
    with pytest.raises(GeckoError, match="not the model that made the index"):
        found(store, "keys", "dense", other)
    assert build_index(other, CORPUS[:2], store) == 2
    with pytest.raises(GeckoError, match="made anew with another model"):
        index.search("keys", None, mode="text")


def test_one_that_was_broken_off_says_so_and_is_finished(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying(Words):
        def encode_passages(self, passages: Any) -> Any:
            if len(seen) == 2:
                raise KeyboardInterrupt
            seen.extend(passages)
            return super().encode_passages(passages)

    seen: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        build_index(Dying(), CORPUS[:3], store, batch_size=1)
    assert not SearchIndex(store).complete
    assert build_index(Words(), CORPUS[:3], store) == 1
    assert SearchIndex(store).complete


def test_a_damaged_one_is_told_in_one_line(store: str, tmp_path: Path) -> None:
    build_index(Words(), CORPUS, store)
    for path in (tmp_path / "store" / "index" / "passages.lance").rglob("*.lance"):
        path.write_bytes(b"")
    with pytest.raises(GeckoError, match=r"the index in file://.* or is damaged: ") as caught:
        found(store, "keys", "dense")
    assert "\n" not in caught.value.message


def test_a_place_is_a_folder_or_a_store_that_lancedb_knows(tmp_path: Path) -> None:
    assert index_place(tmp_path) == FolderPlace(tmp_path)
    assert str(index_place("s3://bucket/index/")) == "s3://bucket/index"
    for url, message in (
        ("memory://index", "no index can lie in memory"),
        ("s3://KEY:secret@bucket/index", "holds a key"),
        (Path("s3://bucket/index"), "no folder of this machine"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            index_place(url)
        assert "secret" not in str(caught.value)


def test_words_of_the_command_line_name_both(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("gecko.serve.search.search_index", lambda place, *query, **more: asked.append(place) or [])
    for place in ("s3://bucket/index", "index/"):
        assert CliRunner().invoke(app, ["search", place, "keys"]).exit_code == 0
    assert asked == ["s3://bucket/index", Path("index")]
    monkeypatch.setattr("gecko.serve.server.serve", lambda options, say: asked.append((options.index, options.base)))
    served = ["serve", "m", "--index", "s3://bucket/index", "--base", "base/"]
    assert CliRunner().invoke(app, served).exit_code == 0
    assert asked[-1] == ("s3://bucket/index", Path("base"))


def test_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skipped where moto or s3fs is absent: ``pip install s3fs 'moto[server]'``."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        import s3fs

        from gecko.corpus.read import read_sources, source_state

        system = s3fs.S3FileSystem(skip_instance_cache=True)
        system.mkdir("bucket")
        system.pipe_file("bucket/docs/a/one.txt", b"one")
        before = source_state(["s3://bucket/docs"])
        assert [item.source_id for item in read_sources(["s3://bucket/docs"])] == ["a/one.txt"]
        assert source_state(["s3://bucket/docs"]) == before
        system.pipe_file("bucket/docs/a/one.txt", b"two")
        assert source_state(["s3://bucket/docs"]) != before
        with pytest.raises(GeckoError, match="no file at s3://nowhere/docs"):
            source_state(["s3://nowhere/docs"])
        assert build_index(Words(), CORPUS, "s3://bucket/index") == len(CORPUS)
        assert found("s3://bucket/index", "rotate the signing keys", "hybrid")[0] == "a"
        with pytest.raises(GeckoError, match="NoSuchBucket"):
            found("s3://nowhere/index", "keys")
    finally:
        server.stop()
