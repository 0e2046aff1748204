"""Asks a language model through its Batch API: half the price, an answer within a day, the same ledger.

All rows are begun at once. When every one of them waits for an answer, what they ask becomes a batch; when it has ended
they go on, and what they ask next becomes another. A batch's id is in the ledger before it is waited for, so a run may
be stopped and started again days later: it then waits for that batch and submits nothing twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from gecko.errors import GeckoError, UsageError
from gecko.teacher.ask import Answer, Ask, EngineError
from gecko.teacher.batch import BatchClient, BatchState
from gecko.teacher.budget import Budget
from gecko.teacher.caller import Caller, Job
from gecko.teacher.ledger import Call, Ledger
from gecko.teacher.openai import OpenAIEngine
from gecko.teacher.openai_errors import Refusal
from gecko.teacher.openai_wire import Dialect
from gecko.teacher.protocol import Capabilities

logger = logging.getLogger(__name__)

# The service charges half for what is in a batch.
BATCH_DISCOUNT = 0.5
_QUIET_SECONDS = 0.2
_FAILED_POLLS = 10
_ATTEMPTS = 2
_PENDING = "pending batches"
_DONE = "batches done with"

Result = TypeVar("Result")


class BatchCaller(Caller):
    """A :class:`Caller` whose calls go in batches.

    Args:
        engine: The model.
        ledger: Where finished calls, and batches under way, are kept and found.
        budget: The caps.
        poll_seconds: How often a batch under way is asked for.
        tell: Receives a line a poll.
    """

    def __init__(
        self,
        engine: OpenAIEngine,
        ledger: Ledger,
        budget: Budget,
        *,
        poll_seconds: float = 60.0,
        tell: Callable[[str], None] = logger.info,
    ) -> None:
        super().__init__(engine, ledger, budget, tell=tell)
        self._openai = engine
        self._poll_seconds = poll_seconds
        self._rounds: asyncio.Task[None] | None = None

    def able(self, capabilities: Capabilities) -> Capabilities:
        """What of a model's capabilities a batch can ask for: chat calls.

        Raises:
            UsageError: The endpoint takes no batches.
        """
        if not capabilities.batch_async:
            raise UsageError(f"{self._openai.name} takes no batches", "leave teacher.batch out")
        chat = Dialect.from_json(self._openai.dialect()).labels == "chat"
        top = capabilities.label_logprobs_topk if chat else 0
        return replace(capabilities, prompt_logprobs=False, label_logprobs_exact=False, label_logprobs_topk=top)

    def _open_at_once(self) -> int:
        return 1_000_000

    def _pump(self) -> None:
        if self._rounds is None and self._stopped is None and self._waiting:
            self._rounds = asyncio.get_running_loop().create_task(self._all_rounds())

    async def _drain(self) -> None:
        # A batch under way goes on without us, and is in the ledger.
        if self._rounds is not None:
            self._rounds.cancel()
            self._rounds = None
        await super()._drain()

    async def _all_rounds(self) -> None:
        client = BatchClient(self._openai)
        try:
            while self._stopped is None:
                await self._quiet()
                if not self._waiting:
                    break
                await self._round(client)
        except GeckoError as error:
            self._stop(error)
        except EngineError as error:
            self._stop(
                GeckoError(f"{self._openai.name}: {error}", "nothing is lost: run the same command again to go on")
            )
        except Exception as error:  # a fault must end the run in a line, not hang it
            self._stop(self._fault(error))
        finally:
            client.close()
            self._rounds = None

    async def _quiet(self) -> None:
        """Wait until nobody has asked anything new for a moment."""
        seen = -1
        while seen != len(self._waiting):
            seen = len(self._waiting)
            await asyncio.sleep(_QUIET_SECONDS)

    async def _round(self, client: BatchClient) -> None:
        """Bring in the batches under way, then submit what is still unanswered and bring that in."""
        jobs = {job.key: job for job in self._waiting}
        self._waiting.clear()
        await self._bring_in_pending(client, jobs)
        unanswered = {key: job for key, job in jobs.items() if not job.future.done()}
        self._waiting = deque(job for job in self._waiting if job.key not in jobs)  # what came in since
        chosen, reserved = self._affordable(unanswered)
        self._waiting.extend(job for key, job in unanswered.items() if key not in chosen)
        if not chosen:
            if self._waiting:
                self._stop(self.budget.reached())
            return
        asks: dict[str, Ask] = {key: job.ask for key, job in chosen.items()}
        batches = []
        for file in await asyncio.to_thread(client.files, asks):
            batches.append(await asyncio.to_thread(client.submit_file, file, but=self._noted(_DONE)))
            self._ledger.note(_PENDING, [*self._noted(_PENDING), batches[-1]])
        for room in reserved:
            self.budget.release(room)
        for batch_id in batches:
            await self._bring_in(client, batch_id, chosen)
        waiting = {job.key for job in self._waiting}
        for job in chosen.values():
            if not job.future.done() and job.key not in waiting:
                await self._again(job, Answer(error="the batch ended without an answer to it", transient=True))

    def _noted(self, name: str) -> list[str]:
        return list(self._ledger.noted(name) or ())

    def _leave(self, batch_id: str) -> None:
        """Wait for a batch no longer, and take it for no other's answer."""
        self._ledger.note(_DONE, [*self._noted(_DONE), batch_id])
        self._ledger.note(_PENDING, [other for other in self._noted(_PENDING) if other != batch_id])

    def _affordable(self, jobs: dict[str, Job]) -> tuple[dict[str, Job], list[tuple[float, float]]]:
        chosen: dict[str, Job] = {}
        reserved = []
        for key, job in jobs.items():
            room = self.budget.reserve(job.ask)
            if room is None:
                break
            chosen[key] = job
            reserved.append(room)
        return chosen, reserved

    async def _bring_in_pending(self, client: BatchClient, jobs: dict[str, Job]) -> None:
        """Wait for the batches of earlier sessions; one that failed or is gone is told of and left."""
        for batch_id in self._noted(_PENDING):
            try:
                await self._bring_in(client, batch_id, jobs)
            except EngineError as error:
                if batch_id in self._noted(_PENDING):
                    raise
                self._tell(f"batch {batch_id} brings nothing, what it asked is asked again: {error}")

    async def _bring_in(self, client: BatchClient, batch_id: str, jobs: dict[str, Job]) -> None:
        """Wait for a batch and keep its answers, also those that nobody asks for any more.

        Raises:
            EngineError: It brings nothing. It is waited for no longer where it failed or is not there any more.
        """
        try:
            state = await self._ended(client, batch_id)
            if state.status == "failed":
                self._leave(batch_id)
            found = await self._patiently(lambda: list(client.collect(batch_id)))
        except Refusal as error:
            if error.status == 404:
                self._leave(batch_id)
            raise
        calls = []
        for key, answer in found:
            job = jobs.get(key)
            if job is None:
                usd = self.budget.price_of(answer.input_tokens, answer.output_tokens) or 0.0
                calls.append(_orphan(key, self._openai.name, batch_id, answer, usd))
            else:
                calls.append(self._call(job, answer, self.budget.settle(job.ask, (0.0, 0.0), answer), 0.0))
        self._ledger.put_many(calls)
        self._leave(batch_id)
        self._count_spent()  # with what nobody asks for any more
        for key, answer in found:
            job = jobs.get(key)
            if job is None or job.future.done():
                continue
            if answer.error:
                await self._again(job, answer)
                continue
            self.calls_made += 1
            self.progress.call(answer)
            self._finish(job, answer)

    async def _ended(self, client: BatchClient, batch_id: str) -> BatchState:
        while True:
            state = await self._patiently(lambda: client.poll(batch_id))
            self._tell(f"batch {batch_id}: {state.status}, {state.completed:,} of {state.total:,} calls answered")
            if state.ended:
                if state.message:
                    self._tell(f"batch {batch_id}: {state.message}")
                return state
            await asyncio.sleep(self._poll_seconds)

    async def _patiently(self, call: Callable[[], Result]) -> Result:
        """Make a call in a thread, several times where it fails for a moment."""
        for _ in range(_FAILED_POLLS - 1):
            try:
                return await asyncio.to_thread(call)
            except EngineError as error:
                if not error.retry:
                    raise
            await asyncio.sleep(self._poll_seconds)
        return await asyncio.to_thread(call)

    async def _again(self, job: Job, answer: Answer) -> None:
        job.attempts += 1
        if job.attempts < _ATTEMPTS:
            self._waiting.append(job)
        elif answer.transient:
            await self._give_up(job, answer)
        else:
            self._finish(job, answer)

    async def _alive(self) -> bool:
        return True  # a batch that has ended was worked on


def _orphan(key: str, model: str, batch_id: str, answer: Answer, usd: float) -> Call:
    request: dict[str, Any] = {"model": model, "batch": batch_id}
    return Call(
        key, "batch", request, answer.to_json(), answer.input_tokens, answer.output_tokens, usd, 0.0, answer.error
    )
