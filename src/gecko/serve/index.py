"""A folder that can be searched: vectors and full text in LanceDB (embedded), extended when the corpus grows."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np

from gecko.corpus.decode import clean
from gecko.embedder.open import lasting_name
from gecko.errors import GeckoError, UsageError
from gecko.records import Passage
from gecko.shards import locked, read_json, write_json

logger = logging.getLogger(__name__)

Mode = Literal["dense", "text", "hybrid"]
_TABLE = "passages"
_FACTS = "index.json"
_MOST_HITS = 10_000
_REMOVED_AT_ONCE = 1000
_AGAIN = "index again: gecko index MODEL --corpus passages/ --out index/ (delete the folder first where it is damaged)"
_FUSION = 60  # constant of reciprocal rank fusion, as the evaluation's hybrids use it


class TextEncoder(Protocol):
    """What an index asks of a model."""

    path: str
    dim: int

    @property
    def fingerprint(self) -> str:
        """Hash of what its vectors depend on."""
        ...

    def encode_queries(self, queries: Sequence[str], task: str | Sequence[str] | None = None) -> np.ndarray:
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
    """Make the index hold the passages given and no others; those it holds already are not encoded again.

    A passage is known by its content hash. Where the model of that name has other weights than before, all are encoded
    again. A build that was killed is finished by the next one; ``complete`` in index.json says whether one was.

    Args:
        embedder: The model that queries will be encoded with.
        passages: The whole corpus, streamed.
        out: Directory of the index.
        batch_size: Passages encoded and written at a time.

    Returns:
        How many passages were added.

    Raises:
        GeckoError: The directory holds an index of another model or a damaged one, another process is writing it, or
            there is no passage.
    """
    stream = iter(passages)
    first = next(stream, None)
    if first is None:
        raise GeckoError("there is no passage to index", "is the corpus folder the right one?")
    with locked(out):
        table, facts = _prepare(embedder, out)
        with _intact(out):
            held = set() if table is None else _ids(table)
        seen: set[str] = set()
        added = 0
        for batch in _batches(_unknown(itertools.chain([first], stream), held, seen), batch_size):
            vectors = embedder.encode_passages([(passage.title, passage.text) for passage in batch])
            rows = [_row(passage, vector) for passage, vector in zip(batch, vectors, strict=True)]
            with _intact(out):
                table = _add(out, table, rows)
            added += len(rows)
        removed = sorted(held - seen)
        with _intact(out):
            _remove(table, removed)
            if added or removed or not facts["complete"]:
                table.create_fts_index("searched", replace=True)
            write_json(out / _FACTS, {**facts, "passages": table.count_rows(), "complete": True})
    if removed:
        logger.info("%d passages that are no longer in the corpus were removed from %s", len(removed), out)
    return added


def _prepare(embedder: TextEncoder, out: Path) -> tuple[Any, dict[str, Any]]:
    """Open the table to extend it, or None where it starts anew; the facts are those to write at the end.

    The order of the steps is what makes a kill harmless: vectors of other weights are gone before index.json names the
    new ones, and index.json says that the index is not complete before anything is added.
    """
    import lancedb

    name = lasting_name(embedder.path)
    facts = {"model": name, "weights": embedder.fingerprint, "dim": embedder.dim, "passages": 0, "complete": False}
    before = _facts(out)
    if before is None and (out / f"{_TABLE}.lance").exists():
        raise UsageError(f"{out} holds a table of passages that no index of gecko made", "choose another --out")
    same = before is not None and (before.get("weights"), before["dim"]) == (facts["weights"], facts["dim"])
    if before is not None and not same:
        if lasting_name(before["model"]) != name:
            raise GeckoError(f"{out} was made with the model {before['model']}", "choose another --out, or delete it")
        logger.info("%s is not what it was when %s was made: every passage is encoded again", name, out)
    with _intact(out):
        database: Any = lancedb.connect(out)
        if same and (out / f"{_TABLE}.lance").is_dir():
            table = database.open_table(_TABLE)
            facts["complete"] = bool(before and before.get("complete"))
        else:
            database.drop_table(_TABLE, ignore_missing=True)
            table = None
    write_json(out / _FACTS, {**facts, "complete": False})
    return table, facts


def _unknown(passages: Iterable[Passage], held: set[str], seen: set[str]) -> Iterator[Passage]:
    """The passages that are not held, each once; all ids go into ``seen``."""
    for passage in passages:
        if passage.passage_id not in seen:
            seen.add(passage.passage_id)
            if passage.passage_id not in held:
                yield passage


def _ids(table: Any) -> set[str]:  # noqa: ANN401
    batches = table.search().select(["passage_id"]).to_batches()
    return {passage_id for batch in batches for passage_id in batch.column("passage_id").to_pylist()}


def _add(out: Path, table: Any, rows: list[dict[str, Any]]) -> Any:  # noqa: ANN401
    import lancedb

    if table is None:
        return lancedb.connect(out).create_table(_TABLE, rows)
    table.add(rows)
    return table


def _remove(table: Any, passage_ids: Sequence[str]) -> None:  # noqa: ANN401
    for start in range(0, len(passage_ids), _REMOVED_AT_ONCE):
        quoted = ("'" + passage_id.replace("'", "''") + "'" for passage_id in passage_ids[start:][:_REMOVED_AT_ONCE])
        table.delete(f"passage_id IN ({', '.join(quoted)})")


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
        k: How many hits, at most 10,000.
        mode: ``dense``, ``text`` (BM25) or ``hybrid`` (both, fused by reciprocal rank).
        task: Task description for the query's prompt.
        embedder: The model, if it is loaded already; else the index's own is loaded.

    Raises:
        GeckoError: There is no index, it is damaged, or its model is gone or changed.
        UsageError: The mode is unknown, the query empty, or k out of bounds.
    """
    import lancedb

    if mode not in get_args(Mode):
        raise UsageError(f"unknown search mode {mode}", f"one of {', '.join(get_args(Mode))}")
    query = clean(query)
    if not query.strip():
        raise UsageError("the query is empty", "say what you look for")
    if not 1 <= k <= _MOST_HITS:
        raise UsageError(f"cannot show {k} hits", f"choose 1 to {_MOST_HITS}")
    facts = _facts(out)
    if facts is None:
        raise GeckoError(f"no index in {out}", "make one: gecko index MODEL --corpus passages/ --out index/")
    if not facts.get("complete", True):
        logger.warning("the index in %s is not finished: run gecko index again", out)
    depth = k if mode != "hybrid" else max(50, k)
    rankings: list[list[dict[str, Any]]] = []
    with _intact(out):
        table = lancedb.connect(out).open_table(_TABLE)
    if mode in {"dense", "hybrid"}:
        vector = _vector(query, clean(task) if task else None, embedder, facts, out)
        with _intact(out):
            rankings.append(_dense(table, vector, depth))
    if mode in {"text", "hybrid"}:
        with _intact(out):
            rankings.append(_text(table, query, depth))
    rows = rankings[0] if mode != "hybrid" else _fused(rankings)
    return [
        Hit(rank, float(row["score"]), row["passage_id"], row["source_id"], row["title"], row["text"])
        for rank, row in enumerate(rows[:k], start=1)
    ]


