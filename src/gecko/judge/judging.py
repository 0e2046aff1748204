"""Open a test set to judge, new or begun: the same call both ways, so that to run it again is to go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from gecko.errors import UsageError
from gecko.judge.folder import DEPTH, JudgedFolder, Settings
from gecko.judge.pool import Embedder, Pooler
from gecko.judge.session import Question, Session, pair_of


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asked for; None and empty mean "as the folder has it"."""

    corpus: str | None = None
    models: tuple[str, ...] = ()
    base: str | None = None
    depth: int | None = None


@dataclass(frozen=True, slots=True)
class Goal:
    """The difference in nDCG@10 that the test is to show, and with what chance."""

    difference: float = 0.05
    power: float = 0.8


class Judging:
    """A session with the texts it shows.

    Args:
        path: The test set's folder.
        wanted: What the user asked for.
        load: Loads a model by its name.
        goal: What the test is to show.

    Raises:
        UsageError: A new folder without a corpus, a folder of something else, or settings other than those it was begun
            with.
        GeckoError: The folder is damaged, or there are no documents.
    """

    def __init__(self, path: Path, wanted: Wanted, load: Callable[[str], Embedder], goal: Goal | None = None) -> None:
        self.path = path
        self.goal = goal or Goal()
        folder = JudgedFolder(path)
        before = folder.settings()
        self.settings = settle(folder, wanted)
        if before is None or not folder.corpus.is_file():
            folder.create(self.settings)
        documents = folder.documents()
        self._texts = {doc_id: (title, text) for doc_id, title, text in zip(*documents, strict=True)}
        models = {system: partial(load, name) for system, name in self.settings.systems.items()}
        pooler = Pooler(documents, models, folder.judging / "vectors", self.settings.depth)
        self.session = Session(folder, pooler, pair_of(models))
        if before is not None and before != self.settings:
            self.session.add(())  # a new model's candidates for the queries there are
            folder.create(self.settings)  # now that its model is known to load

    def document(self, asked: Question) -> tuple[str, str]:
        """Title and text of the candidate that is asked about."""
        return self._texts.get(asked.doc_id, ("", ""))

    def summary(self) -> dict[str, Any]:
        """How far it is and what it takes, JSON-ready."""
        found, candidates = self.session.need(self.goal.difference, self.goal.power)
        progress = asdict(self.session.progress())
        return {"out": str(self.path), **progress, "need": {**asdict(found), "candidates": candidates}}

    def report(self) -> str:
        """How far it is and what it takes, for a person; it does not say which system is ahead."""
        done = self.session.progress()
        left_out = [
            f"{count} {words}"
            for count, words in ((done.without, "without a relevant document"), (done.dropped, "dropped"))
            if count
        ]
        outside = f" ({', '.join(left_out)}: left out)" if left_out else ""
        skipped = f", {done.skipped} skipped (they count as not relevant)" if done.skipped else ""
        return "\n".join(
            [
                f"{done.judged} of {done.queries} queries judged{outside}, "
                f"{done.judgements} of {done.candidates} candidates{skipped}",
                self.needed(),
            ]
        )

    def needed(self) -> str:
        """How many judgements the goal takes."""
        found, candidates = self.session.need(self.goal.difference, self.goal.power)
        nothing = "nothing is judged yet" if self.settings.systems else "there is no model to compare"
        source = f"of {found.seen} queries and a prior" if found.seen else f"assumed: {nothing}"
        line = (
            f"a difference of {found.difference:g} in nDCG@10 (power {found.power:g}, level {found.level:g}) takes "
            f"about {found.queries:,} queries, {candidates:,} candidates (deviation {found.deviation:.2f}, {source})"
        )
        if found.detectable is not None and found.seen < found.queries:
            line += f"; {found.seen} show one of {found.detectable:.2f}"
        return line


def settle(folder: JudgedFolder, wanted: Wanted) -> Settings:
    """Say what a test set is made of from now on: models may be added, all else stays as it was when it was begun.

    Before a query is pooled all but the corpus may still change: a model that could not be loaded is no dead end.

    Raises:
        UsageError: A new folder without a corpus, a folder of something else, or settings that are not the folder's.
        GeckoError: The folder is damaged.
    """
    before = folder.settings()
    if before is None:
        if wanted.corpus is None:
            raise UsageError(f"{folder.path} holds no test set", "begin one: gecko judge --corpus PASSAGES --out DIR")
        return Settings(wanted.corpus, wanted.models, wanted.base, DEPTH if wanted.depth is None else wanted.depth)
    begun = bool(folder.pools())
    for name, now in (("corpus", wanted.corpus), ("base", wanted.base), ("depth", wanted.depth)):
        then = getattr(before, name)
        if now is not None and now != then and (begun or name == "corpus"):
            raise UsageError(
                f"{folder.path} was begun with --{name} {then}", f"leave --{name} out, or choose another --out"
            )
    if not begun:
        return Settings(
            before.corpus, wanted.models or before.models, wanted.base or before.base, wanted.depth or before.depth
        )
    return replace(before, models=tuple(dict.fromkeys([*before.models, *wanted.models])))
