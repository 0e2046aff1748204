import hashlib
import json
import logging
import shutil

import lancedb
import numpy as np
import pytest

from gecko.errors import GeckoError, UsageError
from gecko.records import Passage, content_id
from gecko.serve.index import build_index
from gecko.serve.search import search_index
from gecko.shards import locked


class WordEncoder:
    """Hashes words into 64 dimensions: texts with common words are near."""

    path = "words"
    dim = 64
    fingerprint = "1"

    def __init__(self):
        self.encoded = 0

    @property
    def origin(self):
        return self.fingerprint

    def _vectors(self, texts):
        out = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                out[row, int(hashlib.md5(word.encode()).hexdigest(), 16) % self.dim] += 1
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)

    def encode_queries(self, queries, task=None):
        return self._vectors(queries)

    def encode_passages(self, passages):
        self.encoded += len(passages)
        return self._vectors([f"{title} {text}" for title, text in passages])


def passage(source_id, title, text):
    return Passage(content_id(title, text), source_id, title, text, "test", "en")


CORPUS = [
    passage("a", "Keys", "rotate the signing keys every month"),
    passage("b", "Backups", "restore a backup from cold storage"),
    passage("c", "Logs", "where the access logs are written"),
]


@pytest.mark.parametrize("mode", ["dense", "text", "hybrid"])
def test_finds_the_passage_that_holds_the_words(tmp_path, mode):
    encoder = WordEncoder()
    assert build_index(encoder, CORPUS, tmp_path) == 3
    hits = search_index(tmp_path, "rotate signing keys", k=2, mode=mode, embedder=encoder)
    assert hits[0].source_id == "a"
    assert hits[0].rank == 1
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_grown_corpus_encodes_only_what_is_new(tmp_path):
    encoder = WordEncoder()
    build_index(encoder, CORPUS, tmp_path)
    encoder.encoded = 0
    added = build_index(encoder, [*CORPUS, passage("d", "Users", "add a user to a team")], tmp_path)
    assert (added, encoder.encoded) == (1, 1)
    assert search_index(tmp_path, "add a user", k=1, embedder=encoder)[0].source_id == "d"


@pytest.mark.parametrize("query", ['"unclosed', "a:b AND (c", "keys* -logs^2", "it's [x] {y}", "+-&&||!"])
def test_any_text_is_a_query(tmp_path, query):
    encoder = WordEncoder()
    build_index(encoder, CORPUS, tmp_path)
    search_index(tmp_path, query, mode="hybrid", embedder=encoder)


def test_errors_name_the_mend(tmp_path):
    encoder = WordEncoder()
    with pytest.raises(GeckoError, match="no index") as caught:
        search_index(tmp_path / "nowhere", "x")
    assert "gecko index" in caught.value.hint
    with pytest.raises(GeckoError, match="no passage"):
        build_index(encoder, [], tmp_path / "empty")
    build_index(encoder, CORPUS, tmp_path)
    with pytest.raises(UsageError, match="mode"):
        search_index(tmp_path, "x", mode="sparse")
    with pytest.raises(UsageError, match="empty"):
        search_index(tmp_path, "  ")
    other = WordEncoder()
    other.path, other.fingerprint = "another", "2"
    with pytest.raises(GeckoError, match="words"):
        build_index(other, CORPUS, tmp_path)


def test_a_table_of_another_application_is_left_alone(tmp_path):
    database = lancedb.connect(tmp_path)
    database.create_table("passages", [{"theirs": number} for number in range(5)])
    with pytest.raises(UsageError, match="no index of gecko"):
        build_index(WordEncoder(), CORPUS, tmp_path)
    assert database.open_table("passages").count_rows() == 5


def found(folder, text, mode="text", encoder=None):
    return [hit.source_id for hit in search_index(folder, text, mode=mode, embedder=encoder or WordEncoder())]


def test_vectors_of_changed_weights_are_never_mixed(tmp_path):
    build_index(WordEncoder(), CORPUS, tmp_path)
    changed = WordEncoder()
    changed.fingerprint = "2"
    with pytest.raises(GeckoError, match="is not the model that made") as caught:
        search_index(tmp_path, "keys", mode="dense", embedder=changed)
    assert "index again" in caught.value.hint
    assert build_index(changed, CORPUS, tmp_path) == changed.encoded == 3
    assert found(tmp_path, "rotate signing keys", "dense", changed)[0] == "a"


