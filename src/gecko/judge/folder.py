"""A test set's folder on disk: BEIR files for everybody, and in ``judging/`` what a session needs to go on.

``judging/judgements.jsonl`` is only ever added to, a line a judgement, before the next question is shown. All else is
written whole or not at all. So a session that is stopped at any moment, also by a power cut, goes on where it was.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gecko.errors import GeckoError, UsageError
from gecko.evaluate.beir import read_corpus
from gecko.jsonl import read_objects
from gecko.judge.pool import Documents, Pool
from gecko.shards import atomic, read_json, read_rows, to_passage, write_json, write_json_lines

_SETTINGS = "test.json"
_HINT = "copy the folder back from where it was whole"
DEPTH = 5


@dataclass(frozen=True, slots=True)
class Settings:
    """What a test set is made of.

    Attributes:
        corpus: Where the documents came from.
        models: The models whose candidates are pooled beside BM25's, the one to be proven first.
        base: The model it is compared with, if any.
        depth: Candidates of each system.
    """

    corpus: str
    models: tuple[str, ...] = ()
    base: str | None = None
    depth: int = DEPTH

    @property
    def systems(self) -> dict[str, str]:
        """System → model, BM25 left out."""
        named = {"base": self.base} if self.base else {}
        return named | {("model" if i == 0 else f"model{i + 1}"): name for i, name in enumerate(self.models)}


@dataclass(slots=True)
class Marks:
    """What was judged.

    Attributes:
        grades: Query id → document id → 0, 1 or 2; None for a candidate that was skipped.
        dropped: Queries that are not to be in the test.
    """

    grades: dict[str, dict[str, int | None]] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)

    def take(self, event: Mapping[str, Any]) -> None:
        """Take in what was judged next."""
        if event.get("drop"):
            self.dropped.add(event["query_id"])
        elif event.get("open"):  # taken back: it is asked for again
            self.grades.get(event["query_id"], {}).pop(event["doc_id"], None)
        else:
            self.grades.setdefault(event["query_id"], {})[event["doc_id"]] = event["grade"]


class JudgedFolder:
    """Reads and writes a test set's folder.

    Args:
        path: The folder; only :meth:`create` makes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.corpus = path / "corpus.jsonl"
        self.judging = path / "judging"

    def settings(self) -> Settings | None:
        """What the test set is made of; None where there is none yet.

        Raises:
            UsageError: The folder holds files that are no test set's.
            GeckoError: It is damaged.
        """
        value = read_json(self.judging / _SETTINGS)
        if value is None:
            # The lock's file is there before all others.
            others = [path.name for path in self.path.iterdir() if path.name != ".lock"] if self.path.is_dir() else []
            if others:
                raise UsageError(
                    f"{self.path} holds other files, such as {min(others)}", "choose a new folder for --out"
                )
            return None
        try:
            return Settings(**{**value, "models": tuple(value["models"])})
        except (TypeError, KeyError) as error:
            raise GeckoError(f"{self.judging / _SETTINGS} is damaged", _HINT) from error

    def create(self, settings: Settings, documents: Iterable[dict[str, str]] | None = None) -> None:
        """Write the settings, and unless it is there the whole corpus: ``documents``, or ``settings.corpus``.

        The whole of it and not only what was pooled: among the pooled alone, finding the right one would be easy.

        Raises:
            GeckoError: There are no documents at ``settings.corpus``.
        """
        if not self.corpus.is_file():
            stream = iter(_documents(Path(settings.corpus)) if documents is None else documents)
            first = next(stream, None)
            if first is None:
                raise GeckoError(f"{settings.corpus} holds no passage", "is it the right folder?")
            write_json(self.judging / _SETTINGS, asdict(settings))  # first: it tells whose folder this is
            write_json_lines(self.corpus, itertools.chain([first], stream))
        write_json(self.judging / _SETTINGS, asdict(settings))

    def documents(self) -> Documents:
        """Read the corpus."""
        return read_corpus(self.corpus)

    def pools(self) -> dict[str, Pool]:
        """The pools by query id, in the order of the queries."""
        path = self.judging / "pools.jsonl"
        if not path.exists():
            return {}
        pools = {}
        for row, where in read_objects(path, _HINT):
            try:
                rankings = {name: tuple(ranking) for name, ranking in row["rankings"].items()}
                pool = Pool(row["query_id"], row["query"], tuple(row["candidates"]), rankings)
            except (KeyError, TypeError, AttributeError) as error:
                raise GeckoError(f"{where}: not a pool", _HINT) from error
            pools[pool.query_id] = pool
        return pools

    def write_pools(self, pools: Iterable[Pool]) -> None:
        """Replace the pools."""
        write_json_lines(self.judging / "pools.jsonl", (asdict(pool) for pool in pools))

    def append(self, event: Mapping[str, Any]) -> None:
        """Add a judgement, an undo or a dropped query to the record, and wait until the disk has it.

        Raises:
            GeckoError: The disk is full or fails; the record is then as it was.
        """
        path = self.judging / "judgements.jsonl"
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("ab") as handle:
                handle.write(json.dumps(event, ensure_ascii=False).encode() + b"\n")
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            with suppress(OSError):
                os.truncate(path, size)
            raise GeckoError(
                f"cannot write {path}: {error.strerror or error}", "check the free space and the permissions"
            ) from error

    def events(self) -> list[dict[str, Any]]:
        """What counts of the record: undone events are left out, and so is a last line that was cut short.

        Raises:
            GeckoError: Another line is broken.
        """
        path = self.judging / "judgements.jsonl"
        if not path.exists():
            return []
        _mend(path)
        events: list[dict[str, Any]] = []
        for event, where in read_objects(path, _HINT):
            if event.get("undo"):
                del events[-1:]
            elif isinstance(event.get("query_id"), str) and ("doc_id" in event or "drop" in event):
                events.append(event)
            else:
                raise GeckoError(f"{where}: not a judgement", _HINT)
        return events

    def export(self, queries: Mapping[str, str], qrels: Mapping[str, Mapping[str, int]]) -> None:
        """Write queries.jsonl and qrels/test.tsv of the queries that are judged to their end."""
        write_json_lines(self.path / "queries.jsonl", ({"_id": key, "text": text} for key, text in queries.items()))
        lines = [f"{query}\t{doc}\t{grade}" for query, grades in qrels.items() for doc, grade in grades.items()]
        with atomic(self.path / "qrels" / "test.tsv") as temporary:
            text = "\n".join(["query-id\tcorpus-id\tscore", *lines])
            temporary.write_text(f"{text}\n", encoding="utf-8")


