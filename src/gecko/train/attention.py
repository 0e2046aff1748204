"""Attention of a student that is trained in bfloat16 on a CPU: computed in float32, which is many times faster there.

PyTorch's fused attention for CPUs has a backward pass in bfloat16 that takes 2.5 to 15 times as long as the same in
float32 (docs/log.md); of a small encoder's training step it is more than half. Only attention is widened: the matrix
products around it, where bfloat16 pays, keep it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_NAME = "gecko_float32_sdpa"


@contextmanager
def attention_for_training(model: Any, bf16: bool) -> Iterator[None]:  # noqa: ANN401
    """Have a student attend in float32 while it is trained in bfloat16 on a CPU; any other is left as it is.

    Args:
        model: The Sentence-Transformers model. What is not a transformers model with PyTorch's fused attention, or
            lies on a GPU, is not changed.
        bf16: Whether it is trained under autocast to bfloat16.
    """
    transformer: Any = getattr(model[0], "auto_model", None)
    fused = getattr(getattr(transformer, "config", None), "_attn_implementation", None) == "sdpa"
    if not (bf16 and fused and torch.device(model.device).type == "cpu"):
        yield
        return
    _register()
    transformer.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        transformer.set_attn_implementation("sdpa")


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_NAME, _attend)
    AttentionMaskInterface.register(_NAME, sdpa_mask)


def _attend(
    module: Any,  # noqa: ANN401
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,  # noqa: ANN401
) -> tuple[Tensor, None]:
    """The library's fused attention on float32 copies, under the signature that its models call."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    mask = attention_mask
    if mask is not None and mask.is_floating_point():
        mask = mask.float()
    with torch.autocast(query.device.type, enabled=False):
        out, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **options)
    return out.to(query.dtype), None
