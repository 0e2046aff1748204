"""Which languages queries are in, counted while they pass: by language, cross-lingual ones, and those not as wished."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from gecko.corpus.language import NO_LANGUAGE, code_of, detect_among, differ
from gecko.records import FretRow, Passage, Quarantined

_WORD = re.compile(r"\w+")
_PIVOT = "en"  # what a teacher falls back to where it does not write in the language that it should


class Passages(Protocol):
    """Anything that finds a passage by its id."""

    def passage(self, passage_id: str) -> Passage:
        """Fetch one passage."""
        ...


@dataclass
class LanguageCount:
    """What is known of the languages of a stage's rows.

    Attributes:
        languages: Rows by the language of their query.
        cross_lingual: Rows whose query and passage are in different languages.
        unwished: Queries in another language than the teacher was asked for.
    """

    languages: Counter[str] = field(default_factory=Counter)
    cross_lingual: int = 0
    unwished: int = 0

    def query(self, query: str, passage: Passage, wished: str = "") -> str:
        """Name the language of a query that was written for a passage, and count it.

        It is the language that the teacher was asked for unless the text clearly says otherwise. Such a query is kept:
        it finds its passage as well as another, and what is wrong is only the share of its language. Where it was to be
        in the passage's language, words that the passage holds do not speak for another: they are names, mostly.

        Args:
            query: Its text.
            passage: What it was written for.
            wished: Name of the language it was wished in; empty for the passage's own.
        """
        expected = code_of(wished) if wished else passage.lang
        likely = [code for code in (expected, passage.lang) if code not in NO_LANGUAGE]
        in_its_own = len(likely) == 2 and not differ(*likely)
        said = _without_words_of(passage, query) if in_its_own else query
        code = detect_among(said, [*likely, _PIVOT] if likely else [])
        self.unwished += differ(code, expected)
        self._count(code, passage)
        return code

    def rows(self, rows: Iterable[FretRow | Quarantined], passages: Passages) -> Iterator[FretRow | Quarantined]:
        """Let rows pass and count them by their positives; what is quarantined passes uncounted."""
        for row in rows:
            if isinstance(row, FretRow):
                self._count(row.lang, passages.passage(row.positive_id))
            yield row

    def facts(self) -> dict[str, Any]:
        """The counts, JSON-ready."""
        return {"languages": dict(self.languages.most_common()), "cross_lingual": self.cross_lingual}

    def _count(self, code: str, passage: Passage) -> None:
        self.languages[code] += 1
        self.cross_lingual += differ(code, passage.lang)


def _without_words_of(passage: Passage, query: str) -> str:
    held = set(_WORD.findall(f"{passage.title} {passage.text}".casefold()))
    return " ".join(word for word in _WORD.findall(query.casefold()) if word not in held)
