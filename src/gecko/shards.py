"""Stage directories on disk: Parquet shards written whole or not at all, and the fingerprint that lets a run resume.

A stage directory holds ``part-00000.parquet`` …, ``quarantine.parquet`` where something was set aside, and, only when
everything is written, ``_stage.json`` with the sizes of what the stage wrote. A shard without that file belongs to a
stage that was interrupted. What is being written lies in ``.fresh`` until it is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from gecko.errors import GeckoError, UsageError, reason, writing
from gecko.records import QUARANTINE, Candidate, FretRow, GeneratedQuery, Passage, Quarantined, ScoredText, UnifiedRow
from gecko.remote import was_url

Row = TypeVar("Row", Passage, GeneratedQuery, FretRow, UnifiedRow)

SHARD_ROWS = 10_000
MARKS = "marks.json"  # of each stage under the run's present recipe
_DONE = "_stage.json"
_REJECTS = "quarantine.parquet"
_FRESH = ".fresh"
_MOVING = ".moving"  # in it: its shards are being put in the place of those before
MAPPED = ".passages.arrow"  # a copy of a corpus stage's shards, for random access (fret/mapped.py)
_LOCK = ".lock"
# Files that a stage writes, and temporary ones that a killed process left.
_OURS = re.compile(
    r"(part-\d{5,}|quarantine)\.parquet|\.passages\.arrow"
    r"|\.((part-\d{5,}|quarantine)\.parquet|_stage\.json|\.passages\.arrow)\.\d+\.tmp"
)

# What may be deleted at any time: hidden files, and the folders that a training leaves beside its model.
_SPARE = re.compile(r"(.*/)?\.|(checkpoints(-[^/]*)?|vectors)/")


def fingerprint(*parts: object) -> str:
    """Hash of everything a stage's output depends on: settings, input fingerprints, code version."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it takes the final name only when the block ends well.

    Raises:
        GeckoError: The disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write a row a line, whole or not at all; how many."""
    count = 0
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_json(path: Path) -> Any:  # noqa: ANN401
    """Read a JSON file of the run; None where it does not exist."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise GeckoError(f"{path} is damaged", "delete it and run again") from error


def write_table(path: Path, rows: Sequence[Any], schema: pa.Schema) -> None:
    """Write dataclass rows as one Parquet shard (zstd), atomically."""
    table = _table(rows, schema)
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def _table(rows: Sequence[Any], schema: pa.Schema) -> pa.Table:
    # A column at a time: to make a dictionary of each row, and of each of its candidates, is many times as slow.
    return pa.table([_column([getattr(row, c.name) for row in rows], c.type) for c in schema], schema=schema)


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """An Arrow array; what is nested are sequences of dataclass objects, such as a row's candidates."""
    if not (pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)):
        return pa.array(values, kind)
    parts = [part for value in values for part in value]
    columns = [_column([getattr(part, field.name) for part in parts], field.type) for field in kind.value_type]
    if any(isinstance(column, pa.ChunkedArray) for column in columns):  # more than 2 GiB of text
        middle = len(values) // 2
        halves = (_column(half, kind) for half in (values[:middle], values[middle:]))
        return pa.chunked_array([chunk for half in halves for chunk in getattr(half, "chunks", [half])])
    ends = pa.array(accumulate((len(value) for value in values), initial=0), pa.int32())
    return pa.ListArray.from_arrays(ends, pa.StructArray.from_arrays(columns, fields=list(kind.value_type)), type=kind)


