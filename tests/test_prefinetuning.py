"""Pre-finetuning inside a run: what it hands on to whom, and what a change makes anew."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gecko.context import RunContext, is_dev
from gecko.distill import distill
from gecko.embedder.embedder import Embedder
from gecko.embedder.open import load_model
from gecko.errors import GeckoError
from gecko.plan import plan_run
from gecko.recipe import Recipe, load_recipe
from gecko.run import run_recipe
from gecko.shards import locked, read_rows, to_fret, to_passage, to_query
from gecko.stages import _dev_rows, _training_rows, stages_for
from gecko.train.gate import GateVerdict, load_probe

TOPICS = ["engine", "garden", "planet", "bridge", "violin", "harbour", "kitchen", "forest", "market", "castle"]
VERBS = ["repairs", "measures", "paints", "moves", "describes", "protects", "cleans", "builds"]
ON = ["prefinetune.corpus=true", "prefinetune.queries=true", "fret.miner=prefinetuned"]


def write_corpus(path: Path, count: int = 80, *, titled: bool = True) -> None:
    draw = random.Random(0)
    rows = []
    for number in range(count):
        topic, other = draw.sample(TOPICS, 2)
        text = (
            f"The {topic} number {number} is a thing that {draw.choice(VERBS)} the {other}. It carries {number} home."
        )
        rows.append({"_id": f"d{number}", "title": f"{topic} part {number}" if titled and number else "", "text": text})
    path.write_text("\n".join(map(json.dumps, rows)))


def settings(folder: Path, student: str) -> list[str]:
    """A recipe that trains for a few steps."""
    return [
        f"corpus.sources=[{folder / 'corpus.jsonl'}]",
        "corpus.near_duplicate=0",
        "teacher.spec=offline",
        "fret.limit=70",
        f"fret.miner={student}",
        "fret.neighbours=5",
        "fret.min_positive_rc=0",
        f"train.student={student}",
        "train.epochs=0.5",
        "train.batch_size=8",
        "train.dims=[32,16]",
        "train.max_length=32",
        "train.bf16=false",
        "gate.probe=false",
        "gate.dev_share=0.2",
        "gate.alphas=[0.5,1.0]",
        "prefinetune.batch_size=16",
        "prefinetune.max_length=32",
        "prefinetune.learning_rate=1e-3",
    ]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> list[str]:
    folder = tmp_path_factory.mktemp("prefinetuning")
    write_corpus(folder / "corpus.jsonl")
    return settings(folder, tiny_model)


@pytest.fixture(scope="module")
def whole(plain: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A finished run whose miner is the pre-finetuned student, and the lines it told."""
    out = tmp_path_factory.mktemp("run") / "run"
    lines: list[str] = []
    run_recipe(load_recipe(None, [*plain, *ON]), out, tell=lines.append)
    return out, lines


