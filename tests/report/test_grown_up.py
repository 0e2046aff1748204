"""The head of the report, its queries and its map: figures in plain words, every query, the same texts twice."""

import json

import numpy as np
import pytest

from gecko.errors import GeckoError
from gecko.recipe import load_recipe
from gecko.report import embedding_map
from gecko.report.embedding_map import FILE, read_map, write_map
from gecko.report.glance import glance
from gecko.report.queries import queries_part, read_queries
from gecko.report.report import write_report

WINS = {"wins": 30, "losses": 10, "ties": 5}


def figure(dim, base, tuned, **more):
    return {"dataset": "s", "metric": "ndcg_at_10", "dim": dim, "base": base, "tuned": tuned, "n": 45} | WINS | more


def general(name, delta, low, high):
    row = {"task_type": "sts", "metric": "cosine_spearman", "dataset": name, "dim": 64, "n": 9}
    return row | {"base": 0.5, "tuned": 0.5 + delta, "delta": delta, "ci95": [low, high]}


def test_glance_says_in_words_what_the_figures_say():
    no_interval = general("d", -0.02, 0, 0) | {"ci95": None}
    tasks = {
        "results": [
            general("a", -0.05, -0.06, -0.04),
            general("b", 0.02, 0.01, 0.03),
            general("c", 0, -1, 1),
            no_interval,
        ],
        "mean": {"types@64": {"delta": -0.01}},
    }
    results = [figure(64, 0.5, 0.7), figure(32, 0.4, 0.55, wins=99), figure(16, 0.3, 0.45)]
    summary = {"stages": [{"name": "train", "seconds": 600.0}, {"name": "gate", "seconds": 60.0}], "usd": 1.5}
    calls = [
        {"calls": 40, "input_tokens": 90_000, "output_tokens": 10_000},
        {"calls": 2} | dict.fromkeys(("input_tokens", "output_tokens"), 0),
    ]
    leakage = {"rows": 1000, "sets": [1, 2], "leaked": 0, "dropped": 0}
    said = dict(glance({"results": results, "tasks": tasks}, summary, calls, leakage))
    assert said["Who gains"].startswith("Of 45 questions") and "30 now find" in said["Who gains"]
    assert "Of 4 general tasks" in said["Elsewhere"] and "1 rose and 1 fell by more than chance" in said["Elsewhere"]
    assert "1 show no clear difference. Fell: a -5.0. Changed, but without" in said["Elsewhere"]
    assert "tell chance apart: d -2.0. On average -1.0 points." in said["Elsewhere"]
    assert "Beside word search" not in said
    found = [row | {"bm25": 0.71, "hybrid_tuned": 0.8} for row in results]
    words = "Search by words (BM25) reaches 71.0, no less than the model's 70.0; both together reach 80.0."
    assert dict(glance({"results": found}, None, [], None))["Beside word search"] == words
    weak = [row | {"bm25": 0.4, "hybrid_tuned": None} for row in results]
    words = "Search by words (BM25) reaches 40.0, less than the model's 70.0."
    assert dict(glance({"results": weak}, None, [], None))["Beside word search"] == words
    assert said["Cost"].startswith("11 minutes of computing and 1.50 US dollars")
    assert "asked 42 times (100 thousand tokens)" in said["Cost"]
    assert "With 32 of 64 dimensions, 50 % of the storage" in said["Shorter vectors"]  # 16 fall below the base's 0.5
    assert "no less than the base's 50.0" in said["Shorter vectors"]
    assert said["Fair test"].endswith("none repeats one of their questions.")


def test_glance_says_what_was_not_measured_and_what_is_doubtful():
    assert glance(None, None, [], None) == [
        (
            "Elsewhere",
            "Not measured: the recipe names no general tasks, so it is not known whether anything was forgotten.",
        )
    ]
    leak = {"rows": 100, "sets": [1], "leaked": 4, "dropped": 0}
    assert dict(glance({"results": []}, None, [], leak))["Fair test"].startswith("Doubtful: ")
    left_out = dict(glance({"results": []}, None, [], leak | {"dropped": 4}))["Fair test"]
    assert "left out of training: 4." in left_out
    assert "Not checked" in dict(glance({"results": [figure(64, 0.5, 0.6)]}, None, [], None))["Fair test"]
    narrow = dict(glance({"results": [figure(64, 0.9, 0.95), figure(32, 0.4, 0.5)]}, None, [], None))
    assert "less than the base's 90.0" in narrow["Shorter vectors"]


def test_every_query_is_in_the_table_and_losses_stand_beside_wins(run_directory, tmp_path):
    rows, complete = read_queries(run_directory, {})
    part = queries_part(rows, complete)
    assert complete and part["counts"] == {"won": 20, "lost": 10, "alike": 30} and part["total"] == 60
    assert [row["delta"] for row in part["won"]] == sorted((row["delta"] for row in part["won"]), reverse=True)
    assert all(row["delta"] == pytest.approx(-0.2) for row in part["lost"])
    gains = [row["delta"] for row in part["rows"]]
    assert gains == sorted(gains) and len(gains) == 60
    page = write_report(run_directory, tmp_path / "r.html").read_text()
    table = page.partition('id="queries"')[2].partition("</table>")[0]
    assert table.count("<tr data-outcome") == 60 and table.count("<details>") == 60
    assert "grade 2, rank 7 → beyond 100" in table and "judged relevant" in table and "&gt;100" in table
    assert "20 of 60 queries gained, 10 lost, 30 kept" in page and "1 of 9" in table


