"""Pre-finetuning on the tiny model: equation 2, a batch no larger than the pairs, and resumption to the bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from gecko.embedder.embedder import Embedder
from gecko.embedder.open import load_model
from gecko.errors import GeckoError, UsageError
from gecko.mixture.format import render_passage, render_query
from gecko.recipe import PrefinetuneOptions, TrainOptions
from gecko.records import UnifiedRow
from gecko.train import loss as loss_module
from gecko.train.backbone import open_student
from gecko.train.finetune import finetune
from gecko.train.prefinetune import prefinetune
from gecko.train.student_options import BackboneOptions


@pytest.fixture
def rows(words: list[str]) -> list[UnifiedRow]:
    drawn = random.Random(0)
    made = []
    for number in range(24):
        topic = words[number % 20]
        body = render_passage("", " ".join([topic, *drawn.choices(words, k=6)]))
        hard = (render_passage("", f"{topic} {topic}"),)  # of a triples source: must count for nothing
        made.append(UnifiedRow(str(number), "title", f"{topic} {drawn.choice(words)}", body, hard, source="corpus"))
    return made


@pytest.fixture
def train(tiny_model: str) -> TrainOptions:
    return TrainOptions(student=tiny_model, dims=(32, 16), bf16=False, same_tower=True, negatives=1)


def options(**changes: Any) -> PrefinetuneOptions:
    values = {"corpus": True, "batch_size": 8, "epochs": 10 / 3, "learning_rate": 2e-3, "max_length": 32}
    return PrefinetuneOptions.model_validate(values | changes)


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_model(str(model), device="cpu").state_dict()


def same(one: Path, other: Path) -> bool:
    expected = weights(other)
    return all(torch.equal(value, expected[name]) for name, value in weights(one).items())


def test_the_loss_is_equation_2(rows: list[UnifiedRow], train: TrainOptions, tmp_path: Path) -> None:
    """One step over all pairs: its loss is computed here from the untrained vectors."""
    history = prefinetune(rows, options(batch_size=24, epochs=1, temperature=0.1), train, tmp_path / "model")
    embedder = Embedder(train.student, bf16=False)
    queries = torch.from_numpy(embedder.encode([render_query(row.task, row.query) for row in rows]))
    bodies = torch.from_numpy(embedder.encode([row.positive for row in rows]))
    texts = [row.query for row in rows]
    scores = queries @ bodies.T / 0.1
    duplicate = torch.tensor([[a == b and i != j for j, b in enumerate(texts)] for i, a in enumerate(texts)])
    expected = functional.cross_entropy(scores.masked_fill(duplicate, float("-inf")), torch.arange(24))
    assert history["steps"] == 1
    assert history["loss"][0]["loss"] == pytest.approx(float(expected), abs=2e-3)  # it is logged with few digits


def test_it_learns_and_ends_as_a_model_with_the_format_s_prompts(
    rows: list[UnifiedRow], train: TrainOptions, tmp_path: Path
) -> None:
    history = prefinetune(rows, options(epochs=8), train, tmp_path / "model")
    losses = [entry["loss"] for entry in history["loss"]]
    assert (history["rows"], history["steps"]) == (24, 24)
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    saved = load_model(str(tmp_path / "model"), device="cpu")
    assert saved.prompts["query"] == "task: search result | query: "
    assert not (tmp_path / "checkpoints").exists()


def test_a_batch_larger_than_the_pairs_takes_them_all_and_says_so(
    rows: list[UnifiedRow], train: TrainOptions, tmp_path: Path
) -> None:
    lines: list[str] = []
    history = prefinetune(rows, options(batch_size=500, epochs=3), train, tmp_path / "a" / "model", tell=lines.append)
    assert history["steps"] == 3  # a step a pass, where round(3 * 24 / 500) would be none
    assert history["mixture"]["batch_size"] == 24
    assert lines == ["a batch of 500 is more than there are: a step takes at most all 24 pairs of the largest source"]
    two = [*rows[:16], *(UnifiedRow(r.row_id, r.task, r.query, r.positive, source="b") for r in rows[16:])]
    history = prefinetune(two, options(batch_size=500, epochs=1), train, tmp_path / "b" / "model")
    assert (history["steps"], history["mixture"]["batch_size"]) == (2, 16)
    mixed = options(batch_size=500, epochs=1, single_source=False)
    assert prefinetune(two, mixed, train, tmp_path / "c" / "model")["mixture"]["batch_size"] == 24


def test_max_steps_stop_it(rows: list[UnifiedRow], train: TrainOptions, tmp_path: Path) -> None:
    history = prefinetune(rows, options(epochs=8, max_steps=4), train, tmp_path / "model")
    assert history["steps"] == history["mixture"]["steps"] == 4
    assert prefinetune(rows, options(epochs=1, max_steps=40), train, tmp_path / "b" / "model")["steps"] == 3


class Interrupted(Exception):
    """The process is ended from outside."""


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    forward = loss_module.GeckoLoss.forward
    calls = 0

    def failing(self: Any, *args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == at:
            raise Interrupted
        return forward(self, *args)

    monkeypatch.setattr(loss_module.GeckoLoss, "forward", failing)


def test_interrupted_it_ends_with_the_same_weights_to_the_bit(
    rows: list[UnifiedRow], train: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefinetune(rows, options(), train, tmp_path / "whole" / "model", seed=1)
    with monkeypatch.context() as patch:
        interrupt(patch, at=6)
        with pytest.raises(Interrupted):
            prefinetune(rows, options(), train, tmp_path / "cut" / "model", seed=1)
    assert (tmp_path / "cut" / "checkpoints" / "checkpoint-4").is_dir()
    with monkeypatch.context() as patch:
        interrupt(patch, at=7)  # six steps are left, so a start from nothing would be caught
        history = prefinetune(rows, options(), train, tmp_path / "cut" / "model", seed=1)
    assert history["steps"] == 10
    assert same(tmp_path / "cut" / "model", tmp_path / "whole" / "model")


def test_checkpoints_of_another_recipe_are_set_aside_with_a_line(
    rows: list[UnifiedRow], train: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, at=6)
        with pytest.raises(Interrupted):
            prefinetune(rows, options(), train, tmp_path / "cut" / "model")
    lines: list[str] = []
    other = options(temperature=0.2)
    history = prefinetune(rows, other, train, tmp_path / "cut" / "model", tell=lines.append)
    assert history["loss"][0]["step"] == 1
    (aside,) = (tmp_path / "cut").glob("checkpoints-*")
    assert (aside / "checkpoint-4" / "whole").exists()
    assert [line for line in lines if "set aside" in line and str(aside) in line]
    prefinetune(rows, other, train, tmp_path / "whole" / "model", tell=lines.append)
    assert len(lines) == 1
    assert same(tmp_path / "cut" / "model", tmp_path / "whole" / "model")


def test_a_training_that_diverged_stops_the_run(rows: list[UnifiedRow], train: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(GeckoError, match="diverged") as caught:
        prefinetune(rows, options(learning_rate=1e30), train, tmp_path / "model")
    assert "prefinetune.learning_rate" in caught.value.hint
    assert not (tmp_path / "model").exists()


def test_a_model_that_is_no_numbers_is_not_saved_and_costs_no_model(
    rows: list[UnifiedRow], train: TrainOptions, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "modules.json").write_text("the one before")
    with pytest.raises(GeckoError, match="diverged") as caught:
        prefinetune(rows, options(learning_rate=1e38, warmup=0, max_steps=1), train, tmp_path / "model")
    assert "lower prefinetune.learning_rate" in caught.value.hint
    assert (tmp_path / "model" / "modules.json").read_text() == "the one before"


def test_too_little_memory_is_told_with_the_section_s_own_keys(
    rows: list[UnifiedRow], train: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(loss_module.GeckoLoss, "forward", full)
    with pytest.raises(GeckoError, match="out of memory") as caught:
        prefinetune(rows, options(), train, tmp_path / "model")
    assert "prefinetune.mini_batch" in caught.value.hint


def test_keys_that_are_fine_tuning_s_alone_are_told_as_they_are(
    rows: list[UnifiedRow], train: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: Any) -> torch.Tensor:
        raise GeckoError("x", "leave train.backbone.pooling out, or lower train.max_length")

    monkeypatch.setattr(loss_module.GeckoLoss, "forward", wrong)
    with pytest.raises(GeckoError, match="x") as caught:
        prefinetune(rows, options(), train, tmp_path / "model")
    assert caught.value.hint == "leave train.backbone.pooling out, or lower prefinetune.max_length"
    with pytest.raises(UsageError, match=r"dims \[64\]: the vectors of .* are 32 wide"):
        prefinetune(rows, options(dims=(64,)), train, tmp_path / "model")


def test_less_than_two_pairs_is_an_error_of_one_line(
    rows: list[UnifiedRow], train: TrainOptions, tmp_path: Path
) -> None:
    with pytest.raises(GeckoError, match="only 1 pairs"):
        prefinetune(rows[:1], options(), train, tmp_path / "model")


def test_the_plain_format_keeps_the_student_s_strings(
    rows: list[UnifiedRow], train: TrainOptions, tmp_path: Path
) -> None:
    plain = train.model_copy(update={"text_format": "plain"})
    prefinetune(rows, options(epochs=1), plain, tmp_path / "model")
    assert load_model(str(tmp_path / "model"), device="cpu").prompts["query"] == ""
    assert np.isfinite(Embedder(str(tmp_path / "model")).encode_queries(["cat"])).all()


@pytest.mark.parametrize(
    ("kind", "changes", "modules"),
    [
        ("", {"projection": 16, "projection_init": "random"}, ["Transformer", "Pooling", "Dense", "Normalize"]),
        ("llama", {"attention": "bidirectional", "projection": 16}, ["Transformer", "Pooling", "Dense", "Normalize"]),
        ("llama", {"lora": {"rank": 4}}, ["Transformer", "Pooling", "Normalize"]),
    ],
    ids=["projection", "both ways", "adapters and the last token"],
)
def test_fine_tuning_keeps_the_shape_that_pre_finetuning_gave_the_student(
    rows: list[UnifiedRow],
    train: TrainOptions,
    backbone: Callable[..., str],
    tmp_path: Path,
    kind: str,
    changes: dict[str, Any],
    modules: list[str],
) -> None:
    """What is changed of a student is changed once: in its first training."""
    given = {"backbone": BackboneOptions.model_validate(changes), "dims": (8,), "learning_rate": 1e-4, "epochs": 1.0}
    train = train.model_copy(update={**given, "max_length": 32, "student": backbone(kind) if kind else train.student})
    prefinetune(rows, options(), train, tmp_path / "first" / "model", seed=1)
    first = load_model(str(tmp_path / "first" / "model"), device="cpu")
    again = open_student(train, seed=1, start=str(tmp_path / "first" / "model"), device="cpu")
    start, untrained = again.state_dict(), open_student(train, seed=1, device="cpu").state_dict()
    assert start.keys() == untrained.keys() == first.state_dict().keys()
    assert all(torch.equal(value, start[name]) for name, value in first.state_dict().items())
    assert any(not torch.equal(value, start[name]) for name, value in untrained.items())
    if "projection" in changes:
        assert not torch.equal(start["2.linear.weight"], untrained["2.linear.weight"]), "it is trained on pairs too"
    texts = [row.query for row in rows]
    assert np.array_equal(again.tokenizer(texts[0])["input_ids"], first.tokenizer(texts[0])["input_ids"])
    finetune(rows, train, tmp_path / "second" / "model", seed=1, start=str(tmp_path / "first" / "model"))
    second = load_model(str(tmp_path / "second" / "model"), device="cpu")
    assert [type(module).__name__ for module in second] == [type(module).__name__ for module in first] == modules
    one, two = (model.encode(texts, prompt="", show_progress_bar=False) for model in (first, second))
    cosines = (one * two).sum(1)
    assert cosines.min() > 0.9, "a few small steps lead on from the pre-finetuned student"
    assert cosines.min() < 1 - 1e-6, "and they are taken"


def test_fine_tuning_may_read_longer_texts_than_pre_finetuning_did(
    rows: list[UnifiedRow], train: TrainOptions, backbone: Callable[..., str], tmp_path: Path
) -> None:
    """A tokenizer that states no limit gets the run's: not that of the first, shorter stage."""
    train = train.model_copy(update={"student": backbone("t5", limit=None), "max_length": 40})
    prefinetune(rows, options(max_length=8, max_steps=1), train, tmp_path / "model")
    assert load_model(str(tmp_path / "model"), device="cpu").max_seq_length == 40