@pytest.fixture(scope="module")
def without(plain: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run without pre-finetuning."""
    out = tmp_path_factory.mktemp("without") / "run"
    run_recipe(load_recipe(None, plain), out)
    return out


@pytest.fixture
def run(whole: tuple[Path, list[str]], tmp_path: Path) -> Path:
    """A copy of the run with pre-finetuning, to be changed."""
    return copied(whole[0], tmp_path)


def copied(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "run", copy_function=shutil.copy2))


def names(recipe: Recipe) -> list[str]:
    return [stage.name for stage in stages_for(recipe)]


def redone(recipe: Recipe, out: Path) -> list[str]:
    return [stage.name for stage in run_recipe(recipe, out).stages if not stage.skipped]


def weights(model: Path | str) -> dict[str, torch.Tensor]:
    return load_model(str(model), device="cpu").state_dict()


def distance(one: Path | str, other: Path | str) -> float:
    there = weights(other)
    return max(float((value - there[name]).abs().max()) for name, value in weights(one).items())


def test_the_stages_come_after_what_they_read_and_are_none_where_no_pairs_are_named(plain: list[str]) -> None:
    after = ["mixture", "train", "gate", "evaluation"]
    assert names(load_recipe(None, plain)) == ["passages", "miner", "queries", "fret", *after]
    corpus = load_recipe(None, [*plain, "prefinetune.corpus=true"])
    assert names(corpus) == ["passages", "miner", "queries", "pairs", "prefinetune", "fret", *after]
    first = ["passages", "queries", "pairs", "prefinetune", "miner", "fret"]
    assert names(load_recipe(None, [*plain, *ON])) == [*first, *after]
    mined = load_recipe(None, [*plain, "prefinetune.corpus=true", "fret.miner=prefinetuned"])
    assert names(mined) == ["passages", "pairs", "prefinetune", "miner", "queries", "fret", *after]
    assert [stage.name for stage in stages_for(mined, "prefinetune")] == ["passages", "pairs", "prefinetune"]
    files = load_recipe(None, ["prefinetune.sources=[{path: x.jsonl, kind: pairs}]"])
    assert [stage.name for stage in stages_for(files, "prefinetune")] == ["pairs", "prefinetune"]


def test_the_pairs_are_titles_and_queries_but_not_the_held_out_ones(whole: tuple[Path, list[str]]) -> None:
    out, _ = whole
    rows = pq.read_table(out / "pairs").to_pylist()
    titles, queries = ([row for row in rows if row["source"] == source] for source in ("corpus", "queries"))
    passages = {row.passage_id: row for row in read_rows(out / "passages", to_passage)}
    assert len(titles) == 79
    assert all(row["query"] not in row["positive"] for row in titles)
    written = list(read_rows(out / "queries", to_query))
    kept = [query for query in written if not is_dev(query.seed_id, 0.2)]
    assert 0 < len(kept) < len(written)
    assert len(queries) == len(kept)
    assert {row["query"] for row in queries} == {query.query for query in kept}
    assert {(row["task"], row["positive"].partition("text: ")[2]) for row in queries} == {
        (query.task, passages[query.seed_id].text) for query in kept
    }
    corpus, asked = json.loads((out / "pairs" / "_stage.json").read_text())["sources"]
    assert corpus["unused"] == {"no title": 1}
    assert asked["unused"] == {"held out for the gate": len(written) - len(kept)}


def test_no_held_out_row_judges_by_a_passage_that_was_taught(whole: tuple[Path, list[str]]) -> None:
    out, _ = whole
    context = RunContext(recipe=load_recipe(out / "recipe.yaml"), out=out)
    taught = {row["positive"] for row in pq.read_table(out / "pairs").to_pylist() if row["source"] == "queries"}
    passages = {row.passage_id: row for row in read_rows(out / "passages", to_passage)}
    dev = _dev_rows(context)
    held_out = [row for row in read_rows(out / "fret", to_fret) if is_dev(row.seed_id, 0.2)]
    rendered = {
        row.row_id: f"title: {p.title} | text: {p.text}" for row in held_out for p in [passages[row.positive_id]]
    }
    assert any(rendered[row.row_id] in taught for row in held_out), "the rule must have something to do here"
    assert dev
    assert [row for row in held_out if rendered[row.row_id] not in taught] == sorted(dev, key=held_out.index)
    trained = [row for row in _training_rows(context) if hasattr(row, "seed_id")]
    assert not {row.positive_id for row in dev} & {row.positive_id for row in trained}


def test_the_miner_is_the_pre_finetuned_student(whole: tuple[Path, list[str]], plain: list[str]) -> None:
    out, _ = whole
    student = load_recipe(None, plain).train.student
    made = out / "prefinetune" / "model"
    assert distance(made, student) > 1e-3
    texts = [(row.title, row.text) for row in read_rows(out / "passages", to_passage)]
    vectors = np.load(out / "miner" / "vectors.npy")
    assert np.allclose(vectors, Embedder(str(made)).encode_passages(texts), atol=1e-5)
    assert not np.allclose(vectors, Embedder(student).encode_passages(texts), atol=1e-2)


def test_the_gate_compares_with_the_student_as_it_was(
    plain: list[str], without: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base's score is that of a run without pre-finetuning; base and blends are made of the student as it came."""
    on = [*plain, "prefinetune.corpus=true", "train.learning_rate=1e-12", "train.weight_decay=0", "gate.min_gain=1"]
    run_recipe(load_recipe(None, on), tmp_path / "on")
    before, after = (json.loads((run / "gate" / "gate.json").read_text()) for run in (without, tmp_path / "on"))
    assert after["scores"][0] == before["scores"][0]
    assert after["chosen"] == "base"
    student = load_recipe(None, plain).train.student
    tuned = tmp_path / "on" / "train" / "model"
    made = tmp_path / "on" / "prefinetune" / "model"
    assert distance(tuned, made) < 1e-6  # fine-tuning went on from it
    assert distance(tuned, student) > 1e-3
    assert distance(tmp_path / "on" / "model", student) == 0
    verdict = GateVerdict("interpolated", 0.5, "", (), 1, 0)
    monkeypatch.setattr("gecko.train.gate.choose", lambda *_, **__: verdict)
    run_recipe(load_recipe(None, [*on, "gate.min_gain=0"]), tmp_path / "on")
    blend, first, last = (weights(model) for model in (tmp_path / "on" / "model", student, tuned))
    assert all(torch.allclose(value, (first[name] + last[name]) / 2, atol=1e-6) for name, value in blend.items())


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ([], []),
        (
            ["prefinetune.learning_rate=2e-3"],
            ["prefinetune", "miner", "fret", "mixture", "train", "gate", "evaluation"],
        ),
        (["train.learning_rate=1e-4"], ["train", "gate", "evaluation"]),
        (
            ["prefinetune.title_repeats=1"],
            ["pairs", "prefinetune", "miner", "fret", "mixture", "train", "gate", "evaluation"],
        ),
    ],
)
def test_a_change_redoes_what_depends_on_it(run: Path, plain: list[str], change: list[str], stages: list[str]) -> None:
    recipe = load_recipe(None, [*plain, *ON, *change])
    assert redone(recipe, run) == stages
    assert redone(recipe, run) == []


