"""Which passages of a large corpus the offline teacher counts: a sample says the same of words, and fits in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gecko.records import Passage, content_id

MOST = 200_000
_NUMBERS = 1 << 64


class Sampled:
    """A corpus of which at most about so many passages are seen, always the same ones.

    A passage is in or out by a hash of its id, so that most of the sample stays when the corpus grows.

    Args:
        passages: The corpus; it is gone through as often as the sample is.
        size: Passages in it.
        most: How many are wanted; a corpus no larger is seen whole.
    """

    def __init__(self, passages: Iterable[Passage], size: int, most: int) -> None:
        self._passages = passages
        self._below = _NUMBERS if size <= most else _NUMBERS * most // size

    def __iter__(self) -> Iterator[Passage]:
        if self._below == _NUMBERS:
            return iter(self._passages)
        return (one for one in self._passages if int(content_id("count", one.passage_id), 16) < self._below)
