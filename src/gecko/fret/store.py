"""The corpus as step 2 needs it: passages by id, and the miner's vectors as a memory-mapped matrix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gecko.embedder.embedder import Embedder
from gecko.embedder.work import Encoding
from gecko.engine.local import LocalEngine
from gecko.engine.protocol import Engine
from gecko.errors import GeckoError
from gecko.records import PASSAGES, Passage
from gecko.shards import atomic, read_batches

_ENCODE_ROWS = 2048


class PassageTable:
    """Random access to a corpus stage's passages; texts stay in Arrow buffers, vectors in a memory-mapped file.

    Attributes:
        ids: Passage ids in corpus order.
        vectors: The miner's unit vectors, (n, d) float32, in the same order; None before they are made.

    Raises:
        GeckoError: The corpus or the file of vectors is missing or damaged, or they do not belong together.
    """

    def __init__(self, folder: Path, vectors: Path | None = None) -> None:
        self._table = pa.Table.from_batches(list(read_batches(folder)), PASSAGES)
        self.ids: list[str] = self._table.column("passage_id").to_pylist()
        self._position = {passage_id: index for index, passage_id in enumerate(self.ids)}
        self._by_source = {
            source_id: index for index, source_id in enumerate(self._table.column("source_id").to_pylist())
        }
        self.vectors: Any = None
        if vectors is not None:
            self.map_vectors(vectors)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Passage]:
        for batch in self._table.to_batches(max_chunksize=4096):
            for value in batch.to_pylist():
                yield Passage(**value)

    def map_vectors(self, path: Path) -> None:
        """Take the miner's vectors from a file, once they are made.

        Raises:
            GeckoError: The file is missing or damaged, or does not belong to the corpus.
        """
        self.vectors = _map_vectors(path, len(self.ids))

    def passage(self, passage_id: str) -> Passage:
        """Fetch one passage.

        Raises:
            GeckoError: The corpus does not hold it.
        """
        return self.at(self.position(passage_id))

    def at(self, index: int) -> Passage:
        """Fetch the passage at a corpus position."""
        return Passage(**self._table.slice(index, 1).to_pylist()[0])

    def position(self, passage_id: str) -> int:
        """Corpus position of a passage."""
        try:
            return self._position[passage_id]
        except KeyError as error:
            raise GeckoError(f"passage {passage_id} is not in this corpus", "was the corpus changed?") from error

    def position_of_source(self, source_id: str) -> int | None:
        """Corpus position of the passage with this id in the input, None where there is none."""
        return self._by_source.get(source_id)


def _map_vectors(path: Path, rows: int) -> np.ndarray:
    hint = f"delete {path.parent} and run again: the vectors are made anew"
    try:
        vectors = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise GeckoError(f"{path} is damaged or missing", hint) from error
    if vectors.ndim != 2 or len(vectors) != rows:
        raise GeckoError(f"{path} holds vectors of shape {vectors.shape} for {rows} passages", hint)
    return vectors


def encode_corpus(table: PassageTable, embedder: Embedder, out: Path, engine: Engine | None = None) -> None:
    """Write the embedder's vectors of all passages to ``out`` (.npy, float32), a block at a time.

    Args:
        table: The corpus.
        embedder: Makes the vectors.
        out: The file.
        engine: Runs the embedder; None does it in this process.
    """
    engine = engine or LocalEngine(workers=0)
    with atomic(out) as temporary:
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(table), embedder.dim)}
        with temporary.open("wb") as handle:
            np.lib.format.write_array_header_2_0(handle, header)
            for vectors in engine.map_batches(Encoding(embedder), _blocks(table), model=True):
                handle.write(vectors.tobytes())


def _blocks(table: PassageTable) -> Iterator[list[tuple[str, str]]]:
    block: list[tuple[str, str]] = []
    for passage in table:
        block.append((passage.title, passage.text))
        if len(block) == _ENCODE_ROWS:
            yield block
            block = []
    if block:
        yield block
