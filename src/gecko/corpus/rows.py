"""Records with a text field: JSON Lines, CSV, Parquet and Hub datasets, one document a record.

Readers stream, and a record that cannot be read does not cost its neighbours.
"""

from __future__ import annotations

import csv
import io
import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, cast

from gecko.corpus.decode import BROKEN, clean, legacy_encodings, unicode_encoding
from gecko.corpus.files import HUB
from gecko.errors import GeckoError
from gecko.jsonl import read_lines
from gecko.records import Document, Quarantined
from gecko.remote import AnyFile

_TEXT_FIELDS = ("text", "contents", "body", "passage")
_ID_FIELDS = ("_id", "id")
_FIELDS = frozenset({*_TEXT_FIELDS, *_ID_FIELDS, "title"})


def read_jsonl(path: AnyFile, name: str) -> Iterator[Document | Quarantined]:
    """Read one document a line."""
    for line in read_lines(path):
        where = f"{name}#{line.number}"
        yield (
            Quarantined("corpus", where, line.fault, repr(line.raw[:200]))
            if line.fault
            else _document(line.value, where, name)
        )


def read_csv(path: AnyFile, name: str) -> Iterator[Document | Quarantined]:
    """Read one document a row; the first line names the columns, and the delimiter is the one that finds the text."""
    csv.field_size_limit(sys.maxsize)
    with cast("BinaryIO", path.open("rb")) as raw:
        encoding = unicode_encoding(raw) or next(iter(legacy_encodings(raw)), None)
        if encoding is None:
            yield Quarantined("corpus", name, "binary, or in no known encoding", "")
            return
        raw.seek(0)
        lines = io.TextIOWrapper(raw, encoding, errors="surrogateescape", newline="")
        number = 0
        try:
            header = lines.readline()
            reader = csv.DictReader(itertools.chain([header], lines), delimiter=_delimiter(header), strict=True)
            _ = reader.fieldnames  # reads the header: an error there is one of the file, not of a row
            for number in itertools.count(1):
                item = _csv_row(reader, f"{name}#{number}", name)
                if item is None:
                    return
                yield item
        except (csv.Error, UnicodeError) as error:
            yield Quarantined("corpus", name, f"not CSV from row {number} on: {error}", "")


def read_parquet(path: AnyFile, name: str) -> Iterator[Document | Quarantined]:
    """Read one document a row; other columns than id, title and text are not touched."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    with path.open("rb") as handle:
        try:
            table = pq.ParquetFile(handle, page_checksum_verification=True)
            columns = [column for column in table.schema_arrow.names if column in _FIELDS]
            for batch in table.iter_batches(batch_size=1024, columns=columns):
                for row in range(batch.num_rows):
                    number += 1
                    yield _parquet_row(batch, row, f"{name}#{number}", name)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's fault, not the file's
            yield Quarantined("corpus", name, f"not Parquet, or damaged, from row {number + 1} on: {error}", "")


def read_hub(source: str) -> Iterator[Document | Quarantined]:
    """Read one document a row of ``hf://dataset[:split]``, streamed.

    Raises:
        GeckoError: The dataset is not there, or the connection broke.
    """
    dataset = source.removeprefix(HUB).partition(":")[0]
    for number, record in enumerate(_hub_records(source), start=1):
        yield _document(record, f"{dataset}#{number}", source)


def _hub_records(source: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    dataset, _, split = source.removeprefix(HUB).partition(":")
    try:
        records: Iterable[dict[str, Any]] = load_dataset(dataset, split=split or "train", streaming=True)
        yield from records
    except Exception as error:  # datasets, huggingface_hub, fsspec and the HTTP client each raise their own
        raise GeckoError(
            f"cannot load {source}: {error}", "is it a public dataset id, and is the Hub reachable?"
        ) from error


def _csv_row(reader: csv.DictReader[str], where: str, name: str) -> Document | Quarantined | None:
    first = reader.reader.line_num + 1
    try:
        record = next(reader, None)
    except csv.Error as error:
        reason = f"not CSV: {error}, in lines {first} to {reader.reader.line_num}"
        return Quarantined("corpus", where, reason, "")
    if record is None:
        return None
    if any(isinstance(value, str) and BROKEN.search(value) for value in record.values()):
        return Quarantined("corpus", where, "not UTF-8", ascii(record)[:200])
    return _document(record, where, name)


def _delimiter(header: str) -> str:
    for delimiter in ",;\t|":
        if not set(_TEXT_FIELDS).isdisjoint(next(csv.reader([header], delimiter=delimiter), [])):
            return delimiter
    return ","


def _parquet_row(batch: Any, row: int, where: str, name: str) -> Document | Quarantined:  # noqa: ANN401
    try:
        record = {field: batch.column(number)[row].as_py() for number, field in enumerate(batch.schema.names)}
    except (ValueError, OverflowError) as error:  # bytes that are not UTF-8, a time no calendar has
        return Quarantined("corpus", where, f"not readable: {error}"[:300], "")
    return _document(record, where, name)


def _document(record: object, where: str, source: str) -> Document | Quarantined:
    """Make a document of one record, or say what it lacks."""
    if not isinstance(record, dict):
        return Quarantined("corpus", where, "not a record with fields", clean(str(record)[:200]))
    text = next((record[key] for key in _TEXT_FIELDS if isinstance(record.get(key), str)), None)
    if text is None:
        reason = f"no text field ({', '.join(_TEXT_FIELDS)})"
        return Quarantined("corpus", where, reason, clean(str(record)[:200]))
    source_id = next((clean(str(record[key])) for key in _ID_FIELDS if record.get(key) not in (None, "")), "")
    title = record.get("title")
    return Document(source_id or where, clean(title).strip() if isinstance(title, str) else "", clean(text), source)