def test_a_model_is_its_weights_wherever_its_folder_is(tmp_path, monkeypatch):
    (tmp_path / "mymodel").mkdir()
    monkeypatch.chdir(tmp_path)
    encoder, moved = WordEncoder(), WordEncoder()
    encoder.path, moved.path = "mymodel", str(tmp_path / "mymodel")
    build_index(encoder, CORPUS, tmp_path / "index")
    assert json.loads((tmp_path / "index" / "index.json").read_text())["model"] == str(tmp_path / "mymodel")
    assert build_index(moved, CORPUS, tmp_path / "index") == 0


def test_what_left_the_corpus_leaves_the_index(tmp_path, caplog):
    odd = [passage("o", "Odd", "a quoted name")]
    odd = [Passage("it's", *[getattr(odd[0], f) for f in ("source_id", "title", "text", "source", "lang")])]
    build_index(WordEncoder(), [*CORPUS, *CORPUS, *odd], tmp_path)
    with caplog.at_level(logging.INFO):
        assert build_index(WordEncoder(), CORPUS[:2], tmp_path) == 0
    assert "2 passages that are no longer in the corpus" in caplog.text
    assert sorted(found(tmp_path, "access logs quoted", "dense")) == ["a", "b"]
    assert found(tmp_path, "logs") == []
    assert json.loads((tmp_path / "index.json").read_text())["passages"] == 2


class Killed(BaseException):
    pass


@pytest.mark.parametrize("grown", [False, True])
@pytest.mark.parametrize("dies_at", ["encode", "full text"])
def test_a_killed_build_is_finished_by_the_next(tmp_path, monkeypatch, caplog, grown, dies_at):
    if grown:
        build_index(WordEncoder(), CORPUS[:1], tmp_path)
    dying, calls = WordEncoder(), []

    def die(*_args, **_options):
        calls.append(1)
        if len(calls) > (dies_at == "encode"):
            raise Killed
        return WordEncoder.encode_passages(dying, *_args)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        import lancedb.table

        if dies_at == "encode":
            patch.setattr(dying, "encode_passages", die, raising=False)
        else:
            patch.setattr(lancedb.table.LanceTable, "create_fts_index", die)
        build_index(dying, CORPUS, tmp_path, batch_size=1)
    assert found(tmp_path, "backup storage", "dense")
    assert "not finished" in caplog.text
    build_index(WordEncoder(), CORPUS, tmp_path)
    import lancedb

    index = lancedb.connect(tmp_path).open_table("passages")
    assert [(i.num_indexed_rows, i.num_unindexed_rows) for i in index.list_indices()] == [(3, 0)]
    assert found(tmp_path, "access logs") == ["c"]


def test_one_process_writes_an_index(tmp_path):
    with locked(tmp_path), pytest.raises(GeckoError, match="another process"):
        build_index(WordEncoder(), CORPUS, tmp_path)


@pytest.mark.parametrize("k", [0, -1, 10**12])
def test_an_impossible_number_of_hits_is_refused(tmp_path, k):
    build_index(WordEncoder(), CORPUS, tmp_path)
    with pytest.raises(UsageError, match="hits"):
        search_index(tmp_path, "x", k=k, embedder=WordEncoder())


@pytest.mark.parametrize("mode", ["dense", "text", "hybrid"])
def test_a_query_with_half_characters_is_cleaned(tmp_path, mode):
    build_index(WordEncoder(), CORPUS, tmp_path)
    assert found(tmp_path, "sign\udcffing keys", mode)[0] == "a"
    with pytest.raises(UsageError, match="empty"):
        search_index(tmp_path, "\ud800")


def empty_files(folder):
    for path in (folder / "passages.lance").rglob("*.lance"):
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "rebuilt"),
    [
        (lambda folder: (folder / "index.json").write_text('{"model": "words"}'), False),
        (lambda folder: (folder / "index.json").write_text("[1]"), False),
        (empty_files, False),
        (lambda folder: shutil.rmtree(folder / "passages.lance"), True),
    ],
)
def test_a_damaged_index_is_told_in_one_line(tmp_path, damage, rebuilt):
    build_index(WordEncoder(), CORPUS, tmp_path)
    damage(tmp_path)
    for mode in ("dense", "text"):
        with pytest.raises(GeckoError, match="damaged") as caught:
            found(tmp_path, "keys", mode)
        assert "index again" in caught.value.hint and "\n" not in caught.value.message
    if rebuilt:
        assert build_index(WordEncoder(), CORPUS, tmp_path) == 3
    else:
        with pytest.raises(GeckoError, match="damaged"):
            build_index(WordEncoder(), CORPUS, tmp_path)


def test_a_new_index_is_made_in_silence(tmp_path, capfd):
    build_index(WordEncoder(), CORPUS, tmp_path / "index")
    assert capfd.readouterr().err == ""
