"""Unified rows as a user hands them over: JSON Lines or Parquet, such as a run's ``mixture`` or ``pairs`` folder."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from gecko.corpus.decode import clean
from gecko.errors import GeckoError
from gecko.mixture.format import DEFAULT_TASK
from gecko.records import UNIFIED, Quarantined, UnifiedRow, content_id
from gecko.tabular import SHOWN, Record, read_records

logger = logging.getLogger(__name__)

_NEEDED = ("query", "positive")
_SUFFIXES = (".parquet", ".jsonl")
_HINT = (
    "a row has query and positive (rendered), and may have task, negatives, symmetric, source and row_id; "
    "the folders mixture and pairs of a run hold such rows"
)


def row_files(place: Path) -> list[Path]:
    """List the files of rows: the one that is named, or those of a folder.

    Raises:
        GeckoError: There are none.
    """
    if place.is_dir():
        found = sorted(path for suffix in _SUFFIXES for path in place.glob(f"*{suffix}"))
        files = [path for path in found if path.name != "quarantine.parquet" and not path.name.startswith(".")]
    else:
        files = [place] if place.is_file() and place.suffix.lower() in _SUFFIXES else []
    if not files:
        raise GeckoError(f"no rows at {place}", "name a .parquet or .jsonl file, or a folder of such files")
    return files


def read_unified(place: Path, *, distinct: bool = False) -> Iterator[UnifiedRow | Quarantined]:
    """Read unified rows; a row that cannot be trained on is set aside with the reason.

    A row without a task has that of a web search, one without an id is named by its texts.

    Args:
        place: As :func:`row_files`.
        distinct: Set aside, too, what is an earlier row again in all but its id.

    Raises:
        GeckoError: There are no such files, one cannot be read, or it lacks a column.
    """
    seen: set[bytes] = set()
    for path in row_files(place):
        columns: set[str] = set()
        for number, record in enumerate(_records(path), start=1):
            where = f"{path.name}#{number}"
            if isinstance(record, str):
                yield Quarantined("rows", where, record, "")
                continue
            if not columns:
                columns = _checked(path, record)
            row = _row(where, record, path.stem)
            if distinct and isinstance(row, UnifiedRow):
                said = _digest(row)
                if said in seen:
                    row = Quarantined("rows", where, "a repeat of an earlier row", ascii(record)[:SHOWN])
                seen.add(said)
            yield row


def _records(path: Path) -> Iterator[Record | str]:
    try:
        yield from read_records(path)
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise GeckoError(f"cannot read {path}: {reason}", "is it whole?") from error


def _checked(path: Path, record: dict[str, Any]) -> set[str]:
    """The columns of a file, by its first row."""
    columns = set(record)
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        there = ", ".join(sorted(map(str, columns)))
        raise GeckoError(f"{path} has no column {missing[0]!r}; there are {there}", _HINT)
    unknown = sorted(columns - set(UNIFIED.names))
    if unknown:
        logger.warning("%s: not read: %s (a unified row has %s)", path, ", ".join(unknown), ", ".join(UNIFIED.names))
    return columns


def _row(where: str, record: dict[str, Any], source: str) -> UnifiedRow | Quarantined:
    query, positive = (_text(record.get(name)) for name in _NEEDED)
    negatives = record.get("negatives")
    negatives = [negatives] if isinstance(negatives, str) else negatives or []
    symmetric = record.get("symmetric") or False
    wrong = ""
    if not query or not positive:
        wrong = f"{_NEEDED[bool(query)]}: an empty text, or none"
    elif query == positive:
        wrong = "query and positive are the same text"
    elif not isinstance(negatives, list) or not all(map(_text, negatives)):
        wrong = "negatives: not a list of texts"
    elif not isinstance(symmetric, bool):
        wrong = "symmetric: neither true nor false"
    if wrong:
        return Quarantined("rows", where, wrong, ascii(record)[:SHOWN])
    named = _text(record.get("source")) or source
    return UnifiedRow(
        row_id=_text(record.get("row_id")) or content_id(named, query, positive),
        task=" ".join(_text(record.get("task")).split()) or DEFAULT_TASK,
        query=query,
        positive=positive,
        negatives=tuple(map(_text, negatives)),
        symmetric=symmetric,
        source=named,
    )


def _digest(row: UnifiedRow) -> bytes:
    """Name all that a row says but its id, in 16 bytes: there may be millions of rows."""
    return hashlib.sha256(repr(replace(row, row_id="")).encode("utf-8", "surrogatepass")).digest()[:16]


def _text(value: Any) -> str:  # noqa: ANN401
    return clean(value).strip() if isinstance(value, str) else ""
