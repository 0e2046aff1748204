"""What is trained on beside FRet and how often: the recipe's ``mixture`` section (paper, section 3.3)."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gecko.corpus.files import HUB
from gecko.mixture.tasks import TASKS
from gecko.tabular import SUFFIXES

Kind = Literal[
    "retrieval", "nli", "sts", "classification", "clustering", "pair_classification", "bitext", "pairs", "triples"
]

FretKind = Literal["question answering", "search result", "fact checking", "semantic similarity"]

FRET = "fret"  # the source of the run's own rows
TITLES, QUERIES = "corpus", "queries"  # those of the pairs that the run makes itself, for pre-finetuning

# For each kind its roles, and the names under which a role's column is looked for where ``columns`` names none.
ROLES: dict[Kind, dict[str, tuple[str, ...]]] = {
    "retrieval": {},
    "nli": {
        "premise": ("premise", "sentence1"),
        "hypothesis": ("hypothesis", "sentence2"),
        "label": ("label", "gold_label"),
    },
    "sts": {
        "sentence1": ("sentence1", "text1"),
        "sentence2": ("sentence2", "text2"),
        "score": ("score", "similarity_score"),
    },
    "classification": {"text": ("text", "sentence"), "label": ("label", "labels")},
    "clustering": {"text": ("text", "sentence"), "label": ("label", "labels")},
    "pair_classification": {
        "sentence1": ("sentence1", "text1", "question1"),
        "sentence2": ("sentence2", "text2", "question2"),
        "label": ("label", "labels", "is_duplicate"),
    },
    "bitext": {"text": ("text", "sentence1"), "translation": ("translation", "sentence2")},
    "pairs": {
        "query": ("query", "question", "anchor"),
        "positive": ("positive", "answer", "passage", "text"),
        "title": ("title",),
    },
    "triples": {
        "query": ("query", "question", "anchor"),
        "positive": ("positive", "answer", "passage"),
        "negative": ("negative", "negatives"),
    },
}
OPTIONAL_ROLES = frozenset({"title"})

_SPLITS = ("train", "dev", "validation", "test")
_ASYMMETRIC = frozenset({"retrieval", "pairs", "triples"})


class SourceOptions(BaseModel):
    """One human-labelled data set of the mixture."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    path: str = Field(
        min_length=1,
        description="a folder that holds SPLIT.jsonl (.csv, .tsv, .parquet), such a file, a BEIR folder for retrieval, "
        "or hf://OWNER/NAME[/CONFIG]",
    )
    kind: Kind
    name: str = Field(default="", description="how rows and reports call it; default: from the path")
    split: str = "train"
    columns: dict[str, str] = Field(default_factory=dict, description="role -> column, e.g. {text: utterance}")
    task: tuple[str, ...] = Field(
        default=(), description="task strings, each trained on its share of the rows; default: the kind's two"
    )
    limit: int | None = Field(default=None, ge=1, description="rows kept at most, a sample by the seed")
    weight: float | None = Field(default=None, gt=0, description="share of the batches, with sampling: weights")
    negatives: Literal["given", "mined", "none"] = Field(default="given", description="mined: for retrieval")
    max_negatives: int = Field(default=1, ge=1, description="hard negatives of a row, at most")
    negative_margin: float = Field(
        default=0.95, gt=0, le=1, description="mined: a passage above this share of the positive's score is unsafe"
    )
    min_score: float = Field(
        default=4.0, description="sts: a pair of at least this is a positive one, of at most half of it a negative one"
    )
    max_chars: int = Field(
        default=800, ge=20, description="classification, clustering: texts are cut here, before their ID is appended"
    )
    same_tower: bool | None = Field(default=None, description="in this source's batches; default: train.same_tower")
    in_batch: bool | None = Field(default=None, description="in this source's batches; default: train.in_batch")
    symmetric: bool | None = Field(default=None, description="both sides as queries; default: by kind")

    @model_validator(mode="before")
    @classmethod
    def _name_it(cls, values: Any) -> Any:  # noqa: ANN401
        if isinstance(values, dict) and not values.get("name") and isinstance(values.get("path"), str):
            return {**values, "name": _name_of(values["path"], str(values.get("split", "train")))}
        return values

    @field_validator("task", mode="before")
    @classmethod
    def _one_task(cls, task: Any) -> Any:  # noqa: ANN401
        return (task,) if isinstance(task, str) else task or ()

    @field_validator("task")
    @classmethod
    def _no_empty_task(cls, task: tuple[str, ...]) -> tuple[str, ...]:
        if not all(text.strip() for text in task):
            raise ValueError("a task string is empty")
        return tuple(" ".join(text.split()) for text in task)

    @model_validator(mode="after")
    def _check(self) -> SourceOptions:
        if self.name == FRET:
            raise ValueError(f"{FRET!r} is the name of the run's own rows; choose another")
        unknown = sorted(set(self.columns) - set(ROLES[self.kind]))
        if unknown:
            known = ", ".join(ROLES[self.kind]) or "none: its files are BEIR's"
            raise ValueError(f"columns: {unknown[0]!r} is no role of {self.kind} ({known})")
        if self.negatives == "mined" and self.kind != "retrieval":
            raise ValueError(f"negatives: only retrieval sources have a corpus to mine, not {self.kind}")
        return self

    @property
    def tasks(self) -> tuple[str, ...]:
        """The task strings in use."""
        return self.task or TASKS[self.kind]

    @property
    def both_sides_alike(self) -> bool:
        """Whether the other side of a row is rendered as a query too."""
        return self.kind not in _ASYMMETRIC if self.symmetric is None else self.symmetric


