"""How a teacher is asked: the recipe's section of that name."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from gecko.teacher.protocol import Rung
from gecko.teacher.wishes import PromptOptions


def _without_secrets(address: str) -> str:
    try:
        named = "@" in urlsplit(address).netloc
    except ValueError as error:
        raise ValueError("the address is not a URL") from error
    if named:
        raise ValueError("an address holds no user and no password: the recipe is written down, and the run keeps it")
    return address


Address = Annotated[str, AfterValidator(_without_secrets)]
# The name of a variable; a key itself, put there by mistake, has characters that no name has.
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


def _without_code(arguments: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
    if "trust_remote_code" in arguments:
        raise ValueError("code that comes with a model is never run: leave trust_remote_code out")
    return arguments


Arguments = Annotated[dict[str, str | int | float | bool], AfterValidator(_without_code)]


class PriceOptions(BaseModel):
    """US dollars for a million tokens, for a model that the table does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached: float | None = Field(default=None, ge=0, description="prompt tokens from the server's cache")


class RankingOptions(BaseModel):
    """What differs for the teacher of step 2; what is left out is as in the section around it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    base_url: Address | None = Field(default=None, description="its own address; no common key is sent there")
    key_variable: Variable | None = Field(default=None, description="environment variable with its key")
    in_flight: int | None = Field(default=None, ge=1, le=1024)
    timeout: float | None = Field(default=None, gt=0)
    batch_size: int | None = Field(default=None, ge=1)
    context: int | None = Field(default=None, ge=256)
    batch: bool | None = None
    poll_seconds: float | None = Field(default=None, gt=0)
    price: PriceOptions | None = None


class TeacherOptions(BaseModel):
    """Which language model writes the queries and ranks the candidates, and how it is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    spec: str = "offline"
    writer: str | None = Field(default=None, description="another teacher for step 1; default: spec")
    ranker: str | None = Field(default=None, description="another teacher for step 2; default: spec")
    base_url: Address | None = Field(default=None, description="address of an OpenAI-compatible server, with its /v1")
    key_variable: Variable | None = Field(
        default=None, description="environment variable with its key; default: GECKO_API_KEY or OPENAI_API_KEY"
    )
    in_flight: int = Field(default=32, ge=1, le=1024, description="calls under way at once, at most")
    timeout: float = Field(default=120.0, gt=0, description="seconds for one call")
    batch_size: int | None = Field(
        default=None, ge=1, description="asks that a model in this process, or a ray-vllm worker, takes at once"
    )
    context: int = Field(default=4096, ge=256, description="llama-cpp: tokens of a prompt and its reply")
    vllm: Arguments = Field(
        default={}, description="ray-vllm: arguments of vLLM's engine, such as tensor_parallel_size"
    )
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
    ranking: RankingOptions = RankingOptions()

    def of_writer(self) -> tuple[str, TeacherOptions]:
        """SPEC of the teacher of step 1, and how it is asked."""
        spec = self.writer or self.spec
        return spec, self._batched_if_openai(spec)

    def of_ranker(self) -> tuple[str, TeacherOptions]:
        """SPEC of the teacher of step 2, and how it is asked."""
        spec = self.ranker or self.spec
        own = {name: value for name, value in self.ranking if value is not None}
        if "base_url" in own:
            own.setdefault("key_variable", "")  # none: the common key is for another server
        return spec, self.model_copy(update=own)._batched_if_openai(spec)

    def _batched_if_openai(self, spec: str) -> TeacherOptions:
        """Without the Batch API for a teacher that has none, where it is meant for the other one."""
        other = any(name.startswith("openai:") for name in (self.writer or self.spec, self.ranker or self.spec))
        mixed = other and not spec.startswith("openai:")
        return self.model_copy(update={"batch": False}) if mixed else self
