"""The recipe: all a run does, as frozen models that are the Python API, the YAML and the command line at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gecko.corpus.build import CorpusOptions
from gecko.errors import UsageError
from gecko.mixture.audit_options import AuditOptions
from gecko.mixture.format import TextFormat
from gecko.mixture.options import QUERIES, TASKS, TITLES, MixtureOptions, SourceOptions
from gecko.teacher.options import TeacherOptions
from gecko.teacher.schedule import Thrifty
from gecko.train.loss_options import (
    CandidateOptions,
    DistillOptions,
    GuardOptions,
    HardnessOptions,
    ListwiseOptions,
    MarginMseOptions,
    PositivesOptions,
    RehearsalOptions,
    SpreadOptions,
)
from gecko.train.student_options import BackboneOptions, SoupOptions

Dims = tuple[Annotated[int, Field(ge=1)], ...]

PREFINETUNED = "prefinetuned"  # as fret.miner: the model that the run's own pre-finetuning makes


class Section(BaseModel):
    """A part of the recipe: frozen, its numbers finite, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FretOptions(Section):
    """FRet steps 1 and 2 (paper, section 3.2 and appendix A)."""

    limit: int = Field(default=2000, ge=1, description="seed passages to write queries for")
    miner: str = Field(
        default="all-MiniLM-L6-v2", description="a model; prefinetuned: the one that prefinetune makes of the student"
    )
    neighbours: int = Field(default=20, ge=1, description="N: passages retrieved beside the seed")
    miner_task: bool = Field(default=False, description="embed task and query together, as the paper does")
    search: Literal["auto", "exact", "hnsw", "ivfpq"] = Field(
        default="auto", description="auto: exact up to 5 million passages, then ivfpq (docs/scale.md)"
    )
    rrf_k: float = Field(default=0.0, ge=0, description="constant of reciprocal rank fusion; the paper's formula has 0")
    positive: Literal["p1", "seed"] = "p1"
    negative: Literal["last", "hardest", "random", "none"] = "hardest"
    max_negative_rc: float = Field(default=1.0, description="'hardest' takes a candidate graded at most this")
    negative_margin: float = Field(
        default=0.95, description="a negative above this share of the positive's score is unsafe"
    )
    min_positive_rc: float = Field(default=2.0, description="below it the query is unanswerable and set aside")
    styles: dict[str, float] = Field(default_factory=dict, description="the offline teacher's mix of query styles")

    @property
    def thrifty(self) -> Thrifty:
        """The schedule that stops asking once these options' positive and negative are found."""
        return Thrifty(negative=self.max_negative_rc, answerable=self.min_positive_rc)


class TrainOptions(Section):
    """Fine-tuning (paper, section 3.3)."""

    student: str = "all-MiniLM-L6-v2"
    backbone: BackboneOptions = BackboneOptions()
    text_format: TextFormat = "gecko"
    epochs: float = Field(default=2.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1, description="stop there, however many epochs are left")
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=5e-5, gt=0)
    warmup: float = Field(default=0.1, ge=0, le=1, description="share of the steps")
    weight_decay: float = Field(default=0.01, ge=0)
    temperature: float = Field(default=0.05, gt=0)
    in_batch: bool = True
    same_tower: bool = True
    mask_duplicates: bool = True
    dims: Dims = (384, 256, 128)
    negatives: int = Field(default=1, ge=0, description="hard negatives used of each row")
    mini_batch: int = Field(
        default=32, ge=0, description="texts encoded at once under the gradient cache; 0 = no cache"
    )
    mini_tokens: int = Field(
        default=0, ge=0, description="instead of mini_batch: tokens encoded at once, so that of short texts many are"
    )
    gather: bool = Field(default=True, description="the rows of all processes make one batch")
    contrast: float = Field(default=1.0, ge=0, description="weight of equation 3 beside what follows")
    guard: GuardOptions = GuardOptions()
    hardness: HardnessOptions = HardnessOptions()
    spread: SpreadOptions = SpreadOptions()
    distill: DistillOptions = DistillOptions()
    listwise: ListwiseOptions = ListwiseOptions()
    margin_mse: MarginMseOptions = MarginMseOptions()
    positives: PositivesOptions = PositivesOptions()
    candidates: CandidateOptions = CandidateOptions()
    rehearse: RehearsalOptions = RehearsalOptions()
    max_length: int = Field(default=256, ge=8, description="tokens")
    bf16: bool | None = Field(default=None, description="default: where the hardware has it")
    soup: SoupOptions = SoupOptions()
    report_to: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _teaches_something(self) -> TrainOptions:
        if not (self.contrast or self.spread.weight or self.distill.embedder or self.reads_scores):
            raise ValueError("contrast is 0 and no other objective is on")
        return self

    @property
    def reads_scores(self) -> bool:
        """Whether training reads the ranker's scores of a row's candidates."""
        return self.listwise.weight > 0 or self.margin_mse.weight > 0

    @property
    def embedders(self) -> tuple[str, ...]:
        """Embedders whose vectors of the training texts are read: guide and teacher, each once."""
        return tuple(dict.fromkeys(name for name in (self.guard.embedder, self.distill.embedder) if name))


