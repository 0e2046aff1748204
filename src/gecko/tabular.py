"""Files of records (JSON Lines, CSV, TSV, Parquet) read a record at a time, and the values that labelled ones hold."""

from __future__ import annotations

import csv as plain_csv
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from gecko.corpus.decode import clean
from gecko.jsonl import read_lines
from gecko.remote import AnyFile, RemoteFile

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
_BLOCK = 1 << 22  # bytes of a delimited file read at once; a row must fit in
SHOWN = 1000  # characters kept of what is set aside

Record = dict[str, Any]
Choose = Callable[[list[str]], Iterable[str]]


def read_records(path: AnyFile, choose: Choose | None = None) -> Iterator[Record | str]:
    """Yield each record of a file, or in its place the reason why there is none; all values of CSV and TSV are text.

    Args:
        path: A file with one of the known endings.
        choose: Given the names of the columns, those that are wanted; others of a Parquet file are not read.

    Raises:
        OSError, ValueError, pyarrow.ArrowException: The file as a whole cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        yield from json_records(path)
    elif suffix == ".parquet":
        yield from _parquet(path, choose)
    else:
        yield from _delimited(path, "\t" if suffix == ".tsv" else ",")


def json_records(path: AnyFile) -> Iterator[Record | str]:
    """Yield each object of a JSON Lines file, or the reason why there is none in its place."""
    for line in read_lines(path):
        if line.fault:
            yield f"line {line.number} is {line.fault}"
        else:
            yield line.value if isinstance(line.value, dict) else f"line {line.number} is not a JSON object"


def _delimited(path: AnyFile, delimiter: str) -> Iterator[Record | str]:
    """Read CSV with quotes; TSV without, as STS and GLUE are published: there a quote is a character of a text."""
    import pyarrow as pa
    from pyarrow import csv

    broken: list[str] = []

    def set_aside(row: Any) -> str:  # noqa: ANN401
        broken.append(f"{row.actual_columns} columns instead of {row.expected_columns}: {row.text[:SHOWN]}")
        return "skip"

    with path.open(encoding="utf-8-sig") as lines:
        header = lines.readline().rstrip("\r\n")
    names = next(iter(_header(header, delimiter)), [])
    with _opened(path) as source:
        reader = csv.open_csv(
            source,
            # One thread, so that what is set aside comes in order.
            read_options=csv.ReadOptions(use_threads=False, block_size=_BLOCK),
            parse_options=csv.ParseOptions(
                delimiter=delimiter,
                quote_char=False if delimiter == "\t" else '"',
                newlines_in_values=delimiter != "\t",
                invalid_row_handler=set_aside,
            ),
            # All as text: what looks like a number in the first block need not in the next.
            convert_options=csv.ConvertOptions(column_types={name: pa.string() for name in names}),
        )
        for batch in reader:
            yield from batch.to_pylist()
            yield from broken
            broken.clear()
        yield from broken


def _header(line: str, delimiter: str) -> Iterable[list[str]]:
    return plain_csv.reader(
        [line], delimiter=delimiter, quoting=plain_csv.QUOTE_NONE if delimiter == "\t" else plain_csv.QUOTE_MINIMAL
    )


def _parquet(path: AnyFile, choose: Choose | None) -> Iterator[Record | str]:
    import pyarrow.parquet as pq

    with _opened(path) as source:
        table = pq.ParquetFile(source, page_checksum_verification=True)
        there = table.schema_arrow.names
        wanted = set(choose(there)) if choose else set(there)
        for batch in table.iter_batches(batch_size=1024, columns=[name for name in there if name in wanted]):
            yield from batch.to_pylist()


def _opened(path: AnyFile) -> AbstractContextManager[Any]:
    """What pyarrow reads: a path of this machine, which it opens itself, or an open file of an object store."""
    return path.open("rb") if isinstance(path, RemoteFile) else nullcontext(path)


def as_text(value: Any) -> str | None:  # noqa: ANN401
    """A text, cleaned; None for anything else and for an empty one."""
    return clean(value).strip() or None if isinstance(value, str) else None


def as_texts(value: Any) -> list[str] | None:  # noqa: ANN401
    """One text or a list of them, the empty ones left out; None where none is left."""
    found = [as_text(each) for each in (value if isinstance(value, list) else [value])]
    return [text for text in found if text] or None


def as_label(value: Any) -> str | None:  # noqa: ANN401
    """A label as text, whether it was written as a text or as a whole number; None for anything else."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():  # pandas writes them where a label is missing elsewhere
        return str(int(value))
    return str(value) if isinstance(value, int) else as_text(value)


def as_score(value: Any) -> float | None:  # noqa: ANN401
    """A finite number; None for anything else."""
    try:
        score = float(value)
    except (TypeError, ValueError):
        return None
    return score if math.isfinite(score) else None
