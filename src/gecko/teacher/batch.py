"""The Batch API of an OpenAI-compatible endpoint: a file of chat calls, answered within a day at a lower price.

A batch outlives the process that submitted it: its id is all that has to be kept. The labels that its calls ask for
travel in the batch's metadata, and a file that was submitted already is not submitted again.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from gecko.teacher.ask import Answer, Ask, EngineError, Labels, Likelihood, Prompt, Write
from gecko.teacher.openai_errors import Refusal, clean, refusal
from gecko.teacher.openai_read import read
from gecko.teacher.openai_wire import Dialect, chat_body

if TYPE_CHECKING:
    from openai.types import Batch

    from gecko.teacher.openai import OpenAIEngine

# The service's limits are 50,000 calls and 200 MB a file.
MOST_REQUESTS = 50_000
MOST_BYTES = 190_000_000
_ROUTE: Final = "/v1/chat/completions"
_ENDED = ("completed", "failed", "expired", "cancelled")
_USABLE = ("validating", "in_progress", "finalizing", "completed")
_LOOKED_THROUGH = 1_000  # earlier batches, newest first
_MARK, _LABELS = "gecko_file", "gecko_labels"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class BatchState:
    """How far a batch is.

    Attributes:
        status: In the service's words: ``validating``, ``in_progress``, ``finalizing``, ``completed``, ``failed``,
            ``expired``, ``cancelling``, ``cancelled``.
        ended: Whether it will not change any more.
        total: Calls in it.
        completed: Calls answered.
        failed: Calls that were refused or not made.
        message: What a user should know of how it ended; empty for a batch that ended well or goes on.
    """

    batch_id: str
    status: str
    ended: bool
    total: int = 0
    completed: int = 0
    failed: int = 0
    message: str = ""


class BatchClient:
    """Submits asks as batches and brings their answers back.

    Args:
        engine: The endpoint and the model; it must have been probed, or given its dialect.
        most_requests: Calls a file holds, at most.
        most_bytes: Bytes a file holds, at most.
    """

    def __init__(
        self, engine: OpenAIEngine, *, most_requests: int = MOST_REQUESTS, most_bytes: int = MOST_BYTES
    ) -> None:
        self._engine = engine
        self._dialect = Dialect.from_json(engine.dialect())
        self._most_requests = most_requests
        self._most_bytes = most_bytes
        self._client = engine.blocking_client()

    def submit(self, asks: Mapping[str, Ask]) -> list[str]:
        """Submit asks, as few batches as the limits allow; ids of the batches.

        Args:
            asks: By their key in the ledger.

        Raises:
            EngineError: The service refused or did not answer, or an ask is none that a chat call answers.
        """
        groups: dict[tuple[str, ...] | None, dict[str, Ask]] = defaultdict(dict)
        for key in sorted(asks):
            ask = asks[key]
            groups[ask.labels if isinstance(ask, Labels) else None][key] = ask
        lines = {labels: [self._line(key, ask) for key, ask in group.items()] for labels, group in groups.items()}
        files = [(labels, data) for labels, group in lines.items() for data in self._files(group)]
        return [self._submit(labels, data) for labels, data in files]

    def poll(self, batch_id: str) -> BatchState:
        """How far a batch is.

        Raises:
            EngineError: The service did not answer, or knows no such batch.
        """
        return _state(self._called(lambda: self._client.batches.retrieve(batch_id)))

    def collect(self, batch_id: str) -> Iterator[tuple[str, Answer]]:
        """Answers of a batch that has ended, by the asks' keys; of one that was cut short, those it has.

        A call that failed, or was not made in time, has an answer with an ``error``.

        Raises:
            EngineError: The batch goes on, or failed before its first call, or a file of it is damaged.
        """
        batch = self._called(lambda: self._client.batches.retrieve(batch_id))
        state = _state(batch)
        if not state.ended:
            raise EngineError(f"the batch is {state.status}", retry=True)
        if state.status == "failed":
            raise EngineError(state.message)
        labels = json.loads((batch.metadata or {}).get(_LABELS, "null"))
        ask: Ask = Write(Prompt("", ""), 0) if labels is None else Labels(Prompt("", ""), tuple(labels))
        for name in (batch.output_file_id, batch.error_file_id):
            if not name:
                continue
            for line in self._download(name).split(b"\n"):
                if line.strip():
                    yield self._answer(line, ask)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _download(self, name: str) -> bytes:
        return self._called(lambda: self._client.files.content(name).content)

    def _line(self, key: str, ask: Ask) -> bytes:
        if isinstance(ask, Likelihood):
            raise EngineError("a batch cannot ask for the log-probabilities of given text")
        if isinstance(ask, Labels) and self._dialect.labels != "chat":
            raise EngineError("a batch cannot ask this model for the log-probabilities of labels")
        body = chat_body(self._engine.model, self._dialect, ask)
        row = {"custom_id": key, "method": "POST", "url": _ROUTE, "body": body}
        return json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"

    def _files(self, lines: list[bytes]) -> Iterator[bytes]:
        held: list[bytes] = []
        size = 0
        for line in lines:
            if held and (len(held) == self._most_requests or size + len(line) > self._most_bytes):
                yield b"".join(held)
                held, size = [], 0
            held.append(line)
            size += len(line)
        if held:
            yield b"".join(held)

    def _submit(self, labels: tuple[str, ...] | None, data: bytes) -> str:
        mark = hashlib.sha256(data).hexdigest()
        known = self._called(lambda: self._submitted(mark))
        if known is not None:
            return known
        file = self._called(
            lambda: self._client.files.create(file=("gecko.jsonl", data, "application/jsonl"), purpose="batch")
        )
        metadata = {_MARK: mark} | ({} if labels is None else {_LABELS: json.dumps(labels)})
        batch = self._called(
            lambda: self._client.batches.create(
                input_file_id=file.id, endpoint=_ROUTE, completion_window="24h", metadata=metadata
            )
        )
        return batch.id

    def _submitted(self, mark: str) -> str | None:
        """The batch of the same file, where one was submitted before and has not been cut short."""
        for batch in islice(self._client.batches.list(limit=100), _LOOKED_THROUGH):
            if (batch.metadata or {}).get(_MARK) == mark and batch.status in _USABLE:
                return batch.id
        return None

    def _called(self, call: Callable[[], Result]) -> Result:
        import openai

        try:
            return call()
        except (openai.OpenAIError, OSError, ValueError) as error:
            raise self._engine.failure(error) from None

    def _answer(self, line: bytes, ask: Ask) -> tuple[str, Answer]:
        try:
            row = json.loads(line)
            key = str(row["custom_id"])
            response: Any = row.get("response") or {}
            body = response.get("body") or {}
            status = int(response.get("status_code") or 0)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise EngineError("a line of the batch's result is damaged", retry=True) from None
        if status != 200 or row.get("error"):
            return key, Answer(error=_told(status, body, row.get("error")))
        try:
            return key, read(self._dialect, ask, body)
        except EngineError as error:
            return key, Answer(error=str(error), input_tokens=error.input_tokens, output_tokens=error.output_tokens)


def _told(status: int, body: Mapping[str, Any], error: object) -> str:
    """Why a line has no answer. The service's own words are left out: the passages they may quote are not at hand."""
    if isinstance(error, Mapping):
        return f"not answered ({clean(str(error.get('code') or 'no reason given'))})"
    told: Refusal = refusal(status, body, {})
    return f"HTTP {status}" + (f" ({told.code})" if told.code else "")


def _state(batch: Batch) -> BatchState:
    counts = batch.request_counts
    total, completed, failed = (counts.total, counts.completed, counts.failed) if counts else (0, 0, 0)
    message = ""
    if batch.status == "failed":
        rows = (batch.errors.data if batch.errors else None) or []
        reasons = [f"{row.code or 'error'} at line {row.line}" if row.line else str(row.code) for row in rows[:3]]
        message = "the batch failed before its first call: " + (", ".join(reasons) or "no reason given")
    elif batch.status in ("expired", "cancelled"):
        message = f"the batch was {batch.status}" if batch.status == "cancelled" else "the batch expired"
        message += f": {completed:,} of {total:,} calls are answered"
    return BatchState(batch.id, batch.status, batch.status in _ENDED, total, completed, failed, message)
