"""The corpus as step 2 needs it: passages by id, and the miner's vectors as a memory-mapped matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gecko.errors import GeckoError
from gecko.fret.mapped import MappedPassages
from gecko.records import Passage


class PassageTable:
    """Random access to a corpus stage's passages; texts and vectors stay in memory-mapped files.

    Attributes:
        ids: Passage ids in corpus order.
        vectors: The miner's unit vectors, (n, d) float32, in the same order; None before they are made.

    Raises:
        GeckoError: The corpus or the file of vectors is missing or damaged, or they do not belong together.
    """

    def __init__(self, folder: Path, vectors: Path | None = None) -> None:
        self._rows = MappedPassages(folder)
        self._ids = self._rows.column("passage_id")
        self.ids: Sequence[str] = self._ids
        self._sources = self._rows.column("source_id")
        self.vectors: Any = None
        if vectors is not None:
            self.map_vectors(vectors)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Passage]:
        return iter(self._rows)

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
        return self.passages([passage_id])[0]

    def passages(self, passage_ids: Sequence[str]) -> list[Passage]:
        """Fetch passages, whose look-up together is many times as quick as one by one.

        Raises:
            GeckoError: The corpus does not hold one.
        """
        return [self.at(position) for position in self.positions(passage_ids)]

    def at(self, index: int) -> Passage:
        """Fetch the passage at a corpus position."""
        return self._rows.at(index)

    def position(self, passage_id: str) -> int:
        """Corpus position of a passage.

        Raises:
            GeckoError: The corpus does not hold it.
        """
        return self.positions([passage_id])[0]

    def positions(self, passage_ids: Sequence[str]) -> list[int]:
        """Corpus positions of passages, looked up together.

        Raises:
            GeckoError: The corpus does not hold one.
        """
        return [_known(*found) for found in zip(self._ids.positions(passage_ids), passage_ids, strict=True)]

    def position_of_source(self, source_id: str) -> int | None:
        """Corpus position of the passage with this id in the input, None where there is none."""
        return self._sources.position(source_id)


def _known(position: int | None, passage_id: str) -> int:
    if position is None:
        raise GeckoError(f"passage {passage_id} is not in this corpus", "was the corpus changed?")
    return position


def _map_vectors(path: Path, rows: int) -> np.ndarray:
    hint = f"delete {path.parent} and run again: the vectors are made anew"
    try:
        vectors = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise GeckoError(f"{path} is damaged or missing", hint) from error
    if vectors.ndim != 2 or len(vectors) != rows:
        raise GeckoError(f"{path} holds vectors of shape {vectors.shape} for {rows} passages", hint)
    return vectors
