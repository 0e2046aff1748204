"""Models side by side: figures of the evaluation, tests of their differences, one correction, the queries behind."""

import itertools

import numpy as np
import pytest

from gecko.errors import UsageError
from gecko.evaluate.evaluate import evaluate_models
from gecko.evaluate.side_by_side import CompareOptions, compare_models
from gecko.evaluate.side_by_side_table import render_comparison
from gecko.evaluate.significance import holm
from gecko.evaluate.tasks import MAIN, compare_tasks, evaluate_tasks, open_sets

TOPICS = ("copper", "river", "violin", "python", "bread", "comet", "tiger", "harbour")


@pytest.fixture
def folder(tmp_path, rows_to):
    """Two documents of each topic and of each pair of topics, and a query for each; only the first is relevant."""
    names = ["_".join(pair) for pair in itertools.combinations(TOPICS, 2)]
    root = tmp_path / "search"
    texts = {name: f"all about {name.replace('_', ' and ')}" for name in names}
    rows_to(root / "corpus.jsonl", [{"_id": name, "title": "", "text": text} for name, text in texts.items()])
    rows_to(root / "queries.jsonl", [{"_id": f"q-{n}", "text": f"what of {n.replace('_', ' ')}"} for n in names])
    (root / "qrels").mkdir()
    (root / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"q-{n}\t{n}\t1\n" for n in names))
    return root


def test_figures_are_the_evaluations_own(folder, topic_model):
    good, bad = topic_model("good"), topic_model("bad", blind=("comet", "bread"))
    report = compare_models({"bad": bad, "good": good}, [folder], CompareOptions(dims=(16, 4)))
    expected = evaluate_models(good, bad, [folder], dims=(16, 4))
    rows = {(row["system"], row["dim"]): row for row in report["results"]}
    for old in expected["results"]:
        if old["metric"] != "ndcg_at_10":
            continue
        dim = old["dim"]
        sides = {"good": "tuned", "bad": "base", "bm25": "bm25", "bm25+good": "hybrid_tuned", "bm25+bad": "hybrid_base"}
        for system, side in sides.items():
            assert rows[system, dim]["value"] == old[side]
        for column in ("delta", "ci95", "wins", "losses", "ties", "n"):
            assert rows["good", dim][column] == pytest.approx(old[column])
        assert rows["bad", dim]["delta"] is None and rows["bad", dim]["p"] is None
    recall = {(row["metric"], row["dim"]): row["tuned"] for row in expected["results"]}
    assert rows["good", 16]["also"] == {name: recall[name, 16] for name in ("recall_at_100", "mrr")}
    assert report["queries"]["search"]["good"] == expected["queries"]["search"]


def test_each_model_encodes_each_text_once(folder, topic_model):
    models = {name: topic_model(name) for name in ("one", "two", "three")}
    compare_models(models, [folder], CompareOptions(dims=(16, 8, 4), vectors=("float", "int8", "binary")))
    assert [model.asked for model in models.values()] == [[("query", None, 28), ("passage", "", 28)]] * 3


def test_all_comparisons_are_corrected_together(folder, topic_model):
    options = CompareOptions(dims=(16, 8), vectors=("float", "binary"))
    models = {"good": topic_model("good"), "bad": topic_model("bad", blind=TOPICS[::2])}
    report = compare_models(models, [folder], options)
    tested = [row for row in report["results"] if row["system"] != "good"]
    assert report["comparisons"] == len(tested) == 4 * 4  # four other systems in four forms
    assert [row["p_holm"] for row in tested] == pytest.approx(holm([row["p"] for row in tested]).tolist())
    assert max(row["p_holm"] / row["p"] for row in tested) > 4
    for row in tested:
        sign = "better" if row["delta"] > 0 else "worse"
        assert row["verdict"] == (sign if row["p_holm"] < 0.05 else "same")
    assert "worse" in {row["verdict"] for row in tested}
    assert [mean["sets"] for mean in report["mean"]] == [1] * 20
    sizes = {(row["vectors"], row["dim"]): row["bytes"] for row in report["results"] if row["system"] == "good"}
    assert sizes == {("float", 16): 64, ("binary", 16): 2, ("float", 8): 32, ("binary", 8): 1}


def test_a_model_beside_itself_is_the_same(folder, topic_model):
    report = compare_models({"a": topic_model("a"), "b": topic_model("b")}, [folder], CompareOptions(hybrids=False))
    (row,) = [row for row in report["results"] if row["system"] == "b"]
    assert (row["delta"], row["ci95"], row["p"], row["p_holm"], row["verdict"]) == (0, [0, 0], 1, 1, "same")
    assert report["queries"]["search"]["b"] == {"won": [], "lost": []}


