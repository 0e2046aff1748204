"""The record of every finished teacher call, so that none is lost and none is made twice.

SQLite in WAL mode, append-only. The key is a hash of teacher, prompt version, parameters and input, so an entry
survives edits of the recipe and the corpus that do not touch it.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gecko.errors import GeckoError
from gecko.records import GeneratedQuery, Passage, content_id
from gecko.teacher.protocol import Generation, KnowsSeeds, PassageStore, Scores, Teacher

_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    teacher TEXT NOT NULL,
    reply TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    usd REAL NOT NULL,
    seconds REAL NOT NULL,
    at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
)
"""


class Ledger:
    """Finished teacher calls on disk.

    Args:
        path: The SQLite file; made when missing.

    Raises:
        GeckoError: The file cannot be opened, or is no ledger.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise GeckoError(
                f"cannot open the ledger {path}: {error}", "is the disk full, or the file damaged?"
            ) from error

    def get(self, key: str) -> dict[str, Any] | None:
        """The reply kept under a key, or None."""
        row = self._db.execute("SELECT reply FROM calls WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put_many(self, entries: Iterable[tuple[str, str, str, dict[str, Any], int, int, float]]) -> None:
        """Append finished calls in one transaction: (key, kind, teacher, reply, input tokens, output tokens, seconds).

        A key that is there already keeps its first reply.
        """
        rows = [(k, kind, who, json.dumps(reply), i, o, 0.0, s) for k, kind, who, reply, i, o, s in entries]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT OR IGNORE INTO calls (key, kind, teacher, reply, input_tokens, output_tokens, usd, seconds)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise GeckoError(
                f"cannot write the ledger: {error}", "free space, then run again: nothing is lost"
            ) from error

    def stats(self) -> dict[str, float]:
        """Totals: calls, input_tokens, output_tokens, usd, seconds."""
        query = "SELECT COUNT(*), SUM(input_tokens), SUM(output_tokens), SUM(usd), SUM(seconds) FROM calls"
        row = self._db.execute(query).fetchone()
        names = ("calls", "input_tokens", "output_tokens", "usd", "seconds")
        return {name: value or 0 for name, value in zip(names, row, strict=True)}

    def close(self) -> None:
        """Close the file."""
        self._db.close()


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
        keys = [self._key("write", seed.source_id, seed.title, seed.text) for seed in seeds]
        known: dict[str, Generation] = {}
        for key in keys:
            kept = self._ledger.get(key)
            if kept is not None:
                known[key] = Generation(**kept)
        missing = [(key, seed) for key, seed in zip(keys, seeds, strict=True) if key not in known]
        self.calls_replayed += len(keys) - len(missing)
        if missing:
            started = time.monotonic()
            replies = self._teacher.write([seed for _, seed in missing])
            each = (time.monotonic() - started) / len(missing)
            self.calls_made += len(missing)
            entries = []
            for (key, _), reply in zip(missing, replies, strict=True):
                known[key] = reply
                entries.append((key, "write", self.name, asdict(reply), reply.input_tokens, reply.output_tokens, each))
            self._ledger.put_many(entries)
        return [known[key] for key in keys]

    def rank(self, query: GeneratedQuery, candidates: Sequence[Passage], miner_scores: Sequence[float]) -> Scores:
        """Rank unless the ledger holds this query with these candidates."""
        parts = (query.seed_id, query.task, query.query, *(candidate.passage_id for candidate in candidates))
        key = self._key("rank", *parts)
        reply = self._ledger.get(key)
        if reply is not None:
            self.calls_replayed += 1
            return Scores(**{**reply, "ql": tuple(reply["ql"]), "rc": tuple(reply["rc"])})
        started = time.monotonic()
        scores = self._teacher.rank(query, candidates, miner_scores)
        seconds = time.monotonic() - started
        self.calls_made += 1
        entry = (key, "rank", self.name, asdict(scores), scores.input_tokens, scores.output_tokens, seconds)
        self._ledger.put_many([entry])
        return scores

    def _key(self, kind: str, *parts: str) -> str:
        return content_id(kind, self.name, self.fingerprint, self.prompt_version, *parts)
