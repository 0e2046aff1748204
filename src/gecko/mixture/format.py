"""The strings the encoder sees, in training and in use: the paper's unified format (appendix B).

This is the only module that renders them. An asymmetric task reads ``task: {task} | query: {query}`` against
``title: {title} | text: {text}``; a symmetric one gives both sides the first form. A missing title is written
``none``, as EmbeddingGemma does with the same strings. A ``plain`` format keeps a backbone's own habits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gecko.records import UnifiedRow

TextFormat = Literal["gecko", "plain"]

DEFAULT_TASK = "search result"
DOCUMENT_PROMPT = "title: none | text: "


def render_query(task: str, query: str, text_format: TextFormat = "gecko") -> str:
    """Render the query side, and both sides of a symmetric row."""
    return query if text_format == "plain" else f"{query_prompt(task)}{query}"


def render_passage(title: str, text: str, text_format: TextFormat = "gecko") -> str:
    """Render a passage with its title."""
    if text_format == "plain":
        return f"{title} {text}" if title else text
    return f"title: {title or 'none'} | text: {text}"


def query_prompt(task: str = DEFAULT_TASK) -> str:
    """The prefix that stands before a query of this task."""
    return f"task: {task} | query: "


def model_prompts(text_format: TextFormat) -> dict[str, str]:
    """Prompts to save with a model, so that every reader of the directory renders as training did."""
    if text_format == "plain":
        return {"query": "", "document": ""}
    return {"query": query_prompt(), "document": DOCUMENT_PROMPT}


def format_of_prompts(prompts: Mapping[str, str | None]) -> TextFormat:
    """Tell from a saved model's prompts which format it was trained with."""
    return "gecko" if prompts.get("document") == DOCUMENT_PROMPT else "plain"


@dataclass(frozen=True, slots=True)
class SourceText:
    """A text before it was rendered, so that another embedder can be given it in its own format.

    Attributes:
        task: The task, where it stands on the query side; None for a passage.
        title: A passage's title; empty where it has none or a plain text no longer tells.
        text: The text.
    """

    task: str | None
    title: str
    text: str


def source_query(row: UnifiedRow) -> SourceText:
    """A row's query before rendering."""
    return SourceText(row.task, "", row.query)


def source_passage(row: UnifiedRow, rendered: str | None, text_format: TextFormat) -> SourceText | None:
    """A text of a row's other side before rendering; None for none.

    Args:
        row: The row, which says whether its sides are alike.
        rendered: Its positive, or another text like it.
        text_format: How it was rendered.
    """
    if rendered is None:
        return None
    if row.symmetric:
        return SourceText(row.task, "", rendered.removeprefix(render_query(row.task, "", text_format)))
    if text_format == "plain":
        return SourceText(None, "", rendered)
    title, _, text = rendered.removeprefix("title: ").partition(" | text: ")
    return SourceText(None, "" if title == "none" else title, text)


def unrendered(text: str) -> str:
    """The words of a rendered text without the format's own, of whichever format and side it is."""
    head, middle, body = text.partition(" | query: ")
    if middle and head.startswith("task: "):
        return body
    head, middle, body = text.partition(" | text: ")
    if middle and head.startswith("title: "):
        title = head.removeprefix("title: ")
        return body if title == "none" else f"{title} {body}"
    return text
