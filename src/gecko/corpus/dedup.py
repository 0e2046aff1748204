"""Exact and near-duplicate removal, so that a passage does not meet its own twin as a negative."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from gecko.keys import DigestIndex, KeyIndex, digests, grown
from gecko.records import Passage

_SHINGLE = 5
_MIN_WORDS = 8
_PERMUTATIONS = 64
_HIGHEST_PROPOSAL = 0.95
_HASHED = 1 << 14  # shingles permuted at once


@dataclass(frozen=True, slots=True, eq=False)
class Sketches:
    """What is compared of some passages; made of each alone, so that it can be made anywhere.

    Attributes:
        digests: uint64 (n, 2): hash of title and text but for case and spacing.
        long: bool (n,): whether there are words enough to judge nearness by.
        signatures: uint32 (n, 64): MinHash of the 5-word shingles; of short texts nothing.
    """

    digests: np.ndarray
    long: np.ndarray
    signatures: np.ndarray


class Deduplicator:
    """Remembers the passages admitted so far and names the twin of a repeated one.

    Exact: equal title and text but for case and spacing. Near: MinHash over 5-word shingles with locality-sensitive
    hashing, as datasketch computes both, in arrays of about 350 bytes a passage. Texts under 8 words are compared
    exactly only: too few shingles to judge by.

    Args:
        threshold: Jaccard similarity from which two texts are near-duplicates; 0 and 1 turn that test off:
            equal texts are found exactly.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._exact = DigestIndex()
        self._names: list[str] = []  # source ids, by place in the exact index
        self._bands: list[KeyIndex] = []
        self._width = 0
        if 0 < threshold < 1:
            from datasketch import MinHashLSH

            # Nearer to 1 datasketch finds no bands. The index only proposes: ``admit`` holds to the threshold itself.
            chosen = MinHashLSH(threshold=min(threshold, _HIGHEST_PROPOSAL), num_perm=_PERMUTATIONS)
            self._bands, self._width = [KeyIndex() for _ in range(chosen.b)], chosen.r
        self._signatures = np.zeros((0, _PERMUTATIONS), np.uint32)
        self._signed: list[str] = []  # source ids, by row of the signatures

    def admit(self, passage: Passage) -> str | None:
        """Take a passage in, or name the admitted one it repeats.

        Returns:
            None when the passage is new; else why it is not: ``exact duplicate of ID`` or ``near duplicate of ID``.
        """
        return self.admit_all([passage])[0]

    def admit_all(self, passages: Sequence[Passage]) -> list[str | None]:
        """Take passages in one after the other, as :meth:`admit` does: the answer to each."""
        sketches = sketch([(passage.title, passage.text) for passage in passages], near=bool(self._bands))
        keys = self._band_keys(sketches.signatures)
        known = self._exact.find(sketches.digests).tolist()
        likely = self._likely(sketches, keys)
        block: dict[bytes, str] = {}  # the digests admitted in this call, which no index holds yet
        buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
        admitted: list[int] = []
        answers: list[str | None] = []
        for number, passage in enumerate(passages):
            digest = sketches.digests[number].tobytes()
            twin = self._names[known[number]] if known[number] >= 0 else block.get(digest)
            if twin is not None:
                answers.append(f"exact duplicate of {twin}")
                continue
            if self._bands and sketches.long[number]:
                own = list(enumerate(keys[number].tolist()))
                twins = likely.get(number, [])
                for other in {place for bucket in own for place in buckets.get(bucket, ())}:
                    if self._near(sketches.signatures[number], sketches.signatures[other]):
                        twins.append(passages[other].source_id)
                if twins:
                    answers.append(f"near duplicate of {min(twins)}")
                    continue
                for bucket in own:
                    buckets[bucket].append(number)
            block[digest] = passage.source_id
            admitted.append(number)
            answers.append(None)
        self._remember(passages, sketches, keys, np.array(admitted, np.int64))
        return answers

    def _near(self, one: np.ndarray, other: np.ndarray) -> bool:
        return float(np.mean(one == other)) >= self._threshold

    def _band_keys(self, signatures: np.ndarray) -> np.ndarray:
        """A key of each band of each signature, uint64 (n, bands)."""
        width = self._width
        rows = [
            [signature[band * width : (band + 1) * width].tobytes() for band in range(len(self._bands))]
            for signature in signatures
        ]
        raw = b"".join(hashlib.blake2b(part, digest_size=8).digest() for row in rows for part in row)
        return np.frombuffer(raw, np.uint64).reshape(len(signatures), len(self._bands))

    def _likely(self, sketches: Sketches, keys: np.ndarray) -> dict[int, list[str]]:
        """Near twins of each passage among those of earlier calls."""
        twins: dict[int, list[str]] = defaultdict(list)
        for band, index in enumerate(self._bands):
            whose, places = index.find(keys[:, band])
            for number, place in zip(whose.tolist(), places.tolist(), strict=True):
                if sketches.long[number] and self._near(sketches.signatures[number], self._signatures[place]):
                    twins[number].append(self._signed[place])
        return twins

    def _remember(self, passages: Sequence[Passage], sketches: Sketches, keys: np.ndarray, new: np.ndarray) -> None:
        self._exact.add(sketches.digests[new])
        self._names += [passages[number].source_id for number in new.tolist()]
        if not self._bands:
            return
        signed = new[sketches.long[new]]
        start, end = len(self._signed), len(self._signed) + len(signed)
        if end > len(self._signatures):
            self._signatures = grown(self._signatures, end)
        self._signatures[start:end] = sketches.signatures[signed]
        self._signed += [passages[number].source_id for number in signed.tolist()]
        for band, index in enumerate(self._bands):
            index.add(keys[signed, band], np.arange(start, end))


