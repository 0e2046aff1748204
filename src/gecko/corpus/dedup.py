"""Exact and near-duplicate removal, so that a passage does not meet its own twin as a negative."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from gecko.records import Passage

_SHINGLE = 5
_MIN_WORDS = 8
_PERMUTATIONS = 64
_HIGHEST_PROPOSAL = 0.95


class Deduplicator:
    """Remembers the passages admitted so far and names the twin of a repeated one.

    Exact: equal title and text but for case and spacing. Near: MinHash over 5-word shingles with locality-sensitive
    hashing (datasketch). Texts under 8 words are compared exactly only: too few shingles to judge by.

    Args:
        threshold: Jaccard similarity from which two texts are near-duplicates; 0 and 1 turn that test off:
            equal texts are found exactly.
    """

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHash, MinHashLSH

        self._exact: dict[bytes, str] = {}
        self._empty = MinHash(num_perm=_PERMUTATIONS, seed=1)
        # Nearer to 1 datasketch finds no bands. The index only proposes: ``admit`` holds to the threshold itself.
        proposed = min(threshold, _HIGHEST_PROPOSAL)
        self._index = MinHashLSH(threshold=proposed, num_perm=_PERMUTATIONS) if 0 < threshold < 1 else None
        self._threshold = threshold
        self._signatures: dict[str, np.ndarray] = {}

    def admit(self, passage: Passage) -> str | None:
        """Take a passage in, or name the admitted one it repeats.

        Returns:
            None when the passage is new; else why it is not: ``exact duplicate of ID`` or ``near duplicate of ID``.
        """
        words = f"{passage.title} {passage.text}".casefold().split()
        digest = hashlib.blake2b(" ".join(words).encode("utf-8", "replace"), digest_size=16).digest()
        twin = self._exact.get(digest)
        if twin is not None:
            return f"exact duplicate of {twin}"
        if self._index is not None and len(words) >= _MIN_WORDS:
            sketch = self._sketch(words)
            for candidate in sorted(self._index.query(sketch)):
                if float(np.mean(self._signatures[candidate] == sketch.hashvalues)) >= self._threshold:
                    return f"near duplicate of {candidate}"
            self._index.insert(passage.source_id, sketch, check_duplication=False)
            self._signatures[passage.source_id] = sketch.hashvalues
        self._exact[digest] = passage.source_id
        return None

    def _sketch(self, words: list[str]) -> Any:  # noqa: ANN401
        shingles = {" ".join(words[i : i + _SHINGLE]).encode() for i in range(max(1, len(words) - _SHINGLE + 1))}
        sketch = self._empty.copy()
        sketch.update_batch(sorted(shingles))
        return sketch
