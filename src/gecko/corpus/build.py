"""Sources to passages: read, chunk, name the language, remove duplicates; what falls out goes to quarantine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict, Field

from gecko.corpus.cut import Cutting, cut_documents, take_some
from gecko.corpus.dedup import Deduplicator
from gecko.corpus.read import commonest, read_sources
from gecko.engine.feed import Feed
from gecko.engine.local import LocalEngine
from gecko.engine.protocol import Engine
from gecko.errors import GeckoError
from gecko.records import Passage, Quarantined

# Pieces, or characters of them, compared with the earlier ones at once.
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


def build_passages(options: CorpusOptions, engine: Engine | None = None) -> Iterator[Passage | Quarantined]:
    """Stream the passages of a corpus; memory holds a few batches of documents and the duplicate index.

    Args:
        options: What is read, and how it is cut.
        engine: Runs the cutting; None does it in this process. Whatever it is, the passages are the same.

    Returns:
        Passages in the order of the input, and everything that was set aside with its reason.

    Raises:
        GeckoError: A source does not exist (at once, so that a caller has written nothing yet), or (while reading) one
            cannot be read or all hold fewer than two passages.
    """
    cutting = Cutting(options.max_tokens, options.min_tokens, options.split_records)
    return _build(cut_documents(read_sources(options.sources), cutting, engine or LocalEngine(workers=0)), options)


def _build(pieces: Iterator[Passage | Quarantined], options: CorpusOptions) -> Iterator[Passage | Quarantined]:
    duplicates = Deduplicator(options.near_duplicate)
    admitted = 0
    reasons: Counter[str] = Counter()
    feed = Feed(pieces)
    most = _BLOCK if options.limit is None else min(_BLOCK, options.limit)
    while block := take_some(feed, most, _CHARACTERS):
        for result in _admit(block, duplicates):
            yield result
            if isinstance(result, Passage):
                admitted += 1
            elif admitted < 2:
                reasons[result.reason] += 1
        if options.limit is not None:
            most = min(_BLOCK, options.limit - admitted)
            if most == 0:
                return
    feed.finish()
    if admitted < 2:
        raise GeckoError(
            f"the corpus holds {admitted} usable passage{'' if admitted == 1 else 's'}{commonest(reasons)}",
            "at least two are needed: every passage is compared with its neighbours",
        )


def _admit(block: Sequence[Passage | Quarantined], duplicates: Deduplicator) -> Iterator[Passage | Quarantined]:
    """Set aside what repeats an earlier passage; in order."""
    reasons = iter(duplicates.admit_all([piece for piece in block if isinstance(piece, Passage)]))
    for piece in block:
        reason = next(reasons) if isinstance(piece, Passage) else None
        if isinstance(piece, Passage) and reason is not None:
            yield Quarantined("corpus", piece.source_id, reason, piece.text[:1000])
        else:
            yield piece
