"""The queries of an own test set: typed, from a file of one a line, or a sample of a search log."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gecko.corpus.decode import clean
from gecko.errors import GeckoError, reason
from gecko.records import content_id
from gecko.tabular import SUFFIXES, Record, as_text, read_records

_COLUMNS = ("query", "text", "question", "q")
_SEED = 0  # of the sample


@dataclass(frozen=True, slots=True)
class Query:
    """A query; the id is a hash of its words, so that the same query typed twice is one."""

    query_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Found:
    """Queries, and what of the file was none: lines that are empty, that repeat a query, or that cannot be read."""

    queries: tuple[Query, ...]
    empty: int
    repeated: int
    broken: int
    left: int


def to_query(text: str) -> Query | None:
    """Tidy a typed query; None where nothing is left of it."""
    tidy = " ".join(clean(text).split())
    return Query(content_id("query", tidy.casefold()), tidy) if tidy else None


def distinct(texts: Iterable[str]) -> list[Query]:
    """Tidy queries and keep the first of those that differ in case and spaces only."""
    queries: dict[str, Query] = {}
    for text in texts:
        query = to_query(text)
        if query is not None:
            queries.setdefault(query.query_id, query)
    return list(queries.values())


def read_queries(path: Path, *, column: str | None = None, sample: int | None = None) -> Found:
    """Read queries from a file.

    Args:
        path: JSON Lines, CSV, TSV or Parquet with a column of queries; any other file has one a line.
        column: Which column; query, text, question or q if None.
        sample: Keep so many, drawn from the lines of the log, so that what is asked often is likelier to be there.

    Raises:
        GeckoError: It cannot be read or holds no query.
    """
    texts: list[str] = []
    broken = empty = 0
    for text in _texts(path, column):
        if text is None:
            broken += 1
        elif to_query(text) is None:
            empty += 1
        else:
            texts.append(text)
    if sample is not None:
        random.Random(_SEED).shuffle(texts)  # noqa: S311
    queries = distinct(texts)
    if not queries:
        raise GeckoError(f"{path} holds no query", "it should have one a line, or a column named query")
    kept = queries if sample is None else queries[:sample]
    return Found(tuple(kept), empty, len(texts) - len(queries), broken, len(queries) - len(kept))


def _texts(path: Path, column: str | None) -> Iterator[str | None]:
    """Yield each line's query, None where there is none to be read."""
    import pyarrow as pa

    hint = "is it UTF-8 text with one query a line, or a table with a column named query?"
    try:
        if path.suffix.lower() not in SUFFIXES:
            with path.open(encoding="utf-8-sig") as lines:
                yield from lines
            return
        chosen = None
        for record in read_records(path):
            if isinstance(record, str):
                yield None
                continue
            if chosen is None:  # by the first record
                chosen = _column(path, record, column)
            value = record.get(chosen)
            yield "" if value in (None, "") else as_text(value)
    except FileNotFoundError:
        raise GeckoError(f"{path}: no such file", hint) from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise GeckoError(f"{path} cannot be read: {reason(error)[:120]}", hint) from error


def _column(path: Path, record: Record, wanted: str | None) -> str:
    name = next((name for name in ((wanted,) if wanted else _COLUMNS) if name in record), None)
    if name is None:
        there = ", ".join(map(str, record))
        raise GeckoError(f"{path}: no column {wanted or 'query'}; there are {there}", "name it: --column NAME")
    return name
