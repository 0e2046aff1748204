"""A BEIR folder's judged queries made into rows, with negatives that are given or mined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from gecko.corpus.files import HUB
from gecko.errors import GeckoError
from gecko.evaluate.beir import BeirSet, beir_files, load_beir
from gecko.miner.exact import top_k
from gecko.mixture.options import SourceOptions
from gecko.mixture.sources.make import Draft, RowMaker, Titled
from gecko.mixture.sources.read import trouble
from gecko.remote import is_url
from gecko.tabular import json_records

_NEIGHBOURS = 100  # looked through for negatives, beside the known positives


class Miner(Protocol):
    """What mining asks of an embedder."""

    def encode_queries(self, queries: Sequence[str]) -> np.ndarray:
        """Return unit vectors (n, dim) of queries."""
        ...

    def encode_passages(self, passages: Sequence[Titled]) -> np.ndarray:
        """Return unit vectors (n, dim) of (title, text) pairs."""
        ...


@dataclass(frozen=True, slots=True)
class _Judged:
    """A draft with where it comes from in the BEIR set."""

    draft: Draft
    query_id: str
    doc_id: str


def retrieval_files(options: SourceOptions) -> list[Path]:
    """List the files that a BEIR folder's split is read from; they need not be there.

    Raises:
        GeckoError: The folder is a URL.
    """
    if is_url(options.path) and not options.path.startswith(HUB):
        raise trouble(options, f"{options.path} is no folder of this machine", "retrieval reads BEIR folders: copy it")
    return [*beir_files(Path(options.path), options.split), *_rerankings(options)]


def retrieval(maker: RowMaker, miner: Miner | None) -> Iterator[Draft]:
    """Draft a row of each query and passage that is judged relevant.

    Given negatives are the passages judged irrelevant (grade 0) and those of the folder's ``reranking_<split>.jsonl``
    or ``reranking.jsonl``. Mined ones are the miner's nearest passages that are no known positive of the query and
    score at most ``negative_margin`` of the positive's score: a nearer one may be relevant (NV-Retriever's percentage
    of the positive's score, arXiv:2407.15831).

    Raises:
        GeckoError: The folder is not BEIR's, or negatives are to be mined and there is no miner.
    """
    options = maker.options
    if options.path.startswith(HUB) or not Path(options.path).is_dir():
        raise maker.trouble(
            f"{options.path} is not a BEIR folder", "retrieval reads BEIR folders; other files are pairs or triples"
        )
    if options.negatives == "mined" and miner is None:
        raise maker.trouble("negatives are to be mined, but there is no miner", "set negatives: given, or none")
    try:
        data = load_beir(Path(options.path), options.split, keep_empty=True)
    except GeckoError as error:
        raise maker.trouble(error.message, error.hint) from error
    passages = dict(zip(data.doc_ids, zip(data.titles, data.texts, strict=True), strict=True))
    given = _given(data, maker) if options.negatives == "given" else {}
    judged = list(_judgements(data, passages, given, maker))
    if options.negatives == "mined" and miner is not None:
        judged = _mined(judged, data, maker, miner)
    for found in judged:
        yield found.draft


def _judgements(
    data: BeirSet, passages: dict[str, Titled], given: dict[str, list[str]], maker: RowMaker
) -> Iterator[_Judged]:
    account = maker.account
    for query_id, grades in data.qrels.items():
        account.read += len(grades)
        query = data.queries[query_id].strip()
        relevant = [doc_id for doc_id, grade in grades.items() if grade > 0]
        if not query:
            for doc_id in grades:
                account.set_aside(f"{query_id} {doc_id}", "an empty query", "")
            continue
        others = [passages[doc_id] for doc_id in given.get(query_id, ()) if passages[doc_id][1].strip()]
        same = {passages[doc_id][1] for doc_id in relevant}
        others = [passage for passage in others if passage[1] not in same]
        taken: set[Titled] = set()
        for doc_id in relevant:
            if not passages[doc_id][1].strip():
                account.set_aside(f"{query_id} {doc_id}", "an empty passage", query)
                continue
            for draft in maker.keep(maker.titled(query, passages[doc_id], others)):
                taken.update(draft.negatives)
                yield _Judged(draft, query_id, doc_id)
        for doc_id in (doc_id for doc_id, grade in grades.items() if grade <= 0):
            if passages[doc_id] in taken:
                account.used += 1
            else:
                account.unused["irrelevant to a query" if relevant else "a query without a positive"] += 1


def _given(data: BeirSet, maker: RowMaker) -> dict[str, list[str]]:
    """List each query's known irrelevant documents: by its judgements, then by the folder's pools."""
    found = {
        query_id: {doc_id: None for doc_id, grade in grades.items() if grade <= 0}
        for query_id, grades in data.qrels.items()
    }
    known = set(data.doc_ids)
    for path in _rerankings(maker.options):
        for number, pool in enumerate(json_records(path), start=1):
            if isinstance(pool, str) or not isinstance(pool.get("negative_ids"), list):
                maker.account.read += 1
                maker.account.set_aside(f"{path.name}#{number}", "no pool with query_id and negative_ids", str(pool))
            elif pool.get("query_id") in found:
                pooled = (doc_id for doc_id in pool["negative_ids"] if doc_id in known)
                found[pool["query_id"]].update(dict.fromkeys(pooled))
    return {query_id: [d for d in ids if data.qrels[query_id].get(d, 0) <= 0] for query_id, ids in found.items()}


def _rerankings(options: SourceOptions) -> list[Path]:
    """The pools of the split where there are any, else those of the folder, which are looked up by the query's id."""
    folder = Path(options.path)
    there = [folder / f"reranking_{options.split}.jsonl", folder / "reranking.jsonl"]
    return [path for path in there if path.is_file()][:1]


def _mined(judged: list[_Judged], data: BeirSet, maker: RowMaker, miner: Miner) -> list[_Judged]:
    """Give each draft that the limit keeps the nearest passages that are safe."""
    kept = {draft.row_id for draft in maker.sample(found.draft for found in judged)}
    judged = [found for found in judged if found.draft.row_id in kept]
    position = {doc_id: place for place, doc_id in enumerate(data.doc_ids)}
    documents = np.asarray(miner.encode_passages(list(zip(data.titles, data.texts, strict=True))), np.float32)
    query_ids = list(dict.fromkeys(found.query_id for found in judged))
    queries = np.asarray(miner.encode_queries([data.queries[query_id] for query_id in query_ids]), np.float32)
    most = max((len(data.qrels[query_id]) for query_id in query_ids), default=0)
    neighbours, scores = top_k(queries, documents, _NEIGHBOURS + most)
    row_of = {query_id: row for row, query_id in enumerate(query_ids)}
    mined = []
    for found in judged:
        row = row_of[found.query_id]
        score = float(queries[row] @ documents[position[found.doc_id]])
        safe = min(score * maker.options.negative_margin, score)  # of a score below 0 a share would be more
        grades = data.qrels[found.query_id]
        same = {data.texts[position[doc_id]] for doc_id, grade in grades.items() if grade > 0}
        negatives = [
            (data.titles[place], data.texts[place])
            for place, near in zip(neighbours[row].tolist(), scores[row].tolist(), strict=True)
            if near <= safe and data.texts[place].strip() and data.texts[place] not in same
        ]
        draft = maker.titled(found.draft.query, found.draft.positive, negatives)
        mined.append(replace(found, draft=draft))
    return mined
