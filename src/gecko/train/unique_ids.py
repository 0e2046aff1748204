"""Long labelled texts cut before their unique ID: it is appended, so the tokenizer's own cut would take it first."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gecko.errors import GeckoError
from gecko.mixture.format import TextFormat, render_passage, render_query
from gecko.mixture.sources.labels import unique_id_of
from gecko.records import UnifiedRow


def keep_unique_ids(
    rows: Sequence[UnifiedRow],
    tokenizer: Any,  # noqa: ANN401
    window: int,
    text_format: TextFormat,
    prompts: Mapping[str, str],
    tell: Callable[[str], None],
) -> list[UnifiedRow]:
    """Cut the texts that are longer than the window so that their unique ID stays in it; all others are left alone.

    Args:
        rows: The rows.
        tokenizer: The student's.
        window: Tokens of a text that training reads.
        text_format: How the rows' texts are rendered.
        prompts: The student's, which plain texts are given.
        tell: Receives a line for each source that has such texts.

    Returns:
        The rows, in their order.

    Raises:
        GeckoError: What stands before a text, and its ID, fill the window.
    """
    plain = text_format == "plain"
    cutter = _Cutter(tokenizer, window, text_format, *((prompts["query"], prompts["document"]) if plain else ("", "")))
    made: list[UnifiedRow] = []
    cut: Counter[str] = Counter()
    for row in rows:
        tag = unique_id_of(row)
        made.append(cutter.fit(row, tag) if tag else row)
        cut[row.source] += sum(one != other for one, other in zip(_texts(row), _texts(made[-1]), strict=True))
    for source, count in cut.items():
        if count:
            tell(f"training: {count:,} texts of {source} are cut before their unique ID, to fit {window} tokens")
    return made


@dataclass(frozen=True, slots=True)
class _Cutter:
    """Cuts the texts of a row; ``asks`` and ``tells`` stand before rendered queries and passages."""

    tokenizer: Any
    window: int
    text_format: TextFormat
    asks: str
    tells: str

    def fit(self, row: UnifiedRow, tag: str) -> UnifiedRow:
        """The row with each of its texts in the window, the ID included."""
        asked = render_query(row.task, "", self.text_format)
        head, prompt = (asked, self.asks) if row.symmetric else (render_passage("", "", self.text_format), self.tells)
        query = self._fit(row, tag, self.asks + asked, "", row.query)
        positive, *negatives = (self._fit(row, tag, prompt, head, text) for text in (row.positive, *row.negatives))
        return replace(row, query=query, positive=positive, negatives=tuple(negatives))

    def _fit(self, row: UnifiedRow, tag: str, prompt: str, head: str, text: str) -> str:
        """A text of the row in the window; it begins with ``head`` and is encoded behind ``prompt``."""
        if self._count(prompt + text) <= self.window:
            return text
        body = text.removesuffix(tag)
        ends = range(len(head) if body.startswith(head) else 0, len(body))
        fitting = bisect_right(ends, self.window, key=lambda end: self._count(prompt + body[:end].rstrip() + tag))
        if fitting < 2:  # nothing behind the head
            raise GeckoError(
                f"source {row.source}: {self.window} tokens are too few for a text with its task and unique ID",
                "raise train.max_length",
            )
        return body[: ends[fitting - 1]].rstrip() + tag

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, truncation=False, verbose=False)["input_ids"])


def _texts(row: UnifiedRow) -> tuple[str, ...]:
    return (row.query, row.positive, *row.negatives)
