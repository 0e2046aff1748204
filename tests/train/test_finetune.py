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
from safetensors import SafetensorError, safe_open

from gecko.embedder.open import load_model
from gecko.errors import GeckoError
from gecko.mixture.format import model_prompts, render_passage, render_query
from gecko.mixture.options import MixtureOptions, SourceOptions
from gecko.mixture.rows import unify_fret
from gecko.recipe import TrainOptions
from gecko.records import FretRow, Passage, ScoredText, UnifiedRow
from gecko.train import finetune as finetune_module
from gecko.train import loss as loss_module
from gecko.train import vectors as vectors_module
from gecko.train.failures import check_sound
from gecko.train.finetune import disable_dropout, finetune, train_rows
from gecko.train.loss_options import (
    DistillOptions,
    GuardOptions,
    HardnessOptions,
    ListwiseOptions,
    LossOptions,
    MarginMseOptions,
    PositivesOptions,
)


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def options(tiny_model: str) -> TrainOptions:
    return TrainOptions(
        student=tiny_model,
        epochs=10 / 3,  # ten steps: three a pass, a checkpoint every second
        batch_size=8,
        learning_rate=2e-3,
        dims=(32, 16),
        max_length=32,
        bf16=False,
    )


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_model(str(model), device="cpu").state_dict()


@pytest.fixture(scope="module")
def uninterrupted(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, torch.Tensor]:
    """The weights after the ten steps with seed 1."""
    out = tmp_path_factory.mktemp("uninterrupted") / "model"
    finetune(rows, options, out, seed=1)
    return weights(out)


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
    rows: list[UnifiedRow],
    options: TrainOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: dict[str, torch.Tensor],
) -> None:
    cut_short(rows, options, tmp_path / "cut" / "model", monkeypatch)
    torn = tmp_path / "cut" / "checkpoints" / "checkpoint-6"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half a fi")
    finetune(rows, options, tmp_path / "cut" / "model", seed=1)
    for name, value in weights(tmp_path / "cut" / "model").items():
        torch.testing.assert_close(value, uninterrupted[name], atol=1e-6, rtol=0, msg=name)


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


class Corpus:
    """Any passage that is asked for."""

    def passage(self, passage_id: str) -> Passage:
        return Passage(passage_id, "", "", "ant bear cat", "", "en")


@pytest.mark.parametrize("text_format", ["gecko", "plain"])
def test_the_saved_prompts_are_strings_of_training(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_format: Any
) -> None:
    seen: list[list[int]] = []
    forward = loss_module.GeckoLoss.forward

    def recording(self: Any, features: Any, labels: Any) -> torch.Tensor:
        columns = list(features)
        seen.extend(columns[0]["input_ids"].tolist())
        return forward(self, columns, labels)

    monkeypatch.setattr(loss_module.GeckoLoss, "forward", recording)
    sentence = "find : search task | query"  # in words that the tiny tokenizer knows
    asked = [FretRow(row.row_id, sentence, row.query, "en", "", "p", "", (), False, "", "", "", 0, 0) for row in rows]
    rows = list(unify_fret(asked, Corpus(), text_format))
    options = options.model_copy(update={"text_format": text_format, "epochs": 1.0})
    finetune(rows, options, tmp_path / "model")
    saved = load_model(str(tmp_path / "model"), device="cpu")
    assert {key: saved.prompts[key] for key in ("query", "document")} == model_prompts(text_format)
    tokenizer = saved.tokenizer
    trained = {tuple(token for token in text if token != tokenizer.pad_token_id) for text in seen}
    rendered = {tuple(tokenizer(render_query(row.task, row.query, text_format))["input_ids"]) for row in rows}
    prompted = {tuple(tokenizer(saved.prompts["query"] + row.query)["input_ids"]) for row in rows}
    assert trained == rendered
    if text_format == "plain":
        assert trained == prompted
    else:
        worded = {tuple(tokenizer(render_query(sentence, row.query))["input_ids"]) for row in rows}
        assert trained <= prompted | worded
        assert len(trained & prompted) > 5 < len(trained & worded), (
            "the saved prompt's word and the sentence are trained"
        )
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


@pytest.fixture
def teacher(tiny_model: str, tmp_path: Path) -> str:
    """An embedder like the student, with other weights."""
    model = load_model(tiny_model, device="cpu")
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(str(tmp_path / "teacher"), create_model_card=False)
    return str(tmp_path / "teacher")


