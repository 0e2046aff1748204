"""Rehearsal: general texts stay where the student put them, in all sizes, formats and after a resumed training."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from gecko.embedder.embedder import Embedder
from gecko.embedder.open import load_model
from gecko.errors import GeckoError, UsageError
from gecko.mixture.format import render_passage
from gecko.recipe import TrainOptions
from gecko.records import UnifiedRow
from gecko.train import rehearsal as rehearsal_module
from gecko.train.finetune import finetune
from gecko.train.general_texts import made_texts
from gecko.train.loss_options import RehearsalOptions
from gecko.train.rehearsal import Rehearsal
from gecko.train.trainer import StudentTrainer


@pytest.fixture
def model(tiny_model: str) -> Any:
    return load_model(tiny_model, device="cpu")


@pytest.fixture
def general(words: list[str], tmp_path: Path) -> RehearsalOptions:
    """Texts of words that the tiny model knows."""
    draw = random.Random(1)
    path = tmp_path / "general.txt"
    path.write_text("\n".join(" ".join(draw.choices(words, k=5)) for _ in range(40)) + "\n\n", encoding="utf-8")
    return RehearsalOptions(weight=2.0, count=8, texts=str(path))


@pytest.fixture
def rows(words: list[str]) -> list[UnifiedRow]:
    draw = random.Random(0)
    return [
        UnifiedRow(str(i), "search result", words[i % 20], render_passage("", " ".join(draw.choices(words, k=6))))
        for i in range(24)
    ]


@pytest.fixture
def options(tiny_model: str) -> TrainOptions:
    return TrainOptions(
        student=tiny_model, epochs=10 / 3, batch_size=8, learning_rate=2e-3, dims=(32, 16), max_length=32, bf16=False
    )


@pytest.mark.parametrize("text_format", ["gecko", "plain"])
def test_a_model_that_has_not_moved_is_at_no_distance(model: Any, general: RehearsalOptions, text_format: Any) -> None:
    model.prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
    model.prompts = model.prompts if text_format == "gecko" else {}
    rehearsal = Rehearsal(model, general, (32, 16), text_format, 10, 0)
    assert float(rehearsal(model, 3).detach()) == pytest.approx(0, abs=1e-5)


def test_the_distance_is_the_weighted_mean_over_texts_and_sizes(model: Any, general: RehearsalOptions) -> None:
    rehearsal = Rehearsal(model, general, (32, 16), "plain", 10, 0)
    texts = rehearsal._texts[8:16]
    before = torch.from_numpy(Embedder(model).encode(texts))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    now = torch.from_numpy(Embedder(model).encode(texts))
    each = [1 - torch.cosine_similarity(now[:, :size], before[:, :size]).mean() for size in (32, 16)]
    expected = 2.0 * float(sum(each)) / 2
    assert expected > 0.01
    assert float(rehearsal(model, 1).detach()) == pytest.approx(expected, abs=5e-3)  # bfloat16 on either side


def test_a_student_of_the_unified_format_is_held_to_its_plain_vectors(model: Any, general: RehearsalOptions) -> None:
    """The base knows nothing of prompts: a trained model's vector of a prompted text is to be the base's."""
    rehearsal = Rehearsal(model, general, (32,), "gecko", 10, 0)
    assert rehearsal._texts[0].startswith("task: ")
    bare = [text.partition("query: ")[2] for text in rehearsal._texts]
    torch.testing.assert_close(rehearsal._before, torch.from_numpy(Embedder(model).encode(bare)), rtol=0, atol=1e-5)


def test_training_with_it_moves_general_texts_less(
    rows: list[UnifiedRow], options: TrainOptions, general: RehearsalOptions, tmp_path: Path
) -> None:
    texts = Path(general.texts).read_text(encoding="utf-8").split("\n")[:40]
    base = Embedder(load_model(options.student, device="cpu"))
    moved = {}
    for name, rehearse in (("without", RehearsalOptions()), ("with", general.model_copy(update={"weight": 20.0}))):
        changed = options.model_copy(update={"rehearse": rehearse, "text_format": "plain"})
        finetune(rows, changed, tmp_path / name / "model")
        tuned = Embedder(load_model(str(tmp_path / name / "model"), device="cpu"))
        moved[name] = 1 - float((tuned.encode(texts) * base.encode(texts)).sum(1).mean())
    assert moved["with"] < 0.5 * moved["without"]


def cut_short(rows: list[UnifiedRow], options: TrainOptions, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train with seed 1 until the sixth step, past the checkpoint of the fourth."""
    step = StudentTrainer.training_step

    def stop(self: StudentTrainer, *args: Any, **named: Any) -> torch.Tensor:
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return step(self, *args, **named)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(StudentTrainer, "training_step", stop)
        finetune(rows, options, out, seed=1)
    assert list((out.parent / "checkpoints").glob("checkpoint-*"))


