"""Unified rows as columns of a data set: the texts the encoder reads, and the facts about them that the loss reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

from gecko.errors import GeckoError
from gecko.mixture.format import SourceText, TextFormat, render_query, source_passage, source_query
from gecko.mixture.options import MixtureOptions, SourceOptions
from gecko.recipe import TrainOptions
from gecko.records import UnifiedRow
from gecko.train.loss_options import LossOptions

# The columns that are not texts, and what their rows are stacked to.
_FACTS = {
    "filled": torch.bool,
    "in_batch": torch.bool,
    "same_tower": torch.bool,
    "scores": torch.float32,
    "texts": torch.int64,
}
_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class ColumnLayout:
    """How many columns of each kind stand behind a row's query and positive, in this order.

    Attributes:
        negatives: Hard negatives, of which equation 3 reads.
        positives: Further positives.
        candidates: Texts that only have a score.
    """

    negatives: int
    positives: int = 0
    candidates: int = 0

    @property
    def names(self) -> list[str]:
        """Their names."""
        kinds = (("negative", self.negatives), ("positive", self.positives), ("candidate", self.candidates))
        return [f"{kind}_{place + 1}" for kind, count in kinds for place in range(count)]


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A unified row with its texts sorted by what training makes of them.

    Attributes:
        row: The unified row.
        negatives: The hard negatives that are used.
        positives: Candidates that count as positives too.
        candidates: Other candidates with a score.
        scores: The teacher's score of each text that has one.
        in_batch: Whether other rows' positives count as its negatives.
        same_tower: Whether other rows' queries do.
    """

    row: UnifiedRow
    negatives: tuple[str, ...]
    positives: tuple[str, ...]
    candidates: tuple[str, ...]
    scores: Mapping[str, float]
    in_batch: bool
    same_tower: bool


def training_rows(
    rows: Sequence[UnifiedRow], options: TrainOptions, loss: LossOptions, mixture: MixtureOptions
) -> list[TrainingRow]:
    """Sort the texts of unified rows by what training makes of them.

    Args:
        rows: The unified rows.
        options: How many of the texts are used.
        loss: Whether scores are read, and the switches where a row's source has none of its own.
        mixture: The sources with their switches.
    """
    sources = {source.name: source for source in mixture.sources}
    return [_training_row(row, options, loss, sources.get(row.source)) for row in rows]


def _training_row(
    row: UnifiedRow, options: TrainOptions, loss: LossOptions, source: SourceOptions | None
) -> TrainingRow:
    negatives = row.negatives[: options.negatives]
    own = {row.positive, *negatives}
    graded = (c.text for c in row.candidates if c.rc is not None and c.rc >= options.positives.min_rc)
    positives = tuple(text for text in graded if text not in own)[: options.positives.extra]
    scores: dict[str, float] = {}
    candidates: tuple[str, ...] = ()
    if loss.reads_scores:
        found = {c.text: c.rc if options.candidates.score == "rc" else c.rrf for c in row.candidates}
        scores = {text: score for text, score in found.items() if score is not None}
        left = max(options.candidates.count - len(negatives) - len(positives), 0)
        candidates = tuple(text for text in scores if text not in own.union(positives))[:left]
    in_batch = source.in_batch if source and source.in_batch is not None else loss.in_batch
    same_tower = source.same_tower if source and source.same_tower is not None else loss.same_tower
    return TrainingRow(row, negatives, positives, candidates, scores, in_batch, same_tower)


def describe_rows(rows: Sequence[TrainingRow], options: TrainOptions, loss: LossOptions) -> list[str]:
    """Say in lines what rows hold for the switches that are on.

    Raises:
        GeckoError: They hold nothing that an objective could learn from.
    """
    lines = []
    if loss.reads_scores:
        counts = [len(_scored(row)) for row in rows if row.row.positive in row.scores and len(_scored(row)) > 1]
        if not counts:
            score = options.candidates.score
            raise GeckoError(
                f"train.listwise and train.margin_mse read scores of candidates, and no row has any ({score})",
                "only FRet rows have them; where the ranker grades nothing, --set train.candidates.score=rrf",
            )
        mean = sum(counts) / len(counts)
        lines.append(f"training: {len(counts):,} of {len(rows):,} rows have scored texts, {mean:.1f} each")
    if options.positives.extra:
        several = sum(bool(row.positives) for row in rows)
        least = options.positives.min_rc
        lines.append(
            f"training: {several:,} of {len(rows):,} rows have more than one positive, of rc {least:g} or more"
        )
    if loss.hardness.alpha:
        hard = sum(bool(row.negatives) for row in rows)
        if not hard:
            raise GeckoError("train.hardness weighs hard negatives, and no row has one", "leave train.hardness out")
        lines.append(f"training: {hard:,} of {len(rows):,} rows have a hard negative to be weighed")
    return lines


