"""Asks a language model many questions in one go, where a call costs minutes before its first answer.

What the rows ask is gathered until nobody asks anything new; all of it is one call; every answer is in the ledger as it
comes, so a run that is killed in the middle asks only for the rest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from gecko.errors import GeckoError
from gecko.teacher.ask import Answer, Ask, Engine
from gecko.teacher.budget import Budget
from gecko.teacher.caller import Caller, Job
from gecko.teacher.ledger import Ledger
from gecko.teacher.traffic import Patience

logger = logging.getLogger(__name__)

_QUIET_SECONDS = 0.2
_PATIENCE = Patience(call_seconds=7 * 86_400.0)


class StreamingEngine(Engine, Protocol):
    """An engine that gives its answers one by one."""

    def stream(self, asks: Sequence[Ask]) -> AsyncIterator[tuple[int, Answer]]:
        """Answer asks of any kinds; yields each one's position and its answer, in any order.

        Raises:
            GeckoError: No further answer can be had.
        """
        ...


class GatheringCaller(Caller):
    """A :class:`Caller` that asks all there is to ask in one call.

    Args:
        engine: The model.
        ledger: Where finished calls are kept and found.
        budget: The caps.
        rows: How many rows are worked on at once, whose questions may become one call.
        tell: Receives progress lines.
    """

    def __init__(
        self,
        engine: StreamingEngine,
        ledger: Ledger,
        budget: Budget,
        *,
        rows: int,
        tell: Callable[[str], None] = logger.info,
    ) -> None:
        super().__init__(engine, ledger, budget, patience=_PATIENCE, tell=tell)
        self._streaming = engine
        self._rows = rows
        self._gathering: asyncio.Task[None] | None = None

    def _open_at_once(self) -> int:
        return self._rows

    def _pump(self) -> None:
        if self._gathering is None and self._waiting and not self._ending():
            self._gathering = asyncio.get_running_loop().create_task(self._gather())

    async def _gather(self) -> None:
        """Start a call once nobody has asked anything new for a moment."""
        seen = -1
        while seen != len(self._waiting):
            seen = len(self._waiting)
            await asyncio.sleep(_QUIET_SECONDS)
        self._gathering = None
        try:
            super()._pump()
        except Exception as error:  # nobody awaits this task: its fault would hang the run
            self._stop(self._fault(error))

    def _take(self) -> tuple[list[Job], list[tuple[float, float]]]:
        """All that the caps allow, of whatever kinds."""
        jobs: list[Job] = []
        reserved: list[tuple[float, float]] = []
        while self._waiting and (room := self.budget.reserve(self._waiting[0].ask)) is not None:
            jobs.append(self._waiting.popleft())
            reserved.append(room)
        return jobs, reserved

    async def _serve(self, jobs: list[Job], reserved: list[tuple[float, float]]) -> None:
        left = dict(enumerate(zip(jobs, reserved, strict=True)))
        before = time.monotonic()
        try:
            async for number, answer in self._streaming.stream([job.ask for job in jobs]):
                job, room = left.pop(number)
                now = time.monotonic()
                self._settle([job], [room], [answer], now - before)
                before = now
                if self._stopped is not None:
                    break
            else:
                if left:
                    self._stop(self._fault(RuntimeError(f"{len(left)} of {len(jobs)} asks got no answer")))
        except GeckoError as error:
            self._stop(error)
        except Exception as error:  # a fault must end the run in a line, not hang it
            self._stop(self._fault(error))
        finally:
            for _, room in left.values():
                self.budget.release(room)
            self._traffic.active -= 1
            self._pump()