class PrefinetuneOptions(Section):
    """Pre-finetuning on pairs of texts (paper, section 3.1, equation 2): off unless it names pairs.

    The student, its backbone's changes, the text format, ``bf16`` and ``report_to`` are those of ``train``.
    """

    corpus: bool = Field(default=False, description="titles with their bodies, of the run's own passages")
    corpus_task: str = Field(
        default="search result", pattern=r"\S", description="put before a title, as before a query"
    )
    title_repeats: int = Field(
        default=3, ge=1, description="a title of more passages than this tells too little of one"
    )
    queries: bool = Field(default=False, description="the run's own queries with their seeds, but the held-out ones")
    sources: tuple[SourceOptions, ...] = Field(default=(), description="pair data, as the mixture's sources name it")
    single_source: bool = Field(default=True, description="the rows of a batch come from one source")
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1, description="stop there, however many epochs are left")
    batch_size: int = Field(default=1024, ge=2, description="the larger, the harder the negatives it holds")
    mini_batch: int = Field(
        default=32, ge=0, description="texts encoded at once under the gradient cache; 0 = no cache"
    )
    mini_tokens: int = Field(
        default=0, ge=0, description="instead of mini_batch: tokens encoded at once, so that of short texts many are"
    )
    learning_rate: float = Field(default=5e-5, gt=0)
    warmup: float = Field(default=0.1, ge=0, le=1, description="share of the steps")
    weight_decay: float = Field(default=0.01, ge=0)
    temperature: float = Field(default=0.05, gt=0)
    mask_duplicates: bool = True
    dims: Dims = Field(default=(), description="Matryoshka sizes; the paper has them in fine-tuning only")
    max_length: int = Field(default=256, ge=8, description="tokens")

    @field_validator("sources")
    @classmethod
    def _one_short_task(cls, sources: tuple[SourceOptions, ...]) -> tuple[SourceOptions, ...]:
        """Give a source without a task the short label of its kind alone: the paper has one short word a data set."""
        return tuple(
            source if source.task else source.model_copy(update={"task": TASKS[source.kind][:1]}) for source in sources
        )

    @model_validator(mode="after")
    def _check(self) -> PrefinetuneOptions:
        taken = {TITLES: self.corpus, QUERIES: self.queries}
        for source in self.sources:
            if source.kind in {"classification", "clustering"}:
                raise ValueError(f"{source.name}: {source.kind} needs hard negatives, so it belongs in mixture.sources")
            if source.negatives == "mined" or source.same_tower or source.in_batch is False:
                raise ValueError(f"{source.name}: equation 2 has in-batch negatives only; leave its switches out")
            if taken.get(source.name):
                raise ValueError(f"{source.name!r} is the name of the run's own pairs; choose another")
        _ = self.mixture  # which checks names and weights
        return self

    @property
    def active(self) -> bool:
        """Whether there are pairs to train on."""
        return bool(self.corpus or self.queries or self.sources)

    @property
    def mixture(self) -> MixtureOptions:
        """How the pairs are sampled, and their sources but the run's own."""
        return MixtureOptions(sources=self.sources, single_source=self.single_source)

    def batch_of(self, counts: Iterable[int]) -> int:
        """Rows of a batch where the sources have so many: a batch larger than there are to draw from is cut to that."""
        most = max(counts) if self.single_source else sum(counts)
        return min(self.batch_size, max(most, 2))

    def training(self, train: TrainOptions) -> TrainOptions:
        """The settings of equation 2: one direction, in-batch negatives, nothing else in the denominator."""
        own = self.model_dump(include=set(TrainOptions.model_fields))
        shared = train.model_dump(include={"student", "backbone", "text_format", "bf16", "report_to"})
        return TrainOptions(in_batch=True, same_tower=False, negatives=0, **own, **shared)


class GateOptions(Section):
    """The no-harm gate: what is shipped is the best on held-out queries of base, tuned and blends between them."""

    dev_share: float = Field(default=0.1, gt=0, lt=1, description="share of the seeds held out")
    max_dev: int = Field(default=200, ge=1)
    alphas: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = Field(
        default=None,
        min_length=1,
        description="blends tried; default: 0.25, 0.5, 0.75 and 1, for the offline teacher's queries 0.35",
    )
    probe: bool = Field(default=True, description="also ask a general-purpose probe, against forgetting")
    max_probe_loss: float = Field(default=0.01, ge=0, description="largest loss of nDCG@10 allowed on the probe")
    min_gain: float = Field(default=0.0, ge=0, description="gain on dev that a tuned model must show")


