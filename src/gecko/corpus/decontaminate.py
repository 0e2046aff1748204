"""Evaluation texts found again among training texts: word for word, in another order, nearly, or by a run of words.

Every comparison is a join on 64-bit hashes of normalised words (``words.py``), so that a million rows are compared with
a hundred thousand evaluation texts in minutes. The run of words is the rule of GPT-3 (arXiv:2005.14165, appendix C):
13 of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gecko.corpus.near import NearIndex, NearVectors, Pairs, ranges
from gecko.corpus.words import Words, blocks, read_words

Kind = Literal["exact", "order", "near", "ngram", "embedding"]

# The strongest first: of a text and an evaluation set, only the strongest kind of match is told.
KINDS: tuple[Kind, ...] = ("exact", "order", "near", "ngram", "embedding")
_SPARSENESS = 8  # places of the filter for each key: one in eight keys that are not there passes
_MOST_BITS = 30


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Texts and the references they repeat, in parallel; at most one a text and group of references.

    Attributes:
        texts: int64 (n,): place of the text, ascending.
        references: int64 (n,): place of the reference.
        kinds: int64 (n,): place in ``KINDS``.
    """

    texts: np.ndarray
    references: np.ndarray
    kinds: np.ndarray


@dataclass(frozen=True, slots=True)
class Alike:
    """Vectors that are compared too.

    Attributes:
        encode: Makes float32 unit vectors (n, dim) of texts.
        cosine: From which two texts are near.
    """

    encode: Callable[[Sequence[str]], np.ndarray]
    cosine: float


class Decontaminator:
    """Finds which of many references a text repeats.

    Every text is compared with every reference by its whole (``exact``) and by runs of ``ngram`` words; those that ask
    something also with the references that do: the same words in another order (``order``), nearly the same words
    (``near``), nearly the same vector (``embedding``).

    Args:
        references: The texts to be found again.
        groups: int (references,), ascending: the set of each.
        asking: bool (references,): whether it is a question.
        ngram: Words of a run.
        common: A run in more references of a group than this is boilerplate and no evidence; 0 counts all.
        near: Jaccard similarity of the sets of words from which two questions are near; 0 = off.
        alike: Vectors that are compared too; None for none.
    """

    def __init__(
        self,
        references: Sequence[str],
        groups: np.ndarray,
        asking: np.ndarray,
        *,
        ngram: int = 13,
        common: int = 10,
        near: float = 0.8,
        alike: Alike | None = None,
    ) -> None:
        self._groups = np.asarray(groups, np.int64)
        self._ngram = ngram
        self._questions = np.flatnonzero(asking)
        whole, runs = [], []
        for block in blocks(references):
            words = read_words(references[block])
            whole.append(_shifted(words.whole(), block.start))
            runs.append(_shifted(words.ngrams(ngram), block.start))
        self._exact = _HashIndex(whole, self._groups)
        self._runs = _HashIndex(runs, self._groups, most=common)
        asked = [references[place] for place in self._questions.tolist()]
        questions = _all_words(asked)
        self._order = _HashIndex([questions.bags()], self._groups[self._questions])
        self._near = NearIndex(questions, near) if near else None
        self._vectors = NearVectors(asked, alike.encode, alike.cosine) if alike and asked else None

    @property
    def ignored(self) -> int:
        """Runs of words that are too common to be evidence."""
        return self._runs.ignored

    def match(self, texts: Sequence[str], asking: np.ndarray) -> Matches:
        """Compare texts with the references.

        Args:
            texts: As many as are to be held in memory at once.
            asking: bool (texts,): whether it is a question.
        """
        words = read_words(texts)
        asked = np.flatnonzero(asking)
        questions = _of(words, asked)
        found: dict[Kind, Pairs] = {
            "exact": self._exact.find(*words.whole()),
            "ngram": self._runs.find(*words.ngrams(self._ngram)),
        }
        loose: dict[Kind, Pairs] = {"order": self._order.find(*questions.bags())}
        if self._near is not None:
            loose["near"] = self._near.find(questions)
        if self._vectors is not None:
            loose["embedding"] = self._vectors.find([texts[place] for place in asked.tolist()])
        found |= {kind: (asked[pairs[0]], self._questions[pairs[1]]) for kind, pairs in loose.items()}
        return self._strongest(found)

    def _strongest(self, found: dict[Kind, Pairs]) -> Matches:
        """Keep one match of each text and group: the strongest kind, of its references the first."""
        texts = np.concatenate([pairs[0] for pairs in found.values()]).astype(np.int64)
        references = np.concatenate([pairs[1] for pairs in found.values()]).astype(np.int64)
        kinds = np.concatenate([np.full(len(pairs[0]), KINDS.index(kind)) for kind, pairs in found.items()])
        groups = self._groups[references]
        order = np.lexsort((references, kinds, groups, texts))
        order = order[_first(texts[order], groups[order])]
        return Matches(texts[order], references[order], kinds[order])


