"""Texts of many requests encoded together: a bounded queue, one thread, and every request gets its turn."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class QueueFull(Exception):
    """As much waits as may wait."""


@dataclass(slots=True, eq=False)
class _Job(Generic[T, R]):
    """A request's items, those from ``taken`` on not begun yet."""

    items: Sequence[T]
    weights: Sequence[int]
    answer: asyncio.Future[list[R]]
    taken: int = 0
    results: list[R] = field(default_factory=list)

    @property
    def left(self) -> int:
        return len(self.items) - self.taken


@dataclass(frozen=True, slots=True)
class _Part(Generic[T, R]):
    job: _Job[T, R]
    items: Sequence[T]


class Batcher(Generic[T, R]):
    """Gathers what waits while the thread is busy, so that nothing waits for a clock.

    A batch takes an equal share of every request that waits: one of a thousand texts does not hold up one of a
    single text. All but ``run`` happens on the event loop, so nothing here is locked.

    Args:
        run: Makes a result of each item, in order; called in a thread of its own, one call at a time.
        batch: Items of a call at most.
        room: Weight that may wait. A request heavier than that is taken where nothing waits.
        weigh: Weight of an item, 1 or more.
        observe: Told the size of each batch.

    Attributes:
        waiting: Weight of the items that are not begun yet.
    """

    def __init__(
        self,
        run: Callable[[list[T]], Sequence[R]],
        *,
        batch: int,
        room: int,
        weigh: Callable[[T], int] = lambda _item: 1,
        observe: Callable[[int], None] = lambda _size: None,
    ) -> None:
        self._run = run
        self._batch = batch
        self._room = room
        self._weigh = weigh
        self._observe = observe
        self._jobs: deque[_Job[T, R]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._worker: asyncio.Task[None] | None = None
        self.waiting = 0

    async def submit(self, items: Sequence[T]) -> list[R]:
        """Wait for the results of a request's items; where the caller is cancelled, those not begun are dropped.

        Raises:
            QueueFull: There is no room for them.
        """
        if not items:
            return []
        weights = [self._weigh(item) for item in items]
        if self.waiting and self.waiting + sum(weights) > self._room:
            raise QueueFull
        job: _Job[T, R] = _Job(items, weights, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self.waiting += sum(weights)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        try:
            return await job.answer
        except asyncio.CancelledError:
            self._forget(job)
            raise

    def close(self) -> None:
        """End the thread; what is being computed is waited for."""
        self._thread.shutdown()

    async def _work(self) -> None:
        while parts := self._take():
            self._observe(sum(len(part.items) for part in parts))
            try:
                await self._compute(parts)
            except Exception as error:
                if len(parts) == 1:
                    self._fail(parts[0].job, error)
                    continue
                logger.debug("a batch failed; its requests are tried apart", exc_info=True)
                for part in parts:
                    try:
                        await self._compute([part])
                    except Exception as own:
                        self._fail(part.job, own)

    def _take(self) -> list[_Part[T, R]]:
        """Take the next batch: a share of each job, in the order in which they came."""
        parts: list[_Part[T, R]] = []
        room = self._batch
        while self._jobs and room:
            share = max(1, room // len(self._jobs))
            again: deque[_Job[T, R]] = deque()
            while self._jobs and room:
                job = self._jobs.popleft()
                end = job.taken + min(share, job.left, room)
                parts.append(_Part(job, job.items[job.taken : end]))
                room -= end - job.taken
                self.waiting -= sum(job.weights[job.taken : end])
                job.taken = end
                if job.left:
                    again.append(job)
            # Those that had no turn come first next time.
            self._jobs.extend(again)
        return parts

    async def _compute(self, parts: Sequence[_Part[T, R]]) -> None:
        items = [item for part in parts for item in part.items]
        results = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, items)
        if len(results) != len(items):
            raise RuntimeError(f"{len(results)} results of {len(items)} texts")
        start = 0
        for part in parts:
            job = part.job
            job.results.extend(results[start : start + len(part.items)])
            start += len(part.items)
            if len(job.results) == len(job.items) and not job.answer.done():
                job.answer.set_result(job.results)

    def _fail(self, job: _Job[T, R], error: Exception) -> None:
        self._forget(job)
        if not job.answer.done():
            job.answer.set_exception(error)

    def _forget(self, job: _Job[T, R]) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
            self.waiting -= sum(job.weights[job.taken :])
