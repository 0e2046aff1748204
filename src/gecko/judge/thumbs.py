"""Thumbs of the search page, kept in a judged set: ``gecko judge`` asks for the rest of each query's candidates.

Whoever gives a thumb sees which system found the passage, so this is quicker and less fair than judging blind; the pool
is made of what all systems find first, as there, and a query counts once all of it is judged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gecko.errors import UsageError
from gecko.judge.folder import JudgedFolder, Marks, Settings, marks_of
from gecko.judge.pool import Pool, new_candidates
from gecko.judge.queries import Query, to_query
from gecko.judge.session import Session, pair_of
from gecko.shards import locked

logger = logging.getLogger(__name__)


class Thumbs:
    """A judged set that the page adds to.

    Args:
        path: Its folder; made if it is not there.
        settings: What it is made of, where it is new.
        documents: The passages that are searched: ``{"_id", "title", "text"}``.

    Raises:
        UsageError: The folder holds something else, or judges other documents.
        GeckoError: Another process writes it, or it is damaged.
    """

    def __init__(self, path: Path, settings: Settings, documents: Iterable[dict[str, str]]) -> None:
        self._folder = JudgedFolder(path)
        with locked(path):
            before = self._folder.settings()
            if before is None or not self._folder.corpus.is_file():
                self._folder.create(before or settings, documents)
                documents = ()
            self._marks: Marks = marks_of(self._folder.events())
        self._settings = before or settings
        self._ids = frozenset(self._folder.documents()[0])
        known = [row["_id"] in self._ids for row in documents]
        if known and not any(known):
            raise UsageError(
                f"{path} judges other documents than the index holds", "choose a new folder: it is made of the index"
            )
        if not all(known):
            logger.warning("%d passages of the index are not in %s: they get no thumbs", known.count(False), path)

    def grades(self, query: str) -> dict[str, int]:
        """What was judged for a query, by passage, as this process last saw it."""
        tidy = to_query(query)
        marked = self._marks.grades.get(tidy.query_id, {}) if tidy else {}
        return {doc_id: grade for doc_id, grade in marked.items() if grade is not None}

    def pooled(self, query: str, doc_id: str) -> bool:
        """Whether a query has its pool already, so that a judgement needs no rankings.

        Raises:
            UsageError: The query is empty, or the passage is not in the set.
        """
        return self._judgeable(query, doc_id).query_id in self._folder.pools()

    def mark(self, query: str, doc_id: str, grade: int | None, rankings: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Record a judgement.

        Args:
            query: Its words.
            doc_id: The passage.
            grade: 2, 1 or 0; None takes an earlier one back.
            rankings: What each system finds, best first; of a query that has no pool yet.

        Returns:
            ``{"query_id", "judged", "open"}``.

        Raises:
            UsageError: The query is empty, or the passage is not in the set.
            GeckoError: Another process writes the folder, or the disk fails.
        """
        asked = self._judgeable(query, doc_id)
        with locked(self._folder.path):
            pool = self._pool(asked, doc_id, rankings)
            session = Session(self._folder, None, pair_of(self._settings.systems))
            session.mark(asked.query_id, doc_id, grade)
            self._marks = marks_of(self._folder.events())
        marked = self._marks.grades.get(asked.query_id, {})
        judged = sum(value is not None for value in marked.values())
        return {"query_id": asked.query_id, "judged": judged, "open": len(set(pool.candidates) - marked.keys())}

    def _judgeable(self, query: str, doc_id: str) -> Query:
        asked = to_query(query)
        if asked is None:
            raise UsageError("the query is empty")
        if doc_id not in self._ids:
            raise UsageError("there is no such passage in the judged set")
        return asked

    def _pool(self, asked: Query, doc_id: str, rankings: Mapping[str, Sequence[str]]) -> Pool:
        """The query's pool with the passage in it, written where that is new."""
        pools = self._folder.pools()
        pool = pools.get(asked.query_id)
        if pool is None:
            ranked = {system: tuple(ids) for system, ids in rankings.items()}
            found = {found_id for ids in ranked.values() for found_id in ids[: self._settings.depth]}
            pool = Pool(asked.query_id, asked.text, (), ranked)
        else:
            found = set()
        fresh = new_candidates(asked.query_id, pool.candidates, {doc_id, *found})
        if fresh:
            pool = Pool(pool.query_id, pool.query, (*pool.candidates, *fresh), pool.rankings)
            self._folder.write_pools({**pools, pool.query_id: pool}.values())
        return pool
