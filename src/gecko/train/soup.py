"""Weights between two models of one architecture: the blends that the no-harm gate chooses from."""

from __future__ import annotations

import copy
from typing import Any

import torch


def interpolate(base: Any, tuned: Any, alpha: float) -> Any:  # noqa: ANN401
    """Blend two models weight by weight.

    Args:
        base: The model before training.
        tuned: The model after training; it gives the prompts and everything that is not a weight.
        alpha: 0 is the base's weights, 1 the tuned model's.

    Returns:
        A new model.
    """
    blend = copy.deepcopy(tuned)
    start = base.state_dict()
    with torch.no_grad():
        for name, value in blend.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.lerp(start[name].to(value), value, alpha))
    return blend
