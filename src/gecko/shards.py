"""Stage directories on disk: Parquet shards written whole or not at all, and the fingerprint that lets a run resume.

A stage directory holds ``part-00000.parquet`` …, ``quarantine.parquet`` where something was set aside, and, only when
everything is written, ``_stage.json``. A shard without that file belongs to a stage that was interrupted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from gecko.errors import GeckoError
from gecko.records import QUARANTINE, Candidate, FretRow, GeneratedQuery, Passage, Quarantined, UnifiedRow

Row = TypeVar("Row", Passage, GeneratedQuery, FretRow, UnifiedRow)

SHARD_ROWS = 10_000
_DONE = "_stage.json"


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
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        raise GeckoError(f"cannot write {path}: {error.strerror or error}", "free space, then run again") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


class StageWriter:
    """Collects a stage's rows into shards and its rejects into the quarantine."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder = folder
        self.schema = schema
        self.rows = 0
        self.quarantined: list[Quarantined] = []
        self._pending: list[Any] = []
        self._shards = 0

    def add(self, row: Any) -> None:  # noqa: ANN401
        """Take a row or a :class:`Quarantined`; a full shard is written at once."""
        if isinstance(row, Quarantined):
            self.quarantined.append(row)
            return
        self._pending.append(row)
        self.rows += 1
        if len(self._pending) >= SHARD_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        if self._pending or not self._shards:
            self._flush()
        if self.quarantined:
            write_table(self.folder / "quarantine.parquet", self.quarantined, QUARANTINE)

    def _flush(self) -> None:
        write_table(self.folder / f"part-{self._shards:05d}.parquet", self._pending, self.schema)
        self._shards += 1
        self._pending = []


def write_stage(folder: Path, rows: Iterable[Any], schema: pa.Schema) -> int:
    """Write all rows of a stage, replacing what an interrupted attempt left. Returns the number of rows."""
    clear_stage(folder)
    writer = StageWriter(folder, schema)
    for row in rows:
        writer.add(row)
    writer.close()
    return writer.rows


def clear_stage(folder: Path) -> None:
    """Remove the shards of an earlier or interrupted attempt, the completion mark first.

    Raises:
        GeckoError: The folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _DONE).unlink(missing_ok=True)
        for shard in folder.glob("*.parquet"):
            shard.unlink()
    except OSError as error:
        raise GeckoError(f"cannot write to {folder}: {error.strerror}", "choose another --out") from error


def finish_stage(folder: Path, mark: str, **facts: object) -> None:
    """Mark a stage complete with its fingerprint and figures."""
    write_json(folder / _DONE, {"fingerprint": mark, **facts})


def finished(folder: Path, mark: str) -> dict[str, Any] | None:
    """The facts of a finished stage, or None when it must run (never done, interrupted, or made from other inputs)."""
    facts = read_json(folder / _DONE)
    return facts if isinstance(facts, dict) and facts.get("fingerprint") == mark else None


def read_rows(folder: Path, build: Callable[[dict[str, Any]], Row]) -> Iterator[Row]:
    """Stream a stage's rows, one record batch in memory at a time."""
    for batch in read_batches(folder):
        for value in batch.to_pylist():
            yield build(value)


def read_batches(folder: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Stream the record batches of a stage's shards, in order.

    Raises:
        GeckoError: The folder holds no shards, or one is damaged.
    """
    shards = sorted(folder.glob("part-*.parquet"))
    if not shards:
        raise GeckoError(f"{folder} holds no Parquet shards", "run the stage that makes it first")
    for shard in shards:
        try:
            yield from pq.ParquetFile(shard).iter_batches(batch_size=4096, columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise GeckoError(f"{shard} is damaged: {error}", "delete the folder and run again") from error


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
    """Build a unified row from its stored form."""
    return UnifiedRow(**{**value, "negatives": tuple(value["negatives"])})


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run directory for one process; the lock goes with the process, however it ends.

    Raises:
        GeckoError: Another process holds it, or the folder cannot be made.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        handle = (run / ".lock").open("a")
    except OSError as error:
        raise GeckoError(f"cannot write to {run}: {error.strerror}", "choose another --out") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise GeckoError(f"another process is working on {run}", "wait for it, or choose another --out") from error
        yield
