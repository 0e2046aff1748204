"""Training rows compared with evaluation sets: which ask what a test asks, and which share a text with its documents.

The query of a row asks, and where both sides are alike so does its positive. If such a text repeats a question of an
evaluation set, that is a leak: the figure then tells in part what was learned by heart. Any other match (a passage that
is a document of the set, or that quotes a question) is an overlap: it is counted, and no reason to drop a row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from gecko.corpus.decontaminate import KINDS, Alike, Decontaminator, Kind
from gecko.evaluate.texts import EvaluationText, EvaluationTexts
from gecko.mixture.audit_options import AuditOptions
from gecko.mixture.format import unrendered
from gecko.records import Quarantined, UnifiedRow

LEAK = "asks what an evaluation set asks"  # with which the reason of a dropped row begins
_EXAMPLES = 3  # kept of each set, kind of match, and leak or overlap
_ROWS = 4096  # audited at once
_SHOWN = 300  # characters of a text in an example


@dataclass(frozen=True, slots=True)
class Match:
    """A text of a row that repeats a text of an evaluation set.

    Attributes:
        place: The row's, in what was checked.
        row: The row.
        side: ``query`` or ``positive``.
        said: The row's text, before rendering.
        kind: How the two are alike.
        set_name: The evaluation set.
        question: Whether its text is a question.
        found: Its text.
        leak: Whether both ask; else it is an overlap.
    """

    place: int
    row: UnifiedRow
    side: str
    said: str
    kind: Kind
    set_name: str
    question: bool
    found: EvaluationText
    leak: bool

    def to_json(self, most: int | None = None) -> dict[str, Any]:
        """All of it, JSON-ready, texts cut to ``most`` characters."""
        return {
            "set": self.set_name,
            "match": self.kind,
            "leak": self.leak,
            "row_id": self.row.row_id,
            "source": self.row.source,
            "side": self.side,
            "row_text": self.said[:most],
            "evaluation_side": "question" if self.question else "document",
            "evaluation_id": self.found.text_id,
            "evaluation_text": self.found.text[:most],
        }


class Auditor:
    """Compares rows with the texts of evaluation sets.

    Args:
        sets: The evaluation sets.
        options: What is looked for.
        embedder: Encodes questions where ``options.cosine`` asks for it (``Embedder``).
        leaks_only: Whether overlaps are not looked for either.
    """

    def __init__(
        self,
        sets: Sequence[EvaluationTexts],
        options: AuditOptions,
        embedder: Any = None,  # noqa: ANN401
        *,
        leaks_only: bool = False,
    ) -> None:
        self.sets = sets
        self._leaks_only = leaks_only
        self._references: list[tuple[str, bool, EvaluationText]] = []
        groups: list[int] = []
        for number, each in enumerate(sets):
            for question, texts in ((True, each.questions), (False, () if leaks_only else each.documents)):
                self._references += [(each.name, question, text) for text in texts]
                groups += [2 * number + (not question)] * len(texts)
        alike = Alike(embedder.encode_queries, options.cosine) if options.cosine and embedder is not None else None
        self._index = Decontaminator(
            [text.text for *_, text in self._references],
            np.array(groups, np.int64),
            np.array([question for _, question, _ in self._references], bool),
            ngram=options.ngram,
            common=options.common,
            near=options.near,
            alike=alike,
        )

    @property
    def ignored(self) -> int:
        """Runs of words that were too common in an evaluation set to be evidence."""
        return self._index.ignored

    def check(self, rows: Sequence[UnifiedRow]) -> list[Match]:
        """Find the matches of a few thousand rows, in their order."""
        texts: list[tuple[int, str, str, bool]] = []
        for place, row in enumerate(rows):
            texts.append((place, "query", row.query, True))
            if row.symmetric or not self._leaks_only:
                texts.append((place, "positive", unrendered(row.positive), row.symmetric))
        found = self._index.match([said for _, _, said, _ in texts], np.array([asks for *_, asks in texts], bool))
        matches = []
        for text, reference, kind in zip(
            found.texts.tolist(), found.references.tolist(), found.kinds.tolist(), strict=True
        ):
            place, side, said, asks = texts[text]
            name, question, other = self._references[reference]
            leak = asks and question
            if leak or not self._leaks_only:
                matches.append(Match(place, rows[place], side, said, KINDS[kind], name, question, other, leak))
        return matches


@dataclass(slots=True)
class _Found:
    """What was found of one set: rows by the strongest kind of match, the set's texts, and a few examples."""

    rows: Counter[str] = field(default_factory=Counter)
    texts: set[tuple[bool, str]] = field(default_factory=set)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass(slots=True)
