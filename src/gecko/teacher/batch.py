"""The Batch API of an OpenAI-compatible endpoint: a file of chat calls, answered within a day at a lower price.

A batch outlives the process that submitted it: its id is all that has to be kept. The labels that its calls ask for
travel in the batch's metadata, and a file that was submitted already is not submitted again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from gecko.corpus.decode import clean as without_surrogates
from gecko.teacher.ask import Answer, Ask, EngineError, Labels, Likelihood, Prompt, Write
from gecko.teacher.openai_errors import Damaged, Refusal, clean, refusal
from gecko.teacher.openai_read import read
from gecko.teacher.openai_wire import Dialect, chat_body

if TYPE_CHECKING:
    from openai.types import Batch

    from gecko.teacher.openai import OpenAIEngine

logger = logging.getLogger(__name__)

# The service's limits are 50,000 calls and 200 MB a file.
MOST_REQUESTS = 50_000
MOST_BYTES = 190_000_000
_ROUTE: Final = "/v1/chat/completions"
_ENDED = ("completed", "failed", "expired", "cancelled")
_USABLE = ("validating", "in_progress", "finalizing", "completed")
_LOOKED_THROUGH = 1_000  # earlier batches, newest first
_MARK, _LABELS = "gecko_file", "gecko_labels"

Result = TypeVar("Result")
# Labels that the calls of a file ask for, or None, and its lines.
File = tuple[tuple[str, ...] | None, bytes]


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

    def submit(self, asks: Mapping[str, Ask], *, but: Collection[str] = ()) -> list[str]:
        """Submit asks, as few batches as the limits allow; ids of the batches.

        Args:
            asks: By their key in the ledger.
            but: Batches that have brought what they had, and so cannot answer what is asked again.

        Raises:
            EngineError: The service refused or did not answer, or an ask is none that a chat call answers.
        """
        return [self.submit_file(file, but=but) for file in self.files(asks)]

    def files(self, asks: Mapping[str, Ask]) -> list[File]:
        """The files that hold asks, as few as the limits allow; see :meth:`submit`."""
        groups: dict[tuple[str, ...] | None, dict[str, Ask]] = defaultdict(dict)
        for key in sorted(asks):
            ask = asks[key]
            groups[ask.labels if isinstance(ask, Labels) else None][key] = ask
        lines = {labels: [self._line(key, ask) for key, ask in group.items()] for labels, group in groups.items()}
        return [(labels, data) for labels, group in lines.items() for data in self._files(group)]

    def submit_file(self, file: File, *, but: Collection[str] = ()) -> str:
        """Submit one file, unless it was submitted already; id of the batch. See :meth:`submit`."""
        labels, data = file
        mark = hashlib.sha256(data).hexdigest()
        known = self._called(lambda: self._submitted(mark, but))
        if known is not None:
            return known
        uploaded = self._called(
            lambda: self._client.files.create(file=("gecko.jsonl", data, "application/jsonl"), purpose="batch")
        )
        metadata = {_MARK: mark} | ({} if labels is None else {_LABELS: json.dumps(labels)})
        batch = self._called(
            lambda: _state(
                self._client.batches.create(
                    input_file_id=uploaded.id, endpoint=_ROUTE, completion_window="24h", metadata=metadata
                )
            )
        )
        return batch.batch_id

    def poll(self, batch_id: str) -> BatchState:
        """How far a batch is.

        Raises:
            EngineError: The service did not answer, or knows no such batch.
        """
        return self._called(lambda: _state(self._client.batches.retrieve(batch_id)))

    def collect(self, batch_id: str) -> Iterator[tuple[str, Answer]]:
        """Answers of a batch that has ended, by the asks' keys; of one that was cut short, those it has.

        A call that failed, or was not made in time, has an answer with an ``error``; a damaged line has none.

        Raises:
            EngineError: The batch goes on (``retry``), or failed before its first call, or is not there any more.
        """
        batch = self._called(lambda: self._client.batches.retrieve(batch_id))
        state = self._called(lambda: _state(batch))
        if not state.ended:
            raise EngineError(f"the batch is {state.status}", retry=True)
        if state.status == "failed":
            raise EngineError(state.message)
        ask = self._called(lambda: _asked(batch))
        for name in (batch.output_file_id, batch.error_file_id):
            if not name:
                continue
            for line in self._download(name).split(b"\n"):
                found = self._answer(line, ask) if line.strip() else None
                if found is not None:
                    yield found

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

    def _submitted(self, mark: str, but: Collection[str]) -> str | None:
        """The batch of the same file, where one was submitted before, has not been cut short nor brought in."""
        for batch in islice(self._client.batches.list(limit=100), _LOOKED_THROUGH):
            if (batch.metadata or {}).get(_MARK) == mark and batch.status in _USABLE and batch.id not in but:
                return batch.id
        return None

    def _called(self, call: Callable[[], Result]) -> Result:
        import openai

        try:
            return call()
        except (openai.OpenAIError, OSError, ValueError) as error:
            raise self._engine.failure(error) from None
        except (AttributeError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
            # The package checks no reply's form: what a proxy puts in its place is met where it is read.
            raise Damaged(f"{type(error).__name__} in a batch's shape") from None

    def _answer(self, line: bytes, ask: Ask) -> tuple[str, Answer] | None:
        """The ask's key and its answer; None for a line that names no ask, which is then asked again."""
        try:
            row = json.loads(line)
            key = without_surrogates(str(row["custom_id"]))
            response: Any = row.get("response") or {}
            body = response.get("body") or {}
            status = int(response.get("status_code") or 0)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
            logger.warning("a line of a batch's result is damaged: what it answers is asked again")
            return None
        if status != 200 or row.get("error"):
            return key, _failed(status, body, row.get("error"))
        try:
            return key, read(self._dialect, ask, body)
        except EngineError as error:
            paid = Answer(input_tokens=error.input_tokens, output_tokens=error.output_tokens)
            return key, replace(paid, error=str(error), transient=error.retry)


