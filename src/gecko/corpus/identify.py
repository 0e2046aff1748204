"""The languages of many texts at once: py3langid's model, its automaton walked by a block of texts in step.

The library walks it a byte at a time in Python and multiplies a table of half precision: half of what making passages
cost. The sums here are in another order, so a text that is not clearly one language is left to the library.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

_DOUBT = 0.001  # rounding moves a probability by less than a tenth of it
_TOGETHER = 2048  # texts


class BlockIdentifier:
    """Answers as the library's ``classify`` does.

    Args:
        library: py3langid's ``LanguageIdentifier``, with probabilities.
    """

    def __init__(self, library: Any) -> None:  # noqa: ANN401
        self._library = library
        self._moves = np.asarray(library.tk_nextmove)
        self._rows = np.asarray(library.tk_row).astype(np.int64) << 8
        self._features = np.asarray(library.tk_output, np.int32)
        self._weights = library.nb_ptc.astype(np.float32)
        self._same = _repeated(library.nb_classes)

    def classify(self, texts: Sequence[str], sure: float) -> list[tuple[str, bool]]:
        """The language of each text, and whether its probability is at least ``sure``."""
        found: list[tuple[str, bool]] = []
        for start in range(0, len(texts), _TOGETHER):
            found += self._block(texts[start : start + _TOGETHER], sure)
        return found

    def _block(self, texts: Sequence[str], sure: float) -> list[tuple[str, bool]]:
        chances = self._chances([_bytes(text) for text in texts])
        best = chances.argmax(axis=1)
        ranked = np.partition(chances, -2, axis=1)
        clear = (ranked[:, -1] - ranked[:, -2] > _DOUBT) & (np.abs(ranked[:, -1] - sure) > _DOUBT)
        found = []
        for number, text in enumerate(texts):
            if clear[number]:
                found.append((self._library.nb_classes[best[number]], bool(ranked[number, -1] >= sure)))
            else:
                language, confidence = self._library.classify(text)
                found.append((language, confidence >= sure))
        return found

    def _chances(self, texts: Sequence[bytes]) -> np.ndarray:
        """Probabilities of the languages, (n, languages), as the library's ``_decide`` computes them."""
        counts = self._counts(texts)
        scores = counts @ self._weights
        scores[np.diff(counts.indptr) > 0] += self._library.nb_pc
        scores *= np.array([1.0 / math.sqrt(len(text) or 1) for text in texts], np.float32)[:, None]
        chances: np.ndarray = np.exp(scores - scores.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        for first, again in self._same:
            chances[:, first] += chances[:, again]
            chances[:, again] = 0.0
        return chances

    def _counts(self, texts: Sequence[bytes]) -> Any:  # noqa: ANN401
        """The logarithms of how often each feature of the model stands in each text, sparse."""
        from scipy.sparse import coo_array

        lengths = np.array([len(text) for text in texts])
        order = np.argsort(-lengths, kind="stable")  # the longest first: those still walking are always in front
        longest = int(lengths.max(initial=0))
        letters = np.zeros((len(texts), longest), np.uint8)
        for row, number in enumerate(order.tolist()):
            letters[row, : lengths[number]] = np.frombuffer(texts[number], np.uint8)
        letters = np.ascontiguousarray(letters.T)
        walking = np.searchsorted(-lengths[order], -np.arange(longest), side="left")
        features = np.full((longest, len(texts)), -1, np.int32)
        state = np.zeros(len(texts), np.int64)
        for step, count in enumerate(walking.tolist()):
            state[:count] = self._moves[self._rows[state[:count]] + letters[step, :count]]
            features[step, :count] = self._features[state[:count]]
        steps, rows = np.nonzero(features >= 0)
        entries = (np.ones(len(rows), np.float32), (order[rows], features[steps, rows]))
        counts = coo_array(entries, shape=(len(texts), len(self._weights))).tocsr()
        counts.sum_duplicates()
        counts.data = np.log1p(counts.data)
        return counts


def _bytes(text: str) -> bytes:
    """A text as the library takes it."""
    text = unicodedata.normalize("NFC", text.lower() if text.isupper() else text)
    return text.encode("utf-8", "surrogatepass")


def _repeated(classes: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of columns that stand for one language, in two scripts."""
    first: dict[str, int] = {}
    return [(first[name], place) for place, name in enumerate(classes) if first.setdefault(name, place) != place]
