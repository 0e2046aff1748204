"""Attention in float32 while a student is trained in bfloat16 on a CPU: nearer the truth, and gone afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.integrations import sdpa_attention

from gecko.embedder.embedder import load_model
from gecko.train.attention import attention_for_training


@pytest.fixture
def model(tiny_model: str) -> Any:
    return load_model(tiny_model, device="cpu")


def seen_types(model: Any, monkeypatch: pytest.MonkeyPatch, *, bf16: bool) -> set[torch.dtype]:
    """The types that attention is computed in during a step."""
    found: set[torch.dtype] = set()
    attend = torch.nn.functional.scaled_dot_product_attention

    def spy(query: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        found.add(query.dtype)
        return attend(query, *args, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    texts = model.preprocess(["one text", "another text that is longer"])
    with attention_for_training(model, bf16), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        vectors = model(texts)["sentence_embedding"]
    vectors.float().square().sum().backward()
    return found


def test_a_student_attends_in_float32_where_it_is_trained_in_bfloat16(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert seen_types(model, monkeypatch, bf16=True) == {torch.float32}


def test_nothing_changes_without_bfloat16(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdpa_attention, "sdpa_attention_forward", None)  # what the widened attention would call
    assert seen_types(model, monkeypatch, bf16=False) == {torch.float32}
    assert model[0].auto_model.config._attn_implementation == "sdpa"


def test_padding_is_masked_as_before(model: Any) -> None:
    texts = model.preprocess(["one text", "another text that is longer"])
    with torch.no_grad():
        plain = model(dict(texts))["sentence_embedding"]
        with attention_for_training(model, True):
            widened = model(dict(texts))["sentence_embedding"]
    torch.testing.assert_close(widened, plain, rtol=0, atol=1e-6)


def test_the_model_is_as_it_was_afterwards_also_when_training_fails(model: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped"), attention_for_training(model, True):
        assert model[0].auto_model.config._attn_implementation != "sdpa"
        raise RuntimeError("stopped")
    assert model[0].auto_model.config._attn_implementation == "sdpa"
    model.save(str(tmp_path))
    assert "gecko" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))


def test_another_kind_of_attention_is_left_alone(model: Any) -> None:
    model[0].auto_model.set_attn_implementation("eager")
    with attention_for_training(model, True):
        assert model[0].auto_model.config._attn_implementation == "eager"
