"""Folders of every type of task in, the report's binding shape out; and what it must not do twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gecko.errors import GeckoError, UsageError
from gecko.evaluate.once import EncodedOnce
from gecko.evaluate.table import render_evaluation, render_tasks
from gecko.evaluate.tasks import MAIN, TaskOptions, evaluate_tasks, open_sets
from gecko.mixture.load import load_source
from gecko.mixture.options import SourceOptions
from gecko.mixture.tasks import TASKS, task_word

CONTRACT = {"task_type", "dataset", "metric", "dim", "base", "tuned", "delta", "ci95", "n"}
METRICS = {
    "retrieval": ["ndcg_at_10", "recall_at_100", "mrr"],
    "reranking": ["map", "ndcg_at_10", "mrr"],
    "sts": ["cosine_spearman"],
    "classification": ["accuracy"],
    "pair_classification": ["max_ap", "cosine_ap"],
    "clustering": ["v_measure"],
    "bitext": ["f1", "f1_reverse"],
    "summarization": ["cosine_spearman"],
}


@pytest.fixture(scope="module")
def report(tmp_path_factory, write_sets, topic_model) -> dict:
    """Base and tuned model on a set of each type, at two sizes; the base takes three of eight topics for others."""
    data = write_sets(tmp_path_factory.mktemp("tasks") / "data")
    model, base = topic_model("tuned"), topic_model("base", blind=("river", "python", "comet"))
    return json.loads(json.dumps(evaluate_tasks(model, base, open_sets([data]), dims=[8, 16]), allow_nan=False))


def test_every_type_has_its_rows(report) -> None:
    assert (report["model"], report["base"]) == ("tuned", "base")
    assert [(r["task_type"], r["dim"], r["metric"]) for r in report["results"]] == [
        (kind, dim, metric)
        for kind in (fact["task_type"] for fact in report["sets"])
        for dim in (16, 8)
        for metric in METRICS[kind]
    ]
    assert {fact["task_type"] for fact in report["sets"]} == set(METRICS) == set(MAIN)
    for row in report["results"]:
        assert set(row) >= CONTRACT
        assert -1 <= row["base"] <= 1 and -1 <= row["tuned"] <= 1
        assert row["delta"] == pytest.approx(row["tuned"] - row["base"])
        assert row["ci95"][0] - 1e-9 <= row["delta"] <= row["ci95"][1] + 1e-9
    bitext = next(row for row in report["results"] if row["task_type"] == "bitext")
    assert list(bitext["subsets"]) == ["deu-eng", "nld-eng"]
    for side in ("base", "tuned"):
        assert np.mean([part[side] for part in bitext["subsets"].values()]) == pytest.approx(bitext[side])
    counts = {row["task_type"]: row["n"] for row in report["results"]}
    assert counts == {
        "retrieval": 8,
        "reranking": 8,
        "sts": 16,
        "classification": 24,
        "pair_classification": 16,
        "clustering": 24,
        "bitext": 12,
        "summarization": 8,
    }


def test_means_are_of_the_types_main_metrics_and_of_the_types(report) -> None:
    main = [r for r in report["results"] if r["metric"] == MAIN[r["task_type"]]]
    assert set(report["mean"]) == {f"{kind}@{dim}" for kind in (*METRICS, "types") for dim in (16, 8)}
    for row in main:  # one set a type
        assert report["mean"][f"{row['task_type']}@{row['dim']}"] == {
            column: pytest.approx(row[column]) for column in ("base", "tuned", "delta")
        }
    for dim in (16, 8):
        expected = np.mean([r["tuned"] for r in main if r["dim"] == dim])
        assert report["mean"][f"types@{dim}"]["tuned"] == pytest.approx(expected)


def test_what_was_scored_and_passed_over_is_told(report) -> None:
    facts = {fact["dataset"]: fact for fact in report["sets"]}
    assert facts["intents"] == {
        "task_type": "classification",
        "dataset": "intents",
        "split": "test",
        "task": "classification",
        "items": 24,
        "of": 24,
        "left_out": 0,
    }
    assert [item["place"] for item in report["skipped"]] == ["pictures", "unlabelled"]
    table = render_tasks(report)
    drawn = [line for line in table.splitlines() if line.startswith("|")]
    assert len({len(line) for line in drawn}) == 1  # the columns line up
    assert len(drawn) == 2 + 16 + 2  # two dimensions of eight types, and the mean of the types
    assert "skipped unlabelled: a corpus without queries.jsonl, qrels/test.tsv" in table
    assert render_evaluation({"results": [], "tasks": report}) == table
    assert render_evaluation({}) == ""


def test_means_over_several_sets_of_a_type(data: Path, rows_to, topic_model) -> None:
    rows = [
        {"sentence1": f"a {t}", "sentence2": "a tiger", "score": s} for t, s in (("tiger", 5), ("bread", 1), ("x", 2))
    ]
    rows_to(data / "more" / "test.jsonl", rows)
    report = evaluate_tasks(topic_model("m"), None, open_sets([data / "alike", data / "more", data / "groups"]))
    values = {row["dataset"]: row["tuned"] for row in report["results"]}
    sts = (values["alike"] + values["more"]) / 2
    assert report["mean"]["sts@16"]["tuned"] == pytest.approx(sts)
    assert report["mean"]["types@16"]["tuned"] == pytest.approx((sts + values["groups"]) / 2)  # types weigh alike
    assert report["mean"]["types@16"]["delta"] is None
    assert [row["base"] for row in report["results"]] == [None] * 3
    assert [row["ci95"] for row in report["results"]] == [None] * 3
    assert " mean " in render_tasks(report)


def test_each_text_is_encoded_once_for_all_dimensions_and_tasks_of_a_folder(data: Path, topic_model) -> None:
    model = topic_model("m")
    evaluate_tasks(model, None, open_sets([data / "search", data / "alike"]), dims=[16, 8, 4])
    assert model.asked == [
        ("query", "search result", 8),  # of retrieval and of reranking
        ("passage", "", 8),
        ("STS", "semantic similarity", 8),  # sixteen pairs of eight different texts
        ("STS", "semantic similarity", 8),
    ]


def test_vectors_are_remembered_by_how_they_were_asked_for(topic_model) -> None:
    model = topic_model("m")
    once = EncodedOnce(model)
    texts = ["copper", "river", "copper", "tiger"]
    expected = model._encode(texts)
    np.testing.assert_array_equal(once.encode_symmetric(texts[:3], "a"), expected[:3])
    np.testing.assert_array_equal(once.encode_symmetric(texts, "a"), expected)
    np.testing.assert_array_equal(once.encode_symmetric(texts[::-1], "a"), expected[::-1])
    once.encode_symmetric(texts, "b")
    once.encode_symmetric(texts, "a", "STS")
    once.encode_queries(texts, "a")
    assert model.asked == [("", "a", 2), ("", "a", 1), ("", "b", 3), ("STS", "a", 3), ("query", "a", 3)]
    assert once.encode_queries([], "z").shape == (0, 16)
    assert (once.path, once.dim) == ("m", 16)


def test_a_model_gone_wrong_is_an_error(data: Path, topic_model) -> None:
    model = topic_model("broken")
    model._encode = lambda texts: np.full((len(texts), 16), np.nan, np.float32)
    with pytest.raises(GeckoError, match="broken: some vectors are not numbers"):
        evaluate_tasks(model, None, open_sets([data / "alike"]))


def test_the_words_are_the_papers_and_can_be_set(data: Path, rows_to, topic_model) -> None:
    def words(**changes: str) -> dict[str, str]:
        model = topic_model("m")
        sets = open_sets([data / "alike", data / "intents", data / "search"], TaskOptions(words=changes))
        facts = evaluate_tasks(model, None, sets)["sets"]
        said = {fact["dataset"]: fact["task"] for fact in facts}
        assert {word for _, word, _ in model.asked if word} == set(said.values())
        return said

    paper = {"alike": "semantic similarity", "intents": "classification", "search": "search result"}
    assert words() == paper
    assert words(sts="x", search="y") == {**paper, "alike": "x", "search": "y"}
    assert words(sts="x", alike="z")["alike"] == "z"  # the set's own before its type's
    with pytest.raises(UsageError, match="'serach': no such set or type") as caught:
        words(serach="x")
    assert "search" in caught.value.hint
    with pytest.raises(UsageError, match="it is empty"):
        words(search=" ")


def test_the_mixture_trains_the_words_that_the_evaluation_uses() -> None:
    for kind in ("retrieval", "sts", "classification", "clustering", "pair_classification", "bitext"):
        assert SourceOptions(path="x", kind=kind).tasks[0] == task_word(kind) == TASKS[kind][0]
    assert set(MAIN) <= set(TASKS)
    # Paper, table 9.
    assert task_word("classification") == "classification"
    assert task_word("sts") == task_word("pair_classification") == "semantic similarity"
    assert task_word("clustering") == task_word("summarization") == "search result"
    assert task_word("retrieval", "data/SciFact") == "fact checking"
    assert task_word("reranking", "AskUbuntuDupQuestions") == task_word("retrieval", "fiqa") == "question answering"
    assert task_word("retrieval", "ArguAna") == "semantic similarity"
    assert task_word("classification", "nq") == "classification"  # a set's own word is of retrieval


def test_a_limit_takes_the_same_sample_and_says_so(data: Path, topic_model) -> None:
    places = [data / name for name in ("alike", "intents", "search", "groups", "words", "abstracts", "same")]
    options = TaskOptions(limit=5)
    first, again = (evaluate_tasks(topic_model("m"), None, open_sets(places, options)) for _ in range(2))
    assert first == again
    assert all(row["n"] == 5 for row in first["results"])
    assert {fact["items"] for fact in first["sets"]} == {5}
    assert {fact["dataset"]: fact["of"] for fact in first["sets"]}["words"] == 12
    assert "alike: a sample of 5 of 16" in render_tasks(first)
    whole = evaluate_tasks(topic_model("m"), None, open_sets(places, TaskOptions(limit=1000)))
    assert whole["results"] == evaluate_tasks(topic_model("m"), None, open_sets(places))["results"]


def test_a_sample_in_which_nothing_differs_is_refused(data: Path, rows_to) -> None:
    rows = [{"text": f"t{i}", "label": int(i == 0)} for i in range(50)]
    rows_to(data / "groups" / "test.jsonl", rows)
    rows_to(
        data / "same" / "test.jsonl", [{"sentence1": "a", "sentence2": r["text"], "label": r["label"]} for r in rows]
    )
    rows_to(
        data / "alike" / "test.jsonl", [{"sentence1": "a", "sentence2": r["text"], "score": r["label"]} for r in rows]
    )
    for name, what in (("groups", "label"), ("same", "label"), ("alike", "score")):
        with pytest.raises(GeckoError, match=f"the sample has one {what} only"):
            open_sets([data / name], TaskOptions(limit=3))


def test_other_splits_are_told(data: Path, topic_model) -> None:
    (data / "same" / "test.jsonl").rename(data / "same" / "dev.jsonl")
    report = evaluate_tasks(topic_model("m"), None, open_sets([data / "same"]))
    assert report["sets"][0]["split"] == "dev"
    assert "same: split dev" in render_tasks(report)


def test_the_number_of_training_texts_can_be_set(data: Path, topic_model) -> None:
    asked = {}
    for count in (1, 4):
        model = topic_model("m")
        evaluate_tasks(model, None, open_sets([data / "intents"], TaskOptions(samples_per_label=count)))
        asked[count] = model.asked[1][2]
    assert asked[1] < asked[4] <= 24  # only what a draw holds is encoded


def test_a_narrower_base_is_scored_at_its_full_width(data: Path, topic_model) -> None:
    sets = open_sets([data / "alike"])
    report = evaluate_tasks(topic_model("m", dim=20), topic_model("b", dim=16), sets, dims=[20, 16])
    wide, narrow = report["results"]
    assert wide["base"] == narrow["base"]
    with pytest.raises(UsageError, match="dimension 32"):
        evaluate_tasks(topic_model("m"), None, sets, dims=[32])


def test_a_broken_set_is_an_error_where_it_is_named_and_passed_over_in_a_folder(data: Path, rows_to) -> None:
    path = rows_to(data / "alike" / "test.jsonl", [{"sentence1": "a", "sentence2": "b", "score": "high"}])
    with pytest.raises(GeckoError, match="line 1: the score 'high' is not a number"):
        open_sets([data / "alike"])
    sets = open_sets([data])
    assert "alike" not in {item.name for item in sets.found}
    assert {item.place: item.reason for item in sets.skipped}["alike"].startswith(f"{path}, line 1")
    rows_to(data / "search" / "corpus.jsonl", [{"_id": "d1"}])
    with pytest.raises(GeckoError, match="line 1: no 'text'"):
        open_sets([data / "search"])
    left = {item.name: item.task_type for item in open_sets([data]).found}
    assert left["search"] == "reranking"  # which lies beside and is whole
    for name in ("intents", "same", "groups", "words", "abstracts", "search", "unlabelled", "pictures"):
        shutil.rmtree(data / name)
    with pytest.raises(GeckoError, match=r"no usable test set: alike: .*line 1"):
        open_sets([data])


@pytest.mark.parametrize(("kind", "name"), [("classification", "intents"), ("clustering", "groups")])
def test_the_unique_id_of_training_is_not_in_what_is_evaluated(data: Path, topic_model, kind: str, name: str) -> None:
    """The same files, read as the mixture's source and as a test set."""
    files = {path.stem: [json.loads(line)["text"] for line in path.open()] for path in (data / name).glob("*.jsonl")}
    read: list[str] = []
    model = topic_model("m")
    encode = model._encode
    model._encode = lambda texts: read.extend(texts) or encode(texts)
    report = evaluate_tasks(model, None, open_sets([data / name]))
    assert {row["task_type"] for row in report["results"]} == {kind}
    assert set(read) == {text for texts in files.values() for text in texts}
    options = SourceOptions(path=str(data / name), kind=kind, split="test")
    trained = {row.query for row in load_source(options, "plain", 0).rows}
    assert {text.rpartition(" ")[0] for text in trained} == set(files["test"])
    assert not trained & set(read)
