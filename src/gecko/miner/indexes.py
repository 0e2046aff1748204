"""Approximate indexes (faiss): candidates from a graph or from compressed vectors, scored again with the true ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gecko.errors import GeckoError
from gecko.miner.exact import Found, merge, pair_scores, top_k
from gecko.shards import atomic

LEAST = 10_000  # vectors below which an index has too little to learn from, and saves nothing
_ADD = 65_536  # vectors given to faiss at a time
_SAMPLE = 200_000  # vectors an index is trained on, at most
_QUERIES = 1024
_LINKS, _BUILD_WIDTH = 32, 80
_OVERSAMPLE = {"hnsw": 2, "ivfpq": 10}  # candidates scored again, times k


class IndexSearch:
    """Searches with a faiss index, which is kept in a file, so that a run that goes on asks the same one.

    Args:
        kind: ``hnsw``: a graph over half-precision vectors (2 bytes a dimension and 256 a vector in memory);
            ``ivfpq``: inverted lists of product codes (a quarter of a byte a dimension in memory).
        vectors: Unit vectors (n, d); may be memory-mapped.
        path: Where the index is, or is written.

    Raises:
        GeckoError: The file is damaged or cannot be written.
    """

    def __init__(self, kind: str, vectors: Any, path: Path) -> None:  # noqa: ANN401
        self.kind = kind
        self._vectors = vectors
        import faiss

        self._faiss: Any = faiss
        self._index = self._read(path) if path.exists() else self._build(path)

    def find(self, queries: np.ndarray, k: int) -> Found:
        """Find near vectors: as :func:`gecko.miner.exact.top_k`, but some of the nearest may be missing.

        A row in which the index found fewer than k is searched exactly.
        """
        k = min(k, len(self._vectors))
        positions, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        for start in range(0, len(queries), _QUERIES):
            rows = slice(start, start + _QUERIES)
            positions[rows], scores[rows] = self._block(np.asarray(queries[rows], np.float32), k)
        return positions, scores

    def _block(self, queries: np.ndarray, k: int) -> Found:
        wanted = min(_OVERSAMPLE[self.kind] * k, len(self._vectors))
        _, places = self._index.search(queries, wanted, params=self._params(wanted))
        found = places >= 0
        rows, columns = np.nonzero(found)
        scores = np.full(places.shape, -np.inf, np.float32)
        scores[rows, columns] = pair_scores(queries.astype(np.float64), self._vectors, rows, places[rows, columns])
        positions, scores = merge([(places, scores)], k)
        for row in np.flatnonzero(found.sum(axis=1) < k):
            positions[row], scores[row] = (part[0] for part in top_k(queries[row : row + 1], self._vectors, k))
        return positions, scores

    def _params(self, wanted: int) -> Any:  # noqa: ANN401
        """How far to look: the wider, the slower and the more complete."""
        if self.kind == "hnsw":
            return self._faiss.SearchParametersHNSW(efSearch=max(128, 2 * wanted))
        lists = self._index.nlist
        return self._faiss.SearchParametersIVF(nprobe=min(lists, max(16, lists // 16)))

    def _build(self, path: Path) -> Any:  # noqa: ANN401
        count, dim = self._vectors.shape
        index = _new_index(self._faiss, self.kind, count, dim)
        if not index.is_trained:
            step = -(-count // _SAMPLE)
            index.train(np.ascontiguousarray(self._vectors[::step], np.float32))
        for start in range(0, count, _ADD):
            index.add(np.ascontiguousarray(self._vectors[start : start + _ADD], np.float32))
        for old in path.parent.glob("*.faiss"):
            old.unlink()
        with atomic(path) as temporary, temporary.open("wb") as file:
            # To a file of its own, faiss raises no OSError, and nothing at all where the last bytes find no room.
            self._faiss.write_index(index, self._faiss.PyCallbackIOWriter(file.write))
        return index

    def _read(self, path: Path) -> Any:  # noqa: ANN401
        try:
            index = self._faiss.read_index(str(path))
        except RuntimeError as error:
            raise GeckoError(f"{path} is damaged", "delete it and run again: the index is made anew") from error
        if index.ntotal != len(self._vectors):
            raise GeckoError(f"{path} belongs to another corpus", "delete it and run again: the index is made anew")
        return index


def _new_index(faiss: Any, kind: str, count: int, dim: int) -> Any:  # noqa: ANN401
    inner = faiss.METRIC_INNER_PRODUCT
    if kind == "hnsw":
        index = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_fp16, _LINKS, inner)
        index.hnsw.efConstruction = _BUILD_WIDTH
        return index
    pieces = next(pieces for pieces in range(max(dim // 4, 1), 0, -1) if dim % pieces == 0)
    lists = int(min(4 * count**0.5, min(count, _SAMPLE) / 39))  # 39: what faiss asks of points a list to train
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(dim), dim, lists, pieces, 8, inner)
    index.pq.cp.niter = 10  # as many rounds as for the lists; faiss's default is 25
    return index