class StageWriter:
    """Collects a stage's rows into shards and its rejects into the quarantine; memory holds one shard of each."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder = folder
        self.schema = schema
        self.rows = 0
        self._pending: list[Any] = []
        self._shards = 0
        self._aside: list[Quarantined] = []
        self._quarantine: pq.ParquetWriter | None = None

    def add(self, row: Any) -> None:  # noqa: ANN401
        """Take a row or a :class:`Quarantined`; a full shard is written at once."""
        if isinstance(row, Quarantined):
            self._aside.append(row)
            if len(self._aside) >= SHARD_ROWS:
                self._set_aside()
            return
        self._pending.append(row)
        self.rows += 1
        if len(self._pending) >= SHARD_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        if self._pending or not self._shards:
            self._flush()
        self.close_quarantine()

    def close_quarantine(self) -> Path | None:
        """Write what is left of the rejects; the file that has them all, None where there are none."""
        if self._aside:
            self._set_aside()
        if self._quarantine is None:
            return None
        with writing(self.folder):
            self._quarantine.close()
        return self.folder / _REJECTS

    def _flush(self) -> None:
        write_table(self.folder / f"part-{self._shards:05d}.parquet", self._pending, self.schema)
        self._shards += 1
        self._pending = []

    def _set_aside(self) -> None:
        with writing(self.folder):
            if self._quarantine is None:
                self._quarantine = pq.ParquetWriter(
                    self.folder / _REJECTS, QUARANTINE, compression="zstd", write_page_checksum=True
                )
            self._quarantine.write_table(_table(self._aside, QUARANTINE))
        self._aside = []


def write_stage(folder: Path, rows: Iterable[Any], schema: pa.Schema) -> int:
    """Write all rows of a stage; what the folder held before is replaced only when they are all there.

    Returns:
        The number of rows.

    Raises:
        GeckoError: The rows cannot be made or written. What was set aside until then is in the quarantine.
    """
    fresh = folder / _FRESH
    writer = StageWriter(fresh, schema)
    moving = False
    try:
        with writing(folder):
            if (fresh / _MOVING).exists() and any(fresh.glob("part-*.parquet")):
                clear_stage(folder)  # half of an attempt's shards, whose other half is about to go
            if fresh.exists():
                shutil.rmtree(fresh)
            fresh.mkdir(parents=True)
        for row in rows:
            writer.add(row)
        writer.close()
        with writing(folder):
            moving = True
            written = list(fresh.iterdir())
            (fresh / _MOVING).touch()
            clear_stage(folder)
            for path in written:
                path.replace(folder / path.name)
        moving = False
    except GeckoError as error:
        with suppress(GeckoError, OSError, pa.ArrowInvalid):  # of the two errors, the first one counts
            aside = writer.close_quarantine()
            if aside is not None:
                aside.replace(folder / _REJECTS)
                error.hint = f"{error.hint}; what was set aside is in {folder / _REJECTS}".removeprefix("; ")
        raise
    finally:
        if not moving:  # else what is left there tells that the folder is half-written
            shutil.rmtree(fresh, ignore_errors=True)
    return writer.rows


def clear_stage(folder: Path) -> None:
    """Remove what an earlier attempt wrote, the completion mark first, and nothing else."""
    (folder / _DONE).unlink(missing_ok=True)
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name):
            path.unlink()


def claim_folder(folder: Path, schema: pa.Schema) -> None:
    """Refuse a folder where a stage's rows would replace, or mix with, what is not a stage of their kind.

    Raises:
        UsageError: It is part of a run, or holds files but no shard of this kind.
    """
    if is_run(folder.resolve().parent):
        raise UsageError(f"{folder} is part of a run", "choose another --out; gecko run replaces a run's passages")
    if not folder.is_dir() or (folder / _DONE).exists():
        return
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {_REJECTS}
    if names and not any(_OURS.fullmatch(name) and _has_schema(folder / name, schema) for name in names):
        raise UsageError(f"{folder} holds other files, such as {min(names)}", "choose a new folder for --out")


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return (folder / "recipe.yaml").exists() and (folder / _LOCK).exists()


def _has_schema(shard: Path, schema: pa.Schema) -> bool:
    """Whether a shard is of this kind, or of an earlier version's: new columns are only ever added at the end."""
    try:
        found = pq.read_schema(shard)
    except (pa.ArrowInvalid, OSError):
        return False
    return len(found) > 0 and bool(found.equals(pa.schema(list(schema)[: len(found)])))


def finish_stage(folder: Path, mark: str, outputs: Iterable[Path] = (), **facts: object) -> None:
    """Mark a stage complete with its fingerprint, its figures and the sizes of the files it wrote."""
    files = {os.path.relpath(path, folder): path.stat().st_size for path in outputs}
    write_json(folder / _DONE, {"fingerprint": mark, **facts, "files": files})


def finished(folder: Path, mark: str) -> dict[str, Any] | None:
    """The facts of a finished stage, or None when it must run.

    That is when it was never done, was interrupted, was made from other inputs, or a file of it is gone or cut short.
    """
    facts = read_json(folder / _DONE)
    if not isinstance(facts, dict) or facts.get("fingerprint") != mark:
        return None
    files = facts.pop("files", {})
    return facts if all(_size(folder / name) == size for name, size in files.items()) else None


