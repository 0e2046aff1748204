"""The audit in a run and alone: what it says, what a drop changes, and what it leaves as it was."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from gecko.auditing import audit_place
from gecko.cli import app
from gecko.context import RunContext
from gecko.errors import GeckoError, UsageError
from gecko.mixture.audit_options import AuditOptions
from gecko.recipe import load_recipe
from gecko.report.report import render
from gecko.run import run_recipe
from gecko.stages import stages_for

TOPICS = ["engine", "garden", "planet", "bridge", "violin", "harbour", "kitchen", "forest", "market", "castle"]
VERBS = ["repairs", "measures", "paints", "moves", "describes", "protects", "cleans", "builds"]
PAIRS = ["prefinetune.queries=true", "prefinetune.batch_size=16", "prefinetune.max_length=32"]
runner = CliRunner()


def write(path: Path, *rows: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_test_set(folder: Path, questions: list[str]) -> Path:
    write(folder / "corpus.jsonl", {"_id": "d1", "text": "x"}, {"_id": "d2", "text": "y"})
    write(folder / "queries.jsonl", *({"_id": f"q{i}", "text": text} for i, text in enumerate(questions)))
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td1\t1\n" for i in range(len(questions)))
    )
    return folder


@pytest.fixture
def settings(tmp_path: Path, tiny_model: str) -> list[str]:
    draw = random.Random(0)
    write(
        tmp_path / "corpus.jsonl",
        *(
            {
                "_id": f"d{i}",
                "title": f"{topic} part {i}",
                "text": f"The {topic} number {i} {draw.choice(VERBS)} the {other}. It carries {i} home.",
            }
            for i in range(60)
            for topic, other in [draw.sample(TOPICS, 2)]
        ),
    )
    return [
        f"corpus.sources=[{tmp_path / 'corpus.jsonl'}]",
        "corpus.near_duplicate=0",
        "teacher.spec=offline",
        "fret.limit=40",
        f"fret.miner={tiny_model}",
        "fret.neighbours=5",
        "fret.min_positive_rc=0",
        f"train.student={tiny_model}",
        "train.max_steps=2",
        "train.batch_size=8",
        "train.dims=[32]",
        "train.max_length=32",
        "train.bf16=false",
        "gate.probe=false",
        "gate.dev_share=0.2",
        "gate.alphas=[1.0]",
        f"evaluation.beir=[{write_test_set(tmp_path / 'faq', ['is there nothing like it'])}]",
        "evaluation.dims=[32]",
    ]


def run(settings: list[str], out: Path, *more: str) -> tuple[list[str], list[str]]:
    """The stages that were made, and the lines that were told."""
    lines: list[str] = []
    summary = run_recipe(load_recipe(None, [*settings, *more]), out, tell=lines.append)
    return [stage.name for stage in summary.stages if not stage.skipped], lines


def queries(folder: Path) -> list[str]:
    return pq.read_table(folder, columns=["query"])["query"].to_pylist()


def told(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("audit:")]


def test_a_run_says_what_leaks_and_drops_it_on_request(settings: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    stages, lines = run(settings, out)
    assert stages.index("audit") == stages.index("mixture") + 1 and told(lines) == []
    trained = queries(out / "mixture" / "part-00000.parquet")

    # The questions of a test set that comes later: one of them is trained on.
    write_test_set(tmp_path / "faq", [trained[0].upper() + "?!", "is there nothing like it"])
    leaking = sum(query == trained[0] for query in trained)
    stages, lines = run(settings, out)
    assert stages == ["audit", "evaluation"]
    assert told(lines)[0].startswith(
        f"audit: {leaking} of {len(trained)} rows ask what an evaluation set asks (faq: 1 of 2 questions)"
    )
    value = json.loads((out / "audit" / "audit.json").read_text())
    assert (value["leaked"], value["dropped"], value["action"]) == (leaking, 0, "warn")
    facts = json.loads((out / "audit" / "_stage.json").read_text())
    assert (facts["rows"], facts["leaked"], facts["dropped"]) == (len(trained), leaking, 0)
    assert queries(out / "mixture" / "part-00000.parquet") == trained
    [leak, *_] = map(json.loads, (out / "audit" / "leaks.jsonl").read_text().splitlines())
    assert (leak["row_text"], leak["evaluation_id"], leak["match"]) == (trained[0], "q0", "exact")

    stages, lines = run(settings, out, "audit.action=drop")
    assert stages == ["mixture", "audit", "train", "gate", "evaluation"] and told(lines) == []
    assert queries(out / "mixture" / "part-00000.parquet") == [query for query in trained if query != trained[0]]
    aside = pq.read_table(out / "mixture" / "quarantine.parquet").to_pylist()
    dropped = [item for item in aside if item["reason"] == "asks what an evaluation set asks: exact, faq"]
    assert len(dropped) == leaking and json.loads(dropped[0]["raw"])["repeats"]["evaluation_id"] == "q0"
    value = json.loads((out / "audit" / "audit.json").read_text())
    assert (value["rows"], value["leaked"], value["dropped"]) == (len(trained), leaking, leaking)

    page, card = (out / "report.html").read_text(), (out / "model" / "README.md").read_text()
    for text in (page, card):
        assert f"{leaking} were dropped before training." in text and "faq" in text
        assert "1 of 2 questions" in text and trained[0] in text.replace("\\", "")
    assert '<table class="every sortable" id="leakage">' in page


def test_pairs_of_pre_finetuning_are_training_rows_too(settings: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    run([*settings, *PAIRS], out)
    pairs = queries(out / "pairs" / "part-00000.parquet")
    write_test_set(tmp_path / "faq", [pairs[0]])
    stages, lines = run([*settings, *PAIRS], out)
    assert stages == ["audit", "evaluation"] and len(told(lines)) == 1
    run([*settings, *PAIRS], out, "audit.action=drop")
    assert pairs[0] in pairs and pairs[0] not in queries(out / "pairs" / "part-00000.parquet")
    aside = pq.read_table(out / "pairs" / "quarantine.parquet").to_pylist()
    assert {item["stage"] for item in aside if item["reason"].startswith("asks what")} == {"pairs"}
    value = json.loads((out / "audit" / "audit.json").read_text())
    assert value["leaked"] == value["dropped"] > 0


def test_off_and_warn_change_no_mark_of_another_stage_and_drop_those_after_the_rows(
    settings: list[str], tmp_path: Path
) -> None:
    def marks(*more: str) -> dict[str, str]:
        recipe = load_recipe(None, [*settings, *PAIRS, *more])
        with RunContext(recipe, tmp_path / "run", asks=False) as context:
            return {stage.name: stage.mark(context) for stage in stages_for(recipe)}

    off, warn, drop = (marks(f"audit.action={action}") for action in ("off", "warn", "drop"))
    assert "audit" not in off and {name: mark for name, mark in warn.items() if name != "audit"} == off
    same = {name for name, mark in off.items() if drop[name] == mark}
    assert same == {"passages", "queries", "miner", "fret"}
    for change in ("audit.near=0.5", "audit.ngram=9", "audit.common=3", "audit.cosine=0.9", "evaluation.split=dev"):
        assert marks("audit.action=drop", change)["mixture"] != drop["mixture"]
        assert marks(change)["audit"] != warn["audit"] and marks(change)["mixture"] == warn["mixture"]
    assert marks("audit.documents=false")["audit"] != warn["audit"]
    before = marks("audit.action=drop")
    write_test_set(tmp_path / "faq", ["another question"])
    assert marks("audit.action=drop")["mixture"] != before["mixture"] and marks()["mixture"] == off["mixture"]


def test_without_evaluation_sets_there_is_no_audit_and_a_drop_is_refused(settings: list[str]) -> None:
    recipe = load_recipe(None, [*settings, "evaluation.beir=[]"])
    assert "audit" not in {stage.name for stage in stages_for(recipe)}
    assert not load_recipe(None, [*settings, "audit.action=off"]).audits
    with pytest.raises(UsageError, match="no evaluation set is named"):
        load_recipe(None, [*settings, "evaluation.beir=[]", "audit.action=drop"])
    assert load_recipe(None, ["audit.action=drop", "audit.against=[data]"]).audits


def test_a_set_to_audit_against_that_is_not_there_is_told_before_the_run(settings: list[str], tmp_path: Path) -> None:
    with pytest.raises(GeckoError, match="gone: no such folder"):
        run(settings, tmp_path / "run", f"audit.against=[{tmp_path / 'gone'}]")
    assert not (tmp_path / "run" / "passages").exists()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    write(
        tmp_path / "rows" / "rows.jsonl",
        {"query": "How do I turn | the *keys*", "positive": "You turn them.", "row_id": "bad"},
        {"query": "fine", "positive": "title: none | text: The owl of the house by the river <b>."},
        {"query": "", "positive": "nothing"},
    )
    write_test_set(tmp_path / "faq", ["how do i turn the keys", "what else"])
    write(tmp_path / "faq" / "corpus.jsonl", {"_id": "d1", "text": "the owl of the house by the river b"})
    return tmp_path / "rows"


def test_rows_alone_are_audited(rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "leaks.jsonl"
    arguments = ["audit", str(rows), "--against", str(tmp_path / "faq"), "--out", str(out)]
    result = runner.invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert (value["rows"], value["leaked"], value["overlapping"], value["unreadable"]) == (2, 1, 1, 1)
    assert value["sets"] == [
        {
            "set": "faq",
            "questions": 2,
            "documents": 1,
            "leaks": {"rows": 1, "texts": 1, "kinds": {"exact": 1}},
            "overlaps": {"rows": 1, "texts": 1, "kinds": {"exact": 1}},
        }
    ]
    assert [json.loads(line)["row_id"] for line in out.read_text().splitlines()] == ["bad"]
    said = runner.invoke(app, arguments).output
    assert "1 of 2 rows ask what an evaluation set asks (faq: 1 of 2 questions)" in said
    assert "1 rows could not be read" in said and "How do I turn" in said
    result = runner.invoke(app, [*arguments, "--set", "audit.documents=false", "--json"])
    assert json.loads(result.stdout)["overlapping"] == 0


def test_what_cannot_be_audited_is_told_in_a_line(rows: Path, tmp_path: Path) -> None:
    for arguments, words, code in (
        ([str(rows)], "nothing to audit against", 2),
        ([str(rows), "--against", str(tmp_path / "gone")], "no such folder", 1),
        ([str(tmp_path / "gone"), "--against", str(tmp_path / "faq")], "no rows at", 1),
        ([str(rows), "--against", str(tmp_path / "faq"), "--cosine", "0.9"], "needs a model", 2),
        ([str(rows), "--against", str(tmp_path / "faq"), "--set", "audit.ngram=1"], "audit.ngram", 2),
    ):
        result = runner.invoke(app, ["audit", *arguments])
        assert result.exit_code == code and words in result.output and "hint:" in result.output


def test_a_run_alone_is_audited_against_its_own_sets_or_others(settings: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(settings, out, "audit.action=off")
    assert not (out / "audit").exists() and "Leakage" not in render(out)
    trained = queries(out / "mixture" / "part-00000.parquet")
    value = audit_place(out, [], AuditOptions(), tell=print)
    assert (value["rows"], value["leaked"]) == (len(trained), 0)
    other = write_test_set(tmp_path / "other", [trained[0]])
    value = audit_place(out, [other], AuditOptions(), tell=print)
    assert [one["set"] for one in value["sets"]] == ["other"] and value["leaked"] > 0
    value = audit_place(out, [other], AuditOptions(cosine=0.999, near=0), tell=print)
    assert value["settings"]["cosine"] == 0.999 and value["leaked"] > 0
