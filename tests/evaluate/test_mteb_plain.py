"""What ``--mteb`` does before and beside mteb itself; these tests need no mteb."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from gecko.cli import app
from gecko.errors import GeckoError
from gecko.evaluate.mteb.encoder import MtebEncoder, word_of
from gecko.evaluate.mteb.places import find_file, find_place, named_tasks, split_names


def readme(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(text)
    return folder


def test_a_readme_names_a_task_only_where_its_section_begins_with_it(tmp_path: Path) -> None:
    years = readme(tmp_path / "years", "# STS\n\n## MTEB\n`STS12` (partly), `STS13`; score all.\n\n## More\n`STS99`\n")
    like = readme(tmp_path / "titles", "# T\n\n## MTEB\nNot an MTEB task; like `StackExchangeClustering`.\n")
    line = readme(tmp_path / "quads", "# Q\n\nFive languages. MTEB: `XQuADRetrieval` (each against itself).\n")
    assert named_tasks(years) == ["STS12", "STS13"]
    assert named_tasks(like) == named_tasks(tmp_path / "none") == []
    assert named_tasks(line) == ["XQuADRetrieval"]
    readme(line / "en", "## MTEB\n`XQuADRetrieval`\n")
    assert find_place(tmp_path, "XQuADRetrieval") == line  # not the language's below it
    assert find_place(tmp_path, "STS99") is None
    own = readme(tmp_path / "mine" / "sts-13", "")
    assert find_place(tmp_path, "STS13") == own  # called so: the user's own wins
    with pytest.raises(GeckoError, match="no such folder"):
        find_place(tmp_path / "away", "STS13")


def test_a_splits_file_is_found_by_task_or_split(tmp_path: Path) -> None:
    for name in ("sts13.jsonl", "sts13_dev.csv", "train.jsonl", "validation.jsonl", "reranking.jsonl"):
        (tmp_path / name).touch()

    def found(task: str, split: str, only: bool = False, stem: str = "") -> str | None:
        path = find_file([tmp_path / "away", tmp_path], task, split_names(split, only), stem)
        return path.name if path else None

    assert found("STS13", "test") == "sts13.jsonl"
    assert found("STS13", "validation") == "sts13_dev.csv"
    assert found("Banking", "dev") == "validation.jsonl"
    assert found("Banking", "train") == "train.jsonl"
    assert found("Banking", "test") is None
    assert found("AskUbuntu", "test", stem="reranking") == "reranking.jsonl"
    assert found("AskUbuntu", "dev", stem="reranking") is None
    assert split_names("validation", True) == ["validation", "dev", "val", "test"]
    assert split_names("test", False) == ["test"]


@pytest.mark.parametrize(
    ("kind", "name", "word"),
    [
        ("Retrieval", "SciFact", "fact checking"),
        ("Retrieval", "FiQA2018", "question answering"),
        ("Retrieval", "CQADupstackEnglishRetrieval", "question answering"),
        ("Retrieval", "NQHardNegatives", "question answering"),
        ("Retrieval", "ArguAna", "semantic similarity"),
        ("Retrieval", "XQuADRetrieval", "search result"),
        ("Reranking", "SciDocsRR", "question answering"),
        ("Classification", "DBpediaClassification", "classification"),
        ("Clustering", "RedditClustering.v2", "search result"),
        ("BitextMining", "Tatoeba", "semantic similarity"),
        ("Summarization", "SummEval", "search result"),
    ],
)
def test_the_words_are_those_of_table_9(kind: str, name: str, word: str) -> None:
    assert word_of(kind, name) == word


def test_own_words_go_by_task_then_by_type() -> None:
    words = {"SciFact": "claims", "retrieval": "anything"}
    assert word_of("Retrieval", "SciFact", words) == "claims"
    assert word_of("Retrieval", "NFCorpus", words) == "anything"


class Rendered:
    """Notes how each text would be encoded; the vector tells which it was."""

    path, dim = "m", 4

    def __init__(self) -> None:
        self.seen: list[object] = []

    def _vectors(self, how: str, items: list, *more: str) -> np.ndarray:
        self.seen += [(how, item, *more) for item in items]
        return np.full((len(items), 4), 0.5, np.float32)

    def encode_queries(self, queries, task=None):
        return self._vectors("query", queries, task)

    def encode_symmetric(self, texts, task, prompt_name=""):
        return self._vectors("alike", texts, task, prompt_name)

    def encode_passages(self, passages):
        return self._vectors("passage", passages)


def test_texts_are_rendered_by_their_side_and_type() -> None:
    model = Rendered()
    encoder = MtebEncoder(model, 2, None)

    def encode(kind: str, name: str, batches: list, side: str | None = None) -> np.ndarray:
        facts = SimpleNamespace(type=kind, name=name)
        prompt = SimpleNamespace(value=side) if side else None
        return encoder.encode(batches, task_metadata=facts, hf_split="test", hf_subset="default", prompt_type=prompt)

    documents = [{"text": ["head body"], "body": ["body"], "title": ["head"]}, {"text": ["alone"], "body": ["alone"]}]
    vectors = encode("Retrieval", "SciFact", documents, "document")
    assert vectors.shape == (2, 2)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)  # renormalised after the cut
    encode("Retrieval", "SciFact", [{"text": ["claim"]}], "query")
    encode("STS", "STS13", [{"text": ["one", "two"]}])
    encode("PairClassification", "T", [{"text": ["three"]}], "query")
    assert model.seen == [
        ("passage", ("head", "body")),
        ("passage", ("", "alone")),
        ("query", "claim", "fact checking"),
        ("alike", "one", "semantic similarity", "STS"),
        ("alike", "two", "semantic similarity", "STS"),
        ("alike", "three", "semantic similarity", "PairClassification"),
    ]


def test_without_mteb_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "mteb"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mteb", None)
    monkeypatch.setitem(sys.modules, "mteb.get_tasks", None)
    result = CliRunner().invoke(app, ["evaluate", "m", "--mteb", "STS13"])
    assert result.exit_code == 1
    assert "--mteb needs mteb" in result.output
    assert "gecko-embed[mteb]" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mteb-data", "d"], "give either --beir or --tasks, or --mteb"),
        (["--tasks", "d", "--mteb-data", "d"], "--mteb-data and --out are of --mteb"),
        (["--beir", "d", "--out", "o"], "--mteb-data and --out are of --mteb"),
        (["--mteb", "STS13", "--limit", "9"], "--limit is of --tasks"),
        (["--beir", "d", "--task-word", "a=b"], "--task-word is of --tasks and --mteb"),
        (["--tasks", "d", "--mteb", "STS13", "--task-word", "a=b"], "whose is it"),
    ],
)
def test_options_that_nothing_would_read_are_refused(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["evaluate", "m", *arguments])
    assert result.exit_code == 2
    assert said in result.output
