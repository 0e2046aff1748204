"""The corpus encoded once: new passages only, when it grew; from the last finished block on, after an interruption."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from gecko.engine.local import LocalEngine
from gecko.engine.protocol import Engine
from gecko.errors import GeckoError
from gecko.keys import DigestIndex, passage_digests
from gecko.miner.kept import Kept, Writer, is_whole, move, open_kept
from gecko.records import Passage

BLOCK_ROWS = 2048
_FRESH = ".encoding"  # what is being written; hidden, so that it is no part of the finished stage
_UNIT = 1e-2  # of bfloat16


class Encoder(Protocol):
    """What is asked of the miner here."""

    dim: int

    def encode_passages(self, passages: Sequence[tuple[str, str]]) -> np.ndarray:
        """Return float32 unit vectors (n, dim) of (title, text) pairs."""
        ...


class Passages(Protocol):
    """A corpus that can be read more than once."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Passage]: ...


@dataclass(frozen=True, slots=True)
class Encoding:
    """How passages are encoded (:class:`gecko.engine.protocol.Work`); another process opens the model by its name."""

    encoder: Encoder

    def open(self) -> Callable[[Sequence[tuple[str, str]]], np.ndarray]:
        """The function of a batch of (title, text) pairs; gives float32 unit vectors (n, dim)."""
        return self.encode

    def encode(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Encode a batch, which may be empty: nothing of it is new."""
        return self.encoder.encode_passages(pairs) if pairs else np.empty((0, self.encoder.dim), np.float32)


@dataclass(frozen=True, slots=True)
class Encoded:
    """How many vectors were made, and how many were there already."""

    made: int
    kept: int


def encode_corpus(
    passages: Passages,
    encoder: Encoder,
    folder: Path,
    *,
    model: str,
    tell: Callable[[str], None] | None = None,
    engine: Engine | None = None,
) -> Encoded:
    """Write the vectors of all passages to ``folder/vectors.npy``, float32 (n, dim) in the order of the corpus.

    A vector of a passage with the same title and text is copied from what the folder holds of the same model. What it
    held is replaced when the new file is whole, so that a full disk or a kill costs at most the block at hand.

    Args:
        passages: The corpus.
        encoder: The miner.
        folder: The stage's folder, which is this function's own.
        model: Fingerprint of all that a vector depends on beside its text; vectors of another are not reused.
        tell: Receives a line where something was at hand.
        engine: Runs the encoder; None does it in this process.

    Raises:
        GeckoError: The disk is full, what the folder holds is damaged, or the encoder returns something that is no
            unit vector.
    """
    fresh = folder / _FRESH
    if is_whole(fresh):
        move(fresh, folder)
    done = open_kept(folder, model, encoder.dim)
    if done and done.whole and _begins(passages, done):
        done.check()
        _clear(folder)
        return Encoded(0, len(passages))
    begun = open_kept(fresh, model, encoder.dim)
    if begun and not _begins(passages, begun):
        _set_aside(folder)
        begun = None
    if begun:
        begun.check()
    places = [folder, *sorted(folder.glob(f"{_FRESH}-*"))]
    before = [kept for place in places if (kept := open_kept(place, model, encoder.dim))]
    writer = Writer(fresh, model, len(passages), encoder.dim, begun)
    if writer.rows and tell:
        tell(f"miner      goes on after {writer.rows:,} of {len(passages):,} vectors")
    made = _write(passages, encoder, writer, before, engine or LocalEngine(workers=0))
    move(fresh, folder)
    _clear(folder)
    return Encoded(made, len(passages) - made)


def _write(passages: Passages, encoder: Encoder, writer: Writer, before: Sequence[Kept], engine: Engine) -> int:
    """Write the blocks that are missing; how many passages had to be encoded."""
    indexes = [_index(kept.keys) for kept in before]
    known: deque[tuple[np.ndarray, np.ndarray, np.ndarray]] = deque()  # of the blocks that are being encoded

    def unknown() -> Iterator[list[tuple[str, str]]]:
        for pairs in _blocks(islice(passages, writer.rows, None)):
            keys = passage_digests(pairs)
            vectors = np.empty((len(pairs), encoder.dim), np.float32)
            missing = np.ones(len(pairs), bool)
            for kept, index in zip(before, indexes, strict=True):
                rows = np.where(missing, index.find(keys), -1)
                found = rows >= 0
                if found.any():
                    vectors[found] = kept.take(rows[found])
                    missing &= ~found
            new = np.flatnonzero(missing)
            known.append((vectors, keys, new))
            yield [pairs[place] for place in new.tolist()]

    made = 0
    with writer:
        for encoded in engine.map_batches(Encoding(encoder), unknown(), model=True):
            vectors, keys, new = known.popleft()
            if len(new):
                vectors[new] = _checked(encoded, encoder.dim)
            writer.add(vectors, keys)
            made += len(new)
    return made


def _index(keys: np.ndarray) -> DigestIndex:
    index = DigestIndex()
    index.add(keys)
    return index


def _begins(passages: Passages, kept: Kept) -> bool:
    """Whether vectors are those of the corpus's first passages, and were to be of as many as there are."""
    if kept.total != len(passages):
        return False
    start = 0
    for pairs in _blocks(islice(passages, len(kept.keys))):
        if not np.array_equal(passage_digests(pairs), kept.keys[start : start + len(pairs)]):
            return False
        start += len(pairs)
    return True


def _blocks(passages: Iterable[Passage]) -> Iterator[list[tuple[str, str]]]:
    pairs = ((passage.title, passage.text) for passage in passages)
    while block := list(islice(pairs, BLOCK_ROWS)):
        yield block


def _checked(vectors: np.ndarray, dim: int) -> np.ndarray:
    """Refuse what is not rows of unit length; a text of which a model knows nothing may have a vector of zeros."""
    lengths = np.linalg.norm(np.asarray(vectors, np.float64), axis=1)
    if vectors.dtype != np.float32 or vectors.shape[1] != dim or not np.isfinite(lengths).all():
        raise GeckoError("the miner's vectors are not finite float32 numbers", "is the model a sound one?")
    if ((np.abs(lengths - 1) > _UNIT) & (lengths != 0)).any():
        raise GeckoError("the miner's vectors are not of unit length", "inner products would not be cosines")
    return vectors


def _set_aside(folder: Path) -> None:
    """Keep an encoding that was begun for a corpus that has changed since: its vectors are reused."""
    number = len(list(folder.glob(f"{_FRESH}-*")))
    (folder / _FRESH).rename(folder / f"{_FRESH}-{number:03d}")


def _clear(folder: Path) -> None:
    """Remove what is no longer needed once the vectors are whole."""
    for place in folder.glob(f"{_FRESH}*"):
        shutil.rmtree(place, ignore_errors=True)
