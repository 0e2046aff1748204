"""A run directory in, one harmless, self-contained page out."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from gecko.errors import GeckoError
from gecko.report import gather, svg
from gecko.report.report import write_report
from gecko.report.verdict import combined, verdict

HOSTILE = "<script>alert(1)</script> {{ 7 * 7 }}"


class Tags(HTMLParser):
    """Collects every element and checks that they nest."""

    VOID = frozenset({"meta", "link", "br", "input", "rect", "line", "circle"})

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert not tags.open
    return tags


def result(delta, low, high, dataset="set", dim=384, n=100):
    row = {"dataset": dataset, "metric": "ndcg_at_10", "dim": dim, "base": 0.5, "tuned": 0.5 + delta, "n": n}
    return row | {"delta": delta, "ci95": [low, high]}


def test_full_report_is_self_contained_and_escapes(run_directory, tmp_path):
    out = write_report(run_directory, tmp_path / "deep" / "report.html")
    page = out.read_text()
    tags = parsed(page)
    assert tags.seen.count("script") == 1, "the hostile query, task, title and reason stay text"
    assert page.count("&lt;script&gt;alert") >= 4 and "{{ 7 * 7 }}" in page
    links = [value for name, value in tags.attributes if name in {"src", "href", "action"}]
    assert links == ["data:,"] and "http" not in page and "@import" not in page and "url(" not in page
    assert out.stat().st_size < 3_000_000
    assert "Better than the base" in page and "Not shown" not in page
    assert page.count("<details") == gather.EXAMPLES + 1 + 60  # examples, the recipe, the queries
    for words in (
        "recorded:stdlib",
        "reply is not JSON",
        "0.42 US dollars",
        "95 % interval",
        "query number 7",
        "passage text 3",
        "1,200",
    ):
        assert words in page
    assert "secret raw" not in page  # raw replies stay in the quarantine
    assert "nan" not in re.findall(r'(?:x|y|width|height)\d?="([^"]*)"', page)


def test_cross_lingual_rows_are_told_where_there_are_any(run_directory, tmp_path):
    said = "rows are cross-lingual: their query and positive are in different languages"
    stage = run_directory / "fret" / "_stage.json"
    for facts, shown in ({}, False), ({"cross_lingual": 0}, False), ({"cross_lingual": 1234}, True):
        stage.write_text(json.dumps(facts))
        page = write_report(run_directory, tmp_path / "report.html").read_text()
        assert (f"1,234 {said}" in page) == (said in page) == shown
    stage.unlink()
    assert said not in write_report(run_directory, tmp_path / "report.html").read_text()


def test_usage_lines_are_python(run_directory, tmp_path):
    page = write_report(run_directory, tmp_path / "r.html").read_text()
    code = re.search(r"<pre>(from sentence.*?)</pre>", page, re.S).group(1)
    compile(code, "usage", "exec")
    assert len(code.splitlines()) == 4 and '"runs/stdlib/model"' in code


@pytest.mark.parametrize(
    "part",
    ["recipe.yaml", "passages", "fret", "train", "gate", "evaluation.json", "summary.json", "fret/quarantine.parquet"],
)
def test_any_part_may_be_missing(run_directory, tmp_path, part):
    path = run_directory / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = write_report(run_directory, tmp_path / "r.html").read_text()
    parsed(page)
    assert ("not in this run" in page) == (part != "fret/quarantine.parquet")


def test_what_was_made_under_another_recipe_is_not_shown(run_directory, tmp_path):
    stages = ("passages", "fret", "train", "gate", "evaluation")
    for stage in stages:
        (run_directory / stage).mkdir(exist_ok=True)
        (run_directory / stage / "_stage.json").write_text(json.dumps({"fingerprint": "old"}))
    (run_directory / "marks.json").write_text(json.dumps(dict.fromkeys(stages, "old")))
    assert "under this recipe" not in write_report(run_directory, tmp_path / "r.html").read_text()
    (run_directory / "marks.json").write_text(json.dumps({**dict.fromkeys(stages, "old"), "evaluation": "new"}))
    (run_directory / "train" / "_stage.json").unlink()
    page = write_report(run_directory, tmp_path / "r.html").read_text()
    parsed(page)
    assert page.count("not made yet under this recipe") == 2


def test_empty_run_and_broken_parts(run_directory, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(GeckoError, match="nothing of a run"):
        write_report(tmp_path / "empty", tmp_path / "empty")
    (tmp_path / "empty" / "gate").mkdir()
    page = write_report(tmp_path / "empty", tmp_path / "empty").read_text()
    assert (tmp_path / "empty" / "report.html").exists()
    assert "Not measured" in page and page.count("not in this run") == 9
    (run_directory / "evaluation.json").write_text("{")
    (run_directory / "gate" / "gate.json").write_text('{"scores": [{"alpha": "x"}, {"alpha": 1}]}')
    (run_directory / "fret" / "part-00000.parquet").write_bytes(b"PAR1")
    page = write_report(run_directory, tmp_path / "r.html").read_text()
    parsed(page)
    assert page.count("cannot be read") == 3
    with pytest.raises(GeckoError, match="no such run"):
        write_report(tmp_path / "nowhere", tmp_path / "r.html")


def test_counts_agree_with_the_rows(run_directory):
    facts = gather.read_fret(run_directory / "fret")
    assert facts.rows == 600 and facts.relabelled == 120 and facts.without_negative == 67
    assert facts.questions == 400  # two of three
    assert len(facts.sample) == 600 and facts.ranks["seed"].sum() == 600
    ranks = [
        next(c["miner_rank"] for c in row["candidates"] if c["passage_id"] == row["positive_id"])
        for row in facts.sample
    ]
    assert facts.ranks["positive"].tolist() == np.bincount(ranks, minlength=22)[1:22].tolist()
    examples = gather.pick_examples(facts.sample)
    assert len(examples) == 12 and sum(row["relabelled"] for row in examples) == 8
    passages = gather.read_passages(run_directory / "passages", examples, facts.sample)
    assert passages.rows == 900 and passages.languages == {"en": 818, "de": 82}
    assert set(passages.shown) == {c["passage_id"] for row in examples for c in row["candidates"]}
    assert len(passages.overlap) == 600 and all(0 <= share <= 1 for share in passages.overlap.values())


def test_sample_is_bounded_and_independent_of_order(run_directory, monkeypatch):
    monkeypatch.setattr(gather, "SAMPLE_ROWS", 50)
    monkeypatch.setattr(gather, "BATCH_ROWS", 64)
    facts = gather.read_fret(run_directory / "fret")
    sample = facts.sample
    monkeypatch.setattr(gather, "BATCH_ROWS", 1000)
    whole = gather.read_fret(run_directory / "fret")
    again = whole.sample
    assert all((facts.ranks[who] == whole.ranks[who]).all() for who in whole.ranks)
    assert facts.tasks == whole.tasks
    assert len(sample) == 50 and {r["row_id"] for r in sample} == {r["row_id"] for r in again}


@pytest.mark.parametrize(
    ("row", "word", "gain"),
    [
        (result(0.05, 0.02, 0.08), "Better than the base", "+5.0 points"),
        (result(0.01, -0.02, 0.04), "No clear difference", None),
        (result(-0.05, -0.08, -0.02), "Worse than the base", "-5.0 points"),
    ],
)
def test_verdict_claims_only_what_the_interval_shows(row, word, gain):
    small = result(0.2, 0.1, 0.3, dim=64)  # the largest dimension decides
    found = verdict({"results": [small, row]}, {"chosen": "tuned"})
    assert found["word"] == word and found.get("gain") == gain and "100 queries, 384 dimensions" in found["line"]


@pytest.mark.parametrize(
    ("chosen", "row", "heading"),
    [
        ("tuned", result(0.05, 0.02, 0.08), '<h1 class="better">Better than the base: +5.0 points</h1>'),
        ("tuned", result(0.01, -0.02, 0.04), '<h1 class="same">No clear difference</h1>'),
        ("tuned", result(-0.05, -0.08, -0.02), '<h1 class="worse">Worse than the base: -5.0 points</h1>'),
        ("base", result(0, 0, 0), '<h1 class="same">The gate kept the base</h1>'),
    ],
)
def test_page_says_first_what_came_of_the_run(run_directory, tmp_path, chosen, row, heading):
    report = {"model": "m", "base": "b", "results": [row], "mean": {}, "queries": {}}
    (run_directory / "evaluation.json").write_text(json.dumps(report))
    gate = json.loads((run_directory / "gate" / "gate.json").read_text())
    (run_directory / "gate" / "gate.json").write_text(json.dumps(gate | {"chosen": chosen}))
    assert heading in write_report(run_directory, tmp_path / "r.html").read_text()


def test_verdict_of_gate_of_several_sets_and_of_nothing():
    kept = verdict({"results": [result(0, 0, 0)]}, {"chosen": "base", "reason": "dev fell."})
    assert kept["word"] == "The gate kept the base" and "dev fell. Its nDCG@10 is 50.0" in kept["line"]
    rows = [result(0.30, 0.26, 0.34, "a"), result(-0.1, -0.13, -0.07, "b")]
    assert combined(rows) == pytest.approx((0.1, 0.075, 0.125))
    assert "Worse on b." in verdict({"results": rows}, None)["line"]
    alone = {key: value for key, value in result(0.1, 0, 0).items() if key not in {"delta", "ci95"}}
    assert verdict({"results": [alone | {"base": None, "delta": None, "ci95": None}]}, None)["word"] == "Measured alone"
    assert verdict(None, {"chosen": "tuned", "reason": "dev rose"})["kind"] == "unknown"
    assert verdict(None, None)["word"] == "Not measured"


def test_general_tasks_are_listed_with_what_was_lost(run_directory, tmp_path):
    report = json.loads((run_directory / "evaluation.json").read_text())
    base = {"task_type": "pair_classification", "dataset": HOSTILE, "metric": "max_ap", "dim": 384, "n": 1725}
    rows = [
        base | {"base": 0.9, "tuned": 0.8, "delta": -0.1, "ci95": [-0.12, -0.08]},
        base | {"metric": "cosine_ap", "base": 0.111, "tuned": 0.111, "delta": 0.0, "ci95": [0, 0]},
        base | {"task_type": "sts", "metric": "cosine_spearman", "base": 0.5, "tuned": 0.6, "delta": 0.1, "ci95": None},
    ]
    means = {"sts@384": {}, "types@384": {"base": 0.7, "tuned": 0.7, "delta": 0.0}}
    fact = {"dataset": "x", "split": "dev", "items": 5, "of": 9, "left_out": 2}
    skipped = [{"place": "y", "reason": HOSTILE}]
    tasks = {"base": "b", "results": rows, "mean": means, "sets": [fact], "skipped": skipped}
    for results in (report["results"], []):
        (run_directory / "evaluation.json").write_text(json.dumps(report | {"results": results, "tasks": tasks}))
        page = write_report(run_directory, tmp_path / "r.html").read_text()
        assert parsed(page).seen.count("script") == 1
        assert ("Before and after" in page) == bool(results)
        assert "Not shown" not in page
        table = page.partition('id="general"')[2].partition("</table>")[0]
        assert table.count("<tr>") == 1 + 2 + 1  # the main metrics and the mean of the types
        assert '<td class="num loss">-10.0</td><td class="num">-12.0 to -8.0</td>' in table
        assert '<td class="num ">+10.0</td>' in table  # without an interval nothing is claimed
        assert "1 of 2 figures fell" in page and "a sample of 5 of 9" in page and "skipped y" in page
    tasks["results"] = [*rows, rows[0] | {"dim": 128, "tuned": 0.7, "delta": -0.2}]
    tasks["mean"] = means | {"types@128": {"base": 0.6, "tuned": 0.5, "delta": -0.1}}
    (run_directory / "evaluation.json").write_text(json.dumps(report | {"tasks": tasks}))
    page = write_report(run_directory, tmp_path / "r.html").read_text()
    wide, narrow = (
        page.partition(f'id="{name}"')[2].partition("</table>")[0] for name in ("general", "general-narrow")
    )
    assert wide.count("<tr>") == 1 + 2 + 1 and narrow.count("<tr>") == 1 + 1 + 1 and "-20.0" in narrow
    tasks["results"] = rows[1:]
    (run_directory / "evaluation.json").write_text(json.dumps(report | {"tasks": tasks}))
    assert "No figure fell" in write_report(run_directory, tmp_path / "r.html").read_text()
    (run_directory / "evaluation.json").write_text(json.dumps(report | {"tasks": {"results": 5}}))
    assert "general tasks: cannot be read" in write_report(run_directory, tmp_path / "r.html").read_text()


def test_sets_without_a_trace_in_the_rows_are_told_in_a_line(run_directory, tmp_path):
    none = {"rows": 0, "texts": 0, "kinds": {}}
    clean = {"set": "clean", "questions": 5, "documents": 3, "leaks": none, "overlaps": {"rows": 0}}
    sets = [clean, clean | {"set": "shared", "overlaps": {"rows": 4}}]
    found = {"rows": 10, "leaked": 0, "dropped": 0, "action": "warn", "sets": sets}
    (run_directory / "audit").mkdir()
    for several, shown in ((sets, 1), ([clean], 0)):
        value = found | {"sets": several, "examples": [], "skipped": [], "common_ngrams": 0}
        (run_directory / "audit" / "audit.json").write_text(json.dumps(value))
        page = write_report(run_directory, tmp_path / "r.html").read_text()
        assert "Nothing of clean (5 questions) is in the training rows." in page and "Not shown" not in page
        assert page.count('id="leakage"') == shown and page.count("<td>shared</td>") == shown


def test_report_without_base(run_directory, tmp_path):
    report = json.loads((run_directory / "evaluation.json").read_text()) | {"base": None, "queries": {}}
    every = json.loads((run_directory / "evaluation" / "queries.json").read_text())
    for query in every["stdlib-questions"]:
        query |= {"base": None, "first": {"tuned": []}, "first_rank": {"base": None, "tuned": 2}}
    (run_directory / "evaluation" / "queries.json").write_text(json.dumps(every))
    for row in report["results"]:
        row |= dict.fromkeys(("base", "delta", "ci95", "hybrid_base", "wins", "losses", "ties"))
    (run_directory / "evaluation.json").write_text(json.dumps(report))
    page = write_report(run_directory, tmp_path / "r.html").read_text()
    parsed(page)
    assert "Measured alone" in page and "Not shown" not in page


def test_pictures_thin_long_curves_and_escape():
    line = svg.Line("loss", "accent", [(i, 1 / (i + 1)) for i in range(50_000)])
    picture = svg.curves([line], "<b>", x_name="step & more")
    assert picture.count("curve accent") == svg.LINE_POINTS - 1
    assert "&lt;b&gt;" in picture and "step &amp; more" in picture
    assert svg.curves([svg.Line("x", "accent", [])], "none", x_name="step") == ""
    assert svg.histogram([], [], "none").startswith("<svg")
