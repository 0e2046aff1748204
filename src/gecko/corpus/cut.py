"""Documents to passages, a batch at a time: cut, rid of what says nothing, their language named.

The longest part of reading a corpus, and the one in which no document depends on another, so that an engine may do it
in several processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gecko.corpus.chunk import chunk_document
from gecko.corpus.language import detect_all
from gecko.corpus.read import RECORD_SUFFIXES
from gecko.engine.feed import Feed
from gecko.engine.protocol import Engine
from gecko.records import Document, Passage, Quarantined, content_id

Item = Document | Quarantined
Piece = Passage | Quarantined

_DOCUMENTS = 256  # of a batch, at most; half a second's work
_CHARACTERS = 1 << 20  # so that a batch of books is no larger than one of sentences


@dataclass(frozen=True, slots=True)
class Cutting:
    """How documents are cut (:class:`gecko.engine.protocol.Work`).

    Attributes:
        max_tokens: Longest passage.
        min_tokens: A shorter piece joins its neighbour.
        split_records: Whether records of JSON Lines and tables are cut, too.
    """

    max_tokens: int
    min_tokens: int
    split_records: bool

    def open(self) -> Callable[[Sequence[Item]], list[Piece]]:
        """The function of a batch; it needs nothing loaded but the identifier of languages, which loads itself."""
        return self.cut

    def cut(self, items: Sequence[Item]) -> list[Piece]:
        """Make passages of documents, in order; what gives none is quarantined."""
        pieces = [_stripped(piece) for item in items for piece in self._pieces(item)]
        languages = iter(detect_all([piece.text for piece in pieces if isinstance(piece, Document)]))
        return [_passage(piece, next(languages)) if isinstance(piece, Document) else piece for piece in pieces]

    def _pieces(self, item: Item) -> Sequence[Item]:
        if isinstance(item, Quarantined):
            return [item]
        is_record = item.source.lower().endswith(tuple(RECORD_SUFFIXES)) or item.source.startswith("hf://")
        split = self.split_records or not is_record
        pieces = chunk_document(item, self.max_tokens, self.min_tokens, split=split)
        return pieces or [Quarantined("corpus", item.source_id, "no text", "")]


def cut_documents(items: Iterable[Item], cutting: Cutting, engine: Engine) -> Iterator[Piece]:
    """Make passages of documents, in order; a few batches of them are in memory."""
    for pieces in engine.map_batches(cutting, _batches(items)):
        yield from pieces


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield documents in batches; what was read before a failure comes before the failure."""
    feed = Feed(items)
    while batch := take_some(feed, _DOCUMENTS, _CHARACTERS):
        yield batch
    feed.finish()


def take_some(feed: Feed[Any], most: int, characters: int) -> list[Any]:
    """The next documents or pieces: so many at most, and none more once they hold so many characters."""
    taken: list[Any] = []
    size = 0
    while len(taken) < most and size < characters and (one := feed.take()):
        taken += one
        size += len(one[0].raw if isinstance(one[0], Quarantined) else one[0].text)
    return taken


def _stripped(piece: Item) -> Item:
    """A piece without the space around its text, or set aside where it holds no word."""
    if isinstance(piece, Quarantined):
        return piece
    text = piece.text.strip()
    if not any(character.isalpha() for character in text):
        return Quarantined("corpus", piece.source_id, "no letters in the text", text[:1000])
    return replace(piece, text=text)


def _passage(piece: Document, lang: str) -> Passage:
    return Passage(
        passage_id=content_id(piece.title, piece.text),
        source_id=piece.source_id,
        title=piece.title,
        text=piece.text,
        source=piece.source,
        lang=lang,
    )
