import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from gecko.checks import beir_state
from gecko.context import RunContext
from gecko.demo import write_test_set
from gecko.errors import GeckoError, UsageError
from gecko.mixture.format import render_passage
from gecko.mixture.options import MixtureOptions
from gecko.recipe import load_recipe
from gecko.records import Passage
from gecko.run import RunSummary, run_recipe
from gecko.shards import read_rows, to_passage, to_unified
from gecko.stages import _dev_rows

TOPICS = ["engine", "garden", "planet", "bridge", "violin", "harbour", "kitchen", "forest", "market", "castle"]
VERBS = ["repairs", "measures", "paints", "moves", "describes", "protects", "cleans", "builds"]


def write_corpus(path: Path, count: int = 80) -> None:
    draw = random.Random(0)
    rows = []
    for i in range(count):
        topic, other = draw.sample(TOPICS, 2)
        verb = draw.choice(VERBS)
        rows.append(
            {
                "_id": f"d{i}",
                "title": f"{topic} part {i}",
                "text": f"The {topic} number {i} is a thing that {verb} the {other}. "
                f"Workers use it to carry the {other} {i} home.",
            }
        )
    path.write_text("\n".join(map(json.dumps, rows)))


def write_recipe(folder: Path, tiny_model: str) -> Path:
    write_corpus(folder / "corpus.jsonl")
    recipe = {
        "corpus": {"sources": [str(folder / "corpus.jsonl")], "near_duplicate": 0},
        "teacher": {"spec": "offline"},
        "fret": {"limit": 60, "miner": tiny_model, "neighbours": 5, "min_positive_rc": 0.0},
        "train": {
            "student": tiny_model,
            "epochs": 2,
            "batch_size": 8,
            "dims": [32, 16],
            "max_length": 32,
            "bf16": False,
        },
        "gate": {"probe": False, "dev_share": 0.2, "alphas": [0.5, 1.0]},
        "evaluation": {"base": tiny_model, "dims": [32, 16]},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


@pytest.fixture
def recipe_file(tmp_path, tiny_model):
    return write_recipe(tmp_path, tiny_model)


@dataclass(frozen=True)
class Whole:
    """A run from its start to its end, which no test changes."""

    recipe_file: Path
    out: Path
    summary: RunSummary
    lines: list[str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_model):
    recipe_file = write_recipe(tmp_path_factory.mktemp("whole"), tiny_model)
    lines: list[str] = []
    out = recipe_file.with_name("run")
    return Whole(recipe_file, out, run_recipe(load_recipe(recipe_file), out, tell=lines.append), lines)


def copied(run: Path, folder: Path) -> Path:
    """A copy of a run that a test may change; its inputs stay where they are."""
    return Path(shutil.copytree(run, folder / "run", copy_function=shutil.copy2))


def fret_rows(run: Path):
    return pq.read_table(run / "fret" / "part-00000.parquet").to_pylist()


def test_a_run_ends_with_a_model_a_report_and_rows_that_add_up(whole):
    run, summary, lines = whole.out, whole.summary, whole.lines
    assert [stage.name for stage in summary.stages] == [
        "passages",
        "miner",
        "queries",
        "fret",
        "mixture",
        "train",
        "gate",
        "evaluation",
    ]
    assert len(lines) == len(summary.stages) + 1
    verdict = json.loads((run / "gate" / "gate.json").read_text())
    assert lines[-1].startswith(
        "shipped    base, unchanged: " if verdict["chosen"] == "base" else "shipped    tuned model"
    )
    assert lines[-1].endswith(verdict["reason"])
    assert (run / "model" / "modules.json").exists()
    drawn = json.loads((run / "map.json").read_text())["points"]
    assert bool(drawn) == (verdict["chosen"] != "base")
    assert ("Map, before and after" in (run / "report.html").read_text()) == bool(drawn)
    assert json.loads((run / "evaluation" / "queries.json").read_text()) == {}  # its recipe names no test set
    queries = next(stage for stage in summary.stages if stage.name == "queries").rows
    quarantine = run / "fret" / "quarantine.parquet"
    aside = pq.read_table(quarantine).num_rows if quarantine.exists() else 0
    rows = fret_rows(run)
    assert len(rows) + aside == queries
    history = json.loads((run / "train" / "history.json").read_text())
    set_aside = run / "mixture" / "quarantine.parquet"
    aside = pq.read_table(set_aside).num_rows if set_aside.exists() else 0
    assert history["rows"] + aside + verdict["dev_queries"] == len(rows)  # trained on, set aside, or held out
    trained = set(pq.read_table(run / "mixture", columns=["positive"])["positive"].to_pylist())
    assert not trained & set(held_out_positives(run))
    for row in rows:
        ids = [candidate["passage_id"] for candidate in row["candidates"]]
        assert row["seed_id"] in ids
        assert row["positive_id"] in ids
        assert row["relabelled"] == (row["positive_id"] != row["seed_id"])
        assert row["negative_id"] != row["positive_id"]


def held_out_positives(run):
    """The passages that held-out queries ask for, as training would render them."""
    context = RunContext(recipe=load_recipe(run / "recipe.yaml"), out=run)
    passages = {row.passage_id: row for row in read_rows(run / "passages", to_passage)}
    asked = {i for row in _dev_rows(context) for i in (row.seed_id, row.positive_id)}
    assert asked
    return [render_passage(passages[i].title, passages[i].text) for i in asked]


def test_run_again_does_nothing_and_a_change_redoes_only_what_depends_on_it(whole, tmp_path):
    run = copied(whole.out, tmp_path)
    again = run_recipe(load_recipe(whole.recipe_file), run)
    assert all(stage.skipped for stage in again.stages)
    changed = run_recipe(load_recipe(whole.recipe_file, ["train.learning_rate=1e-4"]), run)
    assert [stage.name for stage in changed.stages if not stage.skipped] == ["train", "gate", "evaluation"]


def test_vectors_that_changed_on_the_disk_are_not_mined_from(whole, tmp_path):
    run = copied(whole.out, tmp_path)
    with (run / "miner" / "vectors.npy").open("r+b") as vectors:
        vectors.seek(-4, os.SEEK_END)
        vectors.write(b"\0\0\0\0")
    with pytest.raises(GeckoError, match=r"vectors\.npy is damaged: rows 0 to"):
        run_recipe(load_recipe(whole.recipe_file, ["fret.neighbours=4"]), run)


def test_only_what_asks_a_teacher_lets_it_read_the_corpus(whole, tmp_path, monkeypatch):
    def read(*_):
        pytest.fail("minutes, on a large corpus, for nothing")

    run = copied(whole.out, tmp_path)
    monkeypatch.setattr("gecko.teacher.offline.teacher.OfflineTeacher.prepare", read)
    changed = run_recipe(load_recipe(whole.recipe_file, ["mixture.fret_limit=20"]), run)
    assert [stage.name for stage in changed.stages if not stage.skipped][:2] == ["mixture", "train"]
    assert "gate" not in [stage.name for stage in changed.stages if stage.skipped]


def test_a_map_that_cannot_be_drawn_is_told_and_costs_the_run_nothing(whole, tmp_path, monkeypatch):
    def fail(run):
        raise RuntimeError("no\nluck")

    run, lines = copied(whole.out, tmp_path), []
    (run / "map.json").unlink()
    (run / "report.html").unlink()
    monkeypatch.setattr("gecko.report.embedding_map.write_map", fail)
    summary = run_recipe(load_recipe(whole.recipe_file), run, tell=lines.append)
    assert all(stage.skipped for stage in summary.stages)
    assert lines[-1] == "map        not drawn, the report has none: RuntimeError: no luck"
    page = (run / "report.html").read_text()
    assert "map.json: not in this run" in page and "Map, before and after" not in page


def finish(folder: Path, tiny_model: str):
    """A recipe whose student is a copy of its own and which is evaluated, after its run in the same folder."""
    recipe_file = write_recipe(folder, tiny_model)
    test = folder / "test"
    (test / "qrels").mkdir(parents=True)
    shutil.copy(folder / "corpus.jsonl", test / "corpus.jsonl")
    (test / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "engine number 3"}) + "\n")
    (test / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td3\t1\n")
    student = folder / "student"
    shutil.copytree(tiny_model, student)
    changes = [f"train.student={student}", f"evaluation.beir=[{test}]", "train.epochs=0.5"]
    recipe = load_recipe(recipe_file, changes)
    run_recipe(recipe, folder / "run")
    return recipe


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("finished")
    return finish(folder, tiny_model), folder / "run"


@pytest.fixture
def finished_run(finished, tmp_path):
    """A finished run's recipe, and a copy of it to be changed."""
    recipe, run = finished
    (row,) = json.loads((run / "evaluation" / "queries.json").read_text())["test"]
    assert row["query"] == "engine number 3" and row["judged"][0]["title"].endswith("part 3")
    return recipe, copied(run, tmp_path)


def redone(recipe, run):
    return [stage.name for stage in run_recipe(recipe, run).stages if not stage.skipped]


def touch_weights(model: Path) -> None:
    with (model / "model.safetensors").open("r+b") as weights:
        weights.seek(-4, os.SEEK_END)
        weights.write(b"\0\0\0\0")


@pytest.mark.parametrize(
    ("harm", "stages"),
    [
        (lambda run: shutil.rmtree(run / "model"), ["gate"]),
        (lambda run: os.truncate(run / "model" / "model.safetensors", 100), ["gate"]),
        (lambda run: (run / "evaluation.json").unlink(), ["evaluation"]),
        (lambda run: (run / "evaluation.json").write_text("[1]"), ["evaluation"]),
        (lambda run: shutil.rmtree(run / "train" / "model"), ["train"]),
    ],
    ids=["model", "cut model", "evaluation", "other evaluation", "trained model"],
)
def test_what_is_gone_or_changed_is_made_again(finished_run, harm, stages):
    recipe, run = finished_run
    harm(run)
    assert_made_again(recipe, run, stages)


def test_what_was_made_of_a_changed_input_is_made_again(tmp_path, tiny_model):
    recipe, run = finish(tmp_path, tiny_model), tmp_path / "run"
    touch_weights(tmp_path / "student")
    assert_made_again(recipe, run, ["train", "gate", "evaluation"])
    with (tmp_path / "test" / "queries.jsonl").open("a") as queries:
        queries.write("\n")
    assert_made_again(recipe, run, ["audit", "evaluation"])


def assert_made_again(recipe, run: Path, stages: list[str]) -> None:
    assert redone(recipe, run) == stages
    assert (run / "model" / "model.safetensors").stat().st_size > 1000
    assert json.loads((run / "evaluation.json").read_text())["results"]
    assert redone(recipe, run) == []


def test_general_tasks_are_part_of_a_run_s_evaluation(recipe_file, tmp_path):
    rows = [
        {"sentence1": f"the {t} is old", "sentence2": f"an old {u}", "score": int(t == u)}
        for t, u in pairwise(TOPICS * 2)
    ]
    rows += [{"sentence1": f"the {t}", "sentence2": f"one {t}", "score": 1} for t in TOPICS]
    (tmp_path / "general" / "alike").mkdir(parents=True)
    file = tmp_path / "general" / "alike" / "test.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "general" / "pictures").mkdir()
    changes = [f"evaluation.tasks=[{tmp_path / 'general'}]", "train.epochs=0.5"]
    recipe, run = load_recipe(recipe_file, changes), tmp_path / "run"
    summary = run_recipe(recipe, run)
    assert next(stage.rows for stage in summary.stages if stage.name == "evaluation") == len(rows)
    tasks = summary.evaluation["tasks"]
    assert [(row["dataset"], row["dim"], row["n"]) for row in tasks["results"]] == [("alike", d, 29) for d in (32, 16)]
    assert all(row["base"] is not None and row["ci95"] for row in tasks["results"])
    assert summary.evaluation["results"] == []
    page = (run / "report.html").read_text()
    assert "General tasks" in page and "Before and after" not in page and "skipped pictures" in page
    assert "| sts " in (run / "model" / "README.md").read_text()
    assert redone(recipe, run) == []
    file.write_text("\n".join(map(json.dumps, rows[:-1])))
    assert redone(recipe, run) == ["audit", "evaluation"]
    limited = load_recipe(recipe_file, [*changes, "evaluation.tasks_limit=5"])
    assert redone(limited, run) == ["evaluation"]
    assert json.loads((run / "evaluation.json").read_text())["tasks"]["results"][0]["n"] == 5
    file.write_text(json.dumps({**rows[0], "score": "high"}))
    with pytest.raises(GeckoError, match="no usable test set"):  # before anything is paid for
        run_recipe(recipe, tmp_path / "another")
    assert not (tmp_path / "another" / "passages").exists()


def test_an_evaluation_that_is_no_object_is_an_error(tmp_path):
    (tmp_path / "evaluation.json").write_text("[1]")
    with pytest.raises(GeckoError, match="is damaged"):
        RunContext(load_recipe(None), tmp_path).evaluation()


def test_a_run_whose_training_diverges_says_so_and_ends_well_with_a_lower_rate(recipe_file, tmp_path):
    with pytest.raises(GeckoError, match="diverged") as caught:
        run_recipe(load_recipe(recipe_file, ["train.learning_rate=1.0e+30"]), tmp_path / "run")
    assert "train.learning_rate" in caught.value.hint
    assert not (tmp_path / "run" / "model").exists()
    summary = run_recipe(load_recipe(recipe_file), tmp_path / "run")
    assert [stage.name for stage in summary.stages if not stage.skipped] == ["train", "gate", "evaluation"]


def test_a_run_with_every_switch_of_training_on(recipe_file, tmp_path, tiny_model):
    switches = [
        "listwise.weight=1",
        "margin_mse.weight=1",
        "spread.weight=0.1",
        "hardness.alpha=5",
        "positives.extra=2",
    ]
    settings = [f"guard.embedder={tiny_model}", f"distill.embedder={tiny_model}", "positives.min_rc=1", *switches]
    lines: list[str] = []
    recipe = load_recipe(recipe_file, [f"train.{setting}" for setting in settings])
    run_recipe(recipe, tmp_path / "run", tell=lines.append)
    rows = list(read_rows(tmp_path / "run" / "mixture", to_unified))
    assert max(len(row.candidates) for row in rows) == 6  # all that this recipe retrieves: five and the seed
    assert all(row.positive in {c.text for c in row.candidates} for row in rows)
    assert any("rows have scored texts" in line for line in lines)
    assert any("more than one positive" in line for line in lines)
    again = run_recipe(load_recipe(recipe_file, ["train.spread.weight=0.1"]), tmp_path / "run")
    assert [stage.name for stage in again.stages if not stage.skipped] == ["mixture", "train", "gate", "evaluation"]
    assert not any(row.candidates for row in read_rows(tmp_path / "run" / "mixture", to_unified))
    again = run_recipe(load_recipe(recipe_file, ["train.spread.weight=0.2"]), tmp_path / "run")
    assert [stage.name for stage in again.stages if not stage.skipped] == ["train", "gate", "evaluation"]


def test_human_labelled_sources_are_trained_on_and_accounted_for(recipe_file, tmp_path):
    labelled = [{"text": f"the {topic} number {i}", "label": topic} for topic in TOPICS[:4] for i in range(6)]
    (tmp_path / "topics.jsonl").write_text("\n".join(map(json.dumps, [*labelled, {"text": "", "label": "x"}])))
    source = {"path": str(tmp_path / "topics.jsonl"), "kind": "classification"}
    lines: list[str] = []
    recipe = load_recipe(
        recipe_file, [f"mixture.sources=[{json.dumps(source)}]", "train.epochs=1", "train.max_length=96"]
    )
    run_recipe(recipe, tmp_path / "run", tell=lines.append)
    (account,) = json.loads((tmp_path / "run" / "mixture" / "_stage.json").read_text())["sources"]
    assert (account["source"], account["rows"], account["read"], account["quarantined"]) == ("topics", 24, 25, 1)
    drawn = {
        s["source"]: s for s in json.loads((tmp_path / "run/train/history.json").read_text())["mixture"]["sources"]
    }
    assert set(drawn) == {"fret", "topics"}
    assert drawn["topics"]["draws"] == 24
    assert any(line.startswith("topics ") for line in lines)
    changed = run_recipe(recipe.model_copy(update={"mixture": MixtureOptions()}), tmp_path / "run")
    assert [stage.name for stage in changed.stages if not stage.skipped] == ["mixture", "train", "gate", "evaluation"]
    with pytest.raises(GeckoError, match="topics"):
        run_recipe(load_recipe(recipe_file, ['mixture.sources=[{"path": "topics", "kind": "sts"}]']), tmp_path / "x")


def test_the_model_s_card_says_what_the_run_knows_and_nothing_of_the_machine(finished_run):
    recipe, run = finished_run
    card = run / "model" / "README.md"
    text = card.read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "sentence-transformers"
    assert front["base_model"] == "student"
    measured = json.loads((run / "evaluation.json").read_text())["results"]
    tuned = next(row["tuned"] for row in measured if (row["metric"], row["dim"]) == ("ndcg_at_10", 32))
    (entry,) = front["model-index"][0]["results"]
    assert entry["metrics"] == [{"type": "ndcg_at_10", "value": pytest.approx(tuned, abs=1e-5)}]
    assert f"| {100 * tuned:.1f} |" in text.replace("  ", " ")
    assert json.loads((run / "gate" / "gate.json").read_text())["reason"] in text
    assert not any(str(place) in text for place in (run.parent, Path(recipe.train.student).parent))
    places = [card, run / "README.md"]
    written = [place.stat().st_mtime_ns for place in places]
    assert redone(recipe, run) == []
    assert [place.stat().st_mtime_ns for place in places] == written
    trained = pq.read_table(run / "mixture" / "part-00000.parquet").num_rows
    assert f"{trained:,} rows:" in places[1].read_text()
    assert f"Of {len(fret_rows(run)):,} FRet rows" in places[1].read_text()


def test_the_data_card_is_of_the_rows_made_last_and_lies_in_no_stage_s_folder(finished_run):
    recipe, run = finished_run
    changed = recipe.model_copy(update={"fret": recipe.fret.model_copy(update={"negative": "none"})})
    assert "Hard negatives were not chosen." not in (run / "README.md").read_text()
    assert "fret" in redone(changed, run)
    assert "Hard negatives were not chosen." in (run / "README.md").read_text()
    assert sorted(path.parent.name for path in run.rglob("README.md")) == ["model", run.name]


def test_a_recipe_that_cannot_run_leaves_the_one_before(recipe_file, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in (".lock", "recipe.yaml"):
        (run / name).write_text("seed: 1\n")
    with pytest.raises(GeckoError, match=r"train\.student"):
        run_recipe(load_recipe(recipe_file, ["train.student=/nope"]), run)
    assert (run / "recipe.yaml").read_text() == "seed: 1\n"


def test_a_user_s_own_recipe_and_model_are_not_overwritten(recipe_file, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "cad.step").touch()
    before = recipe_file.read_text()
    with pytest.raises(UsageError, match="that no run wrote"):
        run_recipe(load_recipe(recipe_file), tmp_path)
    assert recipe_file.read_text() == before
    assert (tmp_path / "model" / "cad.step").exists()


def test_the_demo_s_test_set_keeps_its_time_while_it_is_the_same(tmp_path):
    passages = [Passage("p", "re.compile", "re.compile", "Compile a pattern.", "stdlib:", "en")]
    (tmp_path / "questions.jsonl").write_text(json.dumps({"id": "1", "text": "regex", "answers": {"re.compile": 1}}))
    for _ in range(2):
        assert write_test_set(passages, tmp_path / "questions.jsonl", tmp_path / "set") == 1
        state = beir_state([str(tmp_path / "set")])
    assert write_test_set(passages, tmp_path / "questions.jsonl", tmp_path / "set") == 1
    assert beir_state([str(tmp_path / "set")]) == state
    assert len(state[0]) == 3


def test_json_summary_has_the_binding_shape(whole):
    value = whole.summary.to_json()
    assert set(value) == {"run", "stages", "evaluation", "model", "report", "usd"}
    assert set(value["stages"][0]) == {"name", "rows", "seconds", "skipped"}


def test_killed_runs_end_as_an_uninterrupted_one(whole, tmp_path):
    """Kill -9 at a few moments; the exhaustive version is bench/kill.py."""
    run = tmp_path / "killed"
    command = [sys.executable, "-m", "gecko.cli", "run", str(whole.recipe_file), "--out", str(run)]
    for stage in ("queries", "mixture"):  # killed once this one is done
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
        while not (run / stage / "_stage.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    run_recipe(load_recipe(whole.recipe_file), run)
    assert fret_rows(run) == fret_rows(whole.out)
    gates = [json.loads((place / "gate" / "gate.json").read_text()) for place in (run, whole.out)]
    assert gates[0] == gates[1]
