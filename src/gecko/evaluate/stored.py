"""Vectors as a vector database stores them: float32, int8 or one bit a dimension, and the rankings these give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gecko.errors import UsageError
from gecko.evaluate.retrieval import cut
from gecko.miner.exact import top_k

VECTORS = ("float", "int8", "binary")
SHORTLIST = 4  # times the depth: documents that the bits choose to be scored again


def vector_kinds(names: Sequence[str]) -> tuple[str, ...]:
    """Check names of kinds of vectors, each once.

    Raises:
        UsageError: There is no such kind, or none was named.
    """
    for name in names:
        if name not in VECTORS:
            raise UsageError(f"--vectors {name}: no such kind", f"choose of {','.join(VECTORS)}")
    if not names:
        raise UsageError("--vectors names no kind", f"choose of {','.join(VECTORS)}")
    return tuple(dict.fromkeys(names))


def bytes_of(kind: str, width: int) -> int:
    """What one stored vector of ``width`` dimensions takes."""
    return {"float": 4 * width, "int8": width, "binary": -(-width // 8)}[kind]


def rank_stored(queries: np.ndarray, documents: np.ndarray, width: int, kind: str, depth: int) -> np.ndarray:
    """Rank the documents, whose vectors are cut to ``width`` dimensions and stored as ``kind``; queries stay float32.

    ``int8`` has 255 steps between the least and the greatest value that the documents have in a dimension. ``binary``
    keeps the signs: the Hamming distance to the query's signs chooses 4 x ``depth`` documents, which the query's full
    vector then orders (Yamada et al., 2021). Both codes are Sentence-Transformers'.

    Args:
        queries: Unit vectors (n, d).
        documents: Unit vectors (m, d).
        width: Dimensions kept (Matryoshka); brought back to unit length.
        kind: ``float``, ``int8`` or ``binary``.
        depth: Documents a query.

    Returns:
        Positions (n, min(depth, m)), best first.
    """
    queries, documents = cut(queries, width), cut(documents, width)
    if kind == "binary":
        return _binary(queries, documents, depth)
    return top_k(queries, _int8(documents) if kind == "int8" else documents, depth)[0]


def _int8(documents: np.ndarray) -> np.ndarray:
    """What is left of vectors that were stored as int8: the middle of each value's step."""
    from sentence_transformers.util.quantization import quantize_embeddings

    ranges = np.vstack([documents.min(axis=0), documents.max(axis=0)])
    codes = np.asarray(quantize_embeddings(documents, "int8", ranges=ranges), np.float32)
    steps = (ranges[1] - ranges[0]) / 255
    return np.asarray(ranges[0] + (codes + 128.5) * steps, np.float32)


def _binary(queries: np.ndarray, documents: np.ndarray, depth: int) -> np.ndarray:
    signs = _signs(documents)
    # Of vectors of signs, a greater inner product is a smaller Hamming distance.
    chosen = np.sort(top_k(_signs(queries), signs, SHORTLIST * depth)[0], axis=1)
    ranking = np.empty((len(queries), min(depth, len(documents))), np.int64)
    for row, positions in enumerate(chosen):
        order, _ = top_k(queries[row : row + 1], signs[positions], depth)
        ranking[row] = positions[order[0]]
    return ranking


def _signs(vectors: np.ndarray) -> np.ndarray:
    """+1 and -1, by way of the bits that are stored."""
    from sentence_transformers.util.quantization import quantize_embeddings

    bits = np.unpackbits(np.asarray(quantize_embeddings(vectors, "ubinary")), axis=1, count=vectors.shape[1])
    return np.asarray(2.0 * bits - 1.0, np.float32)
