"""The no-harm gate, with embedders whose every answer is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gecko.embedder.embedder import Embedder
from gecko.embedder.open import load_model
from gecko.embedder.save import save_model
from gecko.errors import GeckoError
from gecko.fret.store import PassageTable
from gecko.miner.vectors import encode_corpus
from gecko.recipe import GateOptions, Recipe
from gecko.records import PASSAGES, Candidate, FretRow, Passage
from gecko.shards import write_stage
from gecko.train.backbone import open_student
from gecko.train.gate import DevSet, apply_gate, choose, dev_set, load_probe

SIZE = 40


class Fake:
    """Finds the passage of the first ``dev`` and ``probe`` queries; ranks the right one last for all others."""

    dim = SIZE

    def __init__(self, dev: int, probe: int = SIZE) -> None:
        self.known = {"dev": dev, "probe": probe}

    def encode_queries(self, queries: Sequence[str], task: Sequence[str] = ()) -> np.ndarray:
        vectors = np.zeros((len(queries), SIZE), np.float32)
        for row, query in enumerate(queries):
            kind, number = query.split()
            assert task[row] == f"{kind} task"
            vectors[row, int(number)] = 1 if int(number) < self.known[kind] else -1
        return vectors

    def encode_passages(self, passages: Sequence[tuple[str, str]]) -> np.ndarray:
        return np.eye(SIZE, dtype=np.float32)[[int(text) for _, text in passages]]


def questions(kind: str) -> DevSet:
    return DevSet(
        queries=[(f"{kind} task", f"{kind} {number}") for number in range(SIZE)],
        passages=[("", str(number)) for number in range(SIZE)],
        relevant=[{number: 1.0} for number in range(SIZE)],
    )


def judge(base: Fake, blends: dict[float, Fake], probe: bool = True, offline: bool = False, **options):
    settings = GateOptions(alphas=tuple(blends), **options)
    asked = questions("probe") if probe else None
    return choose(base, blends.__getitem__, questions("dev"), asked, settings, offline=offline)


def test_base_is_kept_when_the_interval_of_the_gain_holds_zero() -> None:
    verdict = judge(Fake(10), {1.0: Fake(11)})
    assert (verdict.chosen, verdict.alpha) == ("base", 0.0)
    assert verdict.scores[1].dev_gain == pytest.approx(1 / SIZE)
    assert verdict.scores[1].dev_ci95[0] <= 0
    assert not verdict.scores[1].allowed
    assert "interval above zero" in verdict.reason


def test_a_clear_gain_is_shipped() -> None:
    verdict = judge(Fake(10), {0.5: Fake(20), 1.0: Fake(30)})
    assert (verdict.chosen, verdict.alpha) == ("tuned", 1.0)
    assert [trial.alpha for trial in verdict.scores] == [0.0, 0.5, 1.0]
    assert verdict.scores[2].dev == pytest.approx(0.75)
    assert "+0.500" in verdict.reason
    assert (verdict.dev_queries, verdict.probe_queries) == (SIZE, SIZE)


def test_the_best_is_chosen_and_a_tie_goes_to_the_smaller_step() -> None:
    verdict = judge(Fake(10), {1.0: Fake(25), 0.25: Fake(20), 0.5: Fake(30), 0.75: Fake(30)})
    assert (verdict.chosen, verdict.alpha) == ("interpolated", 0.5)


def test_no_blend_is_tried_beyond_one_that_scores_less() -> None:
    verdict = judge(Fake(10), {1.0: Fake(30), 0.5: Fake(20), 0.25: Fake(15)})
    assert [trial.alpha for trial in verdict.scores] == [0.0, 0.5, 1.0]


def test_a_blend_that_forgets_is_refused() -> None:
    verdict = judge(Fake(10), {0.5: Fake(20, SIZE), 1.0: Fake(40, SIZE - 1)})
    assert (verdict.chosen, verdict.alpha) == ("interpolated", 0.5)
    assert verdict.scores[2].probe_gain == pytest.approx(-1 / SIZE)
    assert not verdict.scores[2].allowed


class Cut(Fake):
    """Finds ``narrow`` of the dev queries when its vectors are cut to half: the others' are zero there."""

    def __init__(self, dev: int, narrow: int) -> None:
        super().__init__(dev)
        self.narrow = narrow

    def encode_queries(self, queries: Sequence[str], task: Sequence[str] = ()) -> np.ndarray:
        vectors = super().encode_queries(queries, task)
        if queries[0].startswith("dev"):
            vectors[self.narrow : SIZE // 2, : SIZE // 2] *= -1
        return vectors


@pytest.mark.parametrize(("narrow", "chosen"), [(9, "base"), (10, "tuned")])
def test_a_blend_that_loses_at_a_smaller_size_is_refused(narrow: int, chosen: str) -> None:
    settings = GateOptions(alphas=(1.0,))
    verdict = choose(Fake(10), lambda alpha: Cut(40, narrow), questions("dev"), None, settings, dims=(SIZE, SIZE // 2))
    assert verdict.chosen == chosen
    assert verdict.scores[1].dev_gain > 0
    assert (verdict.scores[1].narrow_gains[SIZE // 2] < 0) == (chosen == "base")
    assert ("smaller size" in verdict.reason) == (chosen == "base")


def test_a_loss_within_the_allowance_is_let_through() -> None:
    verdict = judge(Fake(10), {1.0: Fake(40, SIZE - 1)}, max_probe_loss=0.03)
    assert verdict.chosen == "tuned"


def test_queries_of_no_language_model_lead_a_third_of_the_way_at_most() -> None:
    def shipped(offline: bool, options: GateOptions) -> float:
        blends = {alpha: Fake(10 + round(20 * alpha)) for alpha in (0.25, 0.35, 0.5, 0.75, 1.0)}
        return choose(Fake(5), blends.__getitem__, questions("dev"), None, options, offline=offline).alpha

    assert shipped(False, GateOptions()) == 1.0
    assert shipped(True, GateOptions()) == 0.35
    assert shipped(True, GateOptions(alphas=(0.25, 0.75))) == 0.75


def test_base_is_kept_when_all_forget() -> None:
    verdict = judge(Fake(10), {0.5: Fake(30, 30), 1.0: Fake(40, 20)})
    assert verdict.chosen == "base"
    assert "lost more than 0.01 on the probe" in verdict.reason


def test_without_a_probe_dev_decides() -> None:
    verdict = judge(Fake(10), {1.0: Fake(40, 0)}, probe=False)
    assert verdict.chosen == "tuned"
    assert verdict.scores[1].probe_gain is None
    assert verdict.probe_queries == 0


def test_a_gain_below_the_least_is_refused_for_that_reason() -> None:
    verdict = judge(Fake(10), {1.0: Fake(20)}, min_gain=0.5)
    assert verdict.chosen == "base"
    assert "0.5" in verdict.reason
    assert "probe" not in verdict.reason


def test_without_held_out_queries_the_base_is_kept() -> None:
    empty = DevSet([], [], [])
    verdict = choose(Fake(1), lambda alpha: Fake(40), empty, questions("probe"), GateOptions())
    assert (verdict.chosen, verdict.dev_queries) == ("base", 0)
    assert "held-out" in verdict.reason


class Diverged(Fake):
    path = "student"

    def encode_queries(self, queries: Sequence[str], task: Sequence[str] = ()) -> np.ndarray:
        return super().encode_queries(queries, task) * np.nan


def test_a_diverged_blend_is_refused_and_the_reason_recorded() -> None:
    verdict = judge(Fake(10), {0.5: Fake(30), 1.0: Diverged(40)})
    assert (verdict.chosen, verdict.alpha) == ("interpolated", 0.5)
    assert [bool(trial.reason) for trial in verdict.scores] == [False, False, True]
    assert json.dumps(verdict.to_json(), allow_nan=False)
    verdict = judge(Fake(10), {1.0: Diverged(40)})
    assert verdict.chosen == "base"
    assert verdict.reason == "the training diverged: lower train.learning_rate"


def test_a_base_that_gives_no_numbers_is_an_error() -> None:
    with pytest.raises(GeckoError, match="student: its vectors are not numbers"):
        judge(Diverged(40), {1.0: Fake(40)})


def test_the_verdict_is_json() -> None:
    value = json.loads(json.dumps(judge(Fake(10), {1.0: Fake(40)}).to_json(), allow_nan=False))
    assert value["chosen"] == "tuned"
    assert value["scores"][0]["alpha"] == 0
    assert len(value["scores"][1]["dev_ci95"]) == 2


def candidate(passage_id: str, rank: int, rc: float | None) -> Candidate:
    return Candidate(passage_id, 0.5, rank, 0.0, rank, rc, rank, 1.0 / rank, rank)


def row(number: int, positive: str, candidates: Sequence[Candidate]) -> FretRow:
    return FretRow(
        f"r{number}",
        "task",
        f"dog {number}",
        "en",
        positive,
        positive,
        "",
        tuple(candidates),
        False,
        "t",
        "x",
        "1",
        0,
        0,
    )


@pytest.fixture
def store(tmp_path: Path) -> PassageTable:
    passages = [Passage(f"p{i}", f"s{i}", f"Title {i}", f"cat dog {i}", "src", "en") for i in range(6)]
    write_stage(tmp_path / "passages", passages, PASSAGES)
    return PassageTable(tmp_path / "passages")


def test_dev_set_pools_candidates_and_grades_equals_of_the_positive(store: PassageTable) -> None:
    rows = [
        row(1, "p1", [candidate("p1", 1, 2.0), candidate("p2", 2, 2.0), candidate("p3", 3, 1.0)]),
        row(2, "p3", [candidate("p3", 1, None), candidate("p4", 2, 3.0), candidate("p2", 3, None)]),
    ]
    dev = dev_set(rows, store)
    assert dev.queries == [("task", "dog 1"), ("task", "dog 2")]
    assert [title for title, _ in dev.passages] == ["Title 1", "Title 2", "Title 3", "Title 4"]
    assert dev.relevant == [{0: 1.0, 1: 1.0}, {2: 1.0}]


def test_apply_gate_ships_the_base_when_training_changed_nothing(
    tiny_model: str, tmp_path: Path, store: PassageTable
) -> None:
    recipe = Recipe.model_validate({"train": {"student": tiny_model}, "gate": {"probe": False, "alphas": (0.5, 1.0)}})
    rows = [row(i, f"p{i}", [candidate(f"p{j}", k + 1, 1.0) for k, j in enumerate([i, (i + 1) % 6])]) for i in range(6)]
    out = tmp_path / "model"
    out.mkdir()
    (out / "stale").touch()
    with pytest.raises(GeckoError, match="not a model of gecko"):
        apply_gate(rows, store, recipe, Path(tiny_model), out)
    assert (out / "stale").exists()
    (out / "modules.json").touch()
    verdict = apply_gate(rows, store, recipe, Path(tiny_model), out)
    assert verdict.chosen == "base"
    assert not (out / "stale").exists()
    texts = ["cat dog", "owl"]
    expected = Embedder(load_model(tiny_model), bf16=False).encode(texts)
    assert np.allclose(Embedder(str(out), bf16=False).encode(texts), expected, atol=1e-6)


@pytest.mark.parametrize("backbone", [{"projection": 16}, {"pooling": "last"}])
def test_a_student_of_another_shape_is_judged_and_shipped_in_that_shape(
    tiny_model: str, tmp_path: Path, store: PassageTable, backbone: dict
) -> None:
    """Also where the student is the miner: the corpus's vectors are then not the student's."""
    train = {"student": tiny_model, "backbone": backbone, "dims": (8,)}
    recipe = Recipe.model_validate(
        {"train": train, "fret": {"miner": tiny_model}, "gate": {"probe": False, "alphas": (0.5, 1.0)}}
    )
    rows = [row(i, f"p{i}", [candidate(f"p{j}", k + 1, 1.0) for k, j in enumerate([i, (i + 1) % 6])]) for i in range(6)]
    start = open_student(recipe.train)
    save_model(start, tmp_path / "tuned")
    plain = Embedder(tiny_model)
    encode_corpus(store, plain, tmp_path / "miner", model="")
    known = PassageTable(tmp_path / "passages", tmp_path / "miner" / "vectors.npy")
    verdict = apply_gate(rows, known, recipe, tmp_path / "tuned", tmp_path / "model")
    assert verdict.chosen == "base"
    assert len({trial.dev for trial in verdict.scores}) == 1, "all blends are the student, and score what it scores"
    texts = ["cat dog", "owl"]
    shipped = Embedder(str(tmp_path / "model"), bf16=False)
    assert np.allclose(shipped.encode(texts), Embedder(start, bf16=False).encode(texts), atol=1e-6)


def test_the_probe_that_ships_is_sound() -> None:
    probe = load_probe()
    assert len(probe.queries) == len(probe.passages) == len(probe.relevant) >= 50
    assert len(set(probe.passages)) == len(probe.passages)
    assert all(
        text.strip() and query.strip() for (_, text), (_, query) in zip(probe.passages, probe.queries, strict=True)
    )
