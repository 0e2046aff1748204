"""Training on the tiny model: it learns, repeats itself, and goes on where it was interrupted."""

from __future__ import annotations

import errno
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from gecko.embedder.embedder import load_model
from gecko.errors import GeckoError
from gecko.mixture.format import model_prompts, render_passage, render_query
from gecko.recipe import TrainOptions
from gecko.records import UnifiedRow
from gecko.train import loss as loss_module
from gecko.train.finetune import disable_dropout, finetune


@pytest.fixture
def rows(words: list[str]) -> list[UnifiedRow]:
    drawn = random.Random(0)
    made = []
    for number in range(24):
        topic = words[number % 20]
        passage = " ".join([topic, *drawn.choices(words, k=6)])
        negative = render_passage("", " ".join(drawn.choices(words, k=6)))
        made.append(
            UnifiedRow(
                row_id=str(number),
                task="search result",
                query=f"{topic} {drawn.choice(words)}",
                positive=render_passage(topic, passage),
                negatives=(negative,) if number % 3 else (),
            )
        )
    return made


@pytest.fixture
def options(tiny_model: str) -> TrainOptions:
    return TrainOptions(
        student=tiny_model,
        epochs=10 / 3,  # ten steps: three a pass, a checkpoint every second
        batch_size=8,
        learning_rate=2e-3,
        dims=(64, 32, 16),
        max_length=32,
        bf16=False,
    )


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_model(str(model), device="cpu").state_dict()


def test_a_few_steps_lower_the_loss(rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path) -> None:
    history = finetune(rows, options.model_copy(update={"epochs": 8.0}), tmp_path / "model")
    losses = [entry["loss"] for entry in history["loss"]]
    assert history["rows"] == 24
    assert history["steps"] == len(losses) == 24
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    assert [entry["step"] for entry in history["loss"]] == list(range(1, 25))
    assert not (tmp_path / "checkpoints").exists()


def test_same_seed_same_weights_and_another_seed_others(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path
) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        finetune(rows, options, tmp_path / name / "model", seed=seed)
    first, second, third = (weights(tmp_path / name / "model") for name in "abc")
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert any(not torch.allclose(value, third[name], atol=1e-5) for name, value in first.items())


class Interrupted(Exception):
    """The process is ended from outside."""


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Let the loss raise at its ``at``-th call."""
    forward = loss_module.GeckoLoss.forward
    calls = 0

    def failing(self: Any, *args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == at:
            raise Interrupted
        return forward(self, *args)

    monkeypatch.setattr(loss_module.GeckoLoss, "forward", failing)


def cut_short(rows: list[UnifiedRow], options: TrainOptions, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train with seed 1 until the sixth step, past the checkpoint of the fourth."""
    with monkeypatch.context() as patch:
        interrupt(patch, at=6)
        with pytest.raises(Interrupted):
            finetune(rows, options, out, seed=1)


@pytest.mark.parametrize("mini_batch", [0, 4])
def test_an_interrupted_training_ends_where_it_would_have(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mini_batch: int
) -> None:
    options = options.model_copy(update={"mini_batch": mini_batch})
    finetune(rows, options, tmp_path / "whole" / "model", seed=1)
    cut_short(rows, options, tmp_path / "cut" / "model", monkeypatch)
    assert (tmp_path / "cut" / "checkpoints" / "checkpoint-4").is_dir()
    assert not (tmp_path / "cut" / "model").exists()
    with monkeypatch.context() as patch:
        interrupt(patch, at=7)  # six steps are left, so a start from nothing would be caught
        history = finetune(rows, options, tmp_path / "cut" / "model", seed=1)
    assert history["steps"] == 10
    assert [entry["step"] for entry in history["loss"]] == list(range(1, 11))
    expected = weights(tmp_path / "whole" / "model")
    for name, value in weights(tmp_path / "cut" / "model").items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0, msg=name)


def test_a_checkpoint_torn_by_a_kill_is_not_resumed_from(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short(rows, options, tmp_path / "cut" / "model", monkeypatch)
    torn = tmp_path / "cut" / "checkpoints" / "checkpoint-6"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half a fi")
    finetune(rows, options, tmp_path / "cut" / "model", seed=1)
    finetune(rows, options, tmp_path / "whole" / "model", seed=1)
    expected = weights(tmp_path / "whole" / "model")
    for name, value in weights(tmp_path / "cut" / "model").items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0, msg=name)


def test_checkpoints_of_other_settings_are_not_resumed(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short(rows, options, tmp_path / "cut" / "model", monkeypatch)
    finetune(rows, options, tmp_path / "cut" / "model", seed=2)
    finetune(rows, options, tmp_path / "whole" / "model", seed=2)
    expected = weights(tmp_path / "whole" / "model")
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / "cut" / "model").items())


def test_checkpoints_of_other_negatives_are_not_resumed(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short(rows, options, tmp_path / "cut" / "model", monkeypatch)
    others = [replace(row, negatives=("another text that answers nothing",)) for row in rows]  # of the same ids
    finetune(others, options, tmp_path / "cut" / "model", seed=1)
    finetune(others, options, tmp_path / "whole" / "model", seed=1)
    expected = weights(tmp_path / "whole" / "model")
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / "cut" / "model").items())