def test_a_distillation_that_is_interrupted_goes_on_with_its_projection(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: str
) -> None:
    options = options.model_copy(update={"distill": DistillOptions(embedder=teacher, weight=5.0)})
    whole = finetune(rows, options, tmp_path / "whole" / "model", seed=1)
    cut_short(rows, options, tmp_path / "cut" / "model", monkeypatch)
    with safe_open(tmp_path / "cut" / "checkpoints" / "checkpoint-4" / "trained.safetensors", "pt") as file:
        assert any(name.startswith("projection.") for name in file.keys())

    class Forbidden:
        def __init__(self, *_: Any) -> None:
            raise AssertionError("the teacher was asked again")

    with monkeypatch.context() as patch:
        patch.setattr(vectors_module, "Embedder", Forbidden)
        history = finetune(rows, options, tmp_path / "cut" / "model", seed=1)
    assert [entry["loss"] for entry in history["loss"]] == pytest.approx([e["loss"] for e in whole["loss"]], abs=1e-4)
    expected = weights(tmp_path / "whole" / "model")
    found = weights(tmp_path / "cut" / "model")
    assert found.keys() == weights(Path(options.student)).keys(), "the projection is no part of the model"
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0, msg=name)


def test_checkpoints_of_another_teacher_in_the_same_place_are_not_resumed(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: str
) -> None:
    options = options.model_copy(update={"distill": DistillOptions(embedder=teacher)})
    cut_short(rows, options, tmp_path / "cut" / "model", monkeypatch)
    model = load_model(teacher, device="cpu")
    with torch.no_grad():
        next(model.parameters()).mul_(0.5)
    model.save_pretrained(teacher, create_model_card=False)
    with monkeypatch.context() as patch:
        interrupt(patch, at=8)  # of the ten steps of a training from the start
        with pytest.raises(Interrupted):
            finetune(rows, options, tmp_path / "cut" / "model", seed=1)


def test_vectors_are_made_once_for_all_trainings_on_the_same_texts(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: str
) -> None:
    asked: list[int] = []

    class Counting(vectors_module.Embedder):  # type: ignore[misc]
        def encode_queries(self, queries: Any, task: Any = None) -> Any:
            asked.append(len(queries))
            return super().encode_queries(queries, task)

        def encode_passages(self, passages: Any) -> Any:
            asked.append(len(passages))
            return super().encode_passages(passages)

    monkeypatch.setattr(vectors_module, "Embedder", Counting)
    told: list[str] = []
    on = {"epochs": 0.5, "guard": GuardOptions(embedder=teacher), "distill": DistillOptions(embedder=teacher)}
    options = options.model_copy(update=on)
    finetune(rows, options, tmp_path / "model", tell=told.append)
    texts = {row.query for row in rows} | {row.positive for row in rows} | {n for row in rows for n in row.negatives}
    assert sum(asked) == len(texts)
    assert told == [f"{teacher} encodes {len(texts)} training texts, once"]
    (file,) = (tmp_path / "vectors").glob("*.f32")
    finetune(rows, options.model_copy(update={"learning_rate": 1e-3}), tmp_path / "model")
    assert sum(asked) == len(texts)
    assert list((tmp_path / "vectors").glob("*.f32")) == [file]
    finetune(rows[:20], options, tmp_path / "model")
    assert sum(asked) > len(texts)
    assert file not in (tmp_path / "vectors").glob("*.f32")


def test_distillation_alone_draws_the_student_to_the_teacher(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path, teacher: str
) -> None:
    only = {"contrast": 0.0, "distill": DistillOptions(embedder=teacher), "epochs": 10.0}
    options = options.model_copy(update=only)
    losses = [entry["loss"] for entry in finetune(rows, options, tmp_path / "model")["loss"]]
    assert losses[-1] < 0.5 * losses[0]
    again = finetune(rows, options, tmp_path / "model")  # without loading the teacher
    assert [entry["loss"] for entry in again["loss"]] == losses


def with_candidates(rows: list[UnifiedRow], words: list[str]) -> list[UnifiedRow]:
    """Four more passages a row, of which the ranker likes one best, for no reason that the words would tell."""
    drawn = random.Random(1)
    made = []
    for row in rows:
        texts = [row.positive, *(render_passage("", " ".join(drawn.choices(words, k=6))) for _ in range(4))]
        scored = tuple(ScoredText(text, rc, 1.0) for text, rc in zip(texts, (1, 3, 1, 0, 0), strict=True))
        made.append(replace(row, negatives=(texts[4],), candidates=scored))
    return made


