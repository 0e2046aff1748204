"""An embedder that has seen a corpus before: it looks vectors up and encodes only what is new."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from gecko.embedder.embedder import Embedder
from gecko.keys import DigestIndex, passage_digests


class KnownPassages:
    """Answers as the embedder would, without encoding again the passages whose vectors are at hand.

    A run encodes its corpus with the miner; when it is evaluated on the same documents and the base is the miner, half
    of the evaluation's encoding is done already.

    Args:
        embedder: Encodes queries and the passages that are not known.
        passages: (title, text) pairs, in the order of the vectors.
        vectors: The embedder's unit vectors of them, (n, dim) float32; may be memory-mapped.
    """

    def __init__(self, embedder: Embedder, passages: Iterable[tuple[str, str]], vectors: np.ndarray) -> None:
        self.path = embedder.path
        self.dim = embedder.dim
        self._embedder = embedder
        self._vectors = vectors
        # By hash: a million texts would take a gigabyte.
        self._rows = DigestIndex()
        self._rows.add(passage_digests(passages))

    def encode_queries(self, queries: Sequence[str], task: str | Sequence[str] | None = None) -> np.ndarray:
        """Encode queries, of one task or of one each, to float32 unit vectors of shape (n, dim)."""
        return self._embedder.encode_queries(queries, task)

    def encode_symmetric(self, texts: Sequence[str], task: str, prompt_name: str = "") -> np.ndarray:
        """Encode texts that are compared with their like to float32 unit vectors of shape (n, dim)."""
        return self._embedder.encode_symmetric(texts, task, prompt_name)

    def encode_passages(self, passages: Sequence[tuple[str, str]]) -> np.ndarray:
        """Look up or encode (title, text) pairs; float32 unit vectors of shape (n, dim)."""
        rows = self._rows.find(passage_digests(passages))
        out = np.empty((len(passages), self.dim), np.float32)
        known = rows >= 0
        out[known] = self._vectors[rows[known]]
        out[~known] = self._embedder.encode_passages([passages[int(i)] for i in np.flatnonzero(~known)])
        return out
