"""Near-duplicates among short texts: sets of words that overlap (Jaccard), and vectors that point the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gecko.corpus.words import Words

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Pairs = tuple[np.ndarray, np.ndarray]  # texts and references that belong together, in parallel

_EXPANDED = 1 << 19  # candidate pairs held at once
_ENCODED = 256  # texts compared with all references at once


class NearIndex:
    """Finds, without a miss, the references whose set of words has a Jaccard similarity of ``threshold`` with a text's.

    Two such sets share one of their rarest words: of n words, one of the n - ceil(threshold * n) + 1 rarest (prefix
    filtering; Chaudhuri, Ganti and Kaushik 2006). Only pairs that do are compared.

    Args:
        words: The references' words.
        threshold: In (0, 1].
    """

    def __init__(self, words: Words, threshold: float) -> None:
        self._threshold = threshold
        hashes, owners = _distinct(words)
        self._vocabulary, codes, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        self._rank = np.empty(len(counts), np.int64)
        self._rank[np.lexsort((self._vocabulary, counts))] = np.arange(len(counts))
        self._size = words.size
        self._sizes = np.bincount(owners, minlength=words.size)
        ranks = self._rank[codes]
        self._sets = self._matrix(ranks, owners, words.size)
        ranks, owners = _rarest(ranks, owners, self._sizes, threshold)
        order = np.argsort(ranks, kind="stable")
        self._postings = owners[order]
        self._starts = np.searchsorted(ranks[order], np.arange(len(counts) + 1))

    def find(self, words: Words) -> Pairs:
        """The pairs (text, reference) that are near."""
        if not len(self._vocabulary) or not len(words.hashes):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        hashes, owners = _distinct(words)
        sizes = np.bincount(owners, minlength=words.size)
        place = np.minimum(np.searchsorted(self._vocabulary, hashes), len(self._vocabulary) - 1)
        known = self._vocabulary[place] == hashes
        ranks = np.where(known, self._rank[place], -1)  # what no reference has is rarest of all
        sets = self._matrix(ranks[known], owners[known], words.size)
        ranks, owners = _rarest(ranks, owners, sizes, self._threshold)
        ranks, owners = ranks[ranks >= 0], owners[ranks >= 0]
        found = [self._verified(part, sets, sizes) for part in self._candidates(ranks, owners)]
        texts, references = (np.concatenate([pair[side] for pair in found]) for side in (0, 1))
        both = np.unique(texts * self._size + references)  # a pair may share several of its rare words
        return both // self._size, both % self._size

    def _candidates(self, ranks: np.ndarray, owners: np.ndarray) -> Iterator[Pairs]:
        """Yield the pairs that share a rare word, a bounded number at a time (a text's may come again)."""
        starts = self._starts[ranks]
        counts = self._starts[ranks + 1] - starts
        cuts = np.flatnonzero(np.diff(np.cumsum(counts) // _EXPANDED, prepend=0))
        for part in np.split(np.arange(len(ranks)), cuts):
            yield np.repeat(owners[part], counts[part]), self._postings[ranges(starts[part], counts[part])]

    def _verified(self, pairs: Pairs, sets: csr_array, sizes: np.ndarray) -> Pairs:
        """Keep the pairs that are as near as wanted."""
        texts, references = pairs
        own, other = sizes[texts], self._sizes[references]
        likely = np.minimum(own, other) >= self._threshold * np.maximum(own, other) - 1e-9
        both = np.unique(texts[likely].astype(np.int64) * self._size + references[likely])
        texts, references = both // self._size, both % self._size
        shared = np.asarray(sets[texts].multiply(self._sets[references]).sum(axis=1)).ravel()
        near = shared >= self._threshold * (sizes[texts] + self._sizes[references] - shared) - 1e-9
        return texts[near], references[near]

    def _matrix(self, ranks: np.ndarray, owners: np.ndarray, size: int) -> csr_array:
        from scipy.sparse import csr_array

        shape = (size, len(self._vocabulary))
        return csr_array((np.ones(len(ranks), np.int32), (owners, ranks)), shape=shape)


class NearVectors:
    """Finds the references whose vector has a cosine of ``threshold`` or more with a text's.

    Args:
        references: The texts.
        encode: Makes float32 unit vectors (n, dim) of texts.
        threshold: In (0, 1].
    """

    def __init__(
        self, references: Sequence[str], encode: Callable[[Sequence[str]], np.ndarray], threshold: float
    ) -> None:
        self._encode = encode
        self._threshold = threshold
        self._vectors = encode(references)

    def find(self, texts: Sequence[str]) -> Pairs:
        """The pairs (text, reference) that are near."""
        found = [np.zeros((0, 2), np.int64)]
        vectors = self._encode(texts) if len(texts) else np.zeros((0, self._vectors.shape[1]), np.float32)
        for start in range(0, len(texts), _ENCODED):
            near = np.argwhere(vectors[start : start + _ENCODED] @ self._vectors.T >= self._threshold)
            found.append(near + np.array([start, 0]))
        pairs = np.concatenate(found)
        return pairs[:, 0], pairs[:, 1]


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """All whole numbers from each start, as many as its count, in a row."""
    before = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) + np.repeat(starts - before, counts)


def _distinct(words: Words) -> tuple[np.ndarray, np.ndarray]:
    """Each word of a text once: (hashes, texts), the texts ascending."""
    order = np.lexsort((words.hashes, words.owners))
    hashes, owners = words.hashes[order], words.owners[order]
    first = np.ones(len(order), bool)
    first[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    return hashes[first], owners[first]


def _rarest(
    ranks: np.ndarray, owners: np.ndarray, sizes: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """The rarest words of each text, as many as prefix filtering needs: (ranks, texts)."""
    order = np.lexsort((ranks, owners))
    ranks, owners = ranks[order], owners[order]
    places = np.arange(len(ranks)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = places < (sizes - np.ceil(threshold * sizes - 1e-9).astype(np.int64) + 1)[owners]
    return ranks[kept], owners[kept]
