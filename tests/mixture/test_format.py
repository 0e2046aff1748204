"""The one format: what the encoder sees in training is what it sees in use."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from gecko.mixture.format import (
    SourceText,
    format_of_prompts,
    model_prompts,
    query_prompt,
    render_passage,
    render_query,
    source_passage,
    source_query,
)
from gecko.mixture.options import MixtureOptions
from gecko.mixture.rows import Carried, unify_fret
from gecko.mixture.sampler import row_kinds
from gecko.records import Candidate, FretRow, Passage, UnifiedRow


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


SENTENCES = {
    "Given a claim, find a passage that refutes it.": "fact checking",
    "Given a sentence, find one with the same meaning.": "semantic similarity",
    "Given key words, find a passage about them.": "search result",
    "Given a question, find a passage that answers it.": "question answering",
}


def test_half_of_the_fret_rows_are_trained_with_the_short_label_of_their_kind() -> None:
    for sentence, label in SENTENCES.items():
        rows = [replace(fret(""), row_id=f"{sentence} {n}", task=sentence) for n in range(200)]
        made = list(unify_fret(rows, Corpus(), "gecko"))
        counted = Counter(row.task for row in made)
        assert set(counted) == {sentence, label}
        assert 70 < counted[label] < 130
        assert list(unify_fret(rows[::-1], Corpus(), "gecko")) == made[::-1], "the row alone decides"
        assert set(row_kinds(made, MixtureOptions())) == {label}, "whichever it has, its kind is the same"
        plain = list(unify_fret(rows, Corpus(), "plain"))
        assert {row.task for row in plain} == {sentence}
    without = [replace(fret(""), row_id=str(n), task=" ") for n in range(20)]
    assert {row.task for row in unify_fret(without, Corpus(), "gecko")} == {"question answering"}


def candidate(name: str, rank: int, rc: float | None) -> Candidate:
    return Candidate(name, 0.5, rank, None, rank, rc, rank, 1.0 / rank, rank)


RANKED = tuple(
    candidate(name, rank, rc)
    for rank, (name, rc) in enumerate(
        [("p", 3.0), ("a", 2.9), ("b", 1.0), ("c", 2.6), ("n", 0.5), ("d", None)], start=1
    )
)


@pytest.mark.parametrize(
    ("carried", "names"),
    [
        (None, ""),
        (Carried(), ""),
        (Carried(ranked=2), "pabn"),
        (Carried(ranked=99), "pabcnd"),
        (Carried(relevant=1, min_rc=2.5), "pan"),
        (Carried(relevant=9, min_rc=2.5), "pacn"),
        (Carried(relevant=9, min_rc=3.0), "pn"),
        (Carried(ranked=1, relevant=9, min_rc=2.6), "pacn"),
    ],
)
def test_fret_rows_carry_the_candidates_that_training_reads(carried: Carried | None, names: str) -> None:
    row = replace(fret("n"), candidates=RANKED)
    (made,) = unify_fret([row], Corpus(), "plain", carried)
    expected = [c for c in RANKED if c.passage_id in names]
    texts = ["T text of " + c.passage_id if c.passage_id != "n" else "text of n" for c in expected]
    assert [c.text for c in made.candidates] == texts
    assert [(c.rc, c.rrf) for c in made.candidates] == [(c.rc, c.rrf) for c in expected]


@pytest.mark.parametrize("text_format", ["gecko", "plain"])
def test_what_was_rendered_is_told_again(text_format) -> None:
    row = UnifiedRow("r", "a task", "a query", "")
    assert source_query(row) == SourceText("a task", "", "a query")
    for title, text in (("A title", "and | text: of it"), ("", "text alone"), ("", "")):
        rendered = render_passage(title, text, text_format)
        told = ("", rendered) if text_format == "plain" else (title, text)  # a plain text does not say what a title was
        assert source_passage(row, rendered, text_format) == SourceText(None, *told)
        alike = render_query("a task", text, text_format)
        assert source_passage(replace(row, symmetric=True), alike, text_format) == SourceText("a task", "", text)
    assert source_passage(row, None, text_format) is None