def _facts(out: Path) -> dict[str, Any] | None:
    """What index.json says: model, weights, dim; None where there is no index."""
    facts = read_json(out / _FACTS)
    known = isinstance(facts, dict) and isinstance(facts.get("model"), str) and isinstance(facts.get("dim"), int)
    if facts is not None and not known:
        raise GeckoError(f"{out / _FACTS} is damaged", _AGAIN)
    return cast("dict[str, Any] | None", facts)


@contextmanager
def _intact(out: Path) -> Iterator[None]:
    """Tell what goes wrong inside LanceDB as the user's index being damaged; it has no error class of its own."""
    try:
        yield
    except GeckoError:
        raise
    except Exception as error:
        logger.debug("%s", out, exc_info=True)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise GeckoError(f"the index in {out} is damaged or cannot be written: {reason}", _AGAIN) from error


def _vector(query: str, task: str | None, embedder: TextEncoder | None, facts: dict[str, Any], out: Path) -> np.ndarray:
    if embedder is None:
        from gecko.embedder.embedder import Embedder

        embedder = Embedder(str(facts["model"]), dim=int(facts["dim"]))
    if (embedder.fingerprint, embedder.dim) != (facts.get("weights"), facts["dim"]):
        raise GeckoError(f"{embedder.path} is not the model that made the index in {out}", _AGAIN)
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