class _HashIndex:
    """Hashes and the references that have them; a hash that several of a group have names the first of them.

    Args:
        parts: (hashes, references) pairs of arrays, the references ascending throughout.
        groups: Group of each reference, ascending.
        most: A hash that more references of a group have is left out; 0 keeps all.
    """

    def __init__(self, parts: Sequence[Pairs], groups: np.ndarray, most: int = 0) -> None:
        keys = np.concatenate([np.zeros(0, np.uint64), *(part[0] for part in parts)])
        owners = np.concatenate([np.zeros(0, np.int32), *(part[1].astype(np.int32) for part in parts)])
        order = np.argsort(keys, kind="stable")
        keys, owners = keys[order], owners[order]
        once = _first(keys, owners)
        keys, owners = keys[once], owners[once]
        starts = np.flatnonzero(_first(keys, groups[owners]))
        self.ignored = 0
        if most:
            rare = np.diff(np.append(starts, len(keys))) <= most
            self.ignored = int(len(rare) - rare.sum())
            starts = starts[rare]
        self._keys, self._owners = keys[starts], owners[starts]
        bits = min(max(int(_SPARSENESS * len(starts)).bit_length(), 8), _MOST_BITS)
        self._shift = np.uint64(64 - bits)
        self._there = np.zeros(1 << bits, bool)
        self._there[self._keys >> self._shift] = True

    def find(self, hashes: np.ndarray, texts: np.ndarray) -> Pairs:
        """Join on the hashes: each pair (text, reference) once."""
        # Most hashes are nowhere among the keys: a look into a table of bits spares them the search.
        likely = np.flatnonzero(self._there[hashes >> self._shift])
        hashes, texts = hashes[likely], texts[likely]
        start = np.searchsorted(self._keys, hashes, side="left")
        count = np.searchsorted(self._keys, hashes, side="right") - start
        references = self._owners[ranges(start, count)].astype(np.int64)
        pairs = np.unique(np.repeat(texts.astype(np.int64), count) << np.int64(32) | references)
        return pairs >> np.int64(32), pairs & np.int64(0xFFFFFFFF)


def _first(*columns: np.ndarray) -> np.ndarray:
    """Whether each row of parallel sorted columns differs from the one before it."""
    first = np.ones(len(columns[0]), bool)
    first[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return first


def _shifted(pairs: Pairs, start: int) -> Pairs:
    return pairs[0], pairs[1] + np.asarray(start, pairs[1].dtype)


def _of(words: Words, texts: np.ndarray) -> Words:
    """The words of some of the texts, which are counted anew."""
    number = np.full(words.size, -1, np.int32)
    number[texts] = np.arange(len(texts), dtype=np.int32)
    owners = number[words.owners]
    return Words(words.hashes[owners >= 0], owners[owners >= 0], len(texts))


def _all_words(texts: Sequence[str]) -> Words:
    """The words of many texts."""
    parts = [(read_words(texts[block]), block.start) for block in blocks(texts)]
    hashes = np.concatenate([np.zeros(0, np.uint64), *(words.hashes for words, _ in parts)])
    owners = np.concatenate([np.zeros(0, np.int32), *(words.owners + np.int32(start) for words, start in parts)])
    return Words(hashes, owners, len(texts))
