"""What goes over the wire: requests, answers and errors, in the shapes of OpenAI's API where it has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, StrictStr

from gecko.serve import search

MOST_INPUTS = 2048
MOST_CHARS = 100_000  # of one text; no encoder reads a tenth of it, and a tokenizer takes its time
MOST_TOKENS = 32_768
MOST_FOUND = 100


def _whole(value: object) -> object:
    """256.0 is an integer to JSON, and some clients write it so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


InputType = Literal["query", "document", "passage", "search_query", "search_document"]
Body = Annotated[StrictStr, Field(min_length=1, max_length=MOST_CHARS)]
# fail_fast: a request may hold millions of wrong ids, and each would be told.
TokenId = Annotated[StrictInt, Field(ge=0)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=MOST_TOKENS, fail_fast=True)]
Value = Annotated[StrictStr, Field(max_length=2000)]
Whole = Annotated[StrictInt, BeforeValidator(_whole)]
Task = Annotated[StrictStr | None, Field(max_length=2000)]


class Request(BaseModel):
    """A field that is misspelt is told, not passed over."""

    model_config = ConfigDict(extra="forbid", strict=True)


class EmbeddingRequest(Request):
    """OpenAI's, with ``input_type``, ``task`` and ``truncate`` beside."""

    input: (
        Body
        | Annotated[list[Body], Field(min_length=1, max_length=MOST_INPUTS, fail_fast=True)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MOST_INPUTS, fail_fast=True)]
    ) = Field(description="A text, texts, token ids of this model's tokenizer, or lists of such.")
    model: StrictStr | None = Field(None, description="As /v1/models names it; may be left out.")
    dimensions: Whole | None = Field(None, ge=1, description="The first so many, made unit length again.")
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: float32, little-endian.")
    input_type: InputType | None = Field(None, description="Adds the model's prompt; without it, the text as it is.")
    task: Task = Field(
        None,
        description="The task's words, put before a query; without input_type the texts are compared with their like.",
    )
    truncate: bool = Field(True, description="false refuses a text longer than the model reads.")
    user: StrictStr | None = Field(None, description="Not used.")


class EmbeddingItem(BaseModel):
    """One vector."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens the model read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """The vectors, in the order of the input."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: Usage


class SearchRequest(Request):
    """A search of the index."""

    query: Body = Field(description="Any text; no query syntax.")
    k: Whole = Field(10, ge=1, le=MOST_FOUND, description="How many passages.")
    mode: search.Mode = Field("dense", description="By meaning, by words (BM25), or both fused.")
    dimensions: Whole | None = Field(None, ge=1, description="Compare only the first so many.")
    task: Task = Field(None, description="Words for the query's prompt.")
    where: dict[search.Field, Value | Annotated[list[Value], Field(max_length=1000)]] = Field(
        default_factory=dict, description="Field: value or values; one that ends in * is a beginning."
    )
    model: StrictStr | None = Field(None, description="Which model's index, where a base is served too.")


class Found(BaseModel):
    """A passage; ``highlights`` are [start, end) in characters (code points) of the text."""

    rank: int
    score: float
    passage_id: str
    source_id: str
    title: str
    text: str
    source: str
    lang: str
    highlights: list[tuple[int, int]]
    title_highlights: list[tuple[int, int]]
    grade: int | None = Field(None, description="A person's thumb: 2 relevant, 1 partly, 0 not.")


class SearchResponse(BaseModel):
    """Passages, best first; scores are cosines, BM25's or fused ranks, by mode."""

    query: str
    model: str
    mode: search.Mode
    dimensions: int
    hits: list[Found]


class Searchable(BaseModel):
    """One model's index."""

    model: str
    base: bool
    dimensions: int


class SearchFacts(BaseModel):
    """What can be searched, for the page."""

    models: list[Searchable]
    dimensions: list[int]
    passages: int
    thumbs: bool


class ThumbRequest(Request):
    """A person's word on a passage that was found."""

    query: Body
    passage_id: Value
    grade: Annotated[Whole, Field(ge=0, le=2)] | None = Field(
        description="2 relevant, 1 partly, 0 not; null takes it back."
    )


class ThumbResponse(BaseModel):
    """How many judgements the query has now, and how many of its candidates are still open."""

    query_id: str
    judged: int
    open: int


class ErrorFacts(BaseModel):
    """What is wrong, and what to do about it."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """OpenAI's shape of an error."""

    error: ErrorFacts


def error_body(message: str, kind: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Make the body of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
