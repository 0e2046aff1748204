"""A corpus stage's passages, any of them read in microseconds while their texts stay on the disk.

Parquet is made to be read from end to end: to get at one text, ten thousand are unpacked. So the shards are copied once
into an Arrow file beside them, which is memory-mapped; the system keeps of it in memory what is used and what there is
room for.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property, reduce
from itertools import accumulate
from pathlib import Path
from typing import overload

import pyarrow as pa

from gecko.errors import GeckoError
from gecko.keys import DigestIndex, digests
from gecko.records import PASSAGES, Passage
from gecko.shards import MAPPED, atomic, fingerprint, read_batches

_STATE = b"shards"  # the key, in the file's metadata, of what it was copied from
_SUM = b"crc32"  # the key, in that of each batch, of its checksum


class MappedPassages:
    """The rows of a corpus stage by their positions; a column or a row at a time.

    Args:
        folder: The stage's. The copy is hidden there, or in the system's temporary folder where this one cannot be
            written.

    Raises:
        GeckoError: The folder holds no shards, or one is damaged, or the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self._batches = _mapped(folder)
        # Kept, since to ask a batch for a column takes longer than to read a value of it.
        self._columns = [batch.columns for batch in self._batches]
        self._starts = list(accumulate((batch.num_rows for batch in self._batches), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[Passage]:
        for batch in self._batches:
            for value in batch.to_pylist():
                yield Passage(**value)

    def at(self, position: int) -> Passage:
        """The passage at a position."""
        batch, row = self._place(position)
        return Passage(*(column[row].as_py() for column in self._columns[batch]))

    def column(self, name: str) -> Column:
        """All values of a column, read when they are asked for."""
        return Column(self, name)

    def value(self, position: int, name: str) -> str:
        """One value."""
        batch, row = self._place(position)
        return str(self._columns[batch][PASSAGES.get_field_index(name)][row].as_py())

    def values(self, name: str) -> Iterator[str]:
        """Stream a column."""
        for batch in self._batches:
            yield from batch.column(name).to_pylist()

    def _place(self, position: int) -> tuple[int, int]:
        if not 0 <= position < self._starts[-1]:
            raise IndexError(position)
        number = bisect_right(self._starts, position) - 1
        return number, position - self._starts[number]


class Column(Sequence[str]):
    """A column as a sequence of strings, with the way back from a string to its position."""

    def __init__(self, rows: MappedPassages, name: str) -> None:
        self._rows = rows
        self._name = name

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return self._rows.values(self._name)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self._rows.value(index + len(self) if index < 0 else index, self._name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def position(self, value: str) -> int | None:
        """Where a value stands, the last place where it does repeatedly; None where it is not there."""
        return self.positions([value])[0]

    def positions(self, values: Sequence[str]) -> list[int | None]:
        """Where values stand (:meth:`position`): many cost hardly more than one."""
        return [None if found < 0 else found for found in self._index.find(digests(values)).tolist()]

    @cached_property
    def _index(self) -> DigestIndex:
        index = DigestIndex()
        index.add(digests(self))
        return index


def _mapped(folder: Path) -> list[pa.RecordBatch]:
    shards = sorted(folder.glob("part-*.parquet"))
    facts = [(shard.name, shard.stat().st_size, shard.stat().st_mtime_ns) for shard in shards]
    state = fingerprint(facts, 1).encode()
    found = _open(folder / MAPPED, state)
    if found is not None:
        return found
    if os.access(folder, os.W_OK):
        return _made(folder, folder / MAPPED, state)
    with tempfile.TemporaryDirectory(prefix="gecko-") as elsewhere:
        # Once it is mapped it needs no name: what was mapped goes with the process.
        return _made(folder, Path(elsewhere) / MAPPED, state)


def _made(folder: Path, path: Path, state: bytes) -> list[pa.RecordBatch]:
    with atomic(path) as temporary:
        _copy(folder, temporary, state)
    found = _open(path, state)
    if found is None:
        raise GeckoError(f"{path} cannot be read back", "check the disk, then run again")
    return found


def _open(path: Path, state: bytes) -> list[pa.RecordBatch] | None:
    """Map a copy; None where there is none, or another corpus's, or it is damaged."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if (reader.schema.metadata or {}).get(_STATE) != state:
            return None
        found = [reader.get_batch_with_custom_metadata(number) for number in range(reader.num_record_batches)]
    except (OSError, pa.ArrowException):
        return None
    # A copy with a changed bit would be asked about, for money, and trained on.
    if any((one.custom_metadata or {}).get(_SUM) != _checksum(one.batch) for one in found):
        return None
    return [one.batch for one in found]


def _copy(folder: Path, path: Path, state: bytes) -> None:
    schema = PASSAGES.with_metadata({_STATE: state})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in read_batches(folder):
            rows = pa.RecordBatch.from_arrays([batch.column(name) for name in schema.names], schema=schema)
            rows = pa.ipc.read_record_batch(rows.serialize(), schema)  # its buffers are those that the file will have
            writer.write_batch(rows, custom_metadata={_SUM: _checksum(rows)})


def _checksum(batch: pa.RecordBatch) -> bytes:
    buffers = (buffer for column in batch.columns for buffer in column.buffers() if buffer is not None)
    return b"%d" % reduce(lambda before, buffer: zlib.crc32(buffer, before), buffers, 0)