def files_under(path: Path) -> list[Path]:
    """A file, or all files in a folder but the completion mark, hidden ones and what may be deleted at any time."""
    if path.is_file():
        return [path]
    found = (file for file in sorted(path.rglob("*")) if file.is_file() and file.name != _DONE)
    return [file for file in found if not _SPARE.match(file.relative_to(path).as_posix())]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def read_rows(folder: Path, build: Callable[[dict[str, Any]], Row]) -> Iterator[Row]:
    """Stream a stage's rows, one record batch in memory at a time.

    Raises:
        GeckoError: As :func:`read_batches`, or the folder holds rows of another kind.
    """
    for batch in read_batches(folder):
        try:
            values = batch.to_pylist()
        except UnicodeDecodeError as error:
            raise GeckoError(f"{folder} is damaged: {error}", "delete the folder and run again") from error
        for value in values:
            try:
                row = build(value)
            except (TypeError, KeyError) as error:
                raise GeckoError(
                    f"{folder} holds rows of another kind", "name the right folder: passages lie in RUN/passages"
                ) from error
            yield row


def read_batches(folder: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Stream the record batches of a stage's shards, in order.

    Raises:
        GeckoError: The folder holds no shards or not yet all of them, or one is damaged.
    """
    if not (folder / _DONE).exists() and any((folder / _FRESH).glob("part-*.parquet")):
        raise GeckoError(f"{folder} is half-written", "what makes it was interrupted: run that again")
    shards = sorted(folder.glob("part-*.parquet"))
    if not shards:
        torn = (
            "delete the folder and run again" if (folder / _DONE).exists() else "gecko corpus or gecko run makes them"
        )
        raise GeckoError(f"{folder} holds no Parquet shards", torn)
    for shard in shards:
        yield from _shard_batches(shard, columns)


def read_quarantine(folder: Path) -> Iterator[Quarantined]:
    """Stream what a stage set aside; nothing where it set nothing aside.

    Raises:
        GeckoError: The file is damaged.
    """
    path = folder / _REJECTS
    if path.exists():
        for batch in _shard_batches(path, None):
            yield from (Quarantined(**value) for value in batch.to_pylist())


def _shard_batches(path: Path, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    try:
        # Without the checksums, of all changes of a single bit a third would go unnoticed and be trained on.
        table = pq.ParquetFile(path, page_checksum_verification=True)
        yield from table.iter_batches(batch_size=4096, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise GeckoError(f"{path} is damaged: {reason(error)}", "delete the folder and run again") from error


def to_passage(value: dict[str, Any]) -> Passage:
    """Build a passage from its stored form."""
    return Passage(**value)


def to_query(value: dict[str, Any]) -> GeneratedQuery:
    """Build a generated query from its stored form."""
    return GeneratedQuery(**value)


def to_fret(value: dict[str, Any]) -> FretRow:
    """Build a FRet row from its stored form."""
    return FretRow(**{**value, "candidates": tuple(Candidate(**candidate) for candidate in value["candidates"])})


def to_unified(value: dict[str, Any]) -> UnifiedRow:
    """Build a unified row from its stored form; one of an older version has no candidates."""
    candidates = tuple(ScoredText(**candidate) for candidate in value.get("candidates") or ())
    return UnifiedRow(**{**value, "negatives": tuple(value["negatives"]), "candidates": candidates})


def refuse_url(folder: Path) -> None:
    """Refuse to write to an object store: ledgers are locked and vectors mapped into memory where they lie.

    Raises:
        UsageError: The folder was given as a URL.
    """
    if was_url(folder):
        raise UsageError(f"{folder} is no folder of this machine", "write to a local or shared disk, and copy it there")


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run directory for one process; the lock goes with the process, however it ends.

    Raises:
        GeckoError: Another process holds it, or the folder cannot be made.
        UsageError: It is a URL.
    """
    refuse_url(run)
    with writing(run):
        run.mkdir(parents=True, exist_ok=True)
        handle = (run / _LOCK).open("a")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise GeckoError(f"another process is working on {run}", "wait for it, or choose another --out") from error
        yield
