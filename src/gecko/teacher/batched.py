"""Asks a language model through its Batch API: half the price, an answer within a day, the same ledger.

All rows are begun at once. When every one of them waits for an answer, what they ask becomes a batch; when it has ended
they go on, and what they ask next becomes another. A batch's id is in the ledger before it is waited for, so a run may
be stopped and started again days later: it then waits for that batch and submits nothing twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from gecko.errors import GeckoError
from gecko.teacher.ask import Answer, Ask, EngineError
from gecko.teacher.batch import BatchClient
from gecko.teacher.budget import Budget
from gecko.teacher.caller import Caller, Job
from gecko.teacher.ledger import Call, Ledger
from gecko.teacher.openai import OpenAIEngine

logger = logging.getLogger(__name__)

# The service charges half for what is in a batch.
BATCH_DISCOUNT = 0.5
_QUIET_SECONDS = 0.2
_FAILED_POLLS = 10
_ATTEMPTS = 2
_PENDING = "pending batches"


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
        for batch_id in self._ledger.noted(_PENDING) or ():
            await self._bring_in(client, batch_id, jobs)
        unanswered = {key: job for key, job in jobs.items() if not job.future.done()}
        chosen, reserved = self._affordable(unanswered)
        self._waiting.extend(job for key, job in unanswered.items() if key not in chosen)
        if not chosen:
            if self._waiting:
                self._stop(self.budget.reached())
            return
        asks: dict[str, Ask] = {key: job.ask for key, job in chosen.items()}
        batches = await asyncio.to_thread(client.submit, asks)
        self._ledger.note(_PENDING, batches)
        for room in reserved:
            self.budget.release(room)
        for batch_id in batches:
            await self._bring_in(client, batch_id, chosen)
        for job in chosen.values():
            if not job.future.done():
                self._again(job, Answer(error="the batch ended without an answer to it"))

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

    async def _bring_in(self, client: BatchClient, batch_id: str, jobs: dict[str, Job]) -> None:
        """Wait for a batch and keep its answers, also those that nobody asks for any more."""
        await self._ended(client, batch_id)
        found = await asyncio.to_thread(lambda: list(client.collect(batch_id)))
        calls = []
        for key, answer in found:
            job = jobs.get(key)
            if job is None:
                usd = self.budget.price_of(answer.input_tokens, answer.output_tokens) or 0.0
                calls.append(_orphan(key, self._openai.name, batch_id, answer, usd))
            else:
                calls.append(self._call(job, answer, self.budget.settle(job.ask, (0.0, 0.0), answer), 0.0))
        self._ledger.put_many(calls)
        self._ledger.note(_PENDING, [other for other in self._ledger.noted(_PENDING) or () if other != batch_id])
        for key, answer in found:
            job = jobs.get(key)
            if job is None or job.future.done():
                continue
            if answer.error:
                self._again(job, answer)
                continue
            self.calls_made += 1
            self.progress.call(answer)
            self._finish(job, answer)

    async def _ended(self, client: BatchClient, batch_id: str) -> None:
        failures = 0
        while True:
            try:
                state = await asyncio.to_thread(client.poll, batch_id)
            except EngineError as error:
                failures += 1
                if not error.retry or failures >= _FAILED_POLLS:
                    raise
            else:
                failures = 0
                self._tell(f"batch {batch_id}: {state.status}, {state.completed:,} of {state.total:,} calls answered")
                if state.ended:
                    if state.message:
                        self._tell(f"batch {batch_id}: {state.message}")
                    return
            await asyncio.sleep(self._poll_seconds)

    def _again(self, job: Job, answer: Answer) -> None:
        job.attempts += 1
        if job.attempts < _ATTEMPTS:
            self._waiting.append(job)
        else:
            self._finish(job, answer)


def _orphan(key: str, model: str, batch_id: str, answer: Answer, usd: float) -> Call:
    request: dict[str, Any] = {"model": model, "batch": batch_id}
    return Call(
        key, "batch", request, answer.to_json(), answer.input_tokens, answer.output_tokens, usd, 0.0, answer.error
    )