def test_without_the_miner_pre_finetuning_costs_no_ranking(plain: list[str], without: Path, tmp_path: Path) -> None:
    copied(without, tmp_path)
    on = load_recipe(None, [*plain, "prefinetune.corpus=true"])
    assert redone(on, tmp_path / "run") == ["pairs", "prefinetune", "train", "gate", "evaluation"]
    other = load_recipe(None, [*plain, "prefinetune.corpus=true", "fret.limit=50"])
    assert redone(other, tmp_path / "run") == ["queries", "fret", "mixture", "train", "gate", "evaluation"]
    (tmp_path / "run" / "prefinetune" / "model" / "model.safetensors").unlink()
    assert redone(other, tmp_path / "run") == ["prefinetune"]
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "pre-finetuned on 79 pairs" in card
    assert redone(load_recipe(None, [*plain, "fret.limit=50"]), tmp_path / "run") == ["train", "gate", "evaluation"]
    assert "pre-finetuned" not in (tmp_path / "run" / "model" / "README.md").read_text()
    assert "Pre-finetuning" not in (tmp_path / "run" / "report.html").read_text()


def test_files_of_pairs_are_read_by_the_mixture_s_readers(plain: list[str], tmp_path: Path) -> None:
    pairs = [{"question": f"who keeps the {topic}", "answer": f"the keeper of the {topic}"} for topic in TOPICS]
    (tmp_path / "faq.jsonl").write_text("\n".join(map(json.dumps, [*pairs, {"question": "", "answer": "x"}])))
    source = f"prefinetune.sources=[{{path: {tmp_path / 'faq.jsonl'}, kind: pairs, task: question answering}}]"
    lines: list[str] = []
    recipe = load_recipe(None, [*plain, source, "prefinetune.corpus=true"])
    run_recipe(recipe, tmp_path / "run", tell=lines.append)
    rows = [row for row in pq.read_table(tmp_path / "run" / "pairs").to_pylist() if row["source"] == "faq"]
    assert {(row["task"], row["positive"].startswith("title: none | text: ")) for row in rows} == {
        ("question answering", True)
    }
    assert len(rows) == 10
    aside = pq.read_table(tmp_path / "run" / "pairs" / "quarantine.parquet").to_pylist()
    assert [row["stage"] for row in aside] == ["pairs"]
    assert any(line.startswith("faq ") for line in lines)  # what will be drawn is told
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Pre-finetuning" in page
    assert "Pairs of faq" in page
    with (tmp_path / "faq.jsonl").open("a") as more:
        more.write("\n" + json.dumps({"question": "who else", "answer": "nobody"}))
    assert redone(recipe, tmp_path / "run") == ["pairs", "prefinetune", "train", "gate", "evaluation"]
    (tmp_path / "faq.jsonl").write_text('{"query": "q", "reply": "a"}')
    with pytest.raises(GeckoError, match="source faq: no column 'positive'"):
        run_recipe(recipe, tmp_path / "other")
    assert not (tmp_path / "other" / "passages").exists()


