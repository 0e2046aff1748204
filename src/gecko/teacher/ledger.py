"""The record of every finished teacher call, so that none is lost and none is made twice.

SQLite in WAL mode, append-only. The key is the SHA-256 of teacher, prompt version, parameters and input, so an entry
survives edits of the recipe and the corpus that do not touch it. What is committed survives a kill at any moment; a
batch that is being written then is there wholly or not at all. It holds passages' hashes and replies, never a key or
an address.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from gecko.errors import GeckoError
from gecko.records import GeneratedQuery, Passage
from gecko.teacher.protocol import DependsOnCorpus, Generation, KnowsSeeds, PassageStore, Scores, Teacher

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS teacher_calls (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL,
        kind TEXT NOT NULL,
        request TEXT NOT NULL,
        reply TEXT NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        usd REAL NOT NULL,
        seconds REAL NOT NULL,
        error TEXT NOT NULL,
        at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
    )""",
    # One reply a key; calls that failed may be tried, and recorded, again.
    "CREATE UNIQUE INDEX IF NOT EXISTS finished ON teacher_calls (key) WHERE error = ''",
)
_INSERT = (
    "INSERT OR IGNORE INTO teacher_calls"
    " (key, kind, request, reply, input_tokens, output_tokens, usd, seconds, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_WAIT_SECONDS = 60

Reply = TypeVar("Reply")


@dataclass(frozen=True, slots=True)
class Call:
    """One call as the ledger keeps it; ``error`` is empty for a finished one."""

    key: str
    kind: str
    request: dict[str, Any]
    reply: dict[str, Any]
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    seconds: float = 0.0
    error: str = field(default="")


def call_key(*parts: object) -> str:
    """SHA-256 of what determines a call's reply; the parts are encoded so that no two lists of parts look alike."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()


class Ledger:
    """Teacher calls on disk; several processes may use one file.

    Args:
        path: The SQLite file; made when missing.

    Raises:
        GeckoError: The file cannot be opened, or is no ledger.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GeckoError(f"cannot make the folder of the ledger {path}: {error}", "choose another --out") from error
        with self._telling():
            # connect's timeout is SQLite's busy_timeout: another process's commit is waited for.
            self._db = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            # Enough against a kill of the process; a power cut may cost the last batches, never the file.
            self._db.execute("PRAGMA synchronous=NORMAL")
            for statement in _SCHEMA:
                self._db.execute(statement)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get(self, key: str) -> dict[str, Any] | None:
        """The reply of the finished call with this key, or None; a reply that is not JSON counts as not held."""
        with self._telling():
            row = self._db.execute("SELECT reply FROM teacher_calls WHERE key = ? AND error = ''", (key,)).fetchone()
        if row is None:
            return None
        try:
            return json.loads(row[0])  # type: ignore[no-any-return]
        except (TypeError, ValueError, RecursionError):
            self.reject(key)
            return None

    def reject(self, key: str) -> None:
        """Turn a finished call whose reply is of no use into a failed one, so that the next reply takes its place."""
        with self._telling():
            self._db.execute("UPDATE teacher_calls SET error = 'unreadable reply' WHERE key = ? AND error = ''", (key,))

    def put(
        self,
        key: str,
        kind: str,
        request: dict[str, Any],
        reply: dict[str, Any],
        input_tokens: int = 0,
        output_tokens: int = 0,
        usd: float = 0.0,
        seconds: float = 0.0,
        error: str = "",
    ) -> None:
        """Append one call and commit."""
        self.put_many([Call(key, kind, request, reply, input_tokens, output_tokens, usd, seconds, error)])

    def put_many(self, calls: Iterable[Call]) -> None:
        """Append calls in one transaction; a finished key that is there already keeps its first reply.

        Raises:
            GeckoError: They could not be written; none of them is kept.
        """
        rows = [
            (
                c.key,
                c.kind,
                json.dumps(c.request),
                json.dumps(c.reply),
                c.input_tokens,
                c.output_tokens,
                c.usd,
                c.seconds,
                c.error,
            )
            for c in calls
        ]
        with self._telling():
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(_INSERT, rows)
            self._db.execute("COMMIT")

    def stats(self) -> dict[str, float]:
        """Totals: finished calls, failed, input_tokens, output_tokens, usd, seconds."""
        query = (
            "SELECT SUM(error = ''), SUM(error != ''), SUM(input_tokens), SUM(output_tokens), SUM(usd), SUM(seconds)"
            " FROM teacher_calls"
        )
        with self._telling():
            row = self._db.execute(query).fetchone()
        names = ("calls", "failed", "input_tokens", "output_tokens", "usd", "seconds")
        return {name: value or 0 for name, value in zip(names, row, strict=True)}

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Undo the transaction that fails, and say what the user can do about it."""
        try:
            yield
        except sqlite3.Error as error:
            if (db := getattr(self, "_db", None)) is not None and db.in_transaction:
                db.execute("ROLLBACK")
            # An OperationalError is the machine's (disk full, locked); any other error of the database is the file's.
            hint = "check the free space and the permissions, then run again: nothing is lost"
            if not isinstance(error, sqlite3.OperationalError):
                hint = "the file is damaged: move it aside and run again, its calls are then made anew"
            raise GeckoError(f"cannot use the ledger {self._path}: {error}", hint) from error


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
                calls.append(Call(key, "write", request, asdict(reply), *tokens, seconds=each))
            self._ledger.put_many(calls)
        return [known[key] for key in keys]

    def rank(
        self, query: GeneratedQuery, candidates: Sequence[Passage], miner_scores: Sequence[float] | None = None
    ) -> Scores:
        """Rank unless the ledger holds this query with these candidates."""
        ids = [candidate.passage_id for candidate in candidates]
        key = self._key("rank", query.seed_id, query.task, query.query, ids, *self._surroundings(miner_scores))
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
        self._ledger.put_many([Call(key, "rank", request, asdict(scores), *tokens, seconds=seconds)])
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

    def _surroundings(self, miner_scores: Sequence[float] | None) -> list[object]:
        """What else the scores depend on: corpus and cosines for a statistical teacher, nothing for others."""
        if not isinstance(self._teacher, DependsOnCorpus):
            return []
        return [self._teacher.corpus_mark, [round(float(score), 4) for score in miner_scores or ()]]

    def _key(self, kind: str, *parts: object) -> str:
        return call_key(kind, self.name, self.fingerprint, self.prompt_version, *parts)


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