class EvaluationOptions(Section):
    """What the run measures itself on at the end."""

    beir: tuple[str, ...] = ()
    tasks: tuple[str, ...] = Field(
        default=(), description="folders of general tasks, against forgetting (docs/evaluation.md)"
    )
    tasks_limit: int | None = Field(default=None, ge=2, description="items of a general task at most, a fixed sample")
    base: str | None = Field(default=None, description="the model before; default: the student")
    dims: Dims = (384, 256, 128)
    split: str = "test"


class Recipe(Section):
    """A whole run."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    corpus: CorpusOptions = CorpusOptions()
    teacher: TeacherOptions = TeacherOptions()
    prefinetune: PrefinetuneOptions = PrefinetuneOptions()
    fret: FretOptions = FretOptions()
    mixture: MixtureOptions = MixtureOptions()
    train: TrainOptions = TrainOptions()
    gate: GateOptions = GateOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    audit: AuditOptions = AuditOptions()

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.audit.action == "drop" and not self.audits:
            raise ValueError(
                "audit.action is drop, but no evaluation set is named: evaluation.beir, .tasks, audit.against"
            )
        if self.fret.miner == PREFINETUNED and not self.prefinetune.active:
            raise ValueError(f"fret.miner is {PREFINETUNED}, but prefinetune names no pairs to make it with")
        return self

    @property
    def base(self) -> str:
        """The model that the evaluation calls before."""
        return self.evaluation.base or self.train.student

    @property
    def evaluation_places(self) -> list[tuple[str, str]]:
        """Where the evaluation sets lie that rows are audited against, and the split of each."""
        split = self.evaluation.split
        named = [(place, split) for place in (*self.evaluation.beir, *self.audit.against)]
        return named + [(place, "test") for place in self.evaluation.tasks]

    @property
    def audits(self) -> bool:
        """Whether training rows are audited: unless that is off or there is nothing to audit them against."""
        return self.audit.action != "off" and bool(self.evaluation_places)

    def is_miner(self, model: str) -> bool:
        """Whether a model is the one that encodes the corpus, so that its vectors are at hand."""
        return model == self.fret.miner != PREFINETUNED


def load_recipe(path: Path | None, overrides: Sequence[str] = (), corpus: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and lay command-line settings over it.

    Mappings merge key by key; anything else is replaced.

    Args:
        path: A YAML file; None starts from the defaults.
        overrides: ``a.b=value`` settings; the value is read as YAML.
        corpus: Replaces ``corpus.sources`` when not empty.

    Raises:
        UsageError: The file is missing or no YAML, or a key or value is not part of a recipe.
    """
    values = _read_yaml(path) if path is not None else {}
    for override in overrides:
        _apply(values, override)
    if corpus:
        section = values.setdefault("corpus", {})
        if isinstance(section, dict):  # anything else is reported by the validation
            section["sources"] = list(corpus)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        unknown = first["type"] == "extra_forbidden"
        hint = _nearest(key) if unknown else _about_value(first["loc"], first["input"], first["type"])
        raise UsageError(": ".join(filter(None, ("recipe", key, message))), hint) from error


def dump_recipe(recipe: Recipe) -> str:
    """Write a recipe as YAML that :func:`load_recipe` reads back to an equal one."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the recipe {path}: {error.strerror}", "recipes/ holds ready ones") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {str(error).splitlines()[0]}", "recipes/ holds examples") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{path} does not hold a recipe", "it should be a mapping like recipes/domain.yaml")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {override}: expected a.b=value", "for example --set train.epochs=1")
    *parents, leaf = key.split(".")
    node = values
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise UsageError(f"--set {override}: {parent} is not a section", _nearest(key))
    try:
        node[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {override}: the value is not YAML", "quote it") from error


def _about_value(place: Sequence[int | str], value: object, kind: str) -> str:
    """Say of a known key with a wrong value what it is, or what YAML made of the text."""
    default: object = Recipe()
    for part in place:
        default = getattr(default, str(part), default) if isinstance(default, BaseModel) else default
    if isinstance(default, BaseModel):
        return "see recipes/domain.yaml for the section's keys"
    if kind == "string_type":
        key = ".".join(map(str, place))
        return f"it was read as {value!r}; quote the text: --set '{key}=\"TEXT\"'"
    return f"the default is {list(default) if isinstance(default, tuple) else default}"


def _nearest(key: str) -> str:
    """Suggest the known key that is spelt most like ``key``."""
    import difflib

    close = difflib.get_close_matches(key, _keys(Recipe), n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else "see recipes/domain.yaml for the keys"


def _keys(section: type[BaseModel], before: str = "") -> list[str]:
    """All keys of a section and of the sections in it."""
    known = []
    for name, field in section.model_fields.items():
        known.append(f"{before}{name}")
        if isinstance(field.default, BaseModel):
            known += _keys(type(field.default), f"{before}{name}.")
    return known
