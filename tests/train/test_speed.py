"""What makes a step fast changes nothing of it: attention in float32 on CPUs, and weights converted once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gecko.embedder.open import load_model
from gecko.train.attention import PreciseAttention
from gecko.train.finetune import disable_dropout
from gecko.train.loss import GeckoLoss
from gecko.train.loss_options import LossOptions

Columns = list[dict[str, torch.Tensor]]


@pytest.fixture
def model(tiny_model: str) -> Any:
    """The tiny model, whose forward pass is run in bfloat16 as trainers have it."""
    model = load_model(tiny_model, device="cpu")
    disable_dropout(model)
    model.train()
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    return model


@pytest.fixture
def batch(model: Any, words: list[str]) -> Columns:
    texts = [" ".join(words[place : place + 2 + place % 5]) for place in range(12)]
    return [dict(model.tokenize(texts[:6])), dict(model.tokenize(texts[6:]))]


def vectors(kind: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 3, 5, 8).to(kind) for _ in range(3)]


@pytest.mark.parametrize("mask", [None, torch.ones(5, 5, dtype=torch.bool).tril(), torch.randn(5, 5)])
@pytest.mark.parametrize("autocast", [False, True])
def test_short_types_attend_in_float32(mask: torch.Tensor | None, autocast: bool) -> None:
    query, key, value = vectors(torch.float32 if autocast else torch.bfloat16)
    expected = scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask, scale=0.5)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), PreciseAttention():
        found = scaled_dot_product_attention(query, key, value, mask, scale=0.5)
        assert torch.is_autocast_enabled("cpu") == autocast
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected.bfloat16())


def test_an_additive_mask_in_bfloat16_is_converted_too() -> None:
    mask = torch.randn(5, 5).bfloat16()
    with PreciseAttention():
        found = scaled_dot_product_attention(*vectors(torch.bfloat16), attn_mask=mask)
    expected = scaled_dot_product_attention(*(one.float() for one in vectors(torch.bfloat16)), attn_mask=mask.float())
    assert torch.equal(found, expected.bfloat16())


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_other_types_are_left_alone(kind: torch.dtype) -> None:
    with PreciseAttention():
        found = scaled_dot_product_attention(*vectors(kind))
    assert found.dtype == kind
    assert torch.equal(found, scaled_dot_product_attention(*vectors(kind)))


class AttentionTypes(TorchFunctionMode):
    """Notes in which type attention is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.dtype] = []

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention:
            self.seen.append(torch.bfloat16 if torch.is_autocast_enabled("cpu") else args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mini_batch", [0, 4])
def test_training_attends_in_float32(model: Any, batch: Columns, mini_batch: int) -> None:
    with AttentionTypes() as types:
        GeckoLoss(model, LossOptions(mini_batch=mini_batch))(batch, torch.zeros(6)).backward()
    assert len(types.seen) >= 2
    assert set(types.seen) == {torch.float32}


class Conversions(TorchDispatchMode):
    """Counts how often each weight is converted to another type."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.names = {one.data_ptr(): name for name, one in model.named_parameters() if one.ndim > 1}
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self.names:
            self.seen[self.names[args[0].data_ptr()]] += 1
        return func(*args, **(kwargs or {}))


def test_weights_are_converted_once_a_pass(model: Any, batch: Columns) -> None:
    """Twelve mini-batches: eleven without and eleven with a gradient, and the one whose activations are kept."""
    with Conversions(model) as conversions:
        GeckoLoss(model, LossOptions(mini_batch=1))(batch, torch.zeros(6)).backward()
    assert len(conversions.seen) >= 12
    assert set(conversions.seen.values()) == {3}


@pytest.mark.parametrize("around", [False, True])
def test_weights_converted_without_gradients_are_not_trained_on(model: Any, batch: Columns, around: bool) -> None:
    """Also where the whole loss runs in somebody's autocast, which keeps converted weights."""
    found: list[dict[str, torch.Tensor]] = []
    for mini_batch in (0, 1, 3):
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=around):
            GeckoLoss(model, LossOptions(mini_batch=mini_batch))(batch, torch.zeros(6)).backward()
        found.append({name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None})
    assert found[0].keys() == found[1].keys() == found[2].keys()
    for name, expected in found[0].items():
        for other in found[1:]:
            assert (other[name] - expected).norm() <= 0.05 * expected.norm() + 1e-4, name
