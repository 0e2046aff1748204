"""A plain line every few seconds while a language model is asked: rows, speed, spend, time left."""

from __future__ import annotations

import time
from collections.abc import Callable

from gecko.teacher.ask import Answer
from gecko.teacher.budget import Budget

_EVERY_SECONDS = 5.0


class Progress:
    """Counts rows and tokens, and tells of them now and then.

    Args:
        tell: Receives the lines.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._what = "rows"
        self._total = 0
        self._rows = 0
        self._tokens = 0
        self._started = self._told = time.monotonic()

    def begin(self, what: str, total: int) -> None:
        """Start to count the rows of a stage."""
        self._what, self._total, self._rows, self._tokens = what, total, 0, 0
        self._started = self._told = time.monotonic()

    def call(self, answer: Answer) -> None:
        """Count a call's tokens."""
        self._tokens += answer.input_tokens + answer.output_tokens

    def row(self, budget: Budget) -> None:
        """Count a finished row, and tell if it is time."""
        self._rows += 1
        now = time.monotonic()
        if now - self._told < _EVERY_SECONDS:
            return
        self._told = now
        seconds = now - self._started
        speed = self._rows / seconds
        spend = f"${budget.usd:.4f}" if budget.price_known else "price not known"
        of = f" of {self._total:,}" if self._total else ""
        left = f", {_duration(max(self._total - self._rows, 0) / speed)} left" if self._total else ""
        self._tell(
            f"{self._what}: {self._rows:,}{of} rows, {speed:.1f} rows/s, "
            f"{self._tokens / seconds:,.0f} tokens/s, {spend}{left}"
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
