"""Texts as rows of 64-bit word hashes, so that millions of them are compared by array arithmetic.

What is compared is letters, digits and their order: case, punctuation, spacing and the compatibility forms of Unicode
(NFKC) make no difference. Scripts written without spaces are taken a character at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_NO_WORD = r"[^\pL\pM\pN]+"
_UNSPACED = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])"
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that its powers never vanish modulo 2**64
_BLOCK = 1 << 22  # characters made into words at once, which bounds memory


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """The words of several texts, in a row.

    Attributes:
        hashes: uint64 (words,).
        owners: int32 (words,): the text that each word is of, ascending.
        size: Number of texts, those without a word among them.
    """

    hashes: np.ndarray
    owners: np.ndarray
    size: int

    @property
    def counts(self) -> np.ndarray:
        """Words of each text, int64 (size,)."""
        return np.bincount(self.owners, minlength=self.size)

    def places(self) -> np.ndarray:
        """Place of each word in its text, from 0, int64 (words,)."""
        counts = self.counts
        return np.arange(len(self.hashes)) - np.repeat(np.cumsum(counts) - counts, counts)

    def whole(self) -> tuple[np.ndarray, np.ndarray]:
        """A hash of each text that has a word, its words in their order: (hashes, texts)."""
        places = self.places()
        powers = np.full(int(places.max(initial=0)) + 1, _BASE)
        powers[0] = 1
        return self._sums(self.hashes * np.cumprod(powers)[places])

    def bags(self) -> tuple[np.ndarray, np.ndarray]:
        """A hash of each text that has a word, whatever the order of its words: (hashes, texts)."""
        return self._sums(self.hashes)

    def ngrams(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """A hash of every run of ``n`` words within a text: (hashes, texts)."""
        total = max(len(self.hashes) - n + 1, 0)
        rolled = np.zeros(total, np.uint64)
        for k in range(n):
            rolled *= _BASE
            rolled += self.hashes[k : total + k]
        first, last = self.owners[:total], self.owners[n - 1 :]
        within = first == last
        return rolled[within], first[within]

    def _sums(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        counts = self.counts
        texts = np.flatnonzero(counts)
        if not len(texts):
            return np.zeros(0, np.uint64), texts
        return np.add.reduceat(values, (np.cumsum(counts) - counts)[texts]), texts


def read_words(texts: Sequence[str]) -> Words:
    """Make words of texts that are in memory at once; :func:`blocks` cuts a long list into such."""
    if not len(texts):
        return Words(np.zeros(0, np.uint64), np.zeros(0, np.int32), 0)
    column = pa.array(texts, pa.string())
    plain = pc.string_is_ascii(column)
    if not pc.all(plain).as_py():
        other = pc.invert(plain)
        composed = pc.utf8_normalize(column.filter(other), form="NFKC")
        column = pc.replace_with_mask(column, other, pc.replace_substring_regex(composed, _UNSPACED, r" \1 "))
    column = pc.utf8_lower(pc.replace_substring_regex(column, _NO_WORD, " "))
    # Not utf8_split_whitespace: it leaves a space in the last word now and then (pyarrow 26).
    split = pc.split_pattern(column, " ")
    coded = split.flatten().dictionary_encode()
    spelt = coded.dictionary.to_pylist()
    codes = coded.indices.to_numpy()
    owners = np.repeat(np.arange(len(texts), dtype=np.int32), np.diff(split.offsets.to_numpy()))
    # Spaces at either end of a text leave an empty word there.
    real = np.fromiter(map(bool, spelt), bool, len(spelt))[codes]
    hashes = np.fromiter(map(_hash, spelt), np.uint64, len(spelt))[codes]
    return Words(hashes[real], owners[real], len(texts))


def blocks(texts: Sequence[str]) -> Iterator[slice]:
    """Cut a list of texts into stretches that are small enough to be made into words at once."""
    start = characters = 0
    for place, text in enumerate(texts):
        characters += len(text)
        if characters >= _BLOCK:
            yield slice(start, place + 1)
            start, characters = place + 1, 0
    if start < len(texts):
        yield slice(start, len(texts))


@lru_cache(maxsize=1 << 18)
def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
