"""The offline teacher: keyphrases and patterns write, counts and cosines rank. No language model takes part."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from gecko.corpus.language import differ
from gecko.records import GeneratedQuery, Passage, content_id
from gecko.teacher.offline.likelihood import QueryLikelihood
from gecko.teacher.offline.relevance import Relevance
from gecko.teacher.offline.sample import MOST, Sampled
from gecko.teacher.offline.terms import Terms, main_language
from gecko.teacher.offline.writer import QueryWriter
from gecko.teacher.protocol import Capabilities, Generation, PassageStore, Scores

NAME = "offline"
RUNG = "statistical"
_VERSION = "3"  # raised whenever the same passage would get another query or score


class OfflineTeacher:
    """A teacher that needs no model and no network.

    Args:
        seed: Seed of the writer's draws.
        styles: Weights of the query styles; empty keeps the writer's own.

    Attributes:
        corpus_mark: Hash of the corpus it was prepared for; its scores depend on that corpus.
    """

    def __init__(self, seed: int = 0, styles: Mapping[str, float] | None = None) -> None:
        self.name = NAME
        self.prompt_version = f"patterns-{_VERSION}"
        self.rung = RUNG
        self.capabilities = Capabilities(generate=True)
        self.corpus_mark = ""
        self._writer = QueryWriter(seed, styles)
        self._likelihood = QueryLikelihood()
        self._relevance = Relevance(self._likelihood)
        self.fingerprint = content_id("offline", _VERSION, str(seed), str(sorted(self._writer.styles.items())))

    def prepare(self, passages: PassageStore | Iterable[Passage]) -> None:
        """Count the corpus in four passes over it, or a sample of it where it is large."""
        mark = hashlib.sha256()
        size = 0
        for passage in passages:
            mark.update(passage.passage_id.encode())
            size += 1
        mark.update(b"" if size <= MOST else f"{MOST} counted".encode())
        self.corpus_mark = mark.hexdigest()[:16]
        counted = Sampled(passages, size, MOST)
        self._likelihood = QueryLikelihood(terms=Terms(main_language(counted)))
        self._relevance = Relevance(self._likelihood)
        self._likelihood.fit(counted)
        self._relevance.fit(counted)

    def write(self, seeds: Sequence[Passage]) -> list[Generation]:
        """Write a query for each seed."""
        return [self._writer.write(seed) for seed in seeds]

    def rank(
        self, query: GeneratedQuery, candidates: Sequence[Passage], miner_scores: Sequence[float] | None = None
    ) -> Scores:
        """Score candidates by the language model of each and by fused evidence.

        Words say nothing across languages: a candidate in another language than the query has no score, and where the
        seed is one, none has, so that the seed stays the positive.
        """
        foreign = [differ(query.lang, candidate.lang) for candidate in candidates]
        unknown: tuple[float | None, ...] = (None,) * len(candidates)
        if any(other and one.passage_id == query.seed_id for one, other in zip(candidates, foreign, strict=True)):
            return Scores(
                unknown, unknown, "none", note=f"not ranked: words of {query.lang} find no passage in another"
            )
        places = [place for place, other in enumerate(foreign) if not other]
        near = [candidates[place] for place in places]
        cosines = None if miner_scores is None else [miner_scores[place] for place in places]
        ql, rc = list(unknown), list(unknown)
        for place, likelihood, relevance in zip(
            places,
            self._likelihood.scores(query.query, near, cosines),
            self._relevance.scores(query.query, near, cosines),
            strict=True,
        ):
            ql[place], rc[place] = likelihood, relevance
        return Scores(tuple(ql), tuple(rc), RUNG)