def _scored(row: TrainingRow) -> set[str]:
    return row.scores.keys() & {row.row.positive, *row.negatives, *row.positives, *row.candidates}


def column_layout(rows: Sequence[TrainingRow], options: TrainOptions) -> ColumnLayout:
    """Tell how many columns rows need; hard negatives have as many as the options say."""
    return ColumnLayout(
        negatives=options.negatives,
        positives=max((len(row.positives) for row in rows), default=0),
        candidates=max((len(row.candidates) for row in rows), default=0),
    )


def make_dataset(
    rows: Sequence[TrainingRow],
    layout: ColumnLayout,
    text_format: TextFormat,
    prompts: Mapping[str, str],
    number: Callable[[SourceText], int] | None = None,
) -> Any:  # noqa: ANN401
    """Make the trainer's data set: a column a text, and the facts of :class:`RowCollator`.

    The unified format's strings are rendered already; a plain text gets the student's own prompt here, that of queries
    on both sides of a symmetric row.

    Args:
        rows: The rows.
        layout: Their columns.
        text_format: How queries are rendered.
        prompts: The student's prompts, which plain texts are given.
        number: Numbers the texts whose vectors another embedder gives; None where none does.
    """
    from datasets import Dataset

    plain = text_format == "plain"
    asks, tells = (prompts["query"], prompts["document"]) if plain else ("", "")
    columns: dict[str, list[Any]] = {name: [] for name in ("query", "positive", *layout.names)}
    facts: dict[str, list[Any]] = {name: [] for name in ("filled", "in_batch", "same_tower")}
    if any(made.scores for made in rows):
        facts["scores"] = []
    if number is not None:
        facts["texts"] = []
    for made in rows:
        row = made.row
        before = asks if row.symmetric else tells
        texts = [
            row.positive,
            *_padded(made.negatives, layout.negatives),
            *_padded(made.positives, layout.positives),
            *_padded(made.candidates, layout.candidates),
        ]
        columns["query"].append(asks + render_query(row.task, row.query, text_format))
        for name, text in zip(("positive", *layout.names), texts, strict=True):
            columns[name].append("" if text is None else before + text)
        facts["filled"].append([text is not None for text in texts[1:]])
        facts["in_batch"].append(made.in_batch)
        facts["same_tower"].append(made.same_tower)
        if "scores" in facts:
            facts["scores"].append([_NAN if text is None else made.scores.get(text, _NAN) for text in texts])
        if number is not None:
            found = [source_query(row), *(source_passage(row, text, text_format) for text in texts)]
            facts["texts"].append([-1 if source is None else number(source) for source in found])
    return Dataset.from_dict({**columns, **facts})


def _padded(texts: Sequence[str], count: int) -> list[str | None]:
    return [*texts, *[None] * (count - len(texts))]


@dataclass
class RowCollator(SentenceTransformerDataCollator):
    """Tokenises the text columns as Sentence-Transformers does and stacks the facts of the rows into the label.

    The label is a mapping of tensors: ``filled`` (B, S), which of the S other columns hold a text; ``in_batch`` and
    ``same_tower`` (B,); and where they are used ``scores`` (B, 1 + S) and ``texts`` (B, 2 + S), all as
    :class:`BatchLayout` has them.
    """

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate rows."""
        texts = [{name: value for name, value in row.items() if name not in _FACTS} for row in features]
        facts = {
            name: torch.tensor([row[name] for row in features], dtype=dtype)
            for name, dtype in _FACTS.items()
            if name in features[0]
        }
        return {**super().__call__(texts), "label": facts}