@pytest.mark.parametrize("against", ["bm25", "bm25+good"])
def test_any_system_can_be_the_reference(folder, topic_model, against):
    models = {"good": topic_model("good"), "bad": topic_model("bad", blind=("comet",))}
    report = compare_models(models, [folder], CompareOptions(against=against))
    values = {row["system"]: row["value"] for row in report["results"]}
    for row in report["results"]:
        assert row["delta"] == (
            None if row["system"] == against else pytest.approx(values[row["system"]] - values[against])
        )


def test_a_narrow_model_keeps_its_width(folder, topic_model):
    report = compare_models({"wide": topic_model("wide", dim=32), "narrow": topic_model("narrow", dim=16)}, [folder])
    assert {row["system"]: row["bytes"] for row in report["results"]} == {
        "bm25": None,
        "wide": 128,
        "narrow": 64,
        "bm25+wide": 128,
        "bm25+narrow": 64,
    }


def test_the_table_names_what_it_shows(folder, topic_model, tmp_path, rows_to):
    other = rows_to(tmp_path / "other/corpus.jsonl", [{"_id": "d", "title": "", "text": "all about zinc"}]).parent
    rows_to(other / "queries.jsonl", [{"_id": "q", "text": "zinc\x1b[31m"}, {"_id": "r", "text": "nothing of it"}])
    (other / "qrels").mkdir()
    (other / "qrels/test.tsv").write_text("q\td\t1\nr\td\t1\n")
    models = {"good": topic_model("good"), "bad": topic_model("bad", blind=("comet", "bread", "tiger"))}
    report = compare_models(models, [folder, other], CompareOptions())
    text = render_comparison(report, 2)
    for words in ("| search", "reference", "p (Holm)", "corrected for all 8 comparisons", "Mean of 2 sets"):
        assert words in text
    assert "search: bad lost most, beside good" in text
    assert "first before" in text and "judged best    all about" in text
    assert "(nothing)" in text  # BM25 finds none for the last query
    assert "\x1b" not in text
    assert "first before" not in render_comparison(report, 0)


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        ((), {}, "no model"),
        (("bm25",), {}, "no name for a model"),
        (("a",), {"against": "b"}, "--against b"),
        (("a",), {"against": "bm25+a", "hybrids": False}, "--against"),
        (("a",), {"vectors": ("int4",)}, "int4"),
        (("a",), {"dims": (64,)}, "dimension 64"),
    ],
)
def test_wrong_names_are_refused(folder, topic_model, names, options, words):
    with pytest.raises(UsageError, match=words):
        compare_models({name: topic_model(name) for name in names}, [folder], CompareOptions(**options))


def test_general_tasks_of_several_models_are_those_of_each(data, topic_model):
    sets = open_sets([data / name for name in ("alike", "same", "search")])
    base, blind = topic_model("base"), topic_model("blind", blind=TOPICS[::2])
    found = compare_tasks([blind, topic_model("same")], base, sets, [16, 8])
    assert found[0] == evaluate_tasks(topic_model("blind", blind=TOPICS[::2]), topic_model("base"), sets, dims=[16, 8])
    assert found[1]["model"] == "same" and all(row["delta"] == 0 for row in found[1]["results"])
    asked = [how for how, _, _ in base.asked]
    alone = topic_model("base")
    evaluate_tasks(blind, alone, sets, dims=[16, 8])
    assert asked == [how for how, _, _ in alone.asked]  # the base is encoded once, not once a model
    text = render_comparison(
        {"results": [], "tasks": dict(zip(("blind", "same"), found, strict=True)), "against_model": "base"}
    )
    header = next(line for line in text.splitlines() if line.startswith("| task type"))
    assert [cell.strip() for cell in header.split("|")[5:8]] == ["base", "blind", "same"]
    assert "same: worse on 0 of" in text
    (line,) = [line for line in text.splitlines() if line.startswith("blind: worse on")]
    main = [row for row in found[0]["results"] if row["metric"] == MAIN[row["task_type"]]]
    lost = [row for row in main if row["ci95"][1] < 0]
    assert line.startswith(f"blind: worse on {len(lost)} of") and lost


def test_the_randomisation_sees_whole_queries(folder, topic_model):
    """The p-value is that of the per-query differences, computed here from nothing but the report's own figures."""
    models = {"good": topic_model("good"), "bad": topic_model("bad", blind=("comet",))}
    report = compare_models(models, [folder], CompareOptions(hybrids=False))
    (row,) = [row for row in report["results"] if row["system"] == "bad"]
    lost = report["queries"]["search"]["bad"]["lost"]
    differences = np.array([entry["delta"] for entry in lost])
    assert len(lost) == row["losses"] <= 16 and row["wins"] == 0
    # All differences have one sign, so only that pattern and its mirror image are as extreme.
    assert row["p"] == pytest.approx(2 / 2 ** len(differences))
