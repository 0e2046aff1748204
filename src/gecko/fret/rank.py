"""FRet step 2: from the teacher's two scores to one ranking, a positive and a hard negative (paper, appendix A).

``R(q, p) = 1/(k + r_QL) + 1/(k + r_RC)``, with k = 0 in the paper's formula. Every decision is a pure function of the
candidates' scores, so it can be taken again from a stored row without a teacher call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gecko.recipe import FretOptions
from gecko.records import Candidate, content_id


@dataclass(frozen=True, slots=True)
class Decision:
    """What a ranking says of a query; ``reason`` is set when it yields no training row.

    ``negative_id`` is empty where no candidate is a safe negative.
    """

    positive_id: str
    negative_id: str
    reason: str = ""


def fuse(
    passage_ids: Sequence[str],
    miner_scores: Sequence[float],
    ql: Sequence[float | None],
    rc: Sequence[float | None],
    k: float = 0.0,
) -> tuple[Candidate, ...]:
    """Rank the candidates of one query by reciprocal rank fusion of QL and RC.

    A candidate without a score ranks behind every scored one, by the miner's order: the missing evidence is replaced by
    the other there is. Ties are broken by RC, then miner rank, then passage id, so the result is deterministic. With
    k = 0 the ranks (a, b) and (b, a) tie exactly, which is why the tie-break matters.

    Args:
        passage_ids: The candidates, in the miner's order or not.
        miner_scores: Their cosine to the query.
        ql: Query likelihoods (higher is better), None where unknown.
        rc: Relevance scores (higher is better), None where unknown.
        k: Constant of the fusion.

    Returns:
        The candidates, best first, with all their ranks (from 1).
    """
    count = len(passage_ids)
    miner_order = sorted(range(count), key=lambda i: (-miner_scores[i], passage_ids[i]))
    miner_rank = _ranks(miner_order)
    ql_rank = _ranks(sorted(range(count), key=lambda i: (*_descending(ql[i]), miner_rank[i])))
    rc_rank = _ranks(sorted(range(count), key=lambda i: (*_descending(rc[i]), miner_rank[i])))
    rrf = [1.0 / (k + ql_rank[i]) + 1.0 / (k + rc_rank[i]) for i in range(count)]
    best_first = sorted(range(count), key=lambda i: (-rrf[i], *_descending(rc[i]), miner_rank[i], passage_ids[i]))
    rank = _ranks(best_first)
    return tuple(
        Candidate(
            passage_id=passage_ids[i],
            miner_score=float(miner_scores[i]),
            miner_rank=miner_rank[i],
            ql=ql[i],
            ql_rank=ql_rank[i],
            rc=rc[i],
            rc_rank=rc_rank[i],
            rrf=rrf[i],
            rank=rank[i],
        )
        for i in best_first
    )


def decide(candidates: Sequence[Candidate], seed_id: str, row_key: str, options: FretOptions) -> Decision:
    """Choose the positive and the hard negative of one query.

    The positive is rank 1, unless its RC is below the seed's (a guard: with k = 0 a noisy QL alone could move it) or
    below ``min_positive_rc``; then it is the best-ranked candidate that reaches both. The negative is never a candidate
    that looks as relevant as the positive: one whose RC is the positive's or more is passed over, and where one of the
    two has no RC, one whose miner score is above ``negative_margin`` of the positive's.

    Args:
        candidates: The output of :func:`fuse`, best first; must hold the seed.
        seed_id: The passage the query was written from.
        row_key: Seeds the draw of a random negative.
        options: Policies and thresholds.
    """
    seed = next(candidate for candidate in candidates if candidate.passage_id == seed_id)
    positive = candidates[0] if options.positive == "p1" else seed
    if positive.rc is not None and seed.rc is not None and positive.rc < seed.rc:
        positive = seed
    elif positive.rc is None:
        positive = seed  # without a judgement of it, nothing speaks against the passage the query was written from
    best_rc = max((candidate.rc for candidate in candidates if candidate.rc is not None), default=None)
    if best_rc is not None and best_rc < options.min_positive_rc:
        return Decision("", "", f"unanswerable: no candidate reaches relevance {options.min_positive_rc:g}")
    if options.positive == "p1" and positive.rc is not None and positive.rc < options.min_positive_rc:
        least = max(options.min_positive_rc, seed.rc or 0.0)
        positive = next(candidate for candidate in candidates if candidate.rc is not None and candidate.rc >= least)
    return Decision(positive.passage_id, _negative(candidates, positive, row_key, options))


def _negative(candidates: Sequence[Candidate], positive: Candidate, row_key: str, options: FretOptions) -> str:
    if options.negative == "none":
        return ""
    safe = [candidate for candidate in candidates if _is_safe_negative(candidate, positive, options)]
    if options.negative == "hardest":
        safe = [c for c in safe if c.rc is not None and c.rc <= options.max_negative_rc]
        safe.sort(key=lambda candidate: candidate.rank)
        return safe[0].passage_id if safe else ""
    if not safe:
        return ""
    if options.negative == "last":
        return max(safe, key=lambda candidate: candidate.rank).passage_id
    safe.sort(key=lambda candidate: candidate.passage_id)
    return safe[int(content_id(row_key), 16) % len(safe)].passage_id


def _is_safe_negative(candidate: Candidate, positive: Candidate, options: FretOptions) -> bool:
    if candidate.passage_id == positive.passage_id:
        return False
    if candidate.rc is not None and positive.rc is not None:
        return candidate.rc < positive.rc
    return candidate.miner_score <= options.negative_margin * positive.miner_score


def _ranks(order: Sequence[int]) -> list[int]:
    ranks = [0] * len(order)
    for position, index in enumerate(order, start=1):
        ranks[index] = position
    return ranks


def _descending(score: float | None) -> tuple[bool, float]:
    return (score is None, -(score or 0.0))
