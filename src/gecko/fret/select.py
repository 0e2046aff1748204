"""FRet step 2 whole: neighbourhoods are scored by the teacher, ranked, and made into FRet rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gecko.embedder.embedder import Embedder
from gecko.fret.rank import decide, fuse
from gecko.fret.retrieve import Neighbourhood, retrieve
from gecko.fret.store import PassageTable
from gecko.recipe import FretOptions
from gecko.records import FretRow, GeneratedQuery, Quarantined, content_id
from gecko.teacher.protocol import Teacher

_SHARD = 256


def select_rows(
    queries: Sequence[GeneratedQuery], store: PassageTable, miner: Embedder, teacher: Teacher, options: FretOptions
) -> Iterator[FretRow | Quarantined]:
    """Retrieve, rank and select for every query (paper, section 3.2, step 2).

    Yields:
        One FRet row a query, or the query quarantined with the reason; in order.
    """
    seen: set[str] = set()
    for start in range(0, len(queries), _SHARD):
        shard = queries[start : start + _SHARD]
        for hood in retrieve(shard, store, miner, neighbours=options.neighbours, with_task=options.miner_task):
            key = " ".join(hood.query.query.casefold().split())
            if key in seen:
                yield Quarantined("fret", hood.query.seed_id, "the same query was written before", hood.query.query)
                continue
            seen.add(key)
            yield _row(hood, store, teacher, options)


def _row(hood: Neighbourhood, store: PassageTable, teacher: Teacher, options: FretOptions) -> FretRow | Quarantined:
    query = hood.query
    passages = [store.passage(passage_id) for passage_id in hood.passage_ids]
    scores = teacher.rank(query, passages, hood.miner_scores)
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
    )