@pytest.mark.parametrize(
    ("switches", "epochs", "by"),
    [
        ({"contrast": 0.0, "listwise": ListwiseOptions(weight=1.0)}, 12.0, 0.2),
        ({"contrast": 0.0, "margin_mse": MarginMseOptions(weight=30.0)}, 12.0, 0.2),
        ({"positives": PositivesOptions(extra=1)}, 40.0, 0.5),  # equation 3 alone gives 0.1
    ],
)
def test_what_the_ranker_says_of_candidates_is_learnt(
    rows: list[UnifiedRow],
    options: TrainOptions,
    tmp_path: Path,
    words: list[str],
    switches: dict[str, Any],
    epochs: float,
    by: float,
) -> None:
    rows = with_candidates(rows, words)
    finetune(rows, options.model_copy(update={**switches, "epochs": epochs}), tmp_path / "model")

    def liked(path: str) -> float:
        """Mean difference of the cosines of the candidate that the ranker likes and one that it does not."""
        model = load_model(path, device="cpu")
        queries, good, bad = (
            model.encode(texts, show_progress_bar=False)
            for texts in (
                [render_query(row.task, row.query) for row in rows],
                [row.candidates[1].text for row in rows],
                [row.candidates[3].text for row in rows],
            )
        )
        return float(((queries * good).sum(1) - (queries * bad).sum(1)).mean())

    assert liked(str(tmp_path / "model")) > liked(options.student) + by


@pytest.mark.parametrize(
    ("changes", "words_of_it"),
    [
        ({"listwise": ListwiseOptions(weight=1.0)}, "no row has any"),
        ({"hardness": HardnessOptions(alpha=5.0), "negatives": 0}, "no row has one"),
    ],
)
def test_a_switch_that_the_rows_have_nothing_for_is_an_error(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path, changes: dict[str, Any], words_of_it: str
) -> None:
    with pytest.raises(GeckoError, match=words_of_it) as caught:
        finetune(rows, options.model_copy(update=changes), tmp_path / "model")
    assert caught.value.hint


def test_each_batch_has_the_switches_of_its_source(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("fret", "apart", "own")
    rows = [replace(row, source=names[place % 3]) for place, row in enumerate(rows)]
    of_query = {render_query(row.task, row.query): row.source for row in rows}
    seen: list[tuple[set[str], set[bool], set[bool]]] = []
    forward = loss_module.GeckoLoss.forward

    def recording(self: Any, features: Any, labels: Any) -> torch.Tensor:
        columns = list(features)
        asked = self.model.tokenizer.batch_decode(columns[0]["input_ids"], skip_special_tokens=True)
        plain = {text.replace(" ", ""): source for text, source in of_query.items()}
        seen.append(
            (
                {plain[text.replace(" ", "")] for text in asked},
                set(labels["in_batch"].tolist()),
                set(labels["same_tower"].tolist()),
            )
        )
        return forward(self, columns, labels)

    monkeypatch.setattr(loss_module.GeckoLoss, "forward", recording)
    mixture = MixtureOptions(
        sources=(
            SourceOptions(path="x", kind="sts", name="apart", in_batch=False),
            SourceOptions(path="y", kind="sts", name="own", same_tower=True),
        )
    )
    options = options.model_copy(update={"same_tower": False, "epochs": 1.0})
    finetune(rows, options, tmp_path / "model", mixture=mixture)
    switches = {"fret": (True, False), "apart": (False, False), "own": (True, True)}
    assert {source for sources, _, _ in seen for source in sources} == set(names)
    for sources, in_batch, same_tower in seen:
        (source,) = sources
        assert ((in_batch, same_tower)) == ({switches[source][0]}, {switches[source][1]})


def poison(monkeypatch: pytest.MonkeyPatch, at: int, what: str) -> None:
    """Let the value or the gradient of the ``at``-th batch be no number."""
    total = loss_module.total
    calls = 0

    def poisoned(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        found = total(*args, **options)
        return replace(found, **{what: getattr(found, what) * float("nan")}) if calls == at else found

    monkeypatch.setattr(loss_module, "total", poisoned)


@pytest.mark.parametrize(("what", "at", "goes_on_from"), [("value", 6, 4), ("gradient", 4, 2)])
def test_a_training_that_diverges_stops_and_keeps_its_good_checkpoints(
    rows: list[UnifiedRow],
    options: TrainOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: dict[str, torch.Tensor],
    what: str,
    at: int,
    goes_on_from: int,
) -> None:
    """A gradient that is no number spoils the weights, and the checkpoint of that step with them."""
    with monkeypatch.context() as patch:
        poison(patch, at, what)
        with pytest.raises(GeckoError, match="diverged") as caught:
            finetune(rows, options, tmp_path / "cut" / "model", seed=1)
    assert "train.learning_rate" in caught.value.hint
    with monkeypatch.context() as patch:
        interrupt(patch, at=10 - goes_on_from + 1)  # so many steps are left, so an earlier start would be caught
        finetune(rows, options, tmp_path / "cut" / "model", seed=1)
    for name, value in weights(tmp_path / "cut" / "model").items():
        torch.testing.assert_close(value, uninterrupted[name], atol=1e-6, rtol=0, msg=name)


@pytest.mark.parametrize("what", ["weights", "vectors"])
def test_a_model_that_is_no_numbers_is_not_saved_and_costs_no_model(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The last step's loss is that of the model before it. Weights of 1e30 are numbers, their products are not."""
    out = tmp_path / "model"
    out.mkdir()
    (out / "modules.json").write_text("the one before")
    if what == "weights":
        poison(monkeypatch, 1, "gradient")
    else:
        options = options.model_copy(update={"learning_rate": 1e30, "warmup": 0.0})
    with pytest.raises(GeckoError, match=r"the model.s weights or vectors are not numbers") as caught:
        finetune(rows, options.model_copy(update={"max_steps": 1}), out)
    assert "lower train.learning_rate" in caught.value.hint
    assert [path.name for path in out.iterdir()] == ["modules.json"]
    assert (out / "modules.json").read_text() == "the one before"


def test_a_weight_that_no_row_shows_is_looked_at_too(rows: list[UnifiedRow], tiny_model: str) -> None:
    model = load_model(tiny_model, device="cpu")
    check_sound(model, rows)
    with torch.no_grad():
        next(model.parameters())[model.tokenizer.convert_tokens_to_ids("9")] = float("nan")
    with pytest.raises(GeckoError, match="diverged"):
        check_sound(model, rows)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"mini_batch": 0}, "set train.mini_batch=32"),
        ({"mini_batch": 8}, "lower train.mini_batch (now 8) or train.max_length (now 32)"),
        ({"mini_tokens": 4096}, "lower train.mini_tokens (now 4096)"),
    ],
)
def test_full_memory_is_an_error_that_names_the_option_to_lower(
    rows: list[UnifiedRow],
    options: TrainOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    changes: dict[str, int],
    option: str,
) -> None:
    def full(*_: Any) -> None:
        raise error

    monkeypatch.setattr(loss_module.GeckoLoss, "forward", full)
    with pytest.raises(GeckoError) as caught:
        finetune(rows, options.model_copy(update=changes), tmp_path / "model")
    assert option in caught.value.hint
    assert "\n" not in caught.value.message