def marks_of(events: Iterable[Mapping[str, Any]]) -> Marks:
    """Replay a record."""
    marks = Marks()
    for event in events:
        marks.take(event)
    return marks


def _documents(place: Path) -> Iterator[dict[str, str]]:
    """Read passages as gecko corpus makes them, a BEIR folder, or its corpus.jsonl."""
    file = place / "corpus.jsonl" if place.is_dir() else place
    if file.suffix == ".jsonl" and file.is_file():
        for doc_id, title, text in zip(*read_corpus(file), strict=True):
            yield {"_id": doc_id, "title": title, "text": text}
    elif place.is_dir() and any(place.glob("part-*.parquet")):
        for passage in read_rows(place, to_passage):
            yield {"_id": passage.passage_id, "title": passage.title, "text": passage.text}
    else:
        hint = "give a folder of passages (gecko corpus SOURCE --out passages/ makes one) or a BEIR folder"
        raise GeckoError(f"--corpus {place}: no passages there", hint)


def _mend(path: Path) -> None:
    """Cut off a last line that a killed process wrote in part; one that lacks no more than its end gets it."""
    raw = path.read_bytes()
    if not raw or raw.endswith(b"\n"):
        return
    _, _, tail = raw.rpartition(b"\n")
    try:
        whole = isinstance(json.loads(tail), dict)
    except ValueError:
        whole = False
    mended = raw + b"\n" if whole else raw[: len(raw) - len(tail)]
    with atomic(path) as temporary:
        temporary.write_bytes(mended)
