"""The strings the encoder sees, in training and in use: the paper's unified format (appendix B).

This is the only module that renders them. An asymmetric task reads ``task: {task} | query: {query}`` against
``title: {title} | text: {text}``; a symmetric one gives both sides the first form. A missing title is written
``none``, as EmbeddingGemma does with the same strings. A ``plain`` format keeps a backbone's own habits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

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
