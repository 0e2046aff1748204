"""Where a text stands among millions, by its hash: sorted arrays of 12 to 20 bytes an entry instead of dictionaries."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


def digests(texts: Iterable[str]) -> np.ndarray:
    """Hash texts to 128 bits, uint64 (n, 2): among 10^9 texts, two of one hash are not to be expected."""
    raw = b"".join(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts)
    return np.frombuffer(raw, "<u8").reshape(-1, 2)


def passage_digests(passages: Iterable[tuple[str, str]]) -> np.ndarray:
    """Hash what passages say, (title, text) pairs, whatever their ids are; uint64 (n, 2)."""
    return digests(f"{title}\x1f{text}" for title, text in passages)


class KeyIndex:
    """Places by 64-bit key, of which several may have the same; grows a block at a time.

    Entries lie in sorted runs, each at least twice as long as the next, so that an entry is moved a logarithmic number
    of times and a look-up is a few binary searches.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, keys: np.ndarray, places: np.ndarray) -> None:
        """Take entries in: uint64 (n,) and whole numbers below 2^31 (n,)."""
        if not len(keys):
            return
        self._runs.append(_sorted(keys, places.astype(np.int32)))
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            last, before = self._runs.pop(), self._runs.pop()
            # The older run comes first and the sort is stable: places of one key stay in the order they came in.
            self._runs.append(_sorted(np.concatenate([before[0], last[0]]), np.concatenate([before[1], last[1]])))

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All entries that have one of the keys, int64: (which of the keys, place)."""
        whose, places = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for own, stored in self._runs:
            first = np.searchsorted(own, keys, side="left")
            counts = np.searchsorted(own, keys, side="right") - first
            before = np.cumsum(counts) - counts
            whose.append(np.repeat(np.arange(len(keys)), counts))
            places.append(stored[np.arange(int(counts.sum())) + np.repeat(first - before, counts)].astype(np.int64))
        return np.concatenate(whose), np.concatenate(places)


class DigestIndex:
    """The place of each digest, numbered as they come."""

    def __init__(self) -> None:
        self._index = KeyIndex()
        self._rest = np.zeros(0, np.uint64)  # the second half of each digest, by place
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, added: np.ndarray) -> None:
        """Take digests in, uint64 (n, 2); the first gets the place after the last one's."""
        end = self._size + len(added)
        if end > len(self._rest):
            self._rest = grown(self._rest, end)
        self._rest[self._size : end] = added[:, 1]
        self._index.add(added[:, 0], np.arange(self._size, end))
        self._size = end

    def find(self, wanted: np.ndarray) -> np.ndarray:
        """The place of each digest, int64 (n,): -1 where it was not taken in, the last one where it was repeatedly."""
        whose, places = self._index.find(wanted[:, 0])
        same = self._rest[places] == wanted[whose, 1]
        found = np.full(len(wanted), -1, np.int64)
        np.maximum.at(found, whose[same], places[same])
        return found


def grown(array: np.ndarray, size: int) -> np.ndarray:
    """A copy with room for ``size`` rows and half as many more, so that growing costs little on the whole."""
    larger = np.zeros((size + size // 2, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


def _sorted(keys: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(keys, kind="stable")
    return keys[order], places[order]