def same(one: Path, other: Path) -> bool:
    first, second = (load_model(str(model), device="cpu").state_dict() for model in (one, other))
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_resumed_training_gives_the_same_weights(
    rows: list[UnifiedRow],
    options: TrainOptions,
    general: RehearsalOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = options.model_copy(update={"rehearse": general})
    finetune(rows, options, tmp_path / "whole" / "model", seed=1)
    cut_short(rows, options, tmp_path / "cut" / "model", monkeypatch)
    lines: list[str] = []
    finetune(rows, options, tmp_path / "cut" / "model", seed=1, tell=lines.append)
    assert not lines
    assert same(tmp_path / "whole" / "model", tmp_path / "cut" / "model")


def test_a_training_of_other_texts_is_not_resumed(
    rows: list[UnifiedRow],
    options: TrainOptions,
    general: RehearsalOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The recipe is the same: what changed is the file that it names."""
    options = options.model_copy(update={"rehearse": general})
    cut_short(rows, options, tmp_path / "cut" / "model", monkeypatch)
    texts = Path(general.texts).read_text(encoding="utf-8").split("\n")
    Path(general.texts).write_text("\n".join(f"{text} the" for text in texts), encoding="utf-8")
    lines: list[str] = []
    finetune(rows, options, tmp_path / "cut" / "model", seed=1, tell=lines.append)
    assert [line for line in lines if "set aside" in line]
    finetune(rows, options, tmp_path / "whole" / "model", seed=1)
    assert same(tmp_path / "whole" / "model", tmp_path / "cut" / "model")


def test_processes_take_turns_at_a_steps_texts(
    model: Any, general: RehearsalOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsal = Rehearsal(model, general, (32,), "plain", 10, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    alone = float(rehearsal(model, 2))
    monkeypatch.setattr(rehearsal_module, "processes", lambda: 2)
    shares = []
    for number in range(2):
        monkeypatch.setattr(rehearsal_module, "rank", lambda number=number: number)
        shares.append(float(rehearsal(model, 2)))
    assert shares[0] != shares[1]
    assert sum(shares) / 2 == pytest.approx(alone, abs=1e-6)


def test_made_texts_are_words_by_zipfs_law() -> None:
    texts = made_texts("en", 3000, random.Random(0))
    lengths = [len(text.split()) for text in texts]
    words = " ".join(texts).split()
    assert len(texts) == 3000
    assert set(lengths) == set(range(2, 15))
    assert words.count("the") > 5 * words.count("house") > 0
    assert len(set(words)) > 5000
    assert made_texts("de", 5, random.Random(0)) != texts[:5]


def test_the_texts_that_come_with_the_package_are_many_and_different(model: Any) -> None:
    texts = Rehearsal(model, RehearsalOptions(weight=1), (32,), "plain", 1000, 0)._texts
    assert len(texts) == len(set(texts)) > 1500
    assert {len(text.split()) > 20 for text in texts} == {True, False}


def test_an_unknown_language_is_named_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="xx") as caught:
        made_texts("xx", 1, random.Random(0))
    assert "en" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file"), (b"\xff\xfe\xff", "UTF-8"), (b"\n \n", "no text")]
)
def test_a_bad_file_is_one_clear_line(model: Any, tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "bad.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GeckoError, match=reason):
        Rehearsal(model, RehearsalOptions(weight=1, texts=str(path)), (32,), "plain", 10, 0)
