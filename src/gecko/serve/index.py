"""Make an index that can be searched: vectors and full text in LanceDB (embedded), extended when the corpus grows."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gecko.embedder.open import lasting_name
from gecko.errors import GeckoError, UsageError
from gecko.records import Passage
from gecko.serve.places import TABLE, IndexPlace, index_place
from gecko.serve.store import TextEncoder, facts_of, intact

logger = logging.getLogger(__name__)

_REMOVED_AT_ONCE = 1000


def build_index(embedder: TextEncoder, passages: Iterable[Passage], out: Path | str, *, batch_size: int = 512) -> int:
    """Make the index hold the passages given and no others; those it holds already are not encoded again.

    A passage is known by its content hash. Where the model of that name has other weights than before, all are encoded
    again. A build that was killed is finished by the next one; ``complete`` in index.json says whether one was.

    Args:
        embedder: The model that queries will be encoded with.
        passages: The whole corpus, streamed.
        out: Directory of the index, or a URL such as ``s3://bucket/index``.
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
    place = index_place(out)
    with place.locked():
        table, facts = _prepare(embedder, place)
        with intact(place):
            held = set() if table is None else _ids(table)
        seen: set[str] = set()
        added = 0
        for batch in _batches(_unknown(itertools.chain([first], stream), held, seen), batch_size):
            vectors = embedder.encode_passages([(passage.title, passage.text) for passage in batch])
            rows = [_row(passage, vector) for passage, vector in zip(batch, vectors, strict=True)]
            with intact(place):
                table = _add(place, table, rows)
            added += len(rows)
        removed = sorted(held - seen)
        with intact(place):
            _remove(table, removed)
            if added or removed or not facts["complete"]:
                table.create_fts_index("searched", replace=True)
            place.write_facts({**facts, "passages": table.count_rows(), "complete": True})
    if removed:
        logger.info("%d passages that are no longer in the corpus were removed from %s", len(removed), out)
    return added


def _prepare(embedder: TextEncoder, place: IndexPlace) -> tuple[Any, dict[str, Any]]:
    """Open the table to extend it, or None where it starts anew; the facts are those to write at the end.

    The order of the steps is what makes a kill harmless: vectors of other weights are gone before index.json names the
    new ones, and index.json says that the index is not complete before anything is added.
    """
    name = lasting_name(embedder.path)
    facts = {"model": name, "weights": embedder.fingerprint, "origin": embedder.origin, "dim": embedder.dim}
    facts |= {"passages": 0, "complete": False}
    before = facts_of(place)
    with intact(place):
        there = place.holds_table()
    if before is None and there:
        raise UsageError(f"{place} holds a table of passages that no index of gecko made", "choose another --out")
    same = before is not None and (before.get("weights"), before["dim"]) == (facts["weights"], facts["dim"])
    if before is not None and not same:
        if lasting_name(before["model"]) != name:
            raise GeckoError(f"{place} was made with the model {before['model']}", "choose another --out, or delete it")
        logger.info("%s is not what it was when %s was made: every passage is encoded again", name, place)
    with intact(place):
        database = place.connect()
        table = _opened(database) if same and there else None
        if table is None:
            database.drop_table(TABLE, ignore_missing=True)
        else:
            facts["complete"] = bool(before and before.get("complete"))
        place.write_facts({**facts, "complete": False})
    return table, facts


def _opened(database: Any) -> Any:  # noqa: ANN401
    """The table; None where it is not there, or its first rows never got to the disk."""
    try:
        return database.open_table(TABLE)
    except ValueError:  # LanceDB's for both
        return None


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


def _add(place: IndexPlace, table: Any, rows: list[dict[str, Any]]) -> Any:  # noqa: ANN401
    if table is None:
        return place.connect().create_table(TABLE, rows)
    table.add(rows)
    return table


def _remove(table: Any, passage_ids: Sequence[str]) -> None:  # noqa: ANN401
    for start in range(0, len(passage_ids), _REMOVED_AT_ONCE):
        quoted = ("'" + passage_id.replace("'", "''") + "'" for passage_id in passage_ids[start:][:_REMOVED_AT_ONCE])
        table.delete(f"passage_id IN ({', '.join(quoted)})")


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
