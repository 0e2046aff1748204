"""Sources to passages: read, chunk, name the language, remove duplicates; what falls out goes to quarantine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field

from gecko.corpus.chunk import chunk_document
from gecko.corpus.dedup import Deduplicator
from gecko.corpus.language import detect
from gecko.corpus.read import RECORD_SUFFIXES, commonest, read_sources
from gecko.errors import GeckoError
from gecko.records import Document, Passage, Quarantined, content_id


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
    """Stream the passages of a corpus; memory holds one document and the duplicate index.

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
    for item in items:
        for piece in _pieces(item, options):
            result = piece if isinstance(piece, Quarantined) else _admit(piece, duplicates)
            yield result
            if isinstance(result, Passage):
                admitted += 1
            elif admitted < 2:
                reasons[result.reason] += 1
            if options.limit is not None and admitted >= options.limit:
                return
    if admitted < 2:
        raise GeckoError(
            f"the corpus holds {admitted} usable passage{'' if admitted == 1 else 's'}{commonest(reasons)}",
            "at least two are needed: every passage is compared with its neighbours",
        )


def _pieces(item: Document | Quarantined, options: CorpusOptions) -> list[Document] | list[Quarantined]:
    if isinstance(item, Quarantined):
        return [item]
    is_record = item.source.lower().endswith(tuple(RECORD_SUFFIXES)) or item.source.startswith("hf://")
    split = options.split_records or not is_record
    pieces = chunk_document(item, options.max_tokens, options.min_tokens, split=split)
    return pieces or [Quarantined("corpus", item.source_id, "no text", "")]


def _admit(piece: Document, duplicates: Deduplicator) -> Passage | Quarantined:
    text = piece.text.strip()
    if not any(character.isalpha() for character in text):
        return Quarantined("corpus", piece.source_id, "no letters in the text", text[:1000])
    passage = Passage(
        passage_id=content_id(piece.title, text),
        source_id=piece.source_id,
        title=piece.title,
        text=text,
        source=piece.source,
        lang=detect(text),
    )
    repeated = duplicates.admit(passage)
    return passage if repeated is None else Quarantined("corpus", piece.source_id, repeated, text[:1000])
