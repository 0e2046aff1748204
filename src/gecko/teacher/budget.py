"""What teacher calls cost, and the caps that no run passes.

A call is started only when what is spent, what the calls under way are expected to cost, and what this one is expected
to cost together stay below the cap. Expected tokens come from the calls already answered.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from gecko.errors import GeckoError, UsageError
from gecko.teacher.ask import Answer, Ask, Likelihood, Write, purpose_of

_FIRST_TOKENS_A_CHARACTER = 1 / 3  # on the high side for English; real counts replace it
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens; ``cached`` is for prompt tokens read from the server's cache."""

    input: float
    output: float
    cached: float | None = None

    def times(self, factor: float) -> Price:
        """The price at a discount, or with a surcharge."""
        cached = None if self.cached is None else self.cached * factor
        return Price(self.input * factor, self.output * factor, cached)

    def of(self, input_tokens: float, output_tokens: float, cached_tokens: float = 0) -> float:
        """Dollars for a call, or for many."""
        cached = self.input if self.cached is None else self.cached
        fresh = input_tokens - cached_tokens
        return (fresh * self.input + cached_tokens * cached + output_tokens * self.output) / _MILLION


FREE = Price(0.0, 0.0)


@cache
def _table() -> dict[str, Any]:
    text = files("gecko.teacher").joinpath("prices.yaml").read_text(encoding="utf-8")
    prices: dict[str, Any] = yaml.safe_load(text)["usd_per_million_tokens"]
    return prices


def price_of(engine: str) -> Price | None:
    """Price of an engine by its name: nothing for a local one, None where the table does not know the model.

    ``openai:vendor/model`` finds the price of ``model``. A dated version is a model of its own: the maker may ask
    another price for it, so it must be in the table itself.
    """
    kind, _, model = engine.partition(":")
    if kind != "openai":
        return FREE
    name = model.rsplit("/", 1)[-1].casefold()
    found = _table().get(name)
    return None if found is None else Price(**found)


class CapReached(GeckoError):
    """The next call could pass a cap."""


class Budget:
    """Spend so far, spend under way, and the caps over both.

    Args:
        price: None where it is not known.
        max_usd: Cap in US dollars on all calls of the run's ledger, earlier sessions included; None for no cap.
        max_tokens: Cap on input and output tokens together; None for no cap.

    Raises:
        UsageError: A cap in dollars on a model whose price is not known.
    """

    def __init__(
        self,
        price: Price | None,
        *,
        max_usd: float | None = None,
        max_tokens: int | None = None,
    ) -> None:
        if max_usd is not None and price is None:
            raise UsageError(
                "--max-usd needs the model's price, which is not known",
                "give it, in dollars for a million tokens: --set 'teacher.price={input: 0.1, output: 0.4}', "
                "or cap the tokens: --max-tokens",
            )
        self._price = price
        self._max_usd = max_usd
        self._max_tokens = max_tokens
        self.usd = 0.0
        self.tokens = 0
        self._reserved_tokens = 0.0
        self._reserved_usd = 0.0
        self._characters: dict[str, int] = defaultdict(int)
        self._input: dict[str, int] = defaultdict(int)
        self._output: dict[str, int] = defaultdict(int)
        self._answers: dict[str, int] = defaultdict(int)

    def start_from(self, usd: float, tokens: int) -> None:
        """Take over what the run has spent so far, in earlier sessions and by its other teacher."""
        self.usd, self.tokens = usd, tokens

    @property
    def price_known(self) -> bool:
        """Whether spend in dollars can be told."""
        return self._price is not None

    def price_of(self, input_tokens: float, output_tokens: float) -> float | None:
        """Dollars for tokens, none of them cached; None where the price is not known."""
        return None if self._price is None else self._price.of(input_tokens, output_tokens)

    def reserve(self, ask: Ask) -> tuple[float, float] | None:
        """Set aside what a call is expected to cost; None where that could pass a cap.

        Returns:
            (tokens, usd), to be given to :meth:`settle` when the call has ended.
        """
        inputs, outputs = self._expected(ask)
        tokens = inputs + outputs
        usd = self.price_of(inputs, outputs) or 0.0
        if self._max_tokens is not None and self.tokens + self._reserved_tokens + tokens > self._max_tokens:
            return None
        if self._max_usd is not None and self.usd + self._reserved_usd + usd > self._max_usd:
            return None
        self._reserved_tokens += tokens
        self._reserved_usd += usd
        return tokens, usd

    def settle(self, ask: Ask, reserved: tuple[float, float], answer: Answer) -> float:
        """Replace a reservation by what the call used; the dollars it cost."""
        self.release(reserved)
        self.tokens += answer.input_tokens + answer.output_tokens
        if not answer.error:
            purpose = purpose_of(ask)
            self._characters[purpose] += _characters(ask)
            self._input[purpose] += answer.input_tokens
            self._output[purpose] += answer.output_tokens
            self._answers[purpose] += 1
        if self._price is None:
            return 0.0
        usd = self._price.of(answer.input_tokens, answer.output_tokens, answer.cached_tokens)
        self.usd += usd
        return usd

    def release(self, reserved: tuple[float, float]) -> None:
        """Give back a reservation whose call cost nothing."""
        self._reserved_tokens -= reserved[0]
        self._reserved_usd -= reserved[1]

    def reached(self) -> CapReached:
        """The error that ends a run at its cap."""
        cap = f"${self._max_usd:g}" if self._max_usd is not None else f"{self._max_tokens:,} tokens"
        used = f"{self.tokens:,} tokens" + (f", ${self.usd:.4f}" if self._price is not None else "")
        return CapReached(
            f"the next teacher call could pass the cap of {cap}; used so far: {used}",
            "nothing is lost: raise the cap and run the same command again to go on",
        )

    def _expected(self, ask: Ask) -> tuple[float, float]:
        purpose = purpose_of(ask)
        if self._answers[purpose]:
            inputs = _characters(ask) * self._input[purpose] / max(self._characters[purpose], 1)
            return inputs, self._output[purpose] / self._answers[purpose]
        outputs = ask.max_tokens if isinstance(ask, Write) else 1
        return _characters(ask) * _FIRST_TOKENS_A_CHARACTER, outputs


def _characters(ask: Ask) -> int:
    length = len(ask.prompt.shared) + len(ask.prompt.own)
    return length + len(ask.continuation) if isinstance(ask, Likelihood) else length
