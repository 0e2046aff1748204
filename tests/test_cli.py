import json
import resource
import shutil
import subprocess
import sys

import pytest
from pyarrow.parquet import read_table
from typer.testing import CliRunner

from gecko.cli import app

VERBS = [
    "demo",
    "run",
    "train",
    "plan",
    "corpus",
    "distill",
    "teacher check",
    "ledger stats",
    "ledger show",
    "ledger export",
    "evaluate",
    "audit",
    "compare",
    "judge",
    "export",
    "verify",
    "push",
    "index",
    "search",
    "report",
    "themes",
    "similar",
    "classify",
    "match",
]
runner = CliRunner()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_and_json(verb):
    result = runner.invoke(app, [*verb.split(), "--help"])
    assert result.exit_code == 0
    assert f"gecko {verb}" in result.output
    assert "--json" in result.output


def test_help_is_quick():
    subprocess.run([sys.executable, "-m", "gecko.cli", "--help"], check=True, capture_output=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "gecko.cli", "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of the processor, which a busy machine does not change.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, gecko.cli; print(sorted(set(sys.modules) & {'torch', 'transformers', 'lancedb'}))",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    assert loaded.stdout.strip() == "[]"


def test_corpus_verb_writes_passages(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("The first text speaks of apples.")
    (tmp_path / "docs" / "b.txt").write_text("The second text speaks of pears.")
    result = runner.invoke(app, ["corpus", str(tmp_path / "docs"), "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["passages"] == 2
    assert (tmp_path / "out" / "_stage.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["corpus", "/no/such/place", "--out", "{tmp}/o"], 1, "no file at"),
        (["run", "/no/recipe.yaml"], 2, "cannot read the recipe"),
        (["run", "{recipe}", "--set", "train.epoch=1", "--out", "{tmp}/r"], 2, "did you mean train.epochs"),
        (["run", "{recipe}", "--set", "nonsense", "--out", "{tmp}/r"], 2, "expected a.b=value"),
        (
            ["run", "{recipe}", "--set", "teacher.spec=gpt", "--corpus", "{recipe}", "--out", "{tmp}/r"],
            2,
            "unknown teacher",
        ),
        (["run", "{recipe}", "--engine", "spark", "--out", "{tmp}/r"], 2, "it is local or ray"),
        (["run", "{recipe}", "--ray-gpus", "1", "--out", "{tmp}/r"], 2, "are for --engine ray"),
        (["train", "{recipe}", "--stage", "warm-up"], 2, "it is prefinetune or finetune"),
        (["train", "--stage", "finetune"], 2, "nothing to train on"),
        (["train", "--stage", "finetune", "--rows", "{tmp}/no.jsonl", "--out", "{tmp}/o"], 1, "no rows at"),
        (["train", "--stage", "finetune", "--rows", "{recipe}", "--corpus", "{tmp}"], 2, "not read with --rows"),
        (["train", "{recipe}", "--stage", "prefinetune", "--out", "{tmp}/r"], 2, "names no pairs"),
        (["train", "{recipe}", "--stage", "finetune", "--out", "{tmp}/r"], 2, "no corpus was named"),
        (["evaluate", "{tmp}", "--beir", "{tmp}"], 1, "not a model"),
        (["search", "{tmp}", "words"], 1, "no index"),
        (["evaluate", "m", "--beir", "{tmp}", "--dims", "a,b"], 2, "--dims"),
        (["evaluate", "m"], 2, "give either --beir or --tasks"),
        (["evaluate", "m", "--beir", "{tmp}", "--tasks", "{tmp}"], 2, "give either --beir or --tasks"),
        (["evaluate", "m", "--beir", "{tmp}", "--limit", "5"], 2, "--limit is of --tasks"),
        (["evaluate", "m", "--tasks", "{tmp}/nowhere"], 1, "nowhere: no such folder"),
        (["evaluate", "m", "--tasks", "{tmp}/empty"], 1, "empty: no data file"),
        (["evaluate", "m", "--tasks", "{tmp}/empty", "--task-word", "x"], 2, "expected NAME=TEXT"),
        (["evaluate", "m", "--tasks", "{tmp}/empty", "--limit", "1"], 2, "--limit"),
        (["evaluate", "m", "--tasks", "{tmp}/empty", "--precision", "half"], 2, "--precision"),
        (["corpus", "{recipe}", "--out", "{tmp}/o", "--max-tokens", "0"], 2, "corpus.max_tokens"),
        (["corpus", "", "--out", "{tmp}/o"], 2, "empty"),
        (["corpus", "{recipe}", "--out", ""], 2, "the name is empty"),
        (["run", "{recipe}", "--out", " "], 2, "the name is empty"),
        (["search", "{tmp}", "words", "-k", "0"], 2, "-k"),
        (["search", "{tmp}", "words", "-k", "1001"], 2, "-k"),
        (["report", "{tmp}/empty"], 1, "nothing of a run"),
        (["corpus", "{tmp}", "--out", "{tmp}/o"], 2, "lies in the source"),
        (["corpus", "{tmp}", "--out", "{tmp}"], 2, "lies in the source"),
        (["corpus", "{recipe}", "--out", "{tmp}"], 2, "holds the source"),
        (["corpus", "{tmp}/*.yaml", "--out", "{tmp}"], 2, "holds the source"),
        (["run", "{recipe}", "--corpus", "{tmp}", "--out", "{tmp}/r"], 2, "lies in the source"),
    ],
)
def test_mistakes_give_one_line_a_hint_and_a_code(tmp_path, arguments, code, words):
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    (tmp_path / "empty").mkdir()
    filled = [a.replace("{tmp}", str(tmp_path)).replace("{recipe}", str(tmp_path / "recipe.yaml")) for a in arguments]
    result = runner.invoke(app, filled)
    assert result.exit_code in {code, 2} if not words else result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.output + result.stderr


def write_beir(folder, queries=("what is red", "an old road"), qrels="q0\td0\t1\nq1\td1\t1\n"):
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("".join(f'{{"_id": "d{i}", "text": "the {w}"}}\n' for i, w in enumerate("ab")))
    rows = [json.dumps({"_id": f"q{i}", "text": text}) for i, text in enumerate(queries)]
    (folder / "queries.jsonl").write_text("\n".join(rows))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels)


@pytest.mark.parametrize(
    ("broken", "more", "said", "hint"),
    [
        ({"queries": ("what is red", " ")}, [], "queries.jsonl, line 2: the query 'q1' is empty", "give it a text"),
        ({"queries": ("what is red", None)}, [], "queries.jsonl, line 2: the query 'q1' is empty", "out of the qrels"),
        (
            {"qrels": "q0\td7\t1\nq9\td1\t1\n"},
            [],
            "no judgement of split 'test' names a known query",
            "Compare the ids",
        ),
        ({"qrels": "q0\td0\t0\nq1\td1\t0\n"}, [], "says of no document that it is relevant", "a score above 0"),
        ({}, ["--split", "dev"], "no split 'dev'", "there is test; --split test"),
    ],
)
@pytest.mark.parametrize("verb", ["evaluate", "compare"])
def test_a_broken_test_set_is_told_in_a_line(tmp_path, tiny_model, verb, broken, more, said, hint):
    write_beir(tmp_path / "set", **broken)
    result = runner.invoke(app, [verb, tiny_model, "--beir", str(tmp_path / "set"), *more])
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert [line for line in lines if line.startswith("gecko: ")] == [lines[-2]]
    assert said in lines[-2]
    assert lines[-1].startswith("hint: ") and hint in lines[-1]


@pytest.mark.parametrize("verb", ["evaluate", "compare"])
def test_models_that_are_asked_differently_are_told(tmp_path, tiny_model, verb):
    from gecko.mixture.format import DOCUMENT_PROMPT

    write_beir(tmp_path / "set")
    for name, prompts in {
        "ours": {"query": "", "document": DOCUMENT_PROMPT},
        "e5": {"query": "query: "},
        "same": {},
    }.items():
        shutil.copytree(tiny_model, tmp_path / name)
        config = tmp_path / name / "config_sentence_transformers.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "prompts": prompts}))

    def said(first, second):
        places = [str(first), *(["--base"] if verb == "evaluate" else []), str(second)]
        result = runner.invoke(app, [verb, *places, "--beir", str(tmp_path / "set")])
        assert result.exit_code == 0
        return result.stderr

    mixed = said(tmp_path / "ours", tmp_path / "e5")
    assert "the models are asked differently: " in mixed
    assert "in gecko's format" in mixed
    assert "with its own prompts (query 'query: ')" in mixed
    assert "hint: each as its directory says" in mixed
    assert "without prompts" in said(tmp_path / "ours", tiny_model)
    assert "asked differently" not in said(tmp_path / "same", tiny_model)


def test_general_tasks_are_measured(tmp_path, tiny_model):
    rows = [
        {"sentence1": f"the {a} house", "sentence2": f"a {b} road", "score": score}
        for a, b, score in (("red", "red", 5), ("blue", "old", 1), ("new", "new", 4), ("big", "small", 2))
    ]
    for name in ("alike", "other"):
        (tmp_path / "sets" / name).mkdir(parents=True)
        (tmp_path / "sets" / name / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "sets" / "pictures").mkdir()
    command = ["evaluate", tiny_model, "--base", tiny_model, "--tasks", str(tmp_path / "sets"), "--dims", "32,16"]
    command += ["--precision", "float32", "--limit", "3", "--task-word", "sts=same meaning", "--json"]
    result = runner.invoke(app, command)
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert [(row["dataset"], row["dim"]) for row in report["results"]] == [
        (name, dim) for name in ("alike", "other") for dim in (32, 16)
    ]
    assert all(row["delta"] == 0 and row["ci95"] == [0, 0] and row["n"] == 3 for row in report["results"])
    assert {fact["task"] for fact in report["sets"]} == {"same meaning"}
    assert report["skipped"] == [{"place": "pictures", "reason": "no data file"}]
    shown = runner.invoke(app, command[:-1])
    assert shown.exit_code == 0
    assert shown.stdout == ""
    for words in ("General tasks", "| mean of types", "alike: a sample of 3 of 4", "skipped pictures: no data file"):
        assert words in shown.stderr


def test_the_precision_reaches_the_models(tmp_path, tiny_model, monkeypatch):
    from gecko.embedder.embedder import Embedder

    asked = []
    make = Embedder.__init__
    monkeypatch.setattr(
        Embedder, "__init__", lambda self, model, bf16=None: asked.append(bf16) or make(self, model, bf16=bf16)
    )
    (tmp_path / "test.jsonl").write_text('{"sentence1": "a", "sentence2": "b"}\n{"sentence1": "c", "sentence2": "d"}\n')
    for name in ("float32", "bfloat16", "auto"):
        command = ["evaluate", tiny_model, "--base", tiny_model, "--tasks", str(tmp_path), "--precision", name]
        assert runner.invoke(app, command).exit_code == 0
    assert asked == [False, False, True, True, None, None]


def test_two_runs_on_one_folder(tmp_path):
    from gecko.shards import locked

    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    with locked(tmp_path / "run"):
        result = runner.invoke(
            app, ["run", str(tmp_path / "recipe.yaml"), "--corpus", str(tmp_path), "--out", str(tmp_path / "run")]
        )
    # flock is per open file, so the same process is refused as another would be
    assert result.exit_code == 1
    assert "another process" in result.stderr


def test_a_fault_of_gecko_is_one_line_and_its_traceback_in_a_file(tmp_path, monkeypatch):
    def broken(*_arguments, **_options):
        raise TypeError("unsupported operand\nsecond line")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("gecko.report.report.write_report", broken)
    result = runner.invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 1
    first, second = result.stderr.splitlines()
    assert first == "gecko: unexpected TypeError: unsupported operand"
    (log,) = tmp_path.glob("gecko-*.log")
    assert str(log) in second
    assert "in broken" in log.read_text()


def test_passages_of_a_finished_corpus_survive_a_wrong_command(tmp_path):
    (tmp_path / "docs").mkdir()
    for name, text in (("a", "The first text speaks of apples."), ("b", "The second text speaks of pears.")):
        (tmp_path / "docs" / f"{name}.txt").write_text(text)
    out = tmp_path / "out"
    assert runner.invoke(app, ["corpus", str(tmp_path / "docs"), "--out", str(out)]).exit_code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"\x89PNG")
    for source in ("dosc", "pictures"):
        assert runner.invoke(app, ["corpus", str(tmp_path / source), "--out", str(out)]).exit_code == 1
        assert {name: (out / name).read_bytes() for name in before} == before
    assert "a.png" in str(read_table(out / "quarantine.parquet").to_pylist())


def test_the_report_replaces_no_file_of_another_kind(tmp_path):
    run, mine = tmp_path / "run", tmp_path / "mine.txt"
    run.mkdir()
    (run / "recipe.yaml").write_text("seed: 1\n")
    mine.write_text("my notes")
    result = runner.invoke(app, ["report", str(run), "--out", str(mine)])
    assert result.exit_code == 2
    assert "is not a report" in result.stderr
    assert mine.read_text() == "my notes"
    for _ in range(2):
        assert runner.invoke(app, ["report", str(run), "--out", str(tmp_path / "report.html")]).exit_code == 0
