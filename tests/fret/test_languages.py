"""The language of a query: that which was asked for unless it clearly is another, and what is counted of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gecko.fret.generate import generate
from gecko.fret.languages import LanguageCount
from gecko.fret.rank import decide, fuse
from gecko.recipe import FretOptions
from gecko.records import FretRow, GeneratedQuery, Passage, Quarantined
from gecko.teacher.protocol import Generation

ENGLISH = Passage("e", "e", "", "Clean the filter when the machine does not drain.", "", "en")
GERMAN = Passage("d", "d", "", "Das Flusensieb reinigen, wenn das Wasser nicht abläuft.", "", "de")
NAMES = Passage(
    "n", "n", "Bon Jovi", "Die Band um Jon Bon Jovi aus New Jersey spielte: The Last Night, Runaway.", "", "de"
)
UNNAMED = Passage("u", "u", "", "E18", "", "und")


@pytest.mark.parametrize(
    ("seed", "wished", "query", "lang", "crossing", "unwished"),
    [
        (ENGLISH, "", "washer does not drain", "en", False, False),
        (GERMAN, "", "waschmaschine pumpt nicht ab", "de", False, False),
        (GERMAN, "", "washing machine does not drain", "en", True, True),  # a model that falls back to English
        (ENGLISH, "German", "waschmaschine pumpt nicht ab", "de", True, False),
        (ENGLISH, "German", "washing machine does not drain", "en", False, True),  # the wish was not followed
        (ENGLISH, "Chinese", "waschmaschine pumpt nicht ab was tun", "de", True, True),  # quite another
        (GERMAN, "German", "E18 Fehler", "de", False, False),
        (ENGLISH, "Klingon", "washing machine does not drain", "en", False, False),  # cannot be checked
        (NAMES, "", "new jersey jon", "de", False, False),  # nothing but its passage's own words
        (NAMES, "", "wann lief the last night von Bon Jovi", "de", False, False),
        (NAMES, "", "which songs are by the band of jon bon jovi", "en", True, True),
        (NAMES, "English", "new jersey jon", "en", True, False),  # other words than the passage's were asked for
        (UNNAMED, "German", "waschmaschine pumpt nicht ab", "de", False, False),
        (UNNAMED, "", "e18", "und", False, False),
    ],
)
def test_the_language_of_a_query(
    seed: Passage, wished: str, query: str, lang: str, crossing: bool, unwished: bool
) -> None:
    class Teacher:
        name, prompt_version = "t", "1"

        def write(self, seeds: Any) -> list[Generation]:
            return [Generation("Given a question, find an answer.", f" {query}\n", language=wished) for _ in seeds]

    counted = LanguageCount()
    (row,) = generate([seed], Teacher(), counted)  # type: ignore[arg-type]
    assert isinstance(row, GeneratedQuery)
    assert (row.lang, row.query) == (lang, query)
    assert counted.facts() == {"languages": {lang: 1}, "cross_lingual": int(crossing)}
    assert counted.unwished == int(unwished)


def test_what_was_not_written_is_not_counted() -> None:
    class Teacher:
        name, prompt_version = "t", "1"

        def write(self, seeds: Any) -> list[Generation]:
            return [Generation("", "", "navigation"), Generation("", "", None, "unreadable", "waschmaschine")]

    counted = LanguageCount()
    rows = list(generate([ENGLISH, GERMAN], Teacher(), counted))  # type: ignore[arg-type]
    assert all(isinstance(row, Quarantined) for row in rows)
    assert counted.facts() == {"languages": {}, "cross_lingual": 0}


def test_rows_are_counted_by_their_positive() -> None:
    """The positive may be another passage than the seed, in another language."""
    passages = {one.passage_id: one for one in (ENGLISH, GERMAN, UNNAMED)}
    places = SimpleNamespace(passage=passages.__getitem__)

    def row(lang: str, positive: str) -> FretRow:
        return FretRow("r", "t", "q", lang, "e", positive, "", (), False, "t", "r", "1", 0, 0)

    rows = [row("de", "d"), row("de", "e"), row("en", "d"), row("en", "u"), Quarantined("fret", "e", "none", "q")]
    counted = LanguageCount()
    assert list(counted.rows(rows, places)) == rows  # type: ignore[arg-type]
    assert counted.facts() == {"languages": {"de": 2, "en": 2}, "cross_lingual": 2}


def test_a_query_that_words_cannot_rank_keeps_its_seed_and_gets_no_judged_negative() -> None:
    unknown = (None, None, None)
    decision = decide(fuse(["d", "e", "x"], [0.9, 0.5, 0.1], unknown, unknown), "e", "q", FretOptions())
    assert (decision.positive_id, decision.negative_id, decision.reason) == ("e", "", "")
