"""What vLLM answers with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class RequestOutput:
    """The fields that ``ray.data.llm`` reads."""

    prompt_token_ids: list[int]
    outputs: list[Any]
    prompt_logprobs: list[Any] | None
    prompt: str | None = None
    metrics: Any = None
    finished: bool = True


class PoolingRequestOutput:
    """Never made here."""
