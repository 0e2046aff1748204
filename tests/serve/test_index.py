import hashlib

import numpy as np
import pytest

from gecko.errors import GeckoError, UsageError
from gecko.records import Passage, content_id
from gecko.serve.index import build_index, search_index


class WordEncoder:
    """Hashes words into 64 dimensions: texts with common words are near."""

    path = "words"
    dim = 64

    def __init__(self):
        self.encoded = 0

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
    other.path = "another"
    with pytest.raises(GeckoError, match="words"):
        build_index(other, CORPUS, tmp_path)