def test_an_older_run_shows_the_queries_it_kept(run_directory, tmp_path):
    (run_directory / "evaluation" / "queries.json").unlink()
    page = write_report(run_directory, tmp_path / "r.html").read_text()
    table = page.partition('id="queries"')[2].partition("</table>")[0]
    assert table.count("<tr data-outcome") == 4 and "this run kept no others" in page
    assert "temporary folder that cleans itself" in table and "Not shown" not in page


def test_too_many_queries_are_cut_to_those_that_changed_most(run_directory, monkeypatch):
    monkeypatch.setattr("gecko.report.queries.SHOWN_QUERIES", 30)
    part = queries_part(*read_queries(run_directory, {}))
    assert len(part["rows"]) == 30 and part["total"] == 60
    assert {row["outcome"] for row in part["rows"]} == {"won", "lost"}


def test_page_stays_small_whatever_the_script_and_the_length(run_directory, tmp_path):
    path = run_directory / "evaluation" / "queries.json"
    (rows,) = json.loads(path.read_text()).values()
    long = [{"title": "題" * 80, "text": "文" * 240, "grade": 1, "base_rank": 1, "tuned_rank": 2}] * 8
    path.write_text(json.dumps({"s": [row | {"judged": long} for row in rows * 20]}))
    out = write_report(run_directory, tmp_path / "r.html")
    page = out.read_text()
    assert out.stat().st_size <= 5_000_000 and page.count("<tr data-outcome") > 200
    assert f"The {page.count('<tr data-outcome')} queries that changed most" in page


def test_queries_without_a_base_have_no_gain(run_directory):
    rows, _ = read_queries(run_directory, {})
    part = queries_part([row | {"base": None} for row in rows], True)
    assert not part["has_base"] and not part["won"] and not part["lost"] and part["gains"] is None
    assert queries_part([], True) is None


class FakeEmbedder:
    """Sees every passage apart from the others; as ``after`` queries are on their positives, before nowhere near."""

    positives: tuple[int, ...] = ()
    opened: tuple[str, ...] = ()

    def __init__(self, path):
        self.after = str(path).endswith("model")
        FakeEmbedder.opened += (str(path),)

    def encode_passages(self, passages):
        self.vectors = np.eye(len(passages), dtype=np.float32)
        return self.vectors

    def encode_queries(self, queries, task):
        assert len(queries) == len(task)
        return self.vectors[list(self.positives)] * (1 if self.after else -1)


@pytest.fixture
def sampled(run_directory, monkeypatch):
    (run_directory / "recipe.yaml").write_text("train:\n  student: student\nevaluation:\n  base: the-base\n")
    (run_directory / FILE).unlink()
    rows, passages = embedding_map._sample(run_directory, load_recipe(run_directory / "recipe.yaml"))
    number = {passage.passage_id: index for index, passage in enumerate(passages)}
    monkeypatch.setattr(FakeEmbedder, "positives", tuple(number[row.positive_id] for row in rows))
    monkeypatch.setattr(FakeEmbedder, "opened", ())
    monkeypatch.setattr(embedding_map, "Embedder", FakeEmbedder)
    return run_directory, rows, passages


def test_map_places_the_same_texts_as_both_models_see_them(sampled, tmp_path):
    run, rows, passages = sampled
    assert len(passages) == 240 and 20 < len(rows) <= 60  # about a tenth of 600 rows is held out
    among = {passage.passage_id for passage in passages}
    assert all({row.positive_id, row.negative_id} <= among | {""} for row in rows)
    assert write_map(run)
    assert FakeEmbedder.opened == ("the-base", str(run / "model"))
    value = read_map(run)
    assert value["nearest"]["after"] == 1 and value["nearest"]["before"] < 0.2
    points = value["points"]
    assert [point["query"] for point in points] == [False] * 240 + [True] * len(rows)
    assert all(0 <= place <= 1 for point in points for side in ("before", "after") for place in point[side])
    near = [
        np.hypot(*np.subtract(points[point["positive"]]["after"], point["after"])) for point in points if point["query"]
    ]
    assert np.median(near) < 0.05  # who is near in the space is near on the map
    assert max(len(point["text"]) for point in points) <= 160
    page = write_report(run, tmp_path / "r.html").read_text()
    assert page.count('<circle class="point') == 2 * len(points) and f"{len(rows)} held-out queries" in page


def test_map_is_drawn_once_for_a_model_and_never_shown_for_another(sampled, tmp_path):
    run, *_ = sampled
    write_map(run)
    stamp = (run / FILE).stat().st_mtime_ns
    assert write_map(run) and (run / FILE).stat().st_mtime_ns == stamp
    gate = json.loads((run / "gate" / "gate.json").read_text())
    (run / "gate" / "gate.json").write_text(json.dumps(gate | {"alpha": 0.5}))
    with pytest.raises(FileNotFoundError):
        read_map(run)
    assert "map.json: not in this run" in write_report(run, tmp_path / "r.html").read_text()
    (run / "gate" / "gate.json").write_text(json.dumps(gate | {"chosen": "base"}))
    assert not write_map(run) and read_map(run) is None  # the base beside itself says nothing
    page = write_report(run, tmp_path / "r.html").read_text()
    assert "Map, before and after" not in page and "Not shown" not in page


def test_no_map_of_what_is_no_finished_run(tmp_path, run_directory):
    (run_directory / "gate" / "gate.json").unlink()
    for folder in (tmp_path / "nothing", run_directory):
        with pytest.raises(GeckoError, match="not finished"):
            write_map(folder)
