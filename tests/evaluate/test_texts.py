"""Which texts of an evaluation set are asked, and which are searched."""

import json

import pytest

from gecko.errors import GeckoError
from gecko.evaluate.texts import read_evaluation


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_beir(folder):
    write(folder / "corpus.jsonl", {"_id": "d1", "title": "T", "text": "x"}, {"_id": "d2", "text": "y"})
    write(folder / "queries.jsonl", {"_id": "q1", "text": "asked"}, {"_id": "q2", "text": "not judged"})
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")


def told(texts):
    return [(text.text_id, text.text) for text in texts]


def test_queries_that_are_judged_ask_and_documents_are_searched(tmp_path):
    write_beir(tmp_path / "set")
    [one], skipped = read_evaluation([(str(tmp_path / "set"), "test")])
    assert (one.name, skipped) == ("set", [])
    assert told(one.questions) == [("q1", "asked")]
    assert told(one.documents) == [("d1", "T x"), ("d2", "y")]
    [one], _ = read_evaluation([(str(tmp_path / "set"), "test")], documents=False)
    assert told(one.questions) == [("q1", "asked")] and one.documents == []


@pytest.mark.parametrize(
    ("file", "row", "questions", "documents"),
    [
        ("test.jsonl", {"sentence1": "a", "sentence2": "b", "score": 1}, ["a", "b"], []),
        ("test.jsonl", {"sentence1": "a", "sentence2": "b", "label": 1}, ["a", "b"], []),
        ("test.jsonl", {"sentence1": "a", "sentence2": "b"}, ["a", "b"], []),
        ("test.jsonl", {"text": "a", "label": "x"}, ["a"], []),
        ("reranking.jsonl", {"query": "a", "positive": ["b", "c"], "negative": ["d"]}, ["a"], ["b", "c", "d"]),
        (
            "test.jsonl",
            {"human_summaries": ["a"], "machine_summaries": ["b", "c"], "relevance": [1, 2]},
            ["a", "b", "c"],
            [],
        ),
    ],
)
def test_every_type_of_task_has_its_questions(tmp_path, file, row, questions, documents):
    write(tmp_path / "set" / file, row)
    [one], _ = read_evaluation([(str(tmp_path / "set"), "test")])
    assert told(one.questions) == [(f"{file}:1", text) for text in questions]
    assert told(one.documents) == [(f"{file}:1", text) for text in documents]


def test_a_set_that_is_named_twice_is_read_once_and_a_broken_one_is_told(tmp_path):
    write_beir(tmp_path / "all" / "set")
    write(tmp_path / "all" / "bad" / "test.jsonl", {"text": "a", "label": 1}, {"label": 2})
    places = [(str(tmp_path / "all" / "set"), "test"), (str(tmp_path / "all"), "test")]
    sets, skipped = read_evaluation(places)
    assert len(sets) == 1 and told(sets[0].questions) == [("q1", "asked")]
    assert [(item.place, "no 'text'" in item.reason) for item in skipped] == [("bad", True)]
    with pytest.raises(GeckoError, match="no 'text'"):
        read_evaluation([(str(tmp_path / "all" / "bad"), "test")])
