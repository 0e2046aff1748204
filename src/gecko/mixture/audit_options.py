"""How training rows are audited against the evaluation sets: the recipe's ``audit`` section."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class AuditOptions(BaseModel):
    """What is looked for, and what becomes of a training row that asks what an evaluation set asks."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    action: Literal["warn", "drop", "off"] = Field(
        default="warn", description="warn: say so; drop: also put the rows into quarantine; off: do not look"
    )
    against: tuple[str, ...] = Field(
        default=(), description="more evaluation sets, beside those of evaluation.beir and evaluation.tasks"
    )
    documents: bool = Field(default=True, description="also count the texts shared with documents; never dropped")
    ngram: int = Field(default=13, ge=3, description="words in a row that two texts may not share")
    common: int = Field(
        default=10, ge=0, description="a run of words in more texts of a set than this is boilerplate; 0 counts all"
    )
    near: float = Field(
        default=0.8, ge=0, le=1, description="Jaccard similarity of the words of near-duplicate questions; 0 = off"
    )
    cosine: float | None = Field(
        default=None, gt=0, le=1, description="also by the miner's vectors, from this cosine, such as 0.95; encodes"
    )

    @field_validator("action", mode="before")
    @classmethod
    def _off(cls, action: Any) -> Any:  # noqa: ANN401
        return "off" if action is False else action  # which is what YAML makes of a bare off
