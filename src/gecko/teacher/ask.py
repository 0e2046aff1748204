"""What can be asked of a language model, what it answers, and the seam every model sits behind.

A teacher turns passages into asks; an engine turns asks into answers; everything between them (ledger, caps, retries,
concurrency) is in ``caller``. An ask holds all that determines its answer, so that its hash can be the ledger's key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from gecko.teacher.protocol import Capabilities


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt in two parts, the constant one first so that prefix caches pay.

    A chat model is sent ``shared`` as the system message and ``own`` as the user's; any other model is sent
    ``shared + own`` as it stands.
    """

    shared: str
    own: str


@dataclass(frozen=True, slots=True)
class Write:
    """Ask for text.

    Attributes:
        schema: JSON schema of the reply, where it is to be an object; used where the engine can enforce it.
        temperature: 0 is greedy.
        seed: Seed of the sampling, where the engine has one; a repeated ask with another seed is another ask.
        purpose: What the text is for, by which calls are counted; it is no part of what is asked.
    """

    prompt: Prompt
    max_tokens: int
    temperature: float = 0.0
    schema: dict[str, Any] | None = None
    seed: int = 0
    kind: Literal["write"] = "write"
    purpose: Literal["write", "grade", "listwise"] = "write"


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Ask for the log-probability of a text after a prompt (QL; Sachan et al. 2022).

    ``continuation`` follows ``prompt.shared + prompt.own`` without anything between, and starts with its own space.
    It is never wrapped in a chat template.
    """

    prompt: Prompt
    continuation: str
    kind: Literal["likelihood"] = "likelihood"


@dataclass(frozen=True, slots=True)
class Labels:
    """Ask for the log-probabilities of labels as the next token after a prompt (RC; Zhuang et al. 2023).

    Labels are single digits; an engine looks for the token that the label becomes in its place, with or without a
    leading space.
    """

    prompt: Prompt
    labels: tuple[str, ...]
    kind: Literal["labels"] = "labels"


Ask = Write | Likelihood | Labels


def purpose_of(ask: Ask) -> str:
    """What an ask is for: calls of one purpose are alike in length and time."""
    return ask.purpose if isinstance(ask, Write) else ask.kind


def request_of(ask: Ask) -> dict[str, Any]:
    """What is asked, as the ledger keeps it and as its key is made; parts are shared with the ask, not copied."""
    names = (name for name in ask.__slots__ if name != "purpose")
    values = {name: getattr(ask, name) for name in names}
    return {**values, "prompt": {"shared": ask.prompt.shared, "own": ask.prompt.own}}


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to one ask.

    Attributes:
        text: The reply to a :class:`Write`.
        finish: Why a reply ended: ``stop``, ``length`` (truncated), ``content_filter``, or what the server said.
        logprobs: Of a :class:`Likelihood`: natural log-probability of each token of the continuation.
        labels: Of a :class:`Labels`: natural log-probability of each label.
        floored: Labels the model did not report; their value is that of the least likely token it did report.
        input_tokens: Prompt tokens, cached ones included.
        cached_tokens: Of those, read from the server's prefix cache.
        output_tokens: Tokens generated.
        error: Why there is no answer and will be none; empty for a finished one.
        transient: Of an error: whether another session may well get an answer (an outage, not a refusal of this ask).
    """

    text: str = ""
    finish: str = ""
    logprobs: tuple[float, ...] = ()
    labels: dict[str, float] = field(default_factory=dict)
    floored: tuple[str, ...] = ()
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    error: str = ""
    transient: bool = False

    def to_json(self) -> dict[str, Any]:
        """The answer as the ledger keeps it."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Answer:
        """The answer from what :meth:`to_json` wrote.

        Raises:
            TypeError: The value is no answer.
        """
        lists = {name: tuple(value.get(name, ())) for name in ("logprobs", "floored")}
        return cls(**{**value, **lists})


class EngineError(Exception):
    """A call that failed.

    Args:
        message: One line; holds no key and no passage.
        retry: Whether the same call may succeed later (429, 5xx, timeout, dropped connection, damaged reply).
        crowded: Whether the server said that it has too much to do (429, 503, timeout), so that fewer calls at once
            would help.
        timeout: Whether it was given up because it took too long; crowded, too, but maybe this ask's own fault.
        unreachable: Whether nobody answers at the address (connection refused, unknown host).
        wait: Seconds the server asked to wait (Retry-After), or None.
        fatal: Whether no call will succeed (wrong key, unknown model), so that the run should stop.
        perhaps: Of a fatal one: whether it may be meant for this ask alone (403, 404); an endpoint that answers others
            is then asked on.
        input_tokens: Tokens paid for although the call failed.
        output_tokens: Tokens paid for although the call failed.
    """

    def __init__(
        self,
        message: str,
        *,
        retry: bool = False,
        crowded: bool = False,
        timeout: bool = False,
        unreachable: bool = False,
        wait: float | None = None,
        fatal: bool = False,
        perhaps: bool = False,
        input_tokens: int = 0,
        output_tokens: int = 0,
    ) -> None:
        super().__init__(message)
        self.retry = retry
        self.crowded = crowded or timeout
        self.timeout = timeout
        self.unreachable = unreachable
        self.wait = wait
        self.fatal = fatal
        self.perhaps = perhaps
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens


class Engine(Protocol):
    """A language model behind whatever runs it.

    Attributes:
        name: How rows name it, such as ``openai:gpt-oss-20b``; never a path, an address or a key.
        fingerprint: Hash of what determines its answers: model, revision or weights, precision, chat template.
        in_flight: How many calls it may serve at once, at most.
        batch: How many asks one call takes, at most; 1 for a server.
    """

    name: str
    fingerprint: str
    in_flight: int
    batch: int

    async def capabilities(self) -> Capabilities:
        """Find out by asking what it can do; a handful of short calls at most.

        Raises:
            EngineError: It does not answer at all.
        """
        ...

    def dialect(self) -> dict[str, Any]:
        """What probing found out about how it wants to be asked; JSON, empty where there is nothing to know."""
        ...

    def set_dialect(self, dialect: dict[str, Any]) -> None:
        """Take over what an earlier probing found out."""
        ...

    async def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        """Answer at most :attr:`batch` asks of one kind, in order.

        Raises:
            EngineError: The call failed; the caller decides whether it is made again.
        """
        ...

    async def count_tokens(self, text: str) -> int | None:
        """Tokens of a text, where that costs no call to a paid model; else None."""
        ...

    async def close(self) -> None:
        """Free what it holds."""
        ...
