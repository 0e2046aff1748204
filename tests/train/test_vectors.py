"""Vectors of training texts: in the embedder's own format, made once, and gone on with after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gecko.embedder.embedder import Embedder
from gecko.embedder.open import load_model
from gecko.errors import GeckoError
from gecko.mixture.format import SourceText, model_prompts
from gecko.train import vectors as module
from gecko.train.vectors import TextNumbers, keep_vectors, text_vectors


@pytest.fixture
def texts(words: list[str]) -> list[SourceText]:
    numbers = TextNumbers()
    for place in range(20):
        assert numbers(SourceText("fact checking", "", f"{words[place]} {words[place + 1]}")) == 2 * place
        assert numbers(SourceText(None, words[place], f"the {words[place]}")) == 2 * place + 1
        assert numbers(SourceText("fact checking", "", f"{words[place]} {words[place + 1]}")) == 2 * place
    return numbers.texts


@pytest.mark.parametrize("text_format", ["gecko", "plain"])
def test_texts_are_given_to_an_embedder_as_it_wants_them(
    tiny_model: str, tmp_path: Path, texts: list[SourceText], text_format: Any
) -> None:
    model = load_model(tiny_model, device="cpu")
    model.prompts = {**model_prompts(text_format)}
    model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    embedder = Embedder(str(tmp_path / "model"))
    found = text_vectors(str(tmp_path / "model"), texts, tmp_path / "vectors")
    assert found.width == 32
    for number in (0, 1, 38, 39):
        text = texts[number]
        expected = (
            embedder.encode_queries([text.text], text.task)
            if text.task is not None
            else embedder.encode_passages([(text.title, text.text)])
        )
        np.testing.assert_allclose(found.of(torch.tensor([number])).numpy(), expected, atol=1e-5)
    looked_up = found.of(torch.tensor([[3, -1], [5, 7]]))
    assert looked_up.shape == (2, 2, 32)
    torch.testing.assert_close(looked_up[1, 0], found.of(torch.tensor(5)))
    assert looked_up.isfinite().all()


@pytest.mark.parametrize("torn", [False, True])
def test_a_kill_costs_a_block(
    tiny_model: str, tmp_path: Path, texts: list[SourceText], monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    whole = text_vectors(tiny_model, texts, tmp_path / "whole")
    monkeypatch.setattr(module, "_BLOCK", 8)
    asked: list[int] = []

    class Killed(Exception):
        pass

    class Counting(Embedder):
        def encode_queries(self, queries: Any, task: Any = None) -> Any:
            if len(asked) == 6:  # queries and passages of three blocks
                raise Killed
            asked.append(len(queries))
            return super().encode_queries(queries, task)

        def encode_passages(self, passages: Any) -> Any:
            asked.append(len(passages))
            return super().encode_passages(passages)

    with monkeypatch.context() as patch:
        patch.setattr(module, "Embedder", Counting)
        with pytest.raises(Killed):
            text_vectors(tiny_model, texts, tmp_path / "cut")
        (file,) = (tmp_path / "cut").glob("*.f32")
        assert file.stat().st_size == 24 * 32 * 4
        if torn:
            with file.open("ab") as handle:
                handle.write(b"half a row")
        asked[:] = []
        patch.setattr(module, "Embedder", Counting)
        found = text_vectors(tiny_model, texts, tmp_path / "cut")
    assert sum(asked) == 16
    everything = torch.arange(40)
    torch.testing.assert_close(found.of(everything), whole.of(everything), atol=1e-5, rtol=0)


def test_a_file_is_of_these_texts_and_this_model(tiny_model: str, tmp_path: Path, texts: list[SourceText]) -> None:
    text_vectors(tiny_model, texts, tmp_path)
    text_vectors(tiny_model, texts[:30], tmp_path)
    model = load_model(tiny_model, device="cpu")
    model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    text_vectors(str(tmp_path / "model"), texts, tmp_path)
    before = set(tmp_path.glob("*.f32"))
    assert len(before) == 3
    with torch.no_grad():
        next(model.parameters()).mul_(0.5)
    model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    text_vectors(str(tmp_path / "model"), texts, tmp_path)
    (new,) = set(tmp_path.glob("*.f32")) - before
    keep_vectors([str(tmp_path / "model")], texts, tmp_path)
    assert list(tmp_path.glob("*.f32")) == [new]
    assert list(tmp_path.glob("*.json")) == [new.with_suffix(".json")]


def test_an_embedder_whose_vectors_are_not_numbers_is_refused(
    tiny_model: str, tmp_path: Path, texts: list[SourceText]
) -> None:
    model = load_model(tiny_model, device="cpu")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    with pytest.raises(GeckoError, match="not numbers"):
        text_vectors(str(tmp_path / "model"), texts, tmp_path)


def test_a_full_disk_is_an_error_of_one_line(
    tiny_model: str, tmp_path: Path, texts: list[SourceText], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_blocks", full)
    with pytest.raises(GeckoError, match="No space left"):
        text_vectors(tiny_model, texts, tmp_path)
