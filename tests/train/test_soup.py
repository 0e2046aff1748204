"""Blends of two models."""

from __future__ import annotations

import pytest
import torch

from gecko.embedder.embedder import load_model
from gecko.train.soup import interpolate


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_every_weight_lies_between_the_two(tiny_model: str, alpha: float) -> None:
    base, tuned = load_model(tiny_model, device="cpu"), load_model(tiny_model, device="cpu")
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(torch.randn_like(parameter))
    tuned.prompts = {"query": "q: ", "document": "d: "}
    before = {name: value.clone() for name, value in tuned.state_dict().items()}
    start = {name: value.clone() for name, value in base.state_dict().items()}
    blend = interpolate(base, tuned, alpha)
    for name, value in blend.state_dict().items():
        torch.testing.assert_close(value, (1 - alpha) * start[name] + alpha * before[name], atol=1e-6, rtol=0)
    if alpha in (0.0, 1.0):
        exact = start if alpha == 0 else before
        assert all(torch.equal(value, exact[name]) for name, value in blend.state_dict().items())
    assert blend.prompts == tuned.prompts
    assert all(torch.equal(value, before[name]) for name, value in tuned.state_dict().items())
    assert all(torch.equal(value, start[name]) for name, value in base.state_dict().items())
