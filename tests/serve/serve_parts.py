"""A model that hashes words, a corpus, and a server in a thread: what it does is known, and nothing is loaded."""

from __future__ import annotations

import hashlib
import string
import threading
import time
from types import SimpleNamespace

import httpx2
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from gecko.records import Passage, content_id


class Words:
    """Hashes words into 64 dimensions: texts with common words are near; ``gate`` holds it up, ``seen`` is its work."""

    dim = 64

    def __init__(self, path: str = "words", seed: str = "") -> None:
        self.path, self.fingerprint, self._seed = path, path + seed, seed
        self.origin = self.fingerprint
        self.model = SimpleNamespace(tokenizer=SimpleNamespace(backend_tokenizer=letters_tokenizer()), max_seq_length=8)
        self.gate = threading.Event()
        self.gate.set()
        self.seen: list[list[str]] = []

    def encode(self, texts):
        self.gate.wait(30)
        self.seen.append(list(texts))
        if any("poison" in text for text in texts):
            raise RuntimeError("poison")
        out = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                digest = hashlib.md5(f"{self._seed}{word}".encode()).digest()
                out[row, digest[0] % self.dim] += 1 + digest[1] / 256
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)

    def render_queries(self, queries, task=None):
        return [f"query {task or ''} {text}" for text in queries]

    def render_passages(self, passages):
        return [f"{title} {text}".strip() for title, text in passages]

    def encode_queries(self, queries, task=None):
        return self.encode(self.render_queries(queries, task))

    def encode_passages(self, passages):
        return self.encode(self.render_passages(passages))


def letters_tokenizer() -> Tokenizer:
    """A token a word, and one at each end; a letter is a word of its own number."""
    vocabulary = {token: number for number, token in enumerate([*string.ascii_lowercase, "[UNK]", "[CLS]", "[SEP]"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    )
    tokenizer.enable_truncation(8)  # as a model's own has it
    return tokenizer


def passage(source_id: str, title: str, text: str, source: str = "test", lang: str = "en") -> Passage:
    return Passage(content_id(title, text), source_id, title, text, source, lang)


CORPUS = [
    passage("a", "Keys", "rotate the signing keys every month", "docs/api/keys.md"),
    passage("b", "Backups", "restore a backup from cold storage 😀 and rotate the tapes", "docs/guide/backup.md"),
    passage("c", "Logs", "where the access logs are written", "docs/guide/logs.md"),
    passage("d", "Schlüssel", "die Schlüssel jeden Monat tauschen", "docs/de/keys.md", "de"),
    passage("x", "<b>Bold</b>", "<img src=x onerror=alert(1)> is text & no <script>alert(2)</script>", "docs/x.md"),
    *[passage(f"e{n}", f"Note {n}", f"a note about matter {n} and nothing else") for n in range(12)],
]


class Running:
    """A server that answers."""

    def __init__(self, server, thread, port, engine):
        self.server, self.thread, self.port, self.engine = server, thread, port, engine
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx2.Client(base_url=self.url, timeout=30)

    def post(self, path, value=None, **options):
        return self.client.post(path, **({"json": value} | options))

    def get(self, path, **options):
        return self.client.get(path, **options)

    def stop(self):
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.client.close()


def vectors(answer) -> np.ndarray:
    """What an answer of /v1/embeddings holds."""
    assert answer.status_code == 200, answer.text
    return np.array([item["embedding"] for item in answer.json()["data"]], np.float32)


def until(true, seconds=20) -> None:
    """Wait for something to be so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)
