"""Sources to passages: read, chunk, name the language, remove duplicates; what falls out goes to quarantine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from pydantic import BaseModel, ConfigDict, Field

from gecko.corpus.chunk import chunk_document
from gecko.corpus.dedup import Deduplicator
from gecko.corpus.language import detect_all
from gecko.corpus.read import RECORD_SUFFIXES, commonest, read_sources
from gecko.errors import GeckoError
from gecko.records import Document, Passage, Quarantined, content_id

# Pieces, or characters of them, made into passages at once.
_BLOCK = 2048
_CHARACTERS = 1 << 24


class CorpusOptions(BaseModel):
    """The recipe's ``corpus`` section."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[str, ...] = ()
    max_tokens: int = Field(default=256, ge=16, description="longest passage, in tokens (estimated)")
    min_tokens: int = Field(default=12, ge=0, description="a shorter piece joins its neighbour")
    near_duplicate: float = Field(
        default=0.9, ge=0, le=1, description="Jaccard similarity of a near-duplicate; 0 or 1 = off"
    )
    split_records: bool = Field(default=False, description="also cut JSONL, CSV and Parquet records that are too long")
    limit: int | None = Field(default=None, ge=1, description="stop after this many passages")


def build_passages(options: CorpusOptions) -> Iterator[Passage | Quarantined]:
    """Stream the passages of a corpus; memory holds one document, a block of passages and the duplicate index.

    Returns:
        Passages in the order of the input, and everything that was set aside with its reason.

    Raises:
        GeckoError: A source does not exist (at once, so that a caller has written nothing yet), or (while reading) one
            cannot be read or all hold fewer than two passages.
    """
    return _build(read_sources(options.sources), options)


def _build(items: Iterator[Document | Quarantined], options: CorpusOptions) -> Iterator[Passage | Quarantined]:
    duplicates = Deduplicator(options.near_duplicate)
    admitted = 0
    reasons: Counter[str] = Counter()
    pieces = (piece for item in items for piece in _pieces(item, options))
    stopped: GeckoError | None = None
    while stopped is None:
        block, stopped = _take(pieces, _BLOCK if options.limit is None else min(_BLOCK, options.limit - admitted))
        if not block and stopped is None:
            break
        for result in _admit(block, duplicates):
            yield result
            if isinstance(result, Passage):
                admitted += 1
            elif admitted < 2:
                reasons[result.reason] += 1
        if options.limit is not None and admitted >= options.limit:
            return
    if stopped is not None:
        raise stopped
    if admitted < 2:
        raise GeckoError(
            f"the corpus holds {admitted} usable passage{'' if admitted == 1 else 's'}{commonest(reasons)}",
            "at least two are needed: every passage is compared with its neighbours",
        )


def _take(
    pieces: Iterator[Document | Quarantined], most: int
) -> tuple[list[Document | Quarantined], GeckoError | None]:
    """The next pieces, and the error that ended them: what was read before it counts all the same."""
    block: list[Document | Quarantined] = []
    characters = 0
    try:
        for piece in islice(pieces, most):
            block.append(piece)
            characters += len(piece.text) if isinstance(piece, Document) else len(piece.raw)
            if characters >= _CHARACTERS:
                break
    except GeckoError as error:
        return block, error
    return block, None


def _pieces(item: Document | Quarantined, options: CorpusOptions) -> list[Document] | list[Quarantined]:
    if isinstance(item, Quarantined):
        return [item]
    is_record = item.source.lower().endswith(tuple(RECORD_SUFFIXES)) or item.source.startswith("hf://")
    split = options.split_records or not is_record
    pieces = chunk_document(item, options.max_tokens, options.min_tokens, split=split)
    return pieces or [Quarantined("corpus", item.source_id, "no text", "")]


def _admit(block: Sequence[Document | Quarantined], duplicates: Deduplicator) -> Iterator[Passage | Quarantined]:
    """Make passages of pieces, and set aside what repeats an earlier one or holds no word; in order."""
    texts = [item.text.strip() if isinstance(item, Document) else "" for item in block]
    worded = [
        number
        for number, item in enumerate(block)
        if isinstance(item, Document) and any(character.isalpha() for character in texts[number])
    ]
    languages = dict(zip(worded, detect_all([texts[number] for number in worded]), strict=True))
    made = {
        number: Passage(
            passage_id=content_id(item.title, texts[number]),
            source_id=item.source_id,
            title=item.title,
            text=texts[number],
            source=item.source,
            lang=languages[number],
        )
        for number, item in enumerate(block)
        if isinstance(item, Document) and number in languages
    }
    repeated = dict(zip(made, duplicates.admit_all(list(made.values())), strict=True))
    for number, item in enumerate(block):
        if isinstance(item, Quarantined):
            yield item
        elif number not in made:
            yield Quarantined("corpus", item.source_id, "no letters in the text", texts[number][:1000])
        else:
            reason = repeated[number]
            yield (
                made[number] if reason is None else Quarantined("corpus", item.source_id, reason, texts[number][:1000])
            )