def test_checkpoints_of_another_student_in_the_same_place_are_not_resumed(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = tmp_path / "student"
    shutil.copytree(options.student, student)
    options = options.model_copy(update={"student": str(student)})
    with monkeypatch.context() as patch:
        interrupt(patch, at=6)
        with pytest.raises(Interrupted):
            finetune(rows, options, tmp_path / "cut" / "model")
    model = load_model(str(student), device="cpu")
    with torch.no_grad():
        next(model.parameters()).mul_(0.5)
    model.save_pretrained(str(student), create_model_card=False)
    assert finetune(rows, options, tmp_path / "cut" / "model")["loss"][0]["step"] == 1
    finetune(rows, options, tmp_path / "whole" / "model")
    expected = weights(tmp_path / "whole" / "model")
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / "cut" / "model").items())


@pytest.mark.parametrize("text_format", ["gecko", "plain"])
def test_the_saved_prompts_are_the_strings_of_training(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_format: Any
) -> None:
    seen: list[list[int]] = []
    forward = loss_module.GeckoLoss.forward

    def recording(self: Any, features: Any, labels: Any) -> torch.Tensor:
        columns = list(features)
        seen.extend(columns[0]["input_ids"].tolist())
        return forward(self, columns, labels)

    monkeypatch.setattr(loss_module.GeckoLoss, "forward", recording)
    options = options.model_copy(update={"text_format": text_format, "epochs": 0.5})
    finetune(rows, options, tmp_path / "model")
    saved = load_model(str(tmp_path / "model"), device="cpu")
    assert {key: saved.prompts[key] for key in ("query", "document")} == model_prompts(text_format)
    tokenizer = saved.tokenizer
    trained = {tuple(token for token in text if token != tokenizer.pad_token_id) for text in seen}
    rendered = {tuple(tokenizer(render_query(row.task, row.query, text_format))["input_ids"]) for row in rows}
    prompted = {tuple(tokenizer(saved.prompts["query"] + row.query)["input_ids"]) for row in rows}
    assert rendered == prompted
    assert trained
    assert trained <= rendered
    assert saved.max_seq_length == load_model(options.student, device="cpu").max_seq_length


def test_a_student_with_prompts_of_its_own_is_trained_and_saved_with_them(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = load_model(options.student, device="cpu")
    student.prompts = {"query": "query: ", "document": "passage: "}
    student.save_pretrained(str(tmp_path / "student"), create_model_card=False)
    seen: list[list[int]] = []
    forward = loss_module.GeckoLoss.forward

    def recording(self: Any, features: Any, labels: Any) -> torch.Tensor:
        columns = list(features)
        seen.extend(column["input_ids"][0].tolist() for column in columns[:2])
        return forward(self, columns, labels)

    monkeypatch.setattr(loss_module.GeckoLoss, "forward", recording)
    options = options.model_copy(update={"student": str(tmp_path / "student"), "text_format": "plain", "epochs": 0.5})
    finetune(rows, options, tmp_path / "model")
    saved = load_model(str(tmp_path / "model"), device="cpu")
    assert (saved.prompts["query"], saved.prompts["document"]) == ("query: ", "passage: ")
    pad = saved.tokenizer.pad_token_id
    trained = [tuple(token for token in text if token != pad) for text in seen]
    asked = {tuple(saved.tokenizer("query: " + row.query)["input_ids"]) for row in rows}
    told = {tuple(saved.tokenizer("passage: " + row.positive)["input_ids"][:32]) for row in rows}
    assert trained
    assert set(trained[0::2]) <= asked
    assert {text[:31] for text in trained[1::2]} <= {text[:31] for text in told}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
        RuntimeError("PytorchStreamWriter failed writing file data/12: file write failed"),
    ],
)
@pytest.mark.parametrize("place", ["transformers.Trainer._save_checkpoint", "gecko.train.save.save_model"])
def test_a_full_disk_is_an_error_of_one_line_and_costs_no_model(
    rows: list[UnifiedRow],
    options: TrainOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    place: str,
) -> None:
    def full(*_args: Any, **_options: Any) -> None:
        raise error

    out = tmp_path / "train" / "model"
    out.mkdir(parents=True)
    (out / "modules.json").write_text("the one before")
    monkeypatch.setattr(place, full)
    with pytest.raises(GeckoError, match=r"space left|failed writing") as caught:
        finetune(rows, options.model_copy(update={"epochs": 0.5}), out)
    assert "run again" in caught.value.hint
    assert (out / "modules.json").read_text() == "the one before"
    assert [path.name for path in out.parent.iterdir() if path.name != "checkpoints"] == ["model"]


def test_too_few_rows_is_an_error_of_one_line(rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(GeckoError, match="only 1 training rows"):
        finetune(rows[:1], options, tmp_path / "model")


def test_fewer_rows_than_a_batch_train(rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path) -> None:
    history = finetune(rows[:5], options.model_copy(update={"batch_size": 64, "epochs": 1.0}), tmp_path / "model")
    assert history["steps"] == 1
    assert (tmp_path / "model" / "modules.json").exists()


def test_disable_dropout_makes_training_mode_deterministic(tiny_model: str) -> None:
    model = load_model(tiny_model, device="cpu")
    model.train()
    features = model.tokenize(["cat dog owl"])
    once, again = (model(dict(features))["sentence_embedding"] for _ in range(2))
    assert not torch.equal(once, again), "the model must have dropout for this test to say anything"
    disable_dropout(model)
    once, again = (model(dict(features))["sentence_embedding"] for _ in range(2))
    assert torch.equal(once, again)