class MixtureOptions(BaseModel):
    """Human-labelled data trained on together with FRet, and how often each source is drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sources: tuple[SourceOptions, ...] = ()
    sampling: Literal["proportional", "temperature", "uniform_task", "weights"] = Field(
        default="proportional",
        description="every row once an epoch; a source's share by its size^(1/temperature); every kind of task equally "
        "often; or the sources' weights",
    )
    temperature: float = Field(default=2.0, ge=1, description="1 is proportional; the larger, the more uniform")
    fret_weight: float | None = Field(default=None, gt=0, description="of the FRet rows, with sampling: weights")
    fret_kinds: tuple[FretKind, ...] = Field(
        default=(), description="FRet rows of these kinds of task only (paper, table 2); default: of all"
    )
    fret_limit: int | None = Field(default=None, ge=1, description="FRet rows kept at most, a sample by the seed")
    single_source: bool = Field(default=True, description="the rows of a batch come from one source")

    @model_validator(mode="after")
    def _check(self) -> MixtureOptions:
        counted = Counter(source.name for source in self.sources)
        for name, times in counted.items():
            if times > 1:
                raise ValueError(f"{times} sources are called {name!r}; give each a name of its own")
        weights = {source.name: source.weight for source in self.sources} | {FRET: self.fret_weight}
        for name, weight in weights.items():
            key = "fret_weight" if name == FRET else f"the weight of {name}"
            if self.sampling == "weights" and weight is None:
                raise ValueError(f"sampling: weights needs {key} too")
            if self.sampling != "weights" and weight is not None:
                raise ValueError(f"{key} is read only with sampling: weights, not {self.sampling}")
        return self


def _name_of(path: str, split: str) -> str:
    """Name a source by its folder or file: ``data/msrp`` and ``data/msrp/train.jsonl`` are both ``msrp``."""
    if path.startswith(HUB):
        return path.removeprefix(HUB).strip("/")
    place = PurePath(path)
    stem = place.stem if place.suffix.lower() in SUFFIXES else place.name
    return (place.parent.name if stem in {split, *_SPLITS} else stem) or "data"
