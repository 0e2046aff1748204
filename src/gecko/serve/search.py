"""Search an index by meaning, by words or by both, in all dimensions or fewer, among all passages or some."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from gecko.corpus.decode import clean
from gecko.errors import GeckoError, UsageError
from gecko.serve.places import AGAIN, TABLE, index_place
from gecko.serve.store import TextEncoder, facts_of, intact

logger = logging.getLogger(__name__)

Mode = Literal["dense", "text", "hybrid"]
Field = Literal["source", "lang", "source_id", "passage_id", "title"]
FIELDS = get_args(Field)
Where = Mapping[str, str | Sequence[str]]
_SHOWN = ["passage_id", "source_id", "title", "text", "source", "lang"]
MOST_HITS = 10_000
_FUSION = 60  # constant of reciprocal rank fusion, as the evaluation's hybrids use it


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result; the score is a cosine, a BM25 score or a fused rank score, by mode."""

    rank: int
    score: float
    passage_id: str
    source_id: str
    title: str
    text: str
    source: str
    lang: str


class SearchIndex:
    """An index that is open; where it is made anew meanwhile, the next search sees the new one.

    Args:
        folder: Directory of the index, or its URL in an object store.

    Raises:
        GeckoError: There is no index, or it is damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        self.place = index_place(folder)
        self._lock = threading.Lock()
        self._open()

    @property
    def model(self) -> str:
        """Name of the model that made it."""
        return str(self._facts["model"])

    @property
    def dim(self) -> int:
        """Width of its vectors."""
        return int(self._facts["dim"])

    @property
    def size(self) -> int:
        """Passages in it."""
        with intact(self.place):
            return int(self._table.count_rows())

    @property
    def complete(self) -> bool:
        """Whether its making came to an end."""
        return bool(self._facts.get("complete", True))

    def check(self, embedder: TextEncoder) -> None:
        """Refuse a model that did not make this index; an export of the one that did may search it.

        Raises:
            GeckoError: Its vectors are others.
        """
        made_with = self._facts.get("origin", self._facts.get("weights"))
        if (embedder.origin, embedder.dim) != (made_with, self._facts["dim"]):
            raise GeckoError(f"{embedder.path} is not the model that made the index in {self.place}", AGAIN)

    def passages(self) -> Iterator[dict[str, str]]:
        """Stream all passages: passage_id, source_id, title, text, source and lang."""
        with intact(self.place):
            for batch in self._table.search().select(_SHOWN).to_batches():
                yield from batch.to_pylist()

    def search(
        self,
        query: str,
        vector: np.ndarray | None,
        *,
        k: int = 10,
        mode: Mode = "hybrid",
        dim: int | None = None,
        where: Where | None = None,
    ) -> list[Hit]:
        """Search.

        Args:
            query: What is looked for; any text, no query syntax.
            vector: The query's vector in all dimensions; ``text`` needs none.
            k: How many hits.
            mode: ``dense``, ``text`` (BM25) or ``hybrid`` (both, fused by reciprocal rank).
            dim: Compare only the first ``dim`` dimensions (Matryoshka), by an exact scan.
            where: Field → the values a passage may have there; one that ends in ``*`` is a beginning.

        Raises:
            GeckoError: The index is damaged, or was made anew with another model.
            UsageError: A field or a dimension that is not there.
        """
        condition = _condition(where)
        if dim is not None and not 1 <= dim <= self.dim:
            raise UsageError(f"dimension {dim} is outside 1..{self.dim}", "the index has no other")
        table = self._current()
        depth = k if mode != "hybrid" else max(50, k)
        rankings = []
        with intact(self.place):
            if mode != "text":
                if vector is None:
                    raise ValueError("a search by meaning takes a vector")
                if dim is None or dim == self.dim:
                    rankings.append(_dense(table, vector, depth, condition))
                else:
                    rankings.append(_dense_cut(table, vector[:dim], depth, condition))
            if mode != "dense":
                rankings.append(_text(table, query, depth, condition))
        rows = rankings[0] if mode != "hybrid" else _fused(rankings)
        return [
            Hit(rank, float(row["score"]), **{name: row[name] for name in _SHOWN})
            for rank, row in enumerate(rows[:k], start=1)
        ]

    def _open(self) -> None:
        with intact(self.place):
            stamp = self.place.stamp()
        facts = facts_of(self.place)
        if facts is None:
            raise GeckoError(f"no index in {self.place}", "make one: gecko index MODEL --corpus passages/ --out index/")
        with intact(self.place):
            self._table: Any = self.place.connect().open_table(TABLE)
        self._facts, self._seen = facts, stamp

    def _current(self) -> Any:  # noqa: ANN401
        """The table as it was last finished: one that is being made is looked at when it is complete."""
        with self._lock:
            with intact(self.place):
                unchanged = self.place.stamp() == self._seen
            if unchanged:
                return self._table
            facts = facts_of(self.place)
            if facts is not None and facts.get("complete"):
                before = self._facts.get("weights"), self._facts["dim"]
                if (facts.get("weights"), facts["dim"]) != before:
                    raise GeckoError(
                        f"the index in {self.place} was made anew with another model", "start gecko serve again"
                    )
                self._open()
            return self._table


def search_index(
    out: Path | str,
    query: str,
    *,
    k: int = 10,
    mode: str = "hybrid",
    task: str | None = None,
    where: Where | None = None,
    embedder: TextEncoder | None = None,
) -> list[Hit]:
    """Search an index once.

    Args:
        out: Directory of the index, or its URL in an object store.
        query: What is looked for; any text, no query syntax.
        k: How many hits, at most 10,000.
        mode: ``dense``, ``text`` (BM25) or ``hybrid`` (both, fused by reciprocal rank).
        task: Task description for the query's prompt.
        where: Field → the values a passage may have there; one that ends in ``*`` is a beginning.
        embedder: The model, if it is loaded already; else the index's own is loaded.

    Raises:
        GeckoError: There is no index, it is damaged, or its model is gone or changed.
        UsageError: The mode is unknown, the query empty, or k out of bounds.
    """
    wanted: Mode | None = next((known for known in get_args(Mode) if known == mode), None)
    if wanted is None:
        raise UsageError(f"unknown search mode {mode}", f"one of {', '.join(get_args(Mode))}")
    query = clean(query)
    if not query.strip():
        raise UsageError("the query is empty", "say what you look for")
    if not 1 <= k <= MOST_HITS:
        raise UsageError(f"cannot show {k} hits", f"choose 1 to {MOST_HITS}")
    _condition(where)  # a mistake there is told before a model is loaded
    index = SearchIndex(out)
    if not index.complete:
        logger.warning("the index in %s is not finished: run gecko index again", out)
    vector = None
    if wanted != "text":
        if embedder is None:
            from gecko.embedder.embedder import Embedder
            from gecko.export.cached import held_int8

            # An export starts without torch and Sentence-Transformers, which take longer to import than a search does.
            embedder = Embedder(held_int8(index.model) or index.model, dim=index.dim)
        index.check(embedder)
        vector = embedder.encode_queries([query], clean(task) if task else None)[0]
    return index.search(query, vector, k=k, mode=wanted, where=where)


def _condition(where: Where | None) -> str | None:
    """Write a filter as the SQL that LanceDB takes; values are quoted, so that they stay values."""
    clauses = []
    for field, values in (where or {}).items():
        if field not in FIELDS:
            raise UsageError(f"passages have no field {field}", f"one of {', '.join(FIELDS)}")
        listed = [clean(value) for value in ([values] if isinstance(values, str) else values)]
        exact = ", ".join(_quoted(value) for value in listed if not value.endswith("*"))
        either = [f"{field} IN ({exact})"] if exact else []
        either += [f"starts_with({field}, {_quoted(value[:-1])})" for value in listed if value.endswith("*")]
        clauses.append(f"({' OR '.join(either)})" if either else "false")
    return " AND ".join(clauses) or None


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _dense(table: Any, vector: np.ndarray, depth: int, condition: str | None) -> list[dict[str, Any]]:  # noqa: ANN401
    search = table.search(vector, vector_column_name="vector").distance_type("cosine").limit(depth)
    rows = _some(search, condition).select([*_SHOWN, "_distance"]).to_list()
    return [{**row, "score": 1.0 - row["_distance"]} for row in rows]


def _dense_cut(table: Any, vector: np.ndarray, depth: int, condition: str | None) -> list[dict[str, Any]]:  # noqa: ANN401
    """Compare fewer dimensions: LanceDB knows whole vectors only, so they are streamed and cut; memory is a batch's."""
    dim = len(vector)
    unit = vector / max(float(np.linalg.norm(vector)), 1e-12)
    ids: list[str] = []
    scores = np.zeros(0, np.float32)
    for batch in _some(table.search(), condition).select(["passage_id", "vector"]).to_batches():
        if not batch.num_rows:
            continue
        stored = batch.column("vector").flatten().to_numpy(zero_copy_only=False).reshape(batch.num_rows, -1)[:, :dim]
        found = stored @ unit / np.maximum(np.linalg.norm(stored, axis=1), 1e-12)
        scores = np.concatenate([scores, found])
        ids += batch.column("passage_id").to_pylist()
        best = np.argsort(-scores, kind="stable")[:depth]
        ids, scores = [ids[i] for i in best], scores[best]
    if not ids:
        return []
    wanted = f"passage_id IN ({', '.join(map(_quoted, ids))})"
    rows = {row["passage_id"]: row for row in table.search().where(wanted).select(_SHOWN).limit(len(ids)).to_list()}
    return [{**rows[name], "score": float(score)} for name, score in zip(ids, scores, strict=True)]


def _text(table: Any, query: str, depth: int, condition: str | None) -> list[dict[str, Any]]:  # noqa: ANN401
    from lancedb.query import MatchQuery

    # A match query takes the text as words; a plain string would be parsed as query syntax.
    matched = MatchQuery(query, "searched")  # type: ignore[call-arg]
    search = table.search(matched, query_type="fts").limit(depth)
    rows = _some(search, condition).select([*_SHOWN, "_score"]).to_list()
    return [{**row, "score": row["_score"]} for row in rows]


def _some(search: Any, condition: str | None) -> Any:  # noqa: ANN401
    return search if condition is None else search.where(condition)


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
