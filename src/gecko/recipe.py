"""The recipe: all a run does, as frozen models that are the Python API, the YAML and the command line at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gecko.corpus.build import CorpusOptions
from gecko.errors import UsageError
from gecko.mixture.format import TextFormat
from gecko.mixture.options import MixtureOptions
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
    SpreadOptions,
)

Dims = tuple[Annotated[int, Field(ge=1)], ...]


class Section(BaseModel):
    """A part of the recipe: frozen, its numbers finite, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FretOptions(Section):
    """FRet steps 1 and 2 (paper, section 3.2 and appendix A)."""

    limit: int = Field(default=2000, ge=1, description="seed passages to write queries for")
    miner: str = "all-MiniLM-L6-v2"
    neighbours: int = Field(default=20, ge=1, description="N: passages retrieved beside the seed")
    miner_task: bool = Field(default=False, description="embed task and query together, as the paper does")
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
    text_format: TextFormat = "gecko"
    epochs: float = Field(default=2.0, gt=0)
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
    max_length: int = Field(default=256, ge=8, description="tokens")
    bf16: bool | None = Field(default=None, description="default: where the hardware has it")
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
    fret: FretOptions = FretOptions()
    mixture: MixtureOptions = MixtureOptions()
    train: TrainOptions = TrainOptions()
    gate: GateOptions = GateOptions()
    evaluation: EvaluationOptions = EvaluationOptions()

    @property
    def base(self) -> str:
        """The model that the evaluation calls before."""
        return self.evaluation.base or self.train.student


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
        raise UsageError(f"recipe: {key}: {message}", hint) from error


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
