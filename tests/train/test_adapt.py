"""Adapters, frozen weights and checkpointed activations: what is trained, what is kept, and what is saved."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sentence_transformers import SentenceTransformer

from gecko.checks import check_recipe
from gecko.embedder.open import load_model
from gecko.errors import GeckoError, UsageError
from gecko.mixture.format import render_passage
from gecko.recipe import Recipe, TrainOptions, load_recipe
from gecko.records import UnifiedRow
from gecko.train import fit
from gecko.train.adapt import plain_weights, prepare
from gecko.train.backbone import open_student
from gecko.train.finetune import finetune
from gecko.train.student_options import BackboneOptions
from gecko.train.weights import load_trained, save_trained

TEXTS = ["cat dog owl", "the old house of the big owl in the green tree", "zebra", "river road tree"]


@pytest.fixture
def rows(words: list[str]) -> list[UnifiedRow]:
    draw = random.Random(0)
    return [
        UnifiedRow(str(n), "search result", f"{word} {draw.choice(words)}", render_passage(word, f"{word} the {word}"))
        for n, word in enumerate(words[:16])
    ]


@pytest.fixture
def options(tiny_model: str) -> TrainOptions:
    return TrainOptions(  # ten steps, a checkpoint every second
        student=tiny_model, epochs=5.0, batch_size=8, learning_rate=5e-3, dims=(32, 16), max_length=32, bf16=False,
        mini_batch=4,
    )  # fmt: skip


def with_backbone(options: TrainOptions, **backbone: Any) -> TrainOptions:
    return options.model_copy(update={"backbone": BackboneOptions.model_validate(backbone)})


def weights(model: Path | str) -> dict[str, torch.Tensor]:
    return load_model(str(model), device="cpu").state_dict()


def prepared(options: TrainOptions) -> Any:
    torch.manual_seed(0)
    model = open_student(options, device="cpu")
    prepare(model, options.backbone)
    return model


def gradients(rows: list[UnifiedRow], options: TrainOptions, out: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """The model that a training of one step trained, and the step's gradients, through the gradient cache."""
    held: list[Any] = []
    found: dict[str, torch.Tensor] = {}

    def opening(*args: Any, **named: Any) -> Any:
        held.append(open_student(*args, **named))
        return held[0]

    def recording(parameters: Any) -> None:
        names = {id(value): name for name, value in held[0].named_parameters()}
        found.update({names[id(p)]: p.grad.clone() for p in parameters if p.grad is not None})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gecko.train.backbone.open_student", opening)
        patch.setattr("gecko.train.trainer.average_gradients", recording)
        assert finetune(rows, options.model_copy(update={"epochs": 0.5}), out / "model")["steps"] == 1
    return held[0], found


def test_adapters_start_at_the_student_and_are_all_that_is_trained(options: TrainOptions) -> None:
    options = with_backbone(options, lora={"rank": 4})
    model = prepared(options)
    assert np.allclose(model.encode(TEXTS), load_model(options.student, device="cpu").encode(TEXTS), atol=1e-6)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    layers = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained}
    assert layers >= {"query", "key", "value", "dense"}, "all linear layers by default"
    only = prepared(with_backbone(options, lora={"rank": 4, "targets": ["query"]}))
    assert {n.split(".lora_")[0].rsplit(".", 1)[-1] for n, v in only.named_parameters() if v.requires_grad} == {"query"}


def test_merged_adapters_give_the_vectors_of_training(options: TrainOptions) -> None:
    model = prepared(with_backbone(options, lora={"rank": 4, "alpha": 16}, projection=16))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.2)
    before = model.encode(TEXTS)
    names = set(load_model(options.student, device="cpu").state_dict())
    assert np.allclose(plain_weights(model).encode(TEXTS), before, atol=1e-5)
    assert {name for name in model.state_dict() if ".linear." not in name} == names
    assert all(value.requires_grad for value in model.parameters())
    assert not np.allclose(before, open_student(options, device="cpu").encode(TEXTS)[:, :16], atol=1e-2)


def test_a_model_tuned_with_adapters_is_saved_as_any_other(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[set[str]] = []
    save = save_trained

    def recording(module: Any, checkpoint: Path) -> None:
        save(module, checkpoint)
        with safe_open(checkpoint / "trained.safetensors", "pt") as file:
            held.append(set(file.keys()))

    monkeypatch.setattr("gecko.train.trainer.save_trained", recording)
    options = with_backbone(options, lora={"rank": 4, "alpha": 16})
    history = finetune(rows, options, tmp_path / "model")
    assert history["loss"][-1]["loss"] < 0.8 * history["loss"][0]["loss"]
    assert held
    assert all("lora_" in name for names in held for name in names), "a checkpoint holds the adapters only"
    assert not list((tmp_path / "model").glob("adapter*"))
    before, after = weights(options.student), weights(tmp_path / "model")
    assert before.keys() == after.keys()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert any("query" in name for name in moved)
    assert all(name.endswith("weight") and "embeddings" not in name and "LayerNorm" not in name for name in moved)
    loaded = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert "lora" not in str(loaded)


class Interrupted(Exception):
    """The process is ended from outside."""


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("", {"lora": {"rank": 4}, "projection": 16}), ("xlm-roberta", {"freeze_layers": 1})],
    ids=["adapters", "a backbone whose pooler is new"],
)
def test_an_interrupted_training_ends_where_it_would_have(
    rows: list[UnifiedRow],
    options: TrainOptions,
    backbone: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    changes: dict,
) -> None:
    options = options.model_copy(update={"dims": (16, 8), "student": backbone(kind) if kind else options.student})
    options = with_backbone(options, **changes)
    finetune(rows, options, tmp_path / "whole" / "model", seed=1)
    calls = 0

    def failing(parameters: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr("gecko.train.trainer.average_gradients", failing)
        with pytest.raises(Interrupted):
            finetune(rows, options, tmp_path / "cut" / "model", seed=1)
    assert (tmp_path / "cut" / "checkpoints" / "checkpoint-4").is_dir()
    calls = -1  # six steps are left; one more would fail
    with monkeypatch.context() as patch:
        patch.setattr("gecko.train.trainer.average_gradients", failing)
        finetune(rows, options, tmp_path / "cut" / "model", seed=1)
    expected = weights(tmp_path / "whole" / "model")
    for name, value in weights(tmp_path / "cut" / "model").items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0, msg=name)


