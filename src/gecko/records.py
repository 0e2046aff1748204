"""The rows that flow through a run, and the Arrow schemas they are stored in.

Every stage reads and writes these and nothing else (design: data contracts), so that a room can be
replaced without its neighbours noticing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import pyarrow as pa


def content_id(*parts: str) -> str:
    """Name a row by what it says: 16 hexadecimal digits of the SHA-256 of its parts."""
    digest = hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Document:
    """One item of the input as a reader found it, before chunking; ``markdown`` tells that its headings are marked."""

    source_id: str
    title: str
    text: str
    source: str
    markdown: bool = False


@dataclass(frozen=True, slots=True)
class Passage:
    """A titled chunk of the corpus: what is embedded, retrieved and judged."""

    passage_id: str
    source_id: str
    title: str
    text: str
    source: str
    lang: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Something that could not be read, parsed or scored, kept with the reason."""

    stage: str
    item_id: str
    reason: str
    raw: str


@dataclass(frozen=True, slots=True)
class GeneratedQuery:
    """FRet step 1's output: the task and the query a teacher wrote for a seed passage."""

    seed_id: str
    task: str
    query: str
    lang: str
    teacher: str
    prompt_version: str
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """One neighbour of a query with every score and rank it was given; ranks start at 1.

    ``ql`` and ``rc`` are None where the teacher had no score for the passage.
    """

    passage_id: str
    miner_score: float
    miner_rank: int
    ql: float | None
    ql_rank: int
    rc: float | None
    rc_rank: int
    rrf: float
    rank: int


@dataclass(frozen=True, slots=True)
class FretRow:
    """A training example with the provenance of every decision (design: data contracts).

    ``negative_id`` is the empty string where the guard found no safe negative. ``teacher`` and ``prompt_version`` are
    those of the query, ``ranker`` names the teacher that ranked its candidates, and ``note`` says what is wrong with
    their scores, such as calls that failed; both are empty in rows of an older version.
    """

    row_id: str
    task: str
    query: str
    lang: str
    seed_id: str
    positive_id: str
    negative_id: str
    candidates: tuple[Candidate, ...]
    relabelled: bool
    teacher: str
    rung: str
    prompt_version: str
    input_tokens: int
    output_tokens: int
    note: str = ""
    ranker: str = ""


@dataclass(frozen=True, slots=True)
class ScoredText:
    """A candidate of a unified row as a rendered string, with the ranker's relevance and fused score of it."""

    text: str
    rc: float | None
    rrf: float | None


@dataclass(frozen=True, slots=True)
class UnifiedRow:
    """One training example of any source in the one format (paper, section 3.3).

    ``positive`` and ``negatives`` are rendered strings (``mixture/format.py``); ``task`` and ``query`` are raw
    and rendered when a batch is made, so that the same row can be trained with another task string. ``candidates``,
    best first, are there where training reads a ranker's scores; the positive and the negatives are among them.
    """

    row_id: str
    task: str
    query: str
    positive: str
    negatives: tuple[str, ...] = field(default=())
    symmetric: bool = False
    source: str = ""
    candidates: tuple[ScoredText, ...] = ()


PASSAGES = pa.schema([(n, pa.string()) for n in ("passage_id", "source_id", "title", "text", "source", "lang")])

QUARANTINE = pa.schema([(n, pa.string()) for n in ("stage", "item_id", "reason", "raw")])

QUERIES = pa.schema(
    [(n, pa.string()) for n in ("seed_id", "task", "query", "lang", "teacher", "prompt_version")]
    + [("input_tokens", pa.int64()), ("output_tokens", pa.int64())]
)

CANDIDATE = pa.struct(
    [
        ("passage_id", pa.string()),
        ("miner_score", pa.float64()),
        ("miner_rank", pa.int32()),
        ("ql", pa.float64()),
        ("ql_rank", pa.int32()),
        ("rc", pa.float64()),
        ("rc_rank", pa.int32()),
        ("rrf", pa.float64()),
        ("rank", pa.int32()),
    ]
)

FRET = pa.schema(
    [(n, pa.string()) for n in ("row_id", "task", "query", "lang", "seed_id", "positive_id", "negative_id")]
    + [("candidates", pa.list_(CANDIDATE)), ("relabelled", pa.bool_())]
    + [(n, pa.string()) for n in ("teacher", "rung", "prompt_version")]
    + [("input_tokens", pa.int64()), ("output_tokens", pa.int64())]
    + [(n, pa.string()) for n in ("note", "ranker")]
)

UNIFIED = pa.schema(
    [(n, pa.string()) for n in ("row_id", "task", "query", "positive")]
    + [("negatives", pa.list_(pa.string())), ("symmetric", pa.bool_()), ("source", pa.string())]
    + [("candidates", pa.list_(pa.struct([("text", pa.string()), ("rc", pa.float64()), ("rrf", pa.float64())])))]
)
