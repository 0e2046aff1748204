"""Rows of a test set, each column by the role it plays; unlike a training source, a test set with a bad row is refused.

To leave a row out would change the figure that everybody else's is compared with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from gecko.corpus.decode import clean
from gecko.errors import GeckoError
from gecko.jsonl import read_objects
from gecko.tabular import as_label, as_score, read_records

# The names under which a role's column is looked for.
COLUMNS: dict[str, tuple[str, ...]] = {
    "sentence1": ("sentence1", "text1", "question1"),
    "sentence2": ("sentence2", "text2", "question2"),
    "score": ("score", "similarity_score"),
    "label": ("label", "labels", "is_duplicate"),
    "text": ("text", "sentence"),
    "query": ("query", "question"),
    "positive": ("positive", "positives"),
    "negative": ("negative", "negatives"),
    "human_summaries": ("human_summaries",),
    "machine_summaries": ("machine_summaries",),
    "relevance": ("relevance",),
    "lang": ("lang", "language"),
}
_WHOLE = "is the file whole, and UTF-8 text?"

Row = dict[str, Any]


def columns_in(names: Iterable[str]) -> dict[str, str]:
    """Tell which roles a file's columns can play: role → column."""
    there = set(names)
    found = {role: next((name for name in usual if name in there), None) for role, usual in COLUMNS.items()}
    return {role: name for role, name in found.items() if name is not None}


def first_columns(path: Path) -> list[str]:
    """Name the columns of a file by its first row.

    Raises:
        GeckoError: It cannot be read, or holds no row.
    """
    record, _ = next(_records(path), ({}, ""))
    if not record:
        raise GeckoError(f"{path}: holds no row", "is it the right file?")
    return list(record)


def read_rows(path: Path, roles: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[Row, str]]:
    """Yield (value of each role, "path, line n").

    Args:
        path: The file.
        roles: What each row must hold.
        optional: What it holds if the first row does.

    Raises:
        GeckoError: The file cannot be read, holds no row or lacks a role's column, or a row lacks what the first has.
    """
    columns: dict[str, str] = {}
    for record, where in _records(path):
        if not columns:
            there = columns_in(record)
            if missing := next((role for role in roles if role not in there), None):
                usual = " or ".join(COLUMNS[missing])
                raise GeckoError(f"{path}: no column {usual}; there are {_names(record)}", f"name it {missing}")
            columns = {role: there[role] for role in (*roles, *optional) if role in there}
        if (lacking := next((name for name in columns.values() if name not in record), None)) is not None:
            raise GeckoError(f"{where}: no {lacking!r}", f"there are {_names(record)}")
        yield {role: record[name] for role, name in columns.items()}, where
    if not columns:
        raise GeckoError(f"{path}: holds no row", "is it the right file?")


def text_of(row: Row, role: str, where: str) -> str:
    """A text, cleaned as the corpus is; an empty one is kept, as others keep it."""
    if not isinstance(row[role], str):
        raise GeckoError(f"{where}: {role} is not text but {_shown(row[role])}", "a text is wanted there")
    return clean(row[role])


def texts_of(row: Row, role: str, where: str) -> list[str]:
    """A list of texts; a single one is a list of one."""
    values = row[role] if isinstance(row[role], list) else [row[role]]
    return [text_of({role: value}, role, where) for value in values]


def label_of(row: Row, where: str) -> str:
    """A label, as text."""
    label = as_label(row["label"])
    if label is None:
        raise GeckoError(f"{where}: the label is {_shown(row['label'])}", "a text or a whole number is wanted there")
    return label


def score_of(value: Any, where: str) -> float:  # noqa: ANN401
    """A human score."""
    score = as_score(value)
    if score is None:
        raise GeckoError(f"{where}: the score {_shown(value)} is not a number", "a score is a finite number")
    return score


def check_differ(values: Iterable[object], what: str) -> None:
    """Refuse a sample in which there is nothing to tell apart.

    Raises:
        GeckoError: All values are the same.
    """
    if len(set(values)) < 2:
        raise GeckoError(f"the sample has one {what} only", "raise the limit")


def _records(path: Path) -> Iterator[tuple[Row, str]]:
    if path.suffix.lower() == ".jsonl":
        yield from read_objects(path, "is it the right file?")
        return
    try:
        for number, record in enumerate(read_records(path), start=1):
            if isinstance(record, str):
                raise GeckoError(f"{path}, row {number}: {record[:200]}", _WHOLE)
            yield record, f"{path}, row {number}"
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise GeckoError(f"{path}: cannot be read ({reason})", _WHOLE) from error


def _names(record: Row) -> str:
    return ", ".join(map(str, record)) or "none"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
