"""A teacher whose calls are kept in the ledger one row at a time, for teachers that answer for whole rows.

Language models are asked through ``caller`` instead, which keeps every single question and answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from gecko.corpus.language import differ
from gecko.records import GeneratedQuery, Passage, content_id
from gecko.teacher.ledger import Call, Ledger, call_key
from gecko.teacher.protocol import DependsOnCorpus, Generation, KnowsSeeds, PassageStore, Scores, Teacher

Reply = TypeVar("Reply")


class LedgeredTeacher:
    """A teacher whose finished calls are replayed from a ledger instead of made again.

    Attributes:
        calls_made: Calls that reached the teacher.
        calls_replayed: Calls answered by the ledger.
    """

    def __init__(self, teacher: Teacher, ledger: Ledger) -> None:
        self._teacher = teacher
        self._ledger = ledger
        self.name = teacher.name
        self.prompt_version = teacher.prompt_version
        self.capabilities = teacher.capabilities
        self.rung = teacher.rung
        self.fingerprint = teacher.fingerprint
        self.calls_made = 0
        self.calls_replayed = 0

    def prepare(self, passages: PassageStore) -> None:
        """Let the teacher look at the corpus."""
        self._teacher.prepare(passages)

    def seeds_available(self) -> set[str] | None:
        """Source ids the teacher can answer for; None means all."""
        return self._teacher.seeds_available() if isinstance(self._teacher, KnowsSeeds) else None

    def write(self, seeds: Sequence[Passage]) -> list[Generation]:
        """Write for the seeds that the ledger does not hold, and keep the replies before returning."""
        keys = [self._key("write", s.passage_id, s.source_id, s.title, s.text, s.lang) for s in seeds]
        known: dict[str, Generation] = {}
        for key in keys:
            kept = self._held(key, _generation)
            if kept is not None:
                known[key] = kept
        missing = [(key, seed) for key, seed in zip(keys, seeds, strict=True) if key not in known]
        self.calls_replayed += len(keys) - len(missing)
        if missing:
            started = time.monotonic()
            replies = self._teacher.write([seed for _, seed in missing])
            each = (time.monotonic() - started) / len(missing)
            self.calls_made += len(missing)
            calls = []
            for (key, seed), reply in zip(missing, replies, strict=True):
                known[key] = reply
                request = {"teacher": self.name, "prompt": self.prompt_version, "passage": seed.passage_id}
                tokens = (reply.input_tokens, reply.output_tokens)
                calls.append(Call(key, "write", request, _plain(reply), *tokens, seconds=each))
            self._ledger.put_many(calls)
        return [known[key] for key in keys]

    def rank(
        self, query: GeneratedQuery, candidates: Sequence[Passage], miner_scores: Sequence[float] | None = None
    ) -> Scores:
        """Rank unless the ledger holds this query with these candidates."""
        ids = [candidate.passage_id for candidate in candidates]
        # The texts, too: a labelled set names its documents itself, whatever they say.
        texts = content_id(*(part for candidate in candidates for part in (candidate.title, candidate.text)))
        around = self._surroundings(query, candidates, miner_scores)
        key = self._key("rank", query.seed_id, query.task, query.query, ids, texts, *around)
        kept = self._held(key, lambda reply: _scores(reply, len(candidates)))
        if kept is not None:
            self.calls_replayed += 1
            return kept
        started = time.monotonic()
        scores = self._teacher.rank(query, candidates, miner_scores)
        seconds = time.monotonic() - started
        self.calls_made += 1
        request = {"teacher": self.name, "prompt": self.prompt_version, "query": query.query, "candidates": ids}
        tokens = (scores.input_tokens, scores.output_tokens)
        self._ledger.put_many([Call(key, "rank", request, _plain(scores), *tokens, seconds=seconds)])
        return scores

    def _held(self, key: str, build: Callable[[dict[str, Any]], Reply]) -> Reply | None:
        """What the ledger holds under a key, or None; a reply that cannot be one counts as not held."""
        reply = self._ledger.get(key)
        if reply is None:
            return None
        try:
            return build(reply)
        except (TypeError, KeyError, ValueError):
            self._ledger.reject(key)
            return None

    def _surroundings(
        self, query: GeneratedQuery, candidates: Sequence[Passage], miner_scores: Sequence[float] | None
    ) -> list[object]:
        """What else a statistical teacher's scores depend on: corpus, cosines and, where they differ, languages."""
        if not isinstance(self._teacher, DependsOnCorpus):
            return []
        foreign = [place for place, candidate in enumerate(candidates) if differ(query.lang, candidate.lang)]
        cosines = [round(float(score), 4) for score in miner_scores or ()]
        return [self._teacher.corpus_mark, cosines, *([foreign] if foreign else [])]

    def _key(self, kind: str, *parts: object) -> str:
        return call_key(kind, self.name, self.fingerprint, self.prompt_version, *parts)


def _plain(reply: Generation | Scores) -> dict[str, Any]:
    """A reply's fields, whose values are JSON's own: nothing in them has to be copied."""
    return {field.name: getattr(reply, field.name) for field in fields(reply)}


def _generation(reply: dict[str, Any]) -> Generation:
    generation = Generation(**reply)
    if not (isinstance(generation.task, str) and isinstance(generation.query, str)):
        raise TypeError("task and query must be text")
    return generation


def _scores(reply: dict[str, Any], candidates: int) -> Scores:
    scores = Scores(**{**reply, "ql": tuple(reply["ql"]), "rc": tuple(reply["rc"])})
    if not len(scores.ql) == len(scores.rc) == candidates:
        raise ValueError("one score a candidate is needed")
    return scores
