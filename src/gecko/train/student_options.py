"""The recipe's nested ``train`` sections of the student: what is changed of it, what is trained, what is merged."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LoraOptions(_Section):
    """Low-rank adapters in place of full training; the saved model has them merged into its weights."""

    rank: int = Field(default=0, ge=0, description="0 trains the weights themselves")
    alpha: float = Field(default=32.0, gt=0, description="the adapters' product is scaled by alpha / rank")
    targets: tuple[str, ...] = Field(default=(), description="names of the layers adapted; default: all linear ones")


class BackboneOptions(_Section):
    """What is changed of the student before it is trained, and which of its weights are trained."""

    attention: Literal["own", "bidirectional"] = Field(
        default="own", description="bidirectional lets a decoder attend both ways, as Gecko's encoder does"
    )
    pooling: Literal["own", "mean", "last"] = Field(
        default="own",
        description="last appends the end-of-text token and takes its vector; own is the student's, and of a model "
        "without Sentence-Transformers files mean, or last where it attends backwards only",
    )
    projection: int | None = Field(default=None, ge=1, description="width of a linear layer after pooling")
    projection_init: Literal["identity", "random"] = "identity"
    lora: LoraOptions = LoraOptions()
    freeze_embeddings: bool = Field(default=False, description="leave the token embeddings as they are")
    freeze_layers: int = Field(default=0, ge=0, description="leave this many of the first layers as they are")
    gradient_checkpointing: bool = Field(default=False, description="less memory for one more forward pass")

    @model_validator(mode="after")
    def _check(self) -> BackboneOptions:
        if self.lora.rank and (self.freeze_embeddings or self.freeze_layers):
            raise ValueError("lora freezes all of the student's own weights: leave freeze_* out")
        return self

    @property
    def reshapes(self) -> bool:
        """Whether the student's vectors differ from those of the model it is named after, before any training."""
        return (self.attention, self.pooling, self.projection) != ("own", "own", None)


class SoupOptions(_Section):
    """The model as a soup of its own training's checkpoints."""

    last: int = Field(default=1, ge=1, le=5, description="checkpoints merged, the newest; 1 is the last step's weights")
    method: Literal["mean", "slerp"] = "mean"
