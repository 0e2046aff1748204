"""The record of every finished teacher call, so that none is lost and none is made twice.

SQLite in WAL mode; rows are added and none is taken away (a finished call whose reply proves unreadable is marked as
failed, and one made while its price was not known gets it later). The key is the SHA-256 of teacher, prompt, parameters
and input, so an entry survives edits of the recipe and the corpus that do not touch it. What is committed survives a
kill at any moment; a batch that is being written then is there wholly or not at all. It holds requests and replies,
never a key or an address.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gecko.errors import GeckoError
from gecko.records import content_id

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
    # What many requests share, such as a prompt's instructions, is kept once.
    "CREATE TABLE IF NOT EXISTS texts (hash TEXT PRIMARY KEY, text TEXT NOT NULL)",
    # What was found out about an endpoint, and batches that it has not answered yet.
    "CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)
_INSERT = (
    "INSERT OR IGNORE INTO teacher_calls"
    " (key, kind, request, reply, input_tokens, output_tokens, usd, seconds, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
FILE_NAME = "ledger.sqlite"
UNPRICED = "price_unknown"  # in a request: its model's price was not known when it was made
_WAIT_SECONDS = 60


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
            self._turn_wal_on()
            # Enough against a kill of the process; a power cut may cost the last batches, never the file.
            self._db.execute("PRAGMA synchronous=NORMAL")
            for statement in _SCHEMA:
                self._db.execute(statement)

        self._kept_texts: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _turn_wal_on(self) -> None:
        """Switch the file to write-ahead logging, waiting for a process that does the same.

        Two processes that open a new file together would each wait for the other's read lock; SQLite refuses one of
        them at once, whatever its busy timeout (sqlite.org/c3ref/busy_handler.html), so the waiting is ours to do.
        """
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def keep_text(self, text: str) -> str:
        """Keep a text that many requests share; the name under which they refer to it."""
        name = content_id(text)
        if name not in self._kept_texts:
            with self._telling():
                self._db.execute("INSERT OR IGNORE INTO texts VALUES (?, ?)", (name, text))
            self._kept_texts.add(name)
        return name

    def text(self, name: str) -> str:
        """The text kept under a name; empty where there is none."""
        with self._telling():
            row = self._db.execute("SELECT text FROM texts WHERE hash = ?", (name,)).fetchone()
        return "" if row is None else str(row[0])

    def note(self, name: str, value: Any) -> None:  # noqa: ANN401
        """Keep a JSON value under a name, in place of the one before."""
        with self._telling():
            self._db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, json.dumps(value)))

    def noted(self, name: str) -> Any:  # noqa: ANN401
        """The value kept under a name, or None."""
        with self._telling():
            row = self._db.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

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

    def totals(self) -> list[dict[str, Any]]:
        """The same totals for every kind of call and every model, most calls first."""
        query = (
            "SELECT kind, coalesce(json_extract(request, '$.model'), json_extract(request, '$.teacher'), ''),"
            " SUM(error = ''), SUM(error != ''), SUM(input_tokens), SUM(output_tokens), SUM(usd), SUM(seconds)"
            " FROM teacher_calls GROUP BY 1, 2 ORDER BY 3 DESC"
        )
        names = ("kind", "model", "calls", "failed", "input_tokens", "output_tokens", "usd", "seconds")
        with self._telling():
            return [dict(zip(names, row, strict=True)) for row in self._db.execute(query).fetchall()]

    def price_unpriced(self, model: str, usd: Callable[[int, int, int], float]) -> None:
        """Give the calls of a model that were made while its price was not known the price that is known now.

        They are told by a mark of their own: a call that cost nothing keeps its price.

        Args:
            model: The engine's name.
            usd: Dollars for input, output and cached tokens.
        """
        query = (
            "SELECT id, input_tokens, output_tokens, coalesce(json_extract(reply, '$.cached_tokens'), 0)"
            " FROM teacher_calls WHERE usd = 0 AND json_extract(request, ?) AND json_extract(request, '$.model') = ?"
        )
        with self._telling():
            found = self._db.execute(query, (f"$.{UNPRICED}", model)).fetchall()
            priced = [(usd(inputs, outputs, cached), row) for row, inputs, outputs, cached in found]
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("UPDATE teacher_calls SET usd = ? WHERE id = ?", priced)
            self._db.execute("COMMIT")

    def calls(self, *, kind: str = "", failed: bool | None = None, last: int | None = None) -> Iterator[dict[str, Any]]:
        """Calls as they were made, oldest first.

        Args:
            kind: Only calls of this kind; empty for all.
            failed: Only failed ones, or only finished ones; None for both.
            last: Only this many, the newest.
        """
        where = " WHERE (? = '' OR kind = ?) AND (? IS NULL OR (error != '') = ?)"
        newest = f"SELECT * FROM teacher_calls{where} ORDER BY id DESC LIMIT ?"  # noqa: S608 - constants only
        with self._telling():
            found = self._db.execute(
                f"SELECT * FROM ({newest}) ORDER BY id",  # noqa: S608
                (kind, kind, failed, failed, -1 if last is None else last),
            )
            names = [column[0] for column in found.description]
            for row in found:
                call = dict(zip(names, row, strict=True))
                yield {**call, "request": json.loads(call["request"]), "reply": json.loads(call["reply"])}

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Undo the transaction that fails, and say what the user can do about it."""
        try:
            yield
        except BaseException as error:
            # Also what is no database's error, such as a number or a text that SQLite does not take.
            if (db := getattr(self, "_db", None)) is not None and db.in_transaction:
                db.execute("ROLLBACK")
            if not isinstance(error, sqlite3.Error):
                raise
            # An OperationalError is the machine's (disk full, locked); any other error of the database is the file's.
            hint = "check the free space and the permissions, then run again: nothing is lost"
            if not isinstance(error, sqlite3.OperationalError):
                hint = "the file is damaged: move it aside and run again, its calls are then made anew"
            raise GeckoError(f"cannot use the ledger {self._path}: {error}", hint) from error
