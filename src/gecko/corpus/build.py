"""Sources to passages: read, chunk, name the language, remove duplicates; what falls out goes to quarantine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field

from gecko.corpus.cut import Cutting, cut_documents
from gecko.corpus.dedup import Deduplicator
from gecko.corpus.read import commonest, read_sources
from gecko.engine.local import LocalEngine
from gecko.engine.protocol import Engine
from gecko.errors import GeckoError
from gecko.records import Passage, Quarantined


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
    for piece in pieces:
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


def _admit(passage: Passage, duplicates: Deduplicator) -> Passage | Quarantined:
    repeated = duplicates.admit(passage)
    return passage if repeated is None else Quarantined("corpus", passage.source_id, repeated, passage.text[:1000])
