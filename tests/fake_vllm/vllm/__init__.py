"""In place of vLLM, where there is no GPU: the names that ``ray.data.llm`` uses, around a language of arithmetic.

Tests put this folder on the path of Ray's workers. Tokens are the numbers below ``SIZE``; which comes next depends on
the last three and on how many there are.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from vllm import inputs, outputs

__all__ = ["AsyncEngineArgs", "AsyncLLMEngine", "SamplingParams", "inputs", "outputs"]

SIZE, END, LONGEST = 258, 257, 12_000
_DIGITS = range(15, 19)  # "0" to "3" of the toy's tokenizer, likelier than others


def logprobs(context: Sequence[int]) -> list[float]:
    """Natural log-probability of every token after a context."""
    seed = sum((place + 1) * token for place, token in enumerate(context[-3:])) + len(context)
    logits = [((seed * 31 + token * 17) % 97) / 10 + 4 * (token in _DIGITS) for token in range(SIZE)]
    total = math.log(sum(math.exp(logit) for logit in logits))
    return [logit - total for logit in logits]


@dataclass(frozen=True)
class SamplingParams:
    """Those of vLLM's that are used."""

    temperature: float = 1.0
    max_tokens: int = 16
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    structured_outputs: Any = None


@dataclass(frozen=True)
class Logprob:
    """As vLLM has it."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


def _entries(context: Sequence[int], chosen: int, most: int) -> dict[int, Logprob]:
    """The chosen token first, then the likeliest ones."""
    found = logprobs(context)
    likeliest = sorted(range(SIZE), key=lambda token: -found[token])[:most]
    return {token: Logprob(found[token]) for token in dict.fromkeys([chosen, *likeliest])}


def generate(tokens: list[int], params: SamplingParams) -> outputs.RequestOutput:
    """Greedy, whatever the temperature.

    Raises:
        ValueError: The prompt is too long.
    """
    if len(tokens) > LONGEST:
        raise ValueError(f"The decoder prompt (length {len(tokens)}) is longer than {LONGEST}")
    written: list[int] = []
    tops = []
    while len(written) < params.max_tokens and END not in written:
        found = logprobs(tokens + written)
        written.append(max(range(SIZE), key=lambda token: found[token]))
        if params.logprobs is not None:
            tops.append(_entries(tokens + written[:-1], written[-1], params.logprobs))
    given: list[dict[int, Logprob] | None] | None = None
    if params.prompt_logprobs is not None:
        depth = params.prompt_logprobs
        given = [None, *(_entries(tokens[:at], tokens[at], depth) for at in range(1, len(tokens)))]
    text = "".join(chr(97 + token % 26) for token in written if token != END)
    reply = SimpleNamespace(token_ids=written, text=text, logprobs=tops or None)
    return outputs.RequestOutput(prompt_token_ids=tokens, outputs=[reply], prompt_logprobs=given)


class AsyncEngineArgs:
    """Whatever it is given, but ``broken``."""

    def __init__(self, **arguments: Any) -> None:
        if "broken" in arguments:
            raise RuntimeError("CUDA error: no kernel image")

    def create_engine_config(self) -> Any:
        """What the pipeline asks of it."""
        return SimpleNamespace(
            scheduler_config=SimpleNamespace(max_num_seqs=4), parallel_config=SimpleNamespace(pipeline_parallel_size=1)
        )


class AsyncLLMEngine:
    """Answers at once."""

    @classmethod
    def from_engine_args(cls, args: AsyncEngineArgs, stat_loggers: Any = None) -> AsyncLLMEngine:
        """As vLLM is started."""
        return cls()

    async def generate(
        self, *, request_id: str, prompt: Any, sampling_params: SamplingParams, lora_request: Any = None
    ) -> AsyncIterator[outputs.RequestOutput]:
        """One finished output."""
        yield generate(list(prompt["prompt_token_ids"]), sampling_params)

    async def do_log_stats(self) -> None:
        """Nothing to log."""

    def shutdown(self) -> None:
        """Nothing to end."""
