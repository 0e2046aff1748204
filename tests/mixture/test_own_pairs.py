"""Pairs that a run makes of its own corpus: what is a pair, what is not and why."""

from __future__ import annotations

import pytest

from gecko.mixture.format import render_passage, render_query
from gecko.mixture.own_pairs import query_pairs, title_pairs
from gecko.records import GeneratedQuery, Passage


def passage(number: int, title: str, text: str = "") -> Passage:
    return Passage(f"p{number}", f"s{number}", title, text or f"body {number}", "src", "en")


CORPUS = [
    passage(0, "Otters"),
    passage(1, ""),
    passage(2, "Guide"),
    passage(3, "guide "),
    passage(4, "GUIDE"),
    passage(5, "Twins"),
    passage(6, "Twins"),
    passage(7, "said twice", "said twice"),
    passage(8, "  "),
]


@pytest.mark.parametrize("text_format", ["gecko", "plain"])
def test_a_title_asks_for_its_body_alone(text_format) -> None:
    made = title_pairs(CORPUS, "search result", text_format, repeats=2)
    assert [row.query for row in made.rows] == ["Otters", "Twins", "Twins"]
    assert [row.positive for row in made.rows] == [
        render_passage("", f"body {number}", text_format) for number in (0, 5, 6)
    ]
    assert all("Otters" not in row.positive for row in made.rows)
    assert {(row.task, row.source, row.symmetric, row.negatives) for row in made.rows} == {
        ("search result", "corpus", False, ())
    }
    assert len({row.row_id for row in made.rows}) == 3


def test_every_passage_is_accounted_for_by_reason() -> None:
    made = title_pairs(CORPUS, "search result", "gecko", repeats=2)
    assert made.read == len(CORPUS)
    assert made.unused == {"no title": 2, "a title of more than 2 passages": 3, "both texts are the same": 1}
    assert made.read == made.used + sum(made.unused.values()) + len(made.quarantined)
    strict = title_pairs(CORPUS, "search result", "gecko", repeats=1)
    assert [row.query for row in strict.rows] == ["Otters"]
    assert title_pairs([passage(0, "")], "x", "gecko", repeats=1).why_none() == "1 records (1 x no title)"


class Store:
    def passage(self, passage_id: str) -> Passage:
        return CORPUS[int(passage_id[1:])]


def test_a_query_asks_for_its_seed_with_its_own_task_and_held_out_seeds_are_left_out() -> None:
    def query(seed: int, text: str) -> GeneratedQuery:
        return GeneratedQuery(f"p{seed}", f"task of {text}", text, "en", "t", "1", 0, 0)

    queries = [query(0, "swims"), query(2, "secret"), query(5, "pair"), query(0, "swims")]
    made = query_pairs(queries, Store(), "gecko", held_out=lambda seed_id: seed_id == "p2")
    assert [(row.task, row.query, row.positive) for row in made.rows] == [
        ("task of swims", "swims", render_passage("Otters", "body 0")),
        ("task of pair", "pair", render_passage("Twins", "body 5")),
    ]
    assert {row.source for row in made.rows} == {"queries"}
    assert made.unused == {"held out for the gate": 1, "repeats an earlier row": 1}
    assert made.read == 4
    assert render_query(made.rows[0].task, made.rows[0].query) == "task: task of swims | query: swims"
