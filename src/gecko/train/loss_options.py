"""The switches of fine-tuning beside equation 3: the recipe's nested ``train`` sections, and all the loss reads.

Each switch is off by default, so that the default loss is the paper's. ``docs/training.md`` says what each is for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GuardOptions(_Section):
    """Masks false negatives: those that a guide embedder scores above the row's positive (GISTEmbed, 2402.16829)."""

    embedder: str | None = Field(default=None, description="the guide, for example the miner; default: no guard")
    margin: float = Field(default=0.0, ge=0, description="a negative this close below the positive is masked too")
    kind: Literal["absolute", "relative"] = Field(
        default="absolute", description="the margin in cosine, or as a share of the positive's"
    )
    hard_negatives: bool = Field(default=False, description="judge the row's own hard negatives too")


class HardnessOptions(_Section):
    """Weighs rows by how near their hard negative is: exp(alpha * sg[cos(q, p-)]) (EmbeddingGemma, 2509.20354)."""

    alpha: float = Field(default=0.0, ge=0, description="EmbeddingGemma: 5; 0 is off")
    scales: Literal["negative", "row"] = Field(
        default="negative", description="the negative's term in the denominator, or the row's loss (mean weight 1)"
    )


class SpreadOptions(_Section):
    """Pushes different queries, and different positives, apart (1708.06320; EmbeddingGemma, 2509.20354)."""

    weight: float = Field(default=0.0, ge=0, description="EmbeddingGemma: 1; 0 is off")


class DistillOptions(_Section):
    """Draws every text's vector, through a trained projection, to a teacher embedder's (2301.12005, 2602.15547)."""

    embedder: str | None = Field(default=None, description="the teacher embedder; default: no distillation")
    weight: float = Field(default=1.0, gt=0)


class RehearsalOptions(_Section):
    """Holds general texts near the vectors they had before training (learning without forgetting, 1606.09282)."""

    weight: float = Field(default=0.0, ge=0, description="0 is off")
    count: int = Field(default=64, ge=1, description="texts of each step")
    texts: str = Field(
        default="general",
        pattern=r"\S",
        description="general: English, of the package; words:LANGUAGE: made of its words; or a file, one text a line",
    )


class ListwiseOptions(_Section):
    """Draws the softmax over a row's candidates to that of the ranker's scores (2010.11386, 2607.27178)."""

    weight: float = Field(default=0.0, ge=0, description="0 is off")
    temperature: float | None = Field(default=None, gt=0, description="the student's; default: train.temperature")
    teacher_temperature: float = Field(default=0.3, gt=0, description="of the scores; rc goes from 0 to 3")


class MarginMseOptions(_Section):
    """Draws cosine margins between the positive and the other candidates to the ranker's (2010.02666)."""

    weight: float = Field(default=0.0, ge=0, description="0 is off")
    scale: float = Field(default=0.15, gt=0, description="cosine that a margin of 1 in the score stands for")


class PositivesOptions(_Section):
    """Counts other candidates that the ranker graded relevant as positives of the row too (RLHN, 2505.16967)."""

    extra: int = Field(default=0, ge=0, description="at most this many beside the positive; 0 is off")
    min_rc: float = Field(default=2.5, description="the least grade of such a candidate, 0 to 3")


class CandidateOptions(_Section):
    """Which candidates of a FRet row ``listwise`` and ``margin_mse`` see, and what counts as their score."""

    count: int = Field(default=8, ge=1, description="beside the positive, the hard negatives among them; best first")
    score: Literal["rc", "rrf"] = Field(default="rc", description="relevance 0 to 3, or the fused rank score")


@dataclass(frozen=True, slots=True)
class LossOptions:
    """All that the loss reads; the defaults are the paper's equation 3, with a mask of equal texts.

    Attributes:
        temperature: The divisor t of every cosine. The paper does not give its value.
        in_batch: Other rows' positives count as negatives, unless a row's source says otherwise.
        same_tower: Other rows' queries count as negatives (SamToNe), unless a row's source says otherwise.
        mask_duplicates: A text equal to the row's own query or positive never counts against it.
        dims: Matryoshka sizes, each with equal weight; empty means the full size only.
        mini_batch: Encode this many texts at a time and cache gradients (GradCache), so that memory is bounded by
            them and not by the batch; 0, with ``mini_tokens`` 0, keeps every activation.
        mini_tokens: Encode as many texts at a time as hold this many tokens, padding included, instead.
        contrast: Weight of equation 3.
        gather: Where several processes train, their rows make one batch.
    """

    temperature: float = 0.05
    in_batch: bool = True
    same_tower: bool = True
    mask_duplicates: bool = True
    dims: tuple[int, ...] = ()
    mini_batch: int = 0
    mini_tokens: int = 0
    contrast: float = 1.0
    gather: bool = True
    guard: GuardOptions = field(default_factory=GuardOptions)
    hardness: HardnessOptions = field(default_factory=HardnessOptions)
    spread: SpreadOptions = field(default_factory=SpreadOptions)
    distill: DistillOptions = field(default_factory=DistillOptions)
    listwise: ListwiseOptions = field(default_factory=ListwiseOptions)
    margin_mse: MarginMseOptions = field(default_factory=MarginMseOptions)

    @property
    def caches(self) -> bool:
        """Whether gradients are cached."""
        return self.mini_batch > 0 or self.mini_tokens > 0

    @property
    def reads_scores(self) -> bool:
        """Whether an objective reads the ranker's scores of a row's candidates."""
        return self.listwise.weight > 0 or self.margin_mse.weight > 0

    @property
    def embedders(self) -> tuple[str, ...]:
        """Embedders whose vectors of the training texts are read, each once."""
        return tuple(dict.fromkeys(name for name in (self.guard.embedder, self.distill.embedder) if name))
