"""What all adapters share: drafts of rows, their rendering, the account of every record, the sample of a limit."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from gecko.errors import GeckoError
from gecko.mixture.format import TextFormat, render_passage, render_query
from gecko.mixture.options import SourceOptions
from gecko.mixture.sources.read import Item, trouble
from gecko.records import Quarantined, UnifiedRow, content_id
from gecko.tabular import SHOWN

Titled = tuple[str, str]  # title, which may be empty, and text


@dataclass(frozen=True, slots=True)
class Draft:
    """A row before its texts are rendered."""

    row_id: str
    query: str
    positive: Titled
    negatives: tuple[Titled, ...] = ()


@dataclass
class Account:
    """What became of a source's records: each is used, unused by a rule, or quarantined.

    Attributes:
        read: Records seen.
        used: Records that a row holds, as its positive or as a hard negative.
        unused: Good records that no row holds, counted by the reason.
        quarantined: Records that nothing could be made of.
        made: Rows drafted; a record may give several.
    """

    read: int = 0
    used: int = 0
    made: int = 0
    unused: Counter[str] = field(default_factory=Counter)
    quarantined: list[Quarantined] = field(default_factory=list)

    def usable(self, items: Iterable[Item | Quarantined]) -> Iterator[Item]:
        """Count records and keep those set aside; yield the others."""
        for item in items:
            self.read += 1
            if isinstance(item, Quarantined):
                self.quarantined.append(item)
            else:
                yield item

    def set_aside(self, where: str, reason: str, raw: str) -> None:
        """Quarantine a record."""
        self.quarantined.append(Quarantined("mixture", where, reason, raw[:SHOWN]))


class RowMaker:
    """Makes the rows of one source.

    Args:
        options: The source.
        text_format: How texts are rendered.
        seed: Of what is drawn: other texts of a label, the sample of a limit.
    """

    def __init__(self, options: SourceOptions, text_format: TextFormat, seed: int) -> None:
        self.options = options
        self.text_format: TextFormat = text_format
        self.seed = seed
        self.account = Account()
        self.draw = np.random.default_rng([seed, int(content_id("mixture", options.name), 16)])
        self._known: set[str] = set()

    @property
    def negatives(self) -> int:
        """How many hard negatives a row may have."""
        return 0 if self.options.negatives == "none" else self.options.max_negatives

    def draft(self, query: str, positive: str, negatives: Iterable[str] = (), title: str = "") -> Draft:
        """Draft a row of a query, a positive, perhaps with a title, and negatives without one."""
        return self.titled(query, (title, positive), (("", text) for text in negatives))

    def titled(self, query: str, positive: Titled, negatives: Iterable[Titled] = ()) -> Draft:
        """Draft a row; a negative that equals its query or positive is no negative.

        The row is named by its texts, so that it is the same row wherever it stands in the file.
        """
        row_id = content_id(self.options.name, query, *positive)
        kept = (pair for pair in dict.fromkeys(negatives) if pair[1] not in (query, positive[1]))
        return Draft(row_id, query, positive, tuple(kept)[: self.negatives])

    def keep(self, *drafts: Draft) -> list[Draft]:
        """Take the drafts of one record, those that are worth training on and that no earlier record gave.

        The record is entered as used if there is one.
        """
        worth = [draft for draft in drafts if draft.positive[1] != draft.query]
        fresh = [draft for draft in worth if draft.row_id not in self._known]
        if fresh:
            self.account.used += 1
        else:
            self.account.unused["repeats an earlier row" if worth else "both texts are the same"] += 1
        self.account.made += len(fresh)
        self._known.update(draft.row_id for draft in fresh)
        return fresh

    def sample(self, drafts: Iterable[Draft]) -> list[Draft]:
        """Keep what the limit allows, in order: those whose hash is lowest, so that it does not hang on the order."""
        limit = self.options.limit
        if limit is None:
            return list(drafts)
        lowest = heapq.nsmallest(
            limit, enumerate(drafts), key=lambda place: content_id("limit", str(self.seed), place[1].row_id)
        )
        return [draft for _, draft in sorted(lowest, key=lambda place: place[0])]

    def render(self, draft: Draft) -> UnifiedRow:
        """Render a draft; its task is chosen among the source's by the row's id."""
        tasks = self.options.tasks
        task = tasks[int(content_id("task", draft.row_id), 16) % len(tasks)]
        return UnifiedRow(
            row_id=draft.row_id,
            task=task,
            query=draft.query,
            positive=self._other_side(task, *draft.positive),
            negatives=tuple(self._other_side(task, *pair) for pair in draft.negatives),
            symmetric=self.options.both_sides_alike,
            source=self.options.name,
        )

    def trouble(self, message: str, hint: str) -> GeckoError:
        """Name the source in an error."""
        return trouble(self.options, message, hint)

    def _other_side(self, task: str, title: str, text: str) -> str:
        if self.options.both_sides_alike:
            return render_query(task, render_passage(title, text, "plain"), self.text_format)
        return render_passage(title, text, self.text_format)
