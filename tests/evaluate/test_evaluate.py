"""A BEIR folder in, the report's binding shape out."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from gecko.errors import GeckoError, UsageError
from gecko.evaluate.beir import load_beir
from gecko.evaluate.bm25 import Bm25
from gecko.evaluate.evaluate import evaluate_models
from gecko.evaluate.retrieval import ndcg_at_k
from gecko.evaluate.table import render_table

TOPICS = ["copper", "river", "violin", "python", "bread", "comet", "tiger", "harbour"]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def write_set(folder: Path, *, extra_qrels: str = "") -> Path:
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{i}", "title": t if i % 2 else "", "text": f"all about {t}"} for i, t in enumerate(TOPICS)]
    queries = [{"_id": f"q{i}", "text": f"what is {t}"} for i, t in enumerate(TOPICS)] + [
        {"_id": "lonely", "text": "?"}
    ]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judgements = "".join(f"q{i}\td{i}\t1\n" for i in range(len(TOPICS)))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judgements + extra_qrels)
    return folder


class FakeEmbedder:
    """Knows each topic by its own axis; takes documents on the topics in ``blind`` for their opposite."""

    def __init__(self, path: str, blind: tuple[str, ...] = (), dim: int = 16) -> None:
        self.path, self.blind, self.dim, self.calls = path, blind, dim, 0

    def _encode(self, texts, blind=()):
        self.calls += 1
        vectors = np.full((len(texts), self.dim), 0.01, np.float32)
        for row, text in enumerate(texts):
            for axis, topic in enumerate(TOPICS):
                if topic in text:
                    vectors[row, axis] = -1 if topic in blind else 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode_queries(self, queries, task=None):
        return self._encode(queries)

    def encode_passages(self, passages):
        return self._encode([f"{title} {text}" for title, text in passages], self.blind)


def test_loads_judged_queries_and_counts_unknown_ids_once(tmp_path, caplog):
    folder = write_set(tmp_path / "set", extra_qrels="nobody\td1\t1\nq1\tnothing\t1\nq2\tnowhere\t1\n")
    with caplog.at_level(logging.WARNING):
        data = load_beir(folder)
    assert list(data.queries) == list(data.qrels) == [f"q{i}" for i in range(8)]
    assert data.qrels["q1"] == {"d1": 1}
    assert len(caplog.records) == 1
    assert "1 judgements of unknown queries and 2 of unknown documents (compare its ids" in caplog.text


def test_other_split_reads_its_own_queries(tmp_path):
    folder = write_set(tmp_path / "set")
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nx\td0\t2\n")
    (folder / "queries_dev.jsonl").write_text('{"_id": "x", "text": "metal"}\n')
    assert load_beir(folder, "dev").queries == {"x": "metal"}
    with pytest.raises(GeckoError, match="no split 'train'") as error:
        load_beir(folder, "train")
    assert error.value.hint == "there is dev and test; --split dev"
    (folder / "queries_dev.jsonl").unlink()
    with pytest.raises(GeckoError, match="no judgement"):
        load_beir(folder, "dev")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("corpus.jsonl", '{"_id": "a", "text": "b"}\n{broken\n', r"corpus.jsonl, line 2: not JSON"),
        ("corpus.jsonl", '{"_id": "a"}\n', r"line 1: no 'text'"),
        ("queries.jsonl", '\n{"text": "b"}\n', r"queries.jsonl, line 2: no _id"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\thigh\n", r"test.tsv, line 2: the score 'high'"),
        ("qrels/test.tsv", "q1\td1\n", r"line 1: expected 3 columns"),
        ("qrels/test.tsv", "q1\td1\t0.5\n", r"line 1: the score '0.5' is not a whole number"),
        ("qrels/test.tsv", "q1\td1\tinf\n", r"line 1: the score 'inf'"),
        ("queries.jsonl", "[" * 100_000 + "\n", r"queries.jsonl, line 1: not JSON"),
        ("queries.jsonl", "9" * 5000 + "\n", r"queries.jsonl, line 1: not JSON"),
        ("qrels/test.tsv", None, r"test.tsv: no such file"),
        ("qrels/test.tsv", "q1\td1\t0\nq2\td2\t-1\n", r"test.tsv: says of no document that it is relevant"),
        (
            "queries.jsonl",
            '{"_id": "q2", "text": "b"}\n{"_id": "q1", "text": " \\n"}\n',
            r"line 2: the query 'q1' is empty",
        ),
    ],
)
def test_broken_files_name_the_line(tmp_path, file, text, message):
    folder = write_set(tmp_path / "set")
    (folder / file).unlink() if text is None else (folder / file).write_text(text)
    with pytest.raises(GeckoError, match=message) as error:
        load_beir(folder)
    assert error.value.hint


def test_report_has_the_binding_shape(tmp_path):
    folders = [write_set(tmp_path / "one" / "en"), write_set(tmp_path / "two" / "en")]
    base, tuned = FakeEmbedder("base", blind=("copper", "river", "violin")), FakeEmbedder("tuned", blind=("bread",))
    report = json.loads(json.dumps(evaluate_models(tuned, base, folders, dims=[8, 16])))
    assert tuned.calls == 4  # queries and documents once a dataset, whatever the dims
    keys = [(r["dataset"], r["metric"], r["dim"]) for r in report["results"]]
    assert len(keys) == len(set(keys)) == 2 * 3 * 2
    assert {k[0] for k in keys} == {"en", "two/en"} == set(report["queries"])
    for row in report["results"]:
        assert row["delta"] == pytest.approx(row["tuned"] - row["base"])
        assert row["ci95"][0] <= row["delta"] <= row["ci95"][1] and row["n"] == 8
        assert all(0 <= row[s] <= 1 for s in ("base", "tuned", "bm25", "hybrid_base", "hybrid_tuned"))
        assert row["wins"] + row["losses"] + row["ties"] == 8
    first = report["results"][0]
    assert first["metric"] == "ndcg_at_10" and first["dim"] == 16 and first["tuned"] > first["base"]
    assert first["bm25"] == 1.0
    mean = report["mean"]["ndcg_at_10@16"]
    assert mean["delta"] == pytest.approx(mean["tuned"] - mean["base"])
    won, lost = report["queries"]["en"]["won"], report["queries"]["en"]["lost"]
    assert {entry["query"].split()[-1] for entry in won} == {"copper", "river", "violin"}
    assert won[0]["base_top"] != won[0]["relevant"] == won[0]["tuned_top"]
    assert [entry["query"] for entry in lost] == ["what is bread"]
    table = render_table(report)
    assert len({len(line) for line in table.splitlines()[2:]}) == 1  # the columns line up
    assert "| mean" in table and "| two/en" in table


def test_every_query_is_kept_with_its_judged_documents_and_ranks(tmp_path):
    folder = write_set(tmp_path / "s", extra_qrels="q0\td1\t3\nq0\td2\t0\n")
    base, tuned = FakeEmbedder("base", blind=("copper",)), FakeEmbedder("tuned", blind=("bread",))
    kept = {}
    report = evaluate_models(tuned, base, [folder], dims=[8, 16], keep=kept.__setitem__)
    rows = json.loads(json.dumps(kept["s"]))
    assert [row["query_id"] for row in rows] == [f"q{i}" for i in range(8)]
    row = report["results"][0]
    for side in ("base", "tuned"):
        assert np.mean([query[side] for query in rows]) == pytest.approx(row[side])
    copper, bread = rows[0], rows[4]
    assert copper["judged_count"] == 2 and [one["grade"] for one in copper["judged"]] == [3, 1]  # grade 0 is no hit
    assert copper["judged"][1]["text"] == "all about copper"
    assert (copper["judged"][1]["base_rank"], copper["judged"][1]["tuned_rank"]) == (8, 1)
    assert copper["first_rank"] == {"base": copper["judged"][0]["base_rank"], "tuned": 1}
    assert (bread["judged"][0]["base_rank"], bread["judged"][0]["tuned_rank"]) == (1, 8)
    assert (
        bread["first"]["base"][0] == {"text": "all about bread", "judged": True} and len(bread["first"]["tuned"]) == 3
    )
    assert not bread["first"]["tuned"][0]["judged"]
    evaluate_models(tuned, None, [folder], keep=kept.__setitem__)
    assert kept["s"][0]["base"] is None and kept["s"][0]["first_rank"] == {"base": None, "tuned": 1}


def test_without_base_there_is_no_comparison(tmp_path):
    report = evaluate_models(FakeEmbedder("m"), None, [write_set(tmp_path / "s")])
    assert report["base"] is None
    row = report["results"][0]
    assert row["tuned"] == 1.0
    assert [row[key] for key in ("base", "delta", "ci95", "hybrid_base")] == [None] * 4
    assert report["mean"]["ndcg_at_10@16"]["delta"] is None
    assert "|    - |" in render_table(report)


def test_bad_requests_are_refused(tmp_path):
    folder = write_set(tmp_path / "s")
    with pytest.raises(UsageError, match="dimension 32"):
        evaluate_models(FakeEmbedder("m"), None, [folder], dims=[32])
    with pytest.raises(UsageError, match="nothing"):
        evaluate_models(FakeEmbedder("m"), None, [])


def test_bm25_without_words_matches_nothing():
    ids, scores = Bm25(["", ""], ["the", "of"]).search(["copper"], 5)
    assert ids.tolist() == [[-1, -1]] and scores.tolist() == [[0, 0]]
    ids, _ = Bm25(["", "x"], ["copper", "river vitamin d"]).search(["coppers", "zzz", "", "d"], 5)
    assert ids.tolist() == [[0, -1], [-1, -1], [-1, -1], [1, -1]]


@pytest.mark.skipif(not (SHARED / "scifact").exists(), reason="needs ../shared/data/scifact")
def test_bm25_gives_the_published_figure_on_scifact():
    data = load_beir(SHARED / "scifact")
    position = {doc: i for i, doc in enumerate(data.doc_ids)}
    judged = [{position[d]: g for d, g in grades.items()} for grades in data.qrels.values()]
    ranking, _ = Bm25(data.titles, data.texts).search(list(data.queries.values()), 10)
    assert ndcg_at_k(ranking, judged).mean() == pytest.approx(0.6804, abs=5e-4)


def test_half_characters_are_cleaned_and_whole_grades_read(tmp_path):
    folder = write_set(tmp_path / "set", extra_qrels="x\td1\t2.0\n")
    with (folder / "queries.jsonl").open("a") as queries:
        queries.write(json.dumps({"_id": "x", "text": "a \ud800river"}) + "\n")
    data = load_beir(folder)
    assert (data.queries["x"], data.qrels["x"]) == ("a river", {"d1": 2})


def test_bm25_says_nothing(capfd):
    logging.getLogger("bm25s").setLevel(logging.DEBUG)  # as importing it does
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    try:
        Bm25(["a"], ["copper"])
    finally:
        logging.getLogger().removeHandler(handler)
    assert capfd.readouterr().err == ""
