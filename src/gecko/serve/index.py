"""A folder that can be searched: vectors and full text in LanceDB (embedded), extended when the corpus grows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np

from gecko.errors import GeckoError, UsageError
from gecko.records import Passage
from gecko.shards import read_json, write_json

Mode = Literal["dense", "text", "hybrid"]
_TABLE = "passages"
_FUSION = 60  # constant of reciprocal rank fusion, as the evaluation's hybrids use it


class TextEncoder(Protocol):
    """What an index asks of a model."""

    path: str
    dim: int

    def encode_queries(self, queries: Sequence[str], task: str | None = None) -> np.ndarray:
        """Unit vectors (n, dim)."""
        ...

    def encode_passages(self, passages: Sequence[tuple[str, str]]) -> np.ndarray:
        """Unit vectors (n, dim) of (title, text) pairs."""
        ...


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result; the score is a cosine, a BM25 score or a fused rank score, by mode."""

    rank: int
    score: float
    passage_id: str
    source_id: str
    title: str
    text: str


def build_index(embedder: TextEncoder, passages: Iterable[Passage], out: Path, *, batch_size: int = 512) -> int:
    """Index passages; those that are there already (same content hash, same model) are not encoded again.

    Args:
        embedder: The model that queries will be encoded with.
        passages: The corpus, streamed.
        out: Directory of the index.
        batch_size: Passages encoded and written at a time.

    Returns:
        How many passages were added.

    Raises:
        GeckoError: The directory holds an index of another model.
    """
    import lancedb

    out.mkdir(parents=True, exist_ok=True)
    facts = read_json(out / "index.json") or {}
    if facts and (facts["model"], facts["dim"]) != (embedder.path, embedder.dim):
        raise GeckoError(f"{out} was made with the model {facts['model']}", "choose another --out, or delete it")
    database = lancedb.connect(out)
    table: Any = database.open_table(_TABLE) if facts else None
    known = set(table.to_arrow().column("passage_id").to_pylist()) if table is not None else set()
    added = 0
    for batch in _batches((passage for passage in passages if passage.passage_id not in known), batch_size):
        vectors = embedder.encode_passages([(passage.title, passage.text) for passage in batch])
        rows = [_row(passage, vector) for passage, vector in zip(batch, vectors, strict=True)]
        if table is None:
            table = database.create_table(_TABLE, rows, mode="overwrite")
        else:
            table.add(rows)
        added += len(rows)
    if table is None:
        raise GeckoError("there is no passage to index", "is the corpus folder the right one?")
    if added:
        table.create_fts_index("searched", replace=True)
    write_json(out / "index.json", {"model": embedder.path, "dim": embedder.dim, "passages": table.count_rows()})
    return added


def search_index(
    out: Path,
    query: str,
    *,
    k: int = 10,
    mode: str = "hybrid",
    task: str | None = None,
    embedder: TextEncoder | None = None,
) -> list[Hit]:
    """Search an index.

    Args:
        out: Directory of the index.
        query: What is looked for; any text, no query syntax.
        k: How many hits.
        mode: ``dense``, ``text`` (BM25) or ``hybrid`` (both, fused by reciprocal rank).
        task: Task description for the query's prompt.
        embedder: The model, if it is loaded already; else the index's own is loaded.

    Raises:
        GeckoError: There is no index, or its model is gone.
        UsageError: The mode is unknown or the query empty.
    """
    if mode not in get_args(Mode):
        raise UsageError(f"unknown search mode {mode}", f"one of {', '.join(get_args(Mode))}")
    if not query.strip():
        raise UsageError("the query is empty", "say what you look for")
    table, facts = _open(out)
    depth = k if mode != "hybrid" else max(50, k)
    rankings: list[list[dict[str, Any]]] = []
    if mode in {"dense", "hybrid"}:
        rankings.append(_dense(table, _vector(query, task, embedder, facts), depth))
    if mode in {"text", "hybrid"}:
        rankings.append(_text(table, query, depth))
    rows = rankings[0] if mode != "hybrid" else _fused(rankings)
    return [
        Hit(rank, float(row["score"]), row["passage_id"], row["source_id"], row["title"], row["text"])
        for rank, row in enumerate(rows[:k], start=1)
    ]


def _open(out: Path) -> tuple[Any, dict[str, Any]]:
    import lancedb

    facts = read_json(out / "index.json")
    if not isinstance(facts, dict) or "model" not in facts:
        raise GeckoError(f"no index in {out}", "make one: gecko index MODEL --corpus passages/ --out index/")
    try:
        return lancedb.connect(out).open_table(_TABLE), facts
    except Exception as error:
        raise GeckoError(f"the index in {out} is damaged", "delete the folder and index again") from error


def _vector(query: str, task: str | None, embedder: TextEncoder | None, facts: dict[str, Any]) -> np.ndarray:
    if embedder is None:
        from gecko.embedder.embedder import Embedder

        embedder = Embedder(str(facts["model"]), dim=int(facts["dim"]))
    return cast("np.ndarray", embedder.encode_queries([query], task)[0])


def _dense(table: Any, vector: np.ndarray, depth: int) -> list[dict[str, Any]]:  # noqa: ANN401
    rows = table.search(vector, vector_column_name="vector").distance_type("cosine").limit(depth).to_list()
    return [{**row, "score": 1.0 - row["_distance"]} for row in rows]


def _text(table: Any, query: str, depth: int) -> list[dict[str, Any]]:  # noqa: ANN401
    from lancedb.query import MatchQuery

    # A match query takes the text as words; a plain string would be parsed as query syntax.
    matched = MatchQuery(query, "searched")  # type: ignore[call-arg]
    rows = table.search(matched, query_type="fts").limit(depth).to_list()
    return [{**row, "score": row["_score"]} for row in rows]


def _fused(rankings: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    scores: dict[str, float] = {}
    rows: dict[str, dict[str, Any]] = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking, start=1):
            key = row["passage_id"]
            rows.setdefault(key, row)
            scores[key] = scores.get(key, 0.0) + 1.0 / (_FUSION + rank)
    order = sorted(scores, key=lambda key: (-scores[key], key))
    return [{**rows[key], "score": scores[key]} for key in order]


def _row(passage: Passage, vector: np.ndarray) -> dict[str, Any]:
    return {
        "vector": vector,
        "passage_id": passage.passage_id,
        "source_id": passage.source_id,
        "title": passage.title,
        "text": passage.text,
        "source": passage.source,
        "lang": passage.lang,
        "searched": f"{passage.title} {passage.text}",
    }


def _batches(passages: Iterable[Passage], size: int) -> Iterator[list[Passage]]:
    stream = iter(passages)
    while batch := list(itertools.islice(stream, size)):
        yield batch