def _asked(batch: Batch) -> Ask:
    """What the calls of a batch ask for, as far as reading their answers needs it."""
    labels = json.loads((batch.metadata or {}).get(_LABELS, "null"))
    return Write(Prompt("", ""), 0) if labels is None else Labels(Prompt("", ""), tuple(labels))


def _failed(status: int, body: object, error: object) -> Answer:
    """Why a line has no answer. The service's own words are left out: the passages they may quote are not at hand."""
    if isinstance(error, Mapping):
        return Answer(error=f"not answered ({clean(str(error.get('code') or 'no reason given'))})", transient=True)
    told: Refusal = refusal(status, body, {})
    return Answer(error=f"HTTP {status}" + (f" ({told.code})" if told.code else ""), transient=told.retry)


def _state(batch: Batch) -> BatchState:
    if not (isinstance(batch.status, str) and isinstance(batch.id, str) and batch.id.isascii()):
        raise Damaged("a batch without an id or a status")
    counts = batch.request_counts
    told = (counts.total, counts.completed, counts.failed) if counts else ()
    total, completed, failed = (count if isinstance(count, int) else 0 for count in told or (0, 0, 0))
    message = ""
    if batch.status == "failed":
        rows = (batch.errors.data if batch.errors else None) or []
        reasons = [f"{row.code or 'error'} at line {row.line}" if row.line else str(row.code) for row in rows[:3]]
        message = "the batch failed before its first call: " + (", ".join(reasons) or "no reason given")
    elif batch.status in ("expired", "cancelled"):
        message = f"the batch was {batch.status}" if batch.status == "cancelled" else "the batch expired"
        message += f": {completed:,} of {total:,} calls are answered"
    return BatchState(batch.id, batch.status, batch.status in _ENDED, total, completed, failed, message)