class AuditReport:
    """What an audit found, counted; memory holds counts, ids of the evaluation texts and a few examples."""

    sets: Sequence[EvaluationTexts]
    rows: int = 0
    leaked: int = 0
    overlapping: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    leaked_of: Counter[str] = field(default_factory=Counter)
    _found: dict[tuple[str, bool], _Found] = field(default_factory=dict)

    def add(self, rows: Sequence[UnifiedRow], matches: Iterable[Match]) -> None:
        """Count the matches of some rows."""
        self.rows += len(rows)
        self.sources.update(row.source for row in rows)
        strongest: dict[tuple[int, str, bool], Match] = {}
        for match in matches:
            key = (match.place, match.set_name, match.leak)
            if key not in strongest or KINDS.index(match.kind) < KINDS.index(strongest[key].kind):
                strongest[key] = match
            found = self._found.setdefault((match.set_name, match.leak), _Found())
            found.texts.add((match.question, match.found.text_id))
        for match in strongest.values():
            found = self._found[match.set_name, match.leak]
            found.rows[match.kind] += 1
            kept = found.examples.setdefault(match.kind, [])
            if len(kept) < _EXAMPLES:
                kept.append(match.to_json(_SHOWN))
        leaked = {place for place, _, leak in strongest if leak}
        self.leaked += len(leaked)
        self.leaked_of.update(rows[place].source for place in leaked)
        self.overlapping += len({place for place, _, leak in strongest if not leak})

    def to_json(self) -> dict[str, Any]:
        """The figures, JSON-ready: rows that leak and overlap, of each source and each set, with examples."""
        sets = []
        for each in self.sets:
            entry: dict[str, Any] = {
                "set": each.name,
                "questions": len(each.questions),
                "documents": len(each.documents),
            }
            for name, leak in (("leaks", True), ("overlaps", False)):
                found = self._found.get((each.name, leak), _Found())
                kinds = {kind: found.rows[kind] for kind in KINDS if found.rows[kind]}
                entry[name] = {"rows": sum(kinds.values()), "texts": len(found.texts), "kinds": kinds}
            sets.append(entry)
        return {
            "rows": self.rows,
            "leaked": self.leaked,
            "overlapping": self.overlapping,
            "sources": [
                {"source": name, "rows": count, "leaked": self.leaked_of[name]} for name, count in self.sources.items()
            ],
            "sets": sets,
            "examples": list(self._examples()),
        }

    def _examples(self) -> Iterator[dict[str, Any]]:
        """Leaks before overlaps, strong matches before weak ones, the sets in turn."""
        for leak in (True, False):
            for number in range(_EXAMPLES):
                for kind in KINDS:
                    for each in self.sets:
                        found = self._found.get((each.name, leak))
                        yield from (found.examples.get(kind, []) if found else [])[number : number + 1]


def audit_rows(
    rows: Iterable[UnifiedRow], auditor: Auditor, report: AuditReport
) -> Iterator[tuple[list[UnifiedRow], list[Match]]]:
    """Audit rows a few thousand at a time, counting as it goes: (the rows, their matches)."""
    stream = iter(rows)
    while batch := list(islice(stream, _ROWS)):
        matches = auditor.check(batch)
        report.add(batch, matches)
        yield batch, matches


def without_leaks(
    rows: Iterable[UnifiedRow | Quarantined], auditor: Auditor, stage: str
) -> Iterator[UnifiedRow | Quarantined]:
    """Let rows pass in their order, but put those that ask what an evaluation set asks into quarantine.

    Args:
        rows: The rows; what was set aside before passes through.
        auditor: Made with ``leaks_only``.
        stage: Whose quarantine it is.
    """
    aside: list[Quarantined] = []

    def only_rows() -> Iterator[UnifiedRow]:
        for row in rows:
            if isinstance(row, Quarantined):
                aside.append(row)
            else:
                yield row

    for batch, matches in audit_rows(only_rows(), auditor, AuditReport(auditor.sets)):
        leaks: dict[int, Match] = {}
        for match in matches:
            leaks.setdefault(match.place, match)
        for place, row in enumerate(batch):
            yield _dropped(leaks[place], stage) if place in leaks else row
        yield from aside
        aside.clear()
    yield from aside


def dropped_row(item: Quarantined) -> UnifiedRow | None:
    """The row that :func:`without_leaks` put into quarantine; None for what another reason put there."""
    if not item.reason.startswith(LEAK):
        return None
    row = json.loads(item.raw)
    return UnifiedRow(item.item_id, row["task"], row["query"], row["positive"], (), row["symmetric"], row["source"])


def _dropped(match: Match, stage: str) -> Quarantined:
    # The reason names the set and not the text, so that a report can count by it; the raw entry has all the rest.
    row = match.row
    kept = {name: getattr(row, name) for name in ("task", "query", "positive", "symmetric", "source")}
    raw = json.dumps(kept | {"negatives": list(row.negatives), "repeats": match.to_json()}, ensure_ascii=False)
    return Quarantined(stage, row.row_id, f"{LEAK}: {match.kind}, {match.set_name}", raw)
