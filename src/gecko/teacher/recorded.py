"""Replays replies recorded from a language model (``recorded:DIR``), for demos, tests and repeatable experiments.

This is the ladder's last rung: a grade for some candidates and an order of them, no log-likelihoods. The grade takes
the place of RC and the order that of QL.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gecko.corpus.decode import clean
from gecko.errors import GeckoError
from gecko.jsonl import read_lines
from gecko.records import GeneratedQuery, Passage, content_id
from gecko.teacher.protocol import Capabilities, Generation, PassageStore, Scores

RUNG = "graded+listwise"
UNRANKED = "not recorded"


class RecordedTeacher:
    """A folder of recorded replies as a teacher.

    ``generations.jsonl`` holds ``{"id", "task", "query"}`` or ``{"id", "skip"}`` a line, ``rankings.jsonl`` (optional)
    ``{"seed_id", "query", "candidates", "grades", "order"}``; ids are the corpus's own (``source_id``).

    Args:
        folder: The recordings.

    Raises:
        GeckoError: A file is missing, or a line is damaged.
    """

    def __init__(self, folder: Path) -> None:
        generations = folder / "generations.jsonl"
        if not generations.is_file():
            what = f"no recorded replies: {folder} does not exist"
            if folder.is_dir():
                what = f"no recorded replies in {folder}"
            elif folder.exists():
                what = f"no recorded replies: {folder} is a file, not a folder"
            raise GeckoError(what, "recorded:DIR needs DIR/generations.jsonl")
        self.name = f"recorded:{folder.resolve().name}"
        self.rung = RUNG
        self.capabilities = Capabilities(generate=True, listwise=True)
        self._replies = {str(line["id"]): _generation(line) for line in _lines(generations, ("id",))}
        self._rankings: dict[tuple[str, str], dict[str, Any]] = {}
        rankings = folder / "rankings.jsonl"
        if rankings.is_dir():
            raise GeckoError(f"{rankings} is a folder, not a file", "remove it, or put the recorded rankings there")
        if rankings.is_file():
            for line in _lines(rankings, ("seed_id", "query", "candidates", "grades", "order")):
                self._rankings[str(line["seed_id"]), _one_line(line["query"])] = line
        files = [path for path in (generations, rankings) if path.is_file()]
        self.fingerprint = content_id(*(path.read_text(encoding="utf-8") for path in files))
        prompts = sorted(folder.glob("PROMPT_*.md"))
        self.prompt_version = (
            content_id(*(path.read_text(encoding="utf-8", errors="replace") for path in prompts))
            if prompts
            else "recorded"
        )
        self._source_of: dict[str, str] = {}

    def prepare(self, passages: PassageStore) -> None:
        """Learn which source id each passage of the corpus has."""
        ranked = {seed_id for seed_id, _ in self._rankings}
        self._source_of = {passage.passage_id: passage.source_id for passage in passages if passage.source_id in ranked}

    def seeds_available(self) -> set[str]:
        """Source ids of the passages with a recorded reply."""
        return set(self._replies)

    def write(self, seeds: Sequence[Passage]) -> list[Generation]:
        """Replay the reply recorded for each seed."""
        missing = Generation(task="", query="", skip=UNRANKED)
        return [self._replies.get(seed.source_id, missing) for seed in seeds]

    def rank(
        self, query: GeneratedQuery, candidates: Sequence[Passage], miner_scores: Sequence[float] | None = None
    ) -> Scores:
        """Replay the grades and the order recorded for this query; None for a candidate that was not shown."""
        unknown = (None,) * len(candidates)
        ranking = self._rankings.get((self._source_of.get(query.seed_id, query.seed_id), _one_line(query.query)))
        if ranking is None:
            return Scores(ql=unknown, rc=unknown, rung="none", note="no ranking recorded")
        grades = dict(zip(map(str, ranking["candidates"]), ranking["grades"], strict=True))
        places = {str(source_id): place for place, source_id in enumerate(ranking["order"])}
        return Scores(
            ql=tuple(_negated(places.get(candidate.source_id)) for candidate in candidates),
            rc=tuple(_as_float(grades.get(candidate.source_id)) for candidate in candidates),
            rung=RUNG,
        )


def _generation(line: dict[str, Any]) -> Generation:
    raw = clean(json.dumps(line, ensure_ascii=False))
    if line.get("skip") is not None:
        return Generation(task="", query="", skip=clean(line["skip"]), raw=raw)
    return Generation(task=clean(line["task"]), query=clean(line["query"]), raw=raw)


def _one_line(query: str) -> str:
    """The query as step 1 writes it into a row, so that its ranking is found again."""
    return " ".join(clean(query).split())


def _lines(path: Path, needed: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for line in read_lines(path):
        if line.fault:
            raise GeckoError(f"{path} line {line.number} is not JSON", "mend or remove the line")
        fault = _fault(line.value, needed)
        if fault:
            raise GeckoError(f"{path} line {line.number} {fault}", "mend or remove the line")
        yield line.value


def _fault(line: Any, needed: tuple[str, ...]) -> str:  # noqa: ANN401
    """What is wrong with a parsed line; empty when nothing is."""
    if not isinstance(line, dict):
        return "is no object"
    lacking = [key for key in needed if key not in line]
    if lacking:
        return f"lacks {', '.join(lacking)}"
    if not isinstance(line[needed[0]], str | int):
        return f"has the {needed[0]} {line[needed[0]]!r}, which is no name"
    if "grades" not in needed:
        said = ("task", "query") if line.get("skip") is None else ("skip",)
        if not all(key in line for key in said):
            return "lacks task, query or skip"
        return next((f"has a {key} that is not text" for key in said if not isinstance(line[key], str)), "")
    if not isinstance(line["query"], str):
        return "has a query that is not text"
    if not all(isinstance(line[key], list) for key in ("candidates", "grades", "order")):
        return "has candidates, grades or order that are no lists"
    if len(line["grades"]) != len(line["candidates"]):
        return "has grades and candidates that differ in number"
    if not all(isinstance(grade, int | float) and 0 <= grade <= 3 for grade in line["grades"]):
        return "has a grade outside 0 to 3"
    return (
        "" if set(map(str, line["order"])) <= set(map(str, line["candidates"])) else "orders a passage it did not grade"
    )


def _negated(place: int | None) -> float | None:
    return None if place is None else -float(place)


def _as_float(value: Any) -> float | None:  # noqa: ANN401
    return None if value is None else float(value)
