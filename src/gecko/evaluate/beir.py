"""Read a labelled test set in BEIR layout: corpus.jsonl, queries.jsonl and qrels/<split>.tsv."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gecko.corpus.decode import clean
from gecko.errors import GeckoError
from gecko.jsonl import read_objects

logger = logging.getLogger(__name__)

LAYOUT = "A BEIR folder holds corpus.jsonl, queries.jsonl and qrels/<split>.tsv (query-id, corpus-id, score)."


@dataclass(frozen=True, slots=True)
class BeirSet:
    """A corpus, its questions and the human judgements that join them.

    ``doc_ids``, ``titles`` and ``texts`` run in parallel; ``qrels`` is query id → document id → grade and
    has exactly the keys of ``queries``.
    """

    name: str
    doc_ids: list[str]
    titles: list[str]
    texts: list[str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]


def load_beir(folder: Path, split: str = "test", *, keep_empty: bool = False) -> BeirSet:
    """Load one split of a BEIR folder, keeping only the queries that somebody judged.

    Judgements of unknown queries or documents are skipped with one warning that counts them. A judged query without
    text is an error, since leaving it out would change the figure, unless the caller sets such queries aside.

    Args:
        folder: Directory in BEIR layout.
        split: ``test`` reads queries.jsonl; any other reads queries_<split>.jsonl, else queries.jsonl.
        keep_empty: Load judged queries without text too.

    Raises:
        GeckoError: A file or the split is missing or broken (with the line's number), a judged query is empty, or no
            judgement that something is relevant remains.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise GeckoError(f"{folder}: no such folder", LAYOUT)
    corpus_file, queries_file, qrels_file = beir_files(folder, split)
    if not qrels_file.is_file() and (others := splits_of(folder)):
        raise GeckoError(f"{folder}: no split {split!r}", f"there is {' and '.join(others)}; --split {others[0]}")
    doc_ids, titles, texts = read_corpus(corpus_file)
    questions: dict[str, str] = {}
    places: dict[str, str] = {}
    for row, where in read_objects(queries_file, LAYOUT):
        query_id = _identifier(row, where)
        questions[query_id], places[query_id] = _text(row, "text", where), where
    qrels = _read_qrels(qrels_file, questions, set(doc_ids))
    if not qrels:
        raise GeckoError(
            f"{folder}: no judgement of split {split!r} names a known query and document",
            f"Compare the ids in qrels/{split}.tsv with the _id fields of {queries_file.name} and corpus.jsonl.",
        )
    if not any(grade > 0 for grades in qrels.values() for grade in grades.values()):
        raise GeckoError(
            f"{qrels_file}: says of no document that it is relevant", "a score above 0 does; is it the third column?"
        )
    empty = next((query_id for query_id in qrels if not questions[query_id].strip()), None)
    if empty is not None and not keep_empty:
        raise GeckoError(
            f"{places[empty]}: the query {empty!r} is empty", "give it a text, or take its judgements out of the qrels"
        )
    # The queries' own order, so that every figure and every table lists them alike.
    queries = {query_id: text for query_id, text in questions.items() if query_id in qrels}
    return BeirSet(
        name=folder.resolve().name,
        doc_ids=doc_ids,
        titles=titles,
        texts=texts,
        queries=queries,
        qrels={query_id: qrels[query_id] for query_id in queries},
    )


def beir_files(folder: Path, split: str) -> tuple[Path, Path, Path]:
    """Where a split's documents, queries and judgements lie in a BEIR folder; they need not be there."""
    own = folder / f"queries_{split}.jsonl"
    queries = own if split != "test" and own.is_file() else folder / "queries.jsonl"
    return folder / "corpus.jsonl", queries, folder / "qrels" / f"{split}.tsv"


def splits_of(folder: Path) -> list[str]:
    """Name the splits that a BEIR folder has judgements of."""
    return sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))


def read_corpus(path: Path) -> tuple[list[str], list[str], list[str]]:
    """Read ids, titles and texts; a document id that comes twice keeps its first text."""
    rows: dict[str, tuple[str, str]] = {}
    repeated = 0
    for row, where in read_objects(path, LAYOUT):
        doc_id = _identifier(row, where)
        if doc_id in rows:
            repeated += 1
            continue
        rows[doc_id] = (_text(row, "title", where, required=False), _text(row, "text", where))
    if not rows:
        raise GeckoError(f"{path}: holds no document", LAYOUT)
    if repeated:
        logger.warning("%s: %d documents repeat an _id; the first of each is kept", path, repeated)
    return list(rows), [title for title, _ in rows.values()], [text for _, text in rows.values()]


def _read_qrels(path: Path, questions: dict[str, str], documents: set[str]) -> dict[str, dict[str, int]]:
    """Read the judgements whose query and document are both known."""
    qrels: dict[str, dict[str, int]] = {}
    unknown_query = unknown_document = 0
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        fields = line.split("\t") if "\t" in line else line.split()
        if number == 1 and fields[-1].strip().lower() in {"score", "relevance", "rel"}:
            continue
        if len(fields) != 3:
            raise GeckoError(f"{where}: expected 3 columns, found {len(fields)}", LAYOUT)
        query_id, doc_id, grade_text = (field.strip() for field in fields)
        try:
            grade = int(float(grade_text))
            whole = grade == float(grade_text)
        except (ValueError, OverflowError):
            whole = False
        if not whole:
            raise GeckoError(f"{where}: the score {grade_text!r} is not a whole number", LAYOUT)
        if query_id not in questions:
            unknown_query += 1
        elif doc_id not in documents:
            unknown_document += 1
        else:
            qrels.setdefault(query_id, {})[doc_id] = grade
    if unknown_query or unknown_document:
        logger.warning(
            "%s: skipped %d judgements of unknown queries and %d of unknown documents "
            "(compare its ids with the _id fields of the queries and of corpus.jsonl)",
            path,
            unknown_query,
            unknown_document,
        )
    return qrels


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line) of a text file, blank lines left out."""
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except FileNotFoundError:
        raise GeckoError(f"{path}: no such file", LAYOUT) from None
    except (OSError, UnicodeDecodeError) as error:
        raise GeckoError(f"{path}: cannot be read ({error})", "The file must be UTF-8 text.") from None


def _identifier(row: dict[str, Any], where: str) -> str:
    """Return the row's ``_id`` as text (some writers store numbers)."""
    value = row.get("_id")
    if not isinstance(value, (str, int)) or value == "":
        raise GeckoError(f"{where}: no _id", LAYOUT)
    return str(value)


def _text(row: dict[str, Any], key: str, where: str, *, required: bool = True) -> str:
    """Return a text field, cleaned as the corpus is; null counts as empty."""
    if required and key not in row:
        raise GeckoError(f"{where}: no {key!r}", LAYOUT)
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise GeckoError(f"{where}: {key!r} is not text", LAYOUT)
    return clean(value)
