"""Vectors on disk with the hashes of their passages, written a block at a time so that a finished block stays finished.

A folder holds ``vectors.npy`` (float32, a row a passage), ``vectors.keys`` (16 bytes a row) and ``vectors.log``: JSON
lines, the first of which names the model and the number of rows, each further one a block that is whole on the disk,
with its checksums. What lies behind the last whole line is not there.
"""

from __future__ import annotations

import json
import os
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from gecko.errors import GeckoError, writing

VECTORS, KEYS, LOG = "vectors.npy", "vectors.keys", "vectors.log"
_KEY_BYTES = 16  # of a digest


@dataclass(frozen=True, slots=True)
class Block:
    """So many rows in one piece, and their checksums."""

    rows: int
    vectors: int
    keys: int


@dataclass(slots=True)
class Kept:
    """Vectors that were written before.

    Attributes:
        folder: Where they lie.
        total: Rows there will be once all is written.
        blocks: Those that are whole.
        vectors: Memory-mapped (rows, dim) float32; the whole blocks only.
        keys: Digests of the same rows, uint64 (rows, 2).
    """

    folder: Path
    total: int
    blocks: list[Block]
    vectors: np.ndarray
    keys: np.ndarray
    _sound: set[int] = field(default_factory=set)

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        return len(self.keys) == self.total

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Read rows, (n, dim), after their blocks were compared with their checksums, each once.

        Raises:
            GeckoError: A block is not what was written.
        """
        ends = np.cumsum([block.rows for block in self.blocks])
        for number in np.unique(np.searchsorted(ends, rows, side="right")).tolist():
            if number not in self._sound:
                self._check(number, int(ends[number]))
                self._sound.add(number)
        return np.asarray(self.vectors[rows])

    def check(self) -> None:
        """Compare every block with its checksums.

        Raises:
            GeckoError: A block is not what was written.
        """
        self.take(np.cumsum([block.rows for block in self.blocks], dtype=np.int64) - 1)

    def _check(self, number: int, end: int) -> None:
        block = self.blocks[number]
        rows = slice(end - block.rows, end)
        sums = zlib.crc32(self.vectors[rows].tobytes()), zlib.crc32(self.keys[rows].tobytes())
        if sums != (block.vectors, block.keys):
            raise _damaged(self.folder, f"rows {rows.start:,} to {end:,} are not what was written")


def open_kept(folder: Path, model: str, dim: int) -> Kept | None:
    """Open what was written of a model's vectors; None where nothing is, a file is gone, or it is another's.

    Raises:
        GeckoError: It is damaged.
    """
    head, blocks = _read_log(folder)
    if head is None or head.get("model") != model or head.get("dim") != dim:
        return None
    if not all((folder / name).exists() for name in (VECTORS, KEYS)):
        return None
    rows = sum(block.rows for block in blocks)
    offset = len(_header(int(head["total"]), dim))
    try:
        if not rows:
            vectors, keys = np.zeros((0, dim), np.float32), np.zeros((0, 2), np.uint64)
        else:
            vectors = np.memmap(folder / VECTORS, np.float32, "r", offset, (rows, dim))
            keys = np.fromfile(folder / KEYS, "<u8", 2 * rows).reshape(-1, 2)
    except (OSError, ValueError) as error:
        raise _damaged(folder, "shorter than its log says") from error
    if len(keys) != rows:
        raise _damaged(folder, "shorter than its log says")
    return Kept(folder, int(head["total"]), blocks, vectors, keys)


def check(folder: Path) -> None:
    """Compare all vectors of a folder with their checksums; those of before there was a log are taken as they are.

    Raises:
        GeckoError: They are damaged.
    """
    head, _ = _read_log(folder)
    if head is not None and (kept := open_kept(folder, head["model"], head["dim"])) is not None:
        kept.check()


class Writer:
    """Adds blocks to a folder; each is on the disk, and in the log, before the next one begins.

    Args:
        folder: Gets the files.
        model: Names the model.
        total: Rows there will be.
        dim: Their width.
        kept: What the folder holds already; None begins anew.

    Raises:
        GeckoError: The folder cannot be written.
    """

    def __init__(self, folder: Path, model: str, total: int, dim: int, kept: Kept | None) -> None:
        self._folder = folder
        blocks = kept.blocks if kept else []
        self.rows = sum(block.rows for block in blocks)
        with writing(folder / VECTORS):
            folder.mkdir(parents=True, exist_ok=True)
            header = _header(total, dim)
            lines = [json.dumps({"model": model, "total": total, "dim": dim}), *map(_line, blocks)]
            log = "".join(f"{line}\n" for line in lines).encode()
            self._vectors = _begin(folder / VECTORS, header, len(header) + self.rows * dim * 4)
            self._keys = _begin(folder / KEYS, b"", self.rows * _KEY_BYTES)
            self._log = _begin(folder / LOG, log, len(log))
            _to_disk(self._log)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        for handle in (self._vectors, self._keys, self._log):
            with suppress(OSError):  # of a block that did not get to the disk, which is in no log
                handle.close()

    def add(self, vectors: np.ndarray, keys: np.ndarray) -> None:
        """Write a block.

        Raises:
            GeckoError: The disk is full; the blocks before are safe.
        """
        values, names = np.ascontiguousarray(vectors, np.float32).tobytes(), keys.tobytes()
        with writing(self._folder / VECTORS):
            for handle, part in ((self._vectors, values), (self._keys, names)):
                handle.write(part)
                _to_disk(handle)
            line = _line(Block(len(keys), zlib.crc32(values), zlib.crc32(names)))
            self._log.write(f"{line}\n".encode())
            _to_disk(self._log)
        self.rows += len(keys)


def move(source: Path, target: Path) -> None:
    """Put a whole set of files in the place of another; done again after an interruption, it goes on.

    The log goes last: while it is in ``source``, the move is not over.
    """
    with writing(target / VECTORS):
        for name in (VECTORS, KEYS, LOG):
            if (source / name).exists():
                (source / name).replace(target / name)


def is_whole(folder: Path) -> bool:
    """Whether all rows of a folder were written, by its log; they may have been moved away in part."""
    head, blocks = _read_log(folder)
    return head is not None and sum(block.rows for block in blocks) == head["total"]


def _read_log(folder: Path) -> tuple[dict[str, Any] | None, list[Block]]:
    try:
        text = (folder / LOG).read_bytes()
    except FileNotFoundError:
        return None, []
    whole = text[: text.rfind(b"\n") + 1].splitlines()  # a torn last line is a block that is not there
    try:
        head, *blocks = [json.loads(line) for line in whole] or [None]
        if head is not None and not {"model", "total", "dim"} <= head.keys():
            raise ValueError("no head")
        return head, [Block(*block) for block in blocks]
    except (ValueError, TypeError, AttributeError) as error:
        raise _damaged(folder, f"{LOG} cannot be read") from error


def _line(block: Block) -> str:
    return json.dumps([block.rows, block.vectors, block.keys])


def _header(total: int, dim: int) -> bytes:
    buffer = BytesIO()
    np.lib.format.write_array_header_2_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (total, dim)})
    return buffer.getvalue()


def _begin(path: Path, start: bytes, size: int) -> Any:  # noqa: ANN401
    """Open a file that begins with these bytes, cut to what of it is known to be whole, to write on at its end."""
    handle = path.open("r+b" if path.exists() else "w+b")
    handle.write(start)
    handle.truncate(size)
    handle.seek(0, os.SEEK_END)
    return handle


def _to_disk(handle: Any) -> None:  # noqa: ANN401
    handle.flush()
    os.fsync(handle.fileno())


def _damaged(folder: Path, what: str) -> GeckoError:
    return GeckoError(
        f"{folder / VECTORS} is damaged: {what}", f"delete {folder} and run again: the vectors are made anew"
    )
