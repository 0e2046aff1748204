"""Tiny sets of every type of task, and a model that knows what their texts are about."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

TOPICS = ("copper", "river", "violin", "python", "bread", "comet", "tiger", "harbour")


def write_rows(path: Path, rows: Sequence[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(topics: Sequence[str] = TOPICS) -> list[tuple[str, str, int]]:
    """Texts of the same topic (1) and of different ones (0)."""
    same = [(f"all about {t}", f"what {t} is", 1) for t in topics]
    return same + [(f"all about {t}", f"what {topics[i - 1]} is", 0) for i, t in enumerate(topics)]


def sets(root: Path) -> Path:
    """Write a folder that holds a set of each type, and what is none."""
    write_rows(root / "alike/test.jsonl", [{"sentence1": a, "sentence2": b, "score": 4 * s + 1} for a, b, s in pairs()])
    write_rows(root / "same/test.jsonl", [{"sentence1": a, "sentence2": b, "label": s} for a, b, s in pairs()])
    labelled = [{"text": f"number {i} of {t}", "label": n} for n, t in enumerate(TOPICS[:4]) for i in range(6)]
    write_rows(root / "intents/train.jsonl", labelled)
    write_rows(root / "intents/test.jsonl", [{**row, "text": f"{row['text']} again"} for row in labelled])
    write_rows(root / "groups/test.jsonl", labelled)
    translations = [{"sentence1": f"das {t}", "sentence2": f"the {t}", "lang": "deu-eng"} for t in TOPICS]
    write_rows(root / "words/test.jsonl", translations + [{**row, "lang": "nld-eng"} for row in translations[:4]])
    summaries = [
        {
            "text": f"{t}",
            "human_summaries": [f"of {t}", f"on {t}"],
            "machine_summaries": [f"a {t}", f"a {TOPICS[i - 1]}", f"some {t} and {TOPICS[i - 1]}"],
            "relevance": [5, 1, 3],
        }
        for i, t in enumerate(TOPICS)
    ]
    write_rows(root / "abstracts/test.jsonl", summaries)
    corpus = [{"_id": f"d{i}", "title": "", "text": f"all about {t}"} for i, t in enumerate(TOPICS)]
    queries = [{"_id": f"q{i}", "text": f"what is {t}"} for i, t in enumerate(TOPICS)]
    write_rows(root / "search/corpus.jsonl", corpus)
    write_rows(root / "search/queries.jsonl", queries)
    (root / "search/qrels").mkdir()
    lines = "".join(f"q{i}\td{i}\t1\n" for i in range(len(TOPICS)))
    (root / "search/qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    pools = [
        {"query": q["text"], "positive": [corpus[i]["text"]], "negative": [d["text"] for d in corpus if d != corpus[i]]}
        for i, q in enumerate(queries)
    ]
    write_rows(root / "search/reranking.jsonl", pools)
    write_rows(root / "unlabelled/corpus.jsonl", corpus)
    (root / "pictures").mkdir()
    return root


class TopicModel:
    """Each topic has an axis of its own; of the topics in ``blind`` it sees the next one. Notes what it is asked."""

    def __init__(self, path: str, blind: Sequence[str] = (), dim: int = 16) -> None:
        self.path, self.blind, self.dim = path, tuple(blind), dim
        self.asked: list[tuple[str, str, int]] = []  # how, with which word, how many texts

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.full((len(texts), self.dim), 0.01, np.float32)
        for row, text in enumerate(texts):
            vectors[row, len(TOPICS) + len(text) % 5] += 0.05  # texts of a topic are not all the same
            for axis, topic in enumerate(TOPICS):
                if topic in text:
                    vectors[row, (axis + 1) % len(TOPICS) if topic in self.blind else axis] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode_queries(self, queries, task=None):
        self.asked.append(("query", task, len(queries)))
        return self._encode(queries)

    def encode_symmetric(self, texts, task, prompt_name=""):
        self.asked.append((prompt_name, task, len(texts)))
        return self._encode(texts)

    def encode_passages(self, passages):
        self.asked.append(("passage", "", len(passages)))
        return self._encode([f"{title} {text}" for title, text in passages])


@pytest.fixture(scope="session")
def topic_model() -> Callable[..., TopicModel]:
    return TopicModel


@pytest.fixture(scope="session")
def rows_to() -> Callable[[Path, Sequence[dict]], Path]:
    return write_rows


@pytest.fixture(scope="session")
def write_sets() -> Callable[[Path], Path]:
    return sets


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a set of each type."""
    return sets(tmp_path / "data")
