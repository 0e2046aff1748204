"""What the stages of a run share: its recipe and directory, and what several of them load, once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from gecko.checks import check_languages, check_recipe, keep_apart
from gecko.engine.local import LocalEngine
from gecko.engine.protocol import Engine
from gecko.errors import GeckoError
from gecko.recipe import PREFINETUNED, Recipe
from gecko.records import FretRow, content_id
from gecko.shards import read_json
from gecko.teacher.options import TeacherOptions

ASKING = frozenset({"queries", "fret"})  # the stages that ask a teacher


@dataclass
class RunContext:
    """A run's recipe and directory, with what several stages share loaded once; leaving it closes its teachers.

    Attributes:
        marks: Fingerprint of every stage seen so far.
        places: Stages that lie elsewhere than in the run's directory.
        asks: Whether its teachers will be asked anything; a plan asks nobody, and needs no key.
        engine: Runs what is done batch by batch; it changes no mark.
    """

    recipe: Recipe
    out: Path
    marks: dict[str, str] = field(default_factory=dict)
    places: dict[str, Path] = field(default_factory=dict)
    tell: Callable[[str], None] | None = None
    asks: bool = True
    engine: Engine = field(default_factory=LocalEngine)
    _opened: ExitStack = field(default_factory=ExitStack)
    _prepared: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def check(self, stages: Collection[str]) -> None:
        """Find mistakes that would otherwise show only after the work before them is done and paid for.

        Args:
            stages: Names of what is to be run or marked.

        Raises:
            GeckoError: A source, model or test set is not there, or a teacher cannot be opened.
        """
        check_recipe(self.recipe)
        if "passages" in stages:
            keep_apart(self.out, self.recipe.corpus.sources)
        if ASKING.intersection(stages):
            _ = self.writer, self.ranker

    def folder(self, name: str) -> Path:
        """Directory of a stage: its name in the run's, unless it has another place."""
        return self.places.get(name, self.out / name)

    def facts(self, name: str) -> dict[str, Any]:
        """What a finished stage noted of itself."""
        return read_json(self.folder(name) / "_stage.json") or {}

    @cached_property
    def writer(self) -> Any:  # noqa: ANN401
        """The teacher of step 1, its calls kept in the ledger."""
        for line in check_languages(self.recipe):
            if self.tell:
                self.tell(line)
        return self._teacher(*self.recipe.teacher.of_writer())

    @cached_property
    def ranker(self) -> Any:  # noqa: ANN401
        """The teacher of step 2, its calls kept in the ledger."""
        asked = self.recipe.teacher.of_ranker()
        return self.writer if asked == self.recipe.teacher.of_writer() else self._teacher(*asked)

    @cached_property
    def passages(self) -> Any:  # noqa: ANN401
        """The corpus, with the miner's vectors once :attr:`corpus` was asked for."""
        from gecko.fret.store import PassageTable

        return PassageTable(self.folder("passages"))

    @cached_property
    def corpus(self) -> Any:  # noqa: ANN401
        """The corpus with the miner's vectors, which are compared with their checksums.

        Raises:
            GeckoError: They are damaged.
        """
        from gecko.miner.kept import VECTORS, check

        check(self.folder("miner"))
        self.passages.map_vectors(self.folder("miner") / VECTORS)
        return self.passages

    def prepare_teachers(self) -> None:
        """Let the teachers look at the corpus, once: on a large one that takes minutes, so only who asks them does."""
        if self._prepared:
            return
        self.writer.prepare(self.passages)
        if self.ranker is not self.writer:
            self.ranker.prepare(self.passages)
        self._prepared = True

    @cached_property
    def miner(self) -> Any:  # noqa: ANN401
        """The first embedder."""
        from gecko.embedder.embedder import Embedder

        own = self.recipe.fret.miner == PREFINETUNED
        return Embedder(str(self.prefinetuned) if own else self.recipe.fret.miner)

    @property
    def prefinetuned(self) -> Path:
        """Where the pre-finetuned student is."""
        return self.folder("prefinetune") / "model"

    def knowing_corpus(self, embedder: Any) -> Any:  # noqa: ANN401
        """The embedder, which must be the miner or equal to it, with the corpus's vectors at hand."""
        from gecko.embedder.known import KnownPassages
        from gecko.fret.store import PassageTable

        table = PassageTable(self.folder("passages"), self.folder("miner") / "vectors.npy")
        return KnownPassages(embedder, ((passage.title, passage.text) for passage in table), table.vectors)

    def is_held_out(self, seed_id: str) -> bool:
        """Whether the rows of a seed are kept for the gate."""
        return is_dev(seed_id, self.recipe.gate.dev_share)

    def evaluation(self) -> dict[str, Any]:
        """The run's own evaluation, empty where the recipe names no test set."""
        value = read_json(self.out / "evaluation.json") or {}
        if not isinstance(value, dict):
            raise GeckoError(f"{self.out / 'evaluation.json'} is damaged", "delete it and run again")
        return value

    def model_path(self) -> Path:
        """Where the shipped model is."""
        return self.folder("model")

    @cached_property
    def ledger(self) -> Any:  # noqa: ANN401
        """The run's record of teacher calls."""
        from gecko.teacher.ledger import FILE_NAME, Ledger

        return self._opened.enter_context(Ledger(self.out / FILE_NAME))

    def _teacher(self, spec: str, options: TeacherOptions) -> Any:  # noqa: ANN401
        from gecko.teacher.llm import LLMTeacher
        from gecko.teacher.open import open_teacher

        fret = self.recipe.fret
        teacher = open_teacher(
            spec,
            self.ledger,
            options=options,
            seed=self.recipe.seed,
            styles=fret.styles,
            tell=self.tell,
            thrifty=fret.thrifty,
            asked=self.asks,
            ray_address=getattr(self.engine, "address", None),
        )
        if isinstance(teacher, LLMTeacher):
            self._opened.callback(teacher.close)
        return teacher


def held_out_rows(rows: Iterable[FretRow], share: float, most: int) -> list[FretRow]:
    """Pick the held-out rows, at most so many; those with the least ids, which are hashes and so an even draw."""
    return sorted((row for row in rows if is_dev(row.seed_id, share)), key=lambda row: row.row_id)[:most]


def is_dev(seed_id: str, share: float) -> bool:
    """Whether a seed's rows are held out: a pure function of the id, so that no run ever mixes the two."""
    return int(content_id("dev", seed_id), 16) % 10_000 < share * 10_000
