"""The check of a teacher's ranking against judgements, with orders that can be worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gecko.errors import UsageError
from gecko.fret.check import JudgedCorpus, check_ranking, passes
from gecko.records import GeneratedQuery, Passage
from gecko.teacher.protocol import Scores

TOPICS = ("copper", "river", "violin", "bread", "comet", "tiger")


class Miner:
    """Sees a text's first topic well and takes document 0 of a topic for nearer than document 1."""

    path, dim = "miner", len(TOPICS) + 1

    def _vector(self, text: str, depth: float) -> np.ndarray:
        vector = np.full(self.dim, 0.01, np.float32)
        vector[[topic in text for topic in TOPICS].index(True)] = 1.0
        vector[-1] = depth
        return vector / np.linalg.norm(vector)

    def encode_queries(self, queries: Sequence[str], task: object = None) -> np.ndarray:
        return np.stack([self._vector(query, 0.0) for query in queries])

    def encode_passages(self, passages: Sequence[tuple[str, str]]) -> np.ndarray:
        return np.stack([self._vector(text, 0.1 if "near" in text else 0.5) for _, text in passages])


class Teacher:
    """Prefers texts with a word in them, one word for each of its two scores; None scores nothing."""

    def __init__(self, ql: str | None, rc: str | None) -> None:
        self.words, self.prepared, self.queries = (ql, rc), 0, []

    def prepare(self, passages: JudgedCorpus) -> None:
        self.prepared += 1
        assert [passages.passage(i) for i in passages.ids] == list(passages)
        assert len(passages.vectors) == len(passages)

    def rank(
        self, query: GeneratedQuery, candidates: Sequence[Passage], miner_scores: Sequence[float] | None = None
    ) -> Scores:
        assert miner_scores is not None
        assert list(miner_scores) == sorted(miner_scores, reverse=True)
        self.queries.append(query.query)
        topic = query.query.split()[-1]
        ql, rc = (
            [None if word is None else float(word in c.text and topic in c.text) for c in candidates]
            for word in self.words
        )
        return Scores(ql=ql, rc=rc, rung="test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of each topic two documents; the far one is the judged answer."""
    (tmp_path / "qrels").mkdir()
    documents = [
        {"_id": f"{topic}-{place}", "title": "", "text": f"a {place} text about {topic}"}
        for topic in TOPICS
        for place in ("near", "far")
    ]
    queries = [{"_id": f"q{i}", "text": f"what is {topic}"} for i, topic in enumerate(TOPICS)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [f"q{i}\t{topic}-far\t1" for i, topic in enumerate(TOPICS)]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]))
    return tmp_path


def test_every_order_is_measured_on_the_same_candidates(folder: Path) -> None:
    teacher = Teacher(ql="far", rc="near")
    check = check_ranking(teacher, folder, miner=Miner(), neighbours=3)
    second = 1 / np.log2(3)
    assert teacher.prepared == 1
    assert (check["dataset"], check["n"], check["neighbours"]) == (folder.name, 6, 3)
    assert check["recall_in_candidates"] == 1.0
    # RC puts the near document first, as the miner does; QL the far one; with the ranks mirrored RC breaks the tie.
    assert check["ndcg_at_10"] == pytest.approx(
        {"miner": second, "ql": 1, "rc": second, "rrf": second, "rrf60": second}
    )
    assert set(check["delta_to_miner"]) == {"ql", "rc", "rrf", "rrf60"}
    assert check["delta_to_miner"]["ql"]["delta"] == pytest.approx(1 - second)
    assert check["delta_to_miner"]["ql"]["ci95"] == pytest.approx([1 - second] * 2)
    assert check["delta_to_miner"]["rc"] == {"delta": 0.0, "ci95": [0.0, 0.0]}
    assert check["fused_to_better"]["better"] == "ql"
    assert check["fused_to_better"]["delta"] == pytest.approx(second - 1)
    assert check["fused_to_better"]["ci95"] == pytest.approx([second - 1] * 2)
    json.dumps(check)
    assert not passes(check)


def test_a_teacher_that_knows_the_answers_passes(folder: Path) -> None:
    assert passes(check_ranking(Teacher(ql="far", rc="far"), folder, miner=Miner(), neighbours=3))


def test_a_teacher_without_scores_leaves_the_miners_order(folder: Path) -> None:
    check = check_ranking(Teacher(ql=None, rc=None), folder, miner=Miner(), neighbours=3)
    assert len(set(check["ndcg_at_10"].values())) == 1
    assert check["failed"] == 6
    assert not passes(check)  # the miner's order, measured three times


def test_queries_that_failed_are_counted_and_many_of_them_are_no_pass(folder: Path) -> None:
    class Failing(Teacher):
        def rank(self, query, candidates, miner_scores=None):  # type: ignore[no-untyped-def]
            scores = super().rank(query, candidates, miner_scores)
            if "copper" in query.query:
                return replace(scores, error="6 of 6 calls failed")
            return replace(scores, ql=[None, *scores.ql[1:]]) if "tiger" in query.query else scores

    check = check_ranking(Failing(ql="far", rc="far"), folder, miner=Miner(), neighbours=3)
    assert check["failed"] == 2
    assert not passes(check)
    assert passes({**check, "n": 40, "ndcg_at_10": dict.fromkeys(check["ndcg_at_10"], 1.0)})
    thrifty = check_ranking(Failing(ql="far", rc="far"), folder, miner=Miner(), neighbours=3, scores_all=False)
    assert thrifty["failed"] == 1


def test_an_answer_that_was_not_retrieved_counts_against_all(folder: Path) -> None:
    check = check_ranking(Teacher(ql="far", rc="far"), folder, miner=Miner(), neighbours=1)
    assert check["recall_in_candidates"] == 0.0
    assert set(check["ndcg_at_10"].values()) == {0.0}


def test_the_sample_depends_on_the_seed_alone(folder: Path) -> None:
    asked = []
    for teacher, seed in ((Teacher("far", "far"), 3), (Teacher("near", None), 3), (Teacher("far", "far"), 4)):
        assert check_ranking(teacher, folder, miner=Miner(), sample=3, seed=seed)["n"] == 3
        asked.append(teacher.queries)
    assert asked[0] == asked[1]
    assert asked[0] != asked[2]


def test_training_judgements_are_taken_before_those_of_the_test(folder: Path) -> None:
    teacher = Teacher("far", "far")
    assert check_ranking(teacher, folder, miner=Miner(), neighbours=3)["split"] == "test"
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\triver-far\t1")
    check = check_ranking(teacher, folder, miner=Miner(), neighbours=3)
    assert (check["split"], check["n"]) == ("train", 1)
    assert check_ranking(teacher, folder, miner=Miner(), neighbours=3, split="test")["n"] == 6


def test_more_neighbours_than_documents(folder: Path) -> None:
    assert check_ranking(Teacher("far", "far"), folder, miner=Miner(), neighbours=99)["neighbours"] == 12


@pytest.mark.parametrize("numbers", [{"sample": 0}, {"neighbours": 0}])
def test_a_check_of_nothing_is_refused(folder: Path, numbers: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        check_ranking(Teacher(None, None), folder, miner=Miner(), **numbers)