def test_other_weights_than_are_trained_are_not_loaded(options: TrainOptions, tmp_path: Path) -> None:
    save_trained(prepared(with_backbone(options, lora={"rank": 4, "targets": ["query"]})), tmp_path)
    with pytest.raises(GeckoError, match="other weights than are trained"):
        load_trained(prepared(with_backbone(options, lora={"rank": 4, "targets": ["key"]})), tmp_path)


def test_adapters_without_their_library_are_refused_before_anything_is_paid_for(
    tiny_model: str, options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "find_spec", lambda name: None)
    train = {"student": tiny_model, "dims": [32], "backbone": {"lora": {"rank": 8}}}
    with pytest.raises(UsageError, match="needs peft") as caught:
        check_recipe(Recipe.model_validate({"fret": {"miner": tiny_model}, "train": train}))
    assert "gecko-embed[lora]" in caught.value.hint
    with pytest.raises(UsageError, match="needs peft"):
        prepared(with_backbone(options, lora={"rank": 8}))


def test_layers_that_are_not_there_are_named(options: TrainOptions) -> None:
    with pytest.raises(UsageError, match="no such layers") as caught:
        prepared(with_backbone(options, lora={"rank": 4, "targets": ["q_proj"]}))
    assert "query" in caught.value.hint
    with pytest.raises(UsageError, match="freeze_layers 3: the student has 2"):
        prepared(with_backbone(options, freeze_layers=3))
    with pytest.raises(UsageError, match="leave freeze_"):
        load_recipe(None, ["train.backbone.lora.rank=4", "train.backbone.freeze_layers=1"])


@pytest.mark.parametrize("kind", ["", "llama", "t5", "modernbert"])
def test_what_is_frozen_is_not_trained(
    rows: list[UnifiedRow], options: TrainOptions, backbone: Callable[..., str], tmp_path: Path, kind: str
) -> None:
    options = options.model_copy(update={"student": backbone(kind) if kind else options.student})
    options = with_backbone(options, freeze_embeddings=True, freeze_layers=1)
    model = prepared(options)
    frozen = {id(value) for value in model[0].auto_model.get_input_embeddings().parameters()}
    still = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert frozen <= {id(value) for name, value in model.named_parameters() if name in still}
    assert any(".0." in name.split("auto_model", 1)[-1] for name in still), "the first layer is frozen"
    _, found = gradients(rows, options, tmp_path)
    assert not still & found.keys()
    assert any(".1." in name.split("auto_model", 1)[-1] for name in found), "the second is not"
    before, after = open_student(options, device="cpu").state_dict(), weights(tmp_path / "model")
    assert all(torch.equal(after[name], before[name]) for name in still)
    assert not all(torch.equal(after[name], before[name]) for name in found)


@pytest.mark.parametrize("kind", ["", "llama"])
@pytest.mark.parametrize(
    "extra", [{}, {"freeze_embeddings": True}, {"lora": {"rank": 4}}], ids=["all", "frozen", "lora"]
)
def test_checkpointed_activations_change_no_gradient(
    rows: list[UnifiedRow],
    options: TrainOptions,
    backbone: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    extra: dict,
) -> None:
    options = options.model_copy(update={"student": backbone(kind) if kind else options.student})
    ran: list[int] = []

    def counted(model: Any, given: BackboneOptions) -> None:
        prepare(model, given)
        layers = next(m for m in model[0].auto_model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 2)
        inner = next(m for m in layers[0].modules() if isinstance(m, torch.nn.Linear))
        inner.register_forward_hook(lambda module, *_: ran.append(1) if module.training else None)

    monkeypatch.setattr("gecko.train.adapt.prepare", counted)
    _, expected = gradients(rows, with_backbone(options, **extra), tmp_path / "kept")
    kept = len(ran)
    model, found = gradients(rows, with_backbone(options, gradient_checkpointing=True, **extra), tmp_path / "again")
    groups = (kept + 1) // 2  # all but one were encoded without a graph first
    assert len(ran) - kept == kept + groups, "each group runs once more, in the backward pass"
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5, msg=name)
    assert not model[0].auto_model.is_gradient_checkpointing, "nothing of it is left in the model that is saved"
