"""What the pipeline asks of a teacher, and what a teacher says it can do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from gecko.records import GeneratedQuery, Passage

# Where a language model's scores may come from, best first (``llm`` says what each is).
Rung = Literal["ql+rc", "ql+rc-topk", "rc+listwise", "graded+listwise"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a teacher can do; the rung of the fallback ladder follows from it.

    Attributes:
        generate: Writes tasks and queries (step 1).
        prompt_logprobs: Gives log-probabilities of given prompt tokens, so query likelihood is exact.
        prefix_cache_with_prompt_logprobs: Does not compute a prompt's constant prefix again for them.
        label_logprobs_exact: Gives log-probabilities of chosen labels.
        label_logprobs_topk: Gives the k likeliest tokens only; 0 where it gives none.
        constrained_choice: Can be held to a set of replies, or to a JSON schema.
        token_id_prompts: Takes prompts as token ids.
        batch_async: Takes a file of calls and answers within a day, at a lower price.
        listwise: Orders a list of passages.
        embeddings: Embeds text.
    """

    generate: bool = False
    prompt_logprobs: bool = False
    prefix_cache_with_prompt_logprobs: bool = False
    label_logprobs_exact: bool = False
    label_logprobs_topk: int = 0
    constrained_choice: bool = False
    token_id_prompts: bool = False
    batch_async: bool = False
    listwise: bool = False
    embeddings: bool = False


@dataclass(frozen=True, slots=True)
class Generation:
    """A teacher's reply to one seed passage.

    Attributes:
        skip: The teacher's reason where it wrote no query.
        error: Why there is no usable query although the teacher wrote, or should have written, one.
        raw: The reply as it came.
        transient: Of an error: whether another session may well do better, as after an outage.
        language: Name of the language that the query was wished in; empty for the passage's own.
    """

    task: str
    query: str
    skip: str | None = None
    error: str = ""
    raw: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    transient: bool = False
    language: str = ""


@dataclass(frozen=True, slots=True)
class Scores:
    """A teacher's scores of a query's candidates, higher is better; None where it has none for a candidate.

    Attributes:
        ql: Query likelihood, or what stands for it on this rung.
        rc: Relevance, on the scale 0 to 3.
        rung: Which capability produced them.
        transient: Whether calls failed that another session may well get answers to, as after an outage.
        note: What a reader of the run should know of them, such as why there are none.
        error: Why the query could not be ranked at all; such a query is set aside.
        raw: The reply that could not be read, where that is why.
    """

    ql: Sequence[float | None]
    rc: Sequence[float | None]
    rung: str
    input_tokens: int = 0
    output_tokens: int = 0
    transient: bool = False
    note: str = ""
    error: str = ""
    raw: str = ""


@dataclass(frozen=True, slots=True)
class RankRequest:
    """A query to be ranked, its candidates, and their cosines to it where known."""

    query: GeneratedQuery
    candidates: Sequence[Passage]
    miner_scores: Sequence[float] | None = None


class PassageStore(Protocol):
    """The corpus as a teacher may look at it before work.

    Attributes:
        ids: Passage ids in corpus order.
        vectors: The miner's unit vectors, (n, d) float32, in the same order, or None.
    """

    ids: Sequence[str]
    vectors: Any

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Passage]: ...

    def passage(self, passage_id: str) -> Passage:
        """Fetch one passage."""
        ...


class Ranker(Protocol):
    """The part of a teacher that ranks."""

    def prepare(self, passages: PassageStore) -> None:
        """Look at the corpus once before any call."""
        ...

    def rank(
        self, query: GeneratedQuery, candidates: Sequence[Passage], miner_scores: Sequence[float] | None = None
    ) -> Scores:
        """Score a query's candidates (FRet step 2); ``miner_scores`` are their cosines, where known."""
        ...


class Teacher(Ranker, Protocol):
    """A language model, or what stands for one, that writes queries and ranks candidates.

    Attributes:
        name: How rows name it; never a path of one machine.
        prompt_version: Version of the prompts it was asked with.
        capabilities: What it can do.
        rung: Which step of the fallback ladder its scores come from.
        fingerprint: Hash of everything that determines its replies.
    """

    name: str
    prompt_version: str
    capabilities: Capabilities
    rung: str
    fingerprint: str

    def write(self, seeds: Sequence[Passage]) -> list[Generation]:
        """Write a task and a query for each seed (FRet step 1)."""
        ...


@runtime_checkable
class KnowsSeeds(Protocol):
    """A teacher that can answer for some passages only."""

    def seeds_available(self) -> set[str]:
        """Source ids it can answer for."""
        ...


@runtime_checkable
class DependsOnCorpus(Protocol):
    """A teacher whose scores depend on the whole corpus and on the miner's scores, not on the call's text alone.

    Attributes:
        corpus_mark: Hash of the corpus it was prepared for.
    """

    corpus_mark: str


@runtime_checkable
class AsksMany(Protocol):
    """A teacher that asks many questions at once, and so wants many rows at once.

    Attributes:
        rows_at_once: How many.
    """

    rows_at_once: int

    def begin(self, what: str, total: int) -> None:
        """Hear what is asked for next, and of how many rows in all, so that progress can be told."""
        ...

    def rank_many(self, requests: Sequence[RankRequest]) -> list[Scores]:
        """Score the candidates of several queries."""
        ...


def rank_all(teacher: Ranker, requests: Iterable[RankRequest]) -> Iterable[Scores]:
    """Score the candidates of several queries, at once where the teacher can, in the requests' order."""
    if isinstance(teacher, AsksMany):
        return teacher.rank_many(list(requests))
    return (teacher.rank(request.query, request.candidates, request.miner_scores) for request in requests)
