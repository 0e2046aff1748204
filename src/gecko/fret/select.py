"""FRet step 2 whole: neighbourhoods are scored by the teacher, ranked, and made into FRet rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from gecko.embedder.embedder import Embedder
from gecko.engine.protocol import Engine
from gecko.fret.generate import not_asked
from gecko.fret.rank import decide, fuse
from gecko.fret.retrieve import Neighbourhood, retrieve
from gecko.fret.store import PassageTable
from gecko.miner.search import Search
from gecko.recipe import FretOptions
from gecko.records import FretRow, GeneratedQuery, Quarantined, content_id
from gecko.teacher.protocol import AsksMany, RankRequest, Scores, Teacher, rank_all

_SHARD = 256


def select_rows(
    queries: Sequence[GeneratedQuery],
    store: PassageTable,
    miner: Embedder,
    teacher: Teacher,
    options: FretOptions,
    search: Search | None = None,
    engine: Engine | None = None,
) -> Iterator[FretRow | Quarantined]:
    """Retrieve, rank and select for every query (paper, section 3.2, step 2).

    Args:
        queries: What step 1 wrote.
        store: The corpus with the miner's vectors.
        miner: The first embedder.
        teacher: Scores the candidates; it is asked in this process, whatever the engine.
        options: How many candidates, and which become positive and negative.
        search: Over the store's vectors; exact if None.
        engine: Runs the retrieval; None does it in this process.

    Yields:
        One FRet row a query, or the query quarantined with the reason; in order.

    Raises:
        GeckoError: After the last one, where the teacher did not answer (an outage): the stage is not finished.
    """
    if isinstance(teacher, AsksMany):
        teacher.begin("rankings", len(queries))
    unasked = 0
    seen: set[str] = set()
    size = teacher.rows_at_once if isinstance(teacher, AsksMany) else _SHARD
    neighbours, with_task = options.neighbours, options.miner_task
    found = iter(
        retrieve(queries, store, miner, neighbours=neighbours, with_task=with_task, search=search, engine=engine)
    )
    while shard := list(islice(found, size)):
        hoods: list[Neighbourhood] = []
        for hood in shard:
            key = " ".join(hood.query.query.casefold().split())
            if key in seen:
                yield Quarantined("fret", hood.query.seed_id, "the same query was written before", hood.query.query)
                continue
            seen.add(key)
            hoods.append(hood)
        for hood, scores in zip(hoods, _scores(hoods, store, teacher), strict=True):
            unasked += scores.transient
            yield _row(hood, scores, options, teacher.name)
    if unasked:
        raise not_asked(unasked, len(queries), "queries")


def _scores(hoods: Sequence[Neighbourhood], store: PassageTable, teacher: Teacher) -> Iterable[Scores]:
    requests = (
        RankRequest(hood.query, [store.at(position) for position in hood.positions], hood.miner_scores)
        for hood in hoods
    )
    return rank_all(teacher, requests)


def _row(hood: Neighbourhood, scores: Scores, options: FretOptions, ranker: str) -> FretRow | Quarantined:
    query = hood.query
    if scores.error:
        return Quarantined("fret", query.seed_id, f"not ranked: {scores.error}", scores.raw or query.query)
    candidates = fuse(hood.passage_ids, hood.miner_scores, scores.ql, scores.rc, options.rrf_k)
    decision = decide(candidates, query.seed_id, query.query, options)
    if decision.reason:
        return Quarantined("fret", query.seed_id, decision.reason, query.query)
    return FretRow(
        row_id=content_id(query.seed_id, query.task, query.query),
        task=query.task,
        query=query.query,
        lang=query.lang,
        seed_id=query.seed_id,
        positive_id=decision.positive_id,
        negative_id=decision.negative_id,
        candidates=candidates,
        relabelled=decision.positive_id != query.seed_id,
        teacher=query.teacher,
        rung=scores.rung,
        prompt_version=query.prompt_version,
        input_tokens=query.input_tokens + scores.input_tokens,
        output_tokens=query.output_tokens + scores.output_tokens,
        note=scores.note,
        ranker=ranker,
    )
