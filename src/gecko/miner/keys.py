"""Hashes of what passages say, and a table from such hashes to rows that takes 24 bytes a passage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

KEY = np.dtype("S16")


def keys_of(passages: Iterable[tuple[str, str]]) -> np.ndarray:
    """Hash (title, text) pairs: equal texts have equal keys, whatever their ids are; (n,) of 16 bytes."""
    digests = (
        hashlib.blake2b(f"{title}\x1f{text}".encode("utf-8", "surrogatepass"), digest_size=KEY.itemsize).digest()
        for title, text in passages
    )
    return np.fromiter(digests, KEY)


class KeyIndex:
    """Finds rows by key.

    Args:
        keys: The key of every row (n,); of equal ones, the first row is found.
    """

    def __init__(self, keys: np.ndarray) -> None:
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """Look keys up; (n,) int64, -1 for one that is not there."""
        if not len(self._sorted):
            return np.full(len(keys), -1, np.int64)
        places = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
        return np.where(self._sorted[places] == keys, self._order[places], -1).astype(np.int64)
