"""Attention in float32 where bfloat16's would be slow: its backward pass on CPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class PreciseAttention(TorchFunctionMode):  # type: ignore[misc]
    """Computes fused attention on CPUs in float32, whatever autocast says; all else stays as it is.

    PyTorch's fused kernel is fast in float32, forward and backward; in bfloat16 its backward pass alone takes longer
    than all matrix products of a small encoder together, most of all for short texts (docs/log.md).
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run a function of torch; called for every one."""
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention or (short := _short_type(args[0])) is None:
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            found = func(*map(_precise, args), **{name: _precise(value) for name, value in kwargs.items()})
        return found.to(short)


def _short_type(query: Tensor) -> torch.dtype | None:
    """The type of less than 32 bits that attention would be computed in on a CPU; None elsewhere, or if in none."""
    if query.device.type != "cpu":
        return None
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    return kind if kind in {torch.bfloat16, torch.float16} else None


def _precise(value: Any) -> Any:  # noqa: ANN401
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