def test_another_error_of_training_is_not_taken_for_full_memory(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(loss_module.GeckoLoss, "forward", wrong)
    with pytest.raises(RuntimeError, match="a bug"):
        finetune(rows, options, tmp_path / "model")


def test_a_loss_of_one_s_own_trains_a_model_of_one_s_own(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path
) -> None:
    """The loss given counts, not the recipe's; with the recipe's, it is what finetune trains."""
    found = []
    for loss in (finetune_module.loss_options(options, 32), LossOptions(same_tower=False, dims=(32,))):
        model = load_model(options.student)
        train_rows(model, rows, options, loss, tmp_path / str(len(found)), seed=3)
        assert (model.max_seq_length, model.prompts["query"]) == (48, "task: search result | query: ")
        found.append({name: value.cpu() for name, value in model.state_dict().items()})
    finetune(rows, options, tmp_path / "model", seed=3)
    tuned = weights(tmp_path / "model")
    assert all(torch.equal(value, tuned[name]) for name, value in found[0].items())
    assert any(not torch.allclose(value, tuned[name], atol=1e-4) for name, value in found[1].items())


def test_too_few_rows_is_an_error_of_one_line(rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(GeckoError, match="only 1 training rows"):
        finetune(rows[:1], options, tmp_path / "model")


def test_rows_that_are_all_the_same_one_are_an_error_of_one_line(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path
) -> None:
    same = [replace(rows[1], row_id=str(place), source=str(place % 2)) for place in range(8)]
    with pytest.raises(GeckoError, match="all 8 training rows are the same one") as caught:
        finetune(same, options, tmp_path / "model")
    assert "give others" in caught.value.hint
    others = [replace(row, negatives=(f"title: none | text: {row.row_id}",)) for row in same]
    options = options.model_copy(update={"max_steps": 1})
    with pytest.raises(GeckoError, match="all 8"):
        finetune(others, options.model_copy(update={"negatives": 0}), tmp_path / "model")
    assert (
        finetune(others, options, tmp_path / "model")["steps"] == 1
    )  # from hard negatives there is something to learn


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