def test_a_corpus_without_titles_leaves_the_other_pairs_or_none(plain: list[str], tmp_path: Path) -> None:
    write_corpus(tmp_path / "bare.jsonl", titled=False)
    bare = [*plain, f"corpus.sources=[{tmp_path / 'bare.jsonl'}]"]
    with pytest.raises(GeckoError, match="80 x no title"):
        run_recipe(load_recipe(None, [*bare, "prefinetune.corpus=true"]), tmp_path / "run")
    told: list[str] = []
    run_recipe(load_recipe(None, [*bare, *ON]), tmp_path / "both", tell=told.append)
    assert "no pair of corpus: 80 records (80 x no title)" in told


def test_distill_makes_its_miner_where_the_recipe_says_so(run: Path, plain: list[str], tmp_path: Path) -> None:
    recipe = load_recipe(None, [*plain, *ON])
    distill(run / "passages", recipe, tmp_path / "fret", tell=lambda line: None)
    assert list(read_rows(tmp_path / "fret", to_fret)) == list(read_rows(run / "fret", to_fret))
    assert (tmp_path / "fret" / ".work" / "prefinetune" / "model").is_dir()


def test_the_plan_counts_pairs_and_steps_and_asks_nobody(plain: list[str], tmp_path: Path) -> None:
    plan = plan_run(load_recipe(None, [*plain, *ON]), tmp_path / "run", tell=lambda line: None)
    stage = plan["stages"][-1]
    assert (stage["name"], stage["calls"], stage["usd"]) == ("prefinetune", 0, 0.0)
    (note,) = (note for note in plan["notes"] if note.startswith("prefinetune"))
    assert "133 pairs (79 of corpus, 54 of queries), 9 steps of at most 16" in note
    assert not (tmp_path / "run" / "prefinetune").exists()
    with locked(tmp_path / "run"), pytest.raises(GeckoError, match="another process is working on"):
        plan_run(load_recipe(None, [*plain, *ON]), tmp_path / "run", tell=lambda line: None)


def test_the_report_shows_rows_and_loss(whole: tuple[Path, list[str]]) -> None:
    page = (whole[0] / "report.html").read_text()
    history = json.loads((whole[0] / "prefinetune" / "history.json").read_text())
    assert f"{history['rows']} pairs, {history['steps']} steps" in page
    assert f"{history['loss'][0]['loss']:.3f} →" in page
    assert page.count("Training loss") == 2
    summary = json.loads((whole[0] / "summary.json").read_text())
    assert {"pairs", "prefinetune"} <= {stage["name"] for stage in summary["stages"]}


def test_the_probe_is_no_pair(whole: tuple[Path, list[str]]) -> None:
    taught = {row["query"] for row in pq.read_table(whole[0] / "pairs").to_pylist()}
    assert not taught & {query for _, query in load_probe().queries}
