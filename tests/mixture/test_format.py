"""The one format: what the encoder sees in training is what it sees in use."""

from __future__ import annotations

import pytest

from gecko.mixture.format import (
    format_of_prompts,
    model_prompts,
    query_prompt,
    render_passage,
    render_query,
)
from gecko.mixture.rows import unify_fret
from gecko.records import FretRow, Passage


def test_the_strings_of_the_paper() -> None:
    assert render_query("fact checking", "is it so?") == "task: fact checking | query: is it so?"
    assert render_passage("Moles", "They dig.") == "title: Moles | text: They dig."
    assert render_passage("", "They dig.") == "title: none | text: They dig."
    assert query_prompt() == "task: search result | query: "


def test_plain_keeps_the_texts() -> None:
    assert render_query("any", "is it so?", "plain") == "is it so?"
    assert render_passage("Moles", "They dig.", "plain") == "Moles They dig."
    assert render_passage("", "They dig.", "plain") == "They dig."


@pytest.mark.parametrize("text_format", ["gecko", "plain"])
def test_prompts_render_as_the_functions_do(text_format) -> None:
    prompts = model_prompts(text_format)
    assert prompts["query"] + "why?" == render_query("search result", "why?", text_format)
    assert prompts["document"] + "so." == render_passage("", "so.", text_format)
    assert format_of_prompts(prompts) == text_format


def test_foreign_prompts_are_plain() -> None:
    assert format_of_prompts({}) == "plain"
    assert format_of_prompts({"query": "query: ", "document": "passage: "}) == "plain"


def test_braces_and_signs_are_text() -> None:
    assert render_passage("{0}", "100 % {x} | text: y") == "title: {0} | text: 100 % {x} | text: y"
    assert render_query("{task}", "{query}") == "task: {task} | query: {query}"


class Corpus:
    def passage(self, passage_id: str) -> Passage:
        return Passage(passage_id, "s", "" if passage_id == "n" else "T", f"text of {passage_id}", "src", "en")


def fret(negative: str) -> FretRow:
    return FretRow("r", "a task", "a query", "en", "seed", "p", negative, (), True, "t", "x", "1", 0, 0)


def test_fret_rows_become_unified_rows() -> None:
    one, two = unify_fret([fret("n"), fret("")], Corpus(), "gecko")
    assert (one.row_id, one.task, one.query, one.source, one.symmetric) == ("r", "a task", "a query", "fret", False)
    assert one.positive == "title: T | text: text of p"
    assert one.negatives == ("title: none | text: text of n",)
    assert two.negatives == ()
    (plain,) = unify_fret([fret("n")], Corpus(), "plain")
    assert (plain.positive, plain.negatives) == ("T text of p", ("text of n",))