def sketch(texts: Sequence[tuple[str, str]], *, near: bool = True) -> Sketches:
    """Sketch (title, text) pairs.

    Args:
        texts: As many as are to be held in memory at once.
        near: Whether signatures are wanted.
    """
    plain = [" ".join(f"{title} {text}".casefold().split()) for title, text in texts]
    long = np.array([near and each.count(" ") >= _MIN_WORDS - 1 for each in plain], bool)
    signatures = np.zeros((len(texts) if near else 0, _PERMUTATIONS), np.uint32)
    hashes, owners = [], []
    held = 0
    for number in np.flatnonzero(long).tolist():
        hashes.append(_shingles(plain[number].encode("utf-8", "replace")))
        owners.append(number)
        held += len(hashes[-1])
        if held >= _HASHED:
            signatures[owners] = _minima(hashes)
            hashes, owners, held = [], [], 0
    if owners:
        signatures[owners] = _minima(hashes)
    return Sketches(digests(plain), long, signatures)


def _shingles(text: bytes) -> np.ndarray:
    """A 32-bit hash of every run of five words, which a space parts."""
    starts = list(accumulate((len(word) + 1 for word in text.split(b" ")), initial=0))
    runs = {text[start : end - 1] for start, end in zip(starts, starts[_SHINGLE:], strict=False)}
    # SHA-1 as datasketch takes it; no secret is kept with it.
    raw = b"".join([hashlib.sha1(run).digest()[:4] for run in runs])  # noqa: S324
    return np.frombuffer(raw, "<u4")


def _minima(hashes: Sequence[np.ndarray]) -> np.ndarray:
    """MinHash of several texts at once, uint32 (n, 64): datasketch's scheme ``affine32``, which takes one at a time."""
    factors, offsets = _permutations()
    permuted = _mixed(np.concatenate(hashes))[:, None] * factors + offsets
    ends = np.cumsum([len(own) for own in hashes]).tolist()
    # A slice at a time: numpy's reduceat is twenty times as slow along this axis.
    return np.stack([permuted[end - len(own) : end].min(axis=0) for own, end in zip(hashes, ends, strict=True)])


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """MurmurHash3's finalizer on 32 bits; the products are taken modulo 2^32."""
    hashes = (hashes ^ (hashes >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    hashes = (hashes ^ (hashes >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return hashes ^ (hashes >> np.uint32(16))


def _permutations() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.RandomState(1)
    factors = draw.randint(0, 1 << 31, _PERMUTATIONS, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return factors, draw.randint(0, 1 << 32, _PERMUTATIONS, dtype=np.uint32)
