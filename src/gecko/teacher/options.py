"""How a teacher is asked: the recipe's section of that name."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from gecko.teacher.prompting import PromptOptions
from gecko.teacher.protocol import Rung


class PriceOptions(BaseModel):
    """US dollars for a million tokens, for a model that the table does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached: float | None = Field(default=None, ge=0, description="prompt tokens from the server's cache")


class TeacherOptions(BaseModel):
    """Which language model writes the queries and ranks the candidates, and how it is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    spec: str = "offline"
    writer: str | None = Field(default=None, description="another teacher for step 1; default: spec")
    ranker: str | None = Field(default=None, description="another teacher for step 2; default: spec")
    base_url: str | None = Field(default=None, description="address of an OpenAI-compatible server, with its /v1")
    in_flight: int = Field(default=32, ge=1, le=1024, description="calls under way at once, at most")
    timeout: float = Field(default=120.0, gt=0, description="seconds for one call")
    batch_size: int | None = Field(default=None, ge=1, description="asks a model in this process takes at once")
    context: int = Field(default=4096, ge=256, description="llama-cpp: tokens of a prompt and its reply")
    temperature: float = Field(default=0.7, ge=0, le=2, description="of step 1; ranking is always greedy")
    reply_tokens: int = Field(default=300, ge=16, description="longest reply of step 1")
    batch: bool = Field(default=False, description="openai: through the Batch API, at half the price, within a day")
    poll_seconds: float = Field(default=60.0, gt=0, description="how often a batch is asked for")
    rung: Rung | Literal["auto"] = "auto"
    schedule: Literal["full", "thrifty"] = Field(
        default="full", description="thrifty asks for about a third of the scores (docs/results/relabel.md)"
    )
    max_usd: float | None = Field(default=None, gt=0, description="cap on the run's spend; needs a known price")
    max_tokens: int | None = Field(default=None, ge=1, description="cap on the run's input and output tokens")
    price: PriceOptions | None = Field(default=None, description="US dollars a million tokens; default: the table's")
    prompts: PromptOptions = PromptOptions()
