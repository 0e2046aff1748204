"""Between a teacher and its language model: no call lost, none made twice, none past the cap, none in vain.

Every answer is committed to the ledger before anyone sees it. The number of calls at once follows what the endpoint
bears: it falls by a third when the endpoint says that it is crowded and grows by one for every round of answers (AIMD).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from gecko.errors import GeckoError
from gecko.teacher.ask import Answer, Ask, Engine, EngineError, Prompt, Write, purpose_of, request_of
from gecko.teacher.budget import Budget
from gecko.teacher.ledger import UNPRICED, Call, Ledger, call_key
from gecko.teacher.progress import Progress
from gecko.teacher.protocol import Capabilities
from gecko.teacher.traffic import Patience, Traffic

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

_GRACE_SECONDS = 10.0
_LONG_WAIT_SECONDS = 20.0  # a wait from which on a user should know why nothing moves
# What tells an endpoint that is out of order from asks that it cannot answer; room for a model that thinks first.
_PLAIN = Write(Prompt("You are a careful assistant.", "Say hello."), max_tokens=512)


@dataclass(slots=True)
class Job:
    """An ask on its way to an answer."""

    ask: Ask
    key: str
    future: asyncio.Future[Answer]
    attempts: int = 0


class Caller:
    """Asks a language model, many questions at once.

    Args:
        engine: The model.
        ledger: Where finished calls are kept and found.
        budget: The caps.
        patience: How long failures are borne.

    Attributes:
        calls_made: Answers that came from the model.
        calls_replayed: Answers that came from the ledger.
        budget: What was spent, and the caps.
    """

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        budget: Budget,
        *,
        patience: Patience | None = None,
        tell: Callable[[str], None] = logger.info,
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self.budget = budget
        self._patience = patience or Patience()
        self._traffic = Traffic(most=engine.in_flight, limit=float(engine.in_flight))
        self._waiting: deque[Job] = deque()
        self._under_way: dict[str, asyncio.Future[Answer]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._stopped: GeckoError | None = None
        self._draining = False
        self._asking_plainly = asyncio.Lock()
        self._wake: asyncio.TimerHandle | None = None
        self._runner = asyncio.Runner()
        self._scatter = random.Random(0)  # noqa: S311
        self._tell = tell
        self.progress = Progress(tell)
        self.calls_made = 0
        self.calls_replayed = 0

    def close(self) -> None:
        """Free the engine and the event loop."""
        with contextlib.suppress(Exception):
            self._runner.run(self._engine.close())
        self._runner.close()

    def able(self, capabilities: Capabilities) -> Capabilities:
        """What of a model's capabilities can be had in this way of asking it: all of them."""
        return capabilities

    def run(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Run one coroutine to its end on the caller's own event loop."""

        async def whole() -> Result:
            return await work()

        return self._runner.run(whole())

    def map(self, work: Callable[[Item], Awaitable[Result]], items: Sequence[Item]) -> list[Result]:
        """Do a piece of work, which may ask several times, for every item; results in the items' order.

        However many items there are, only about twice as many as may be asked at once are held open.

        Raises:
            GeckoError: The endpoint is dead or refuses the key, or a cap is reached. What was answered is kept.
        """
        return self._runner.run(self._map(work, items))

    async def ask(self, ask: Ask) -> Answer:
        """One answer: from the ledger where it holds it, else from the model.

        An ask that fails for good gives an answer with ``error`` set; nothing is raised for it.

        Raises:
            GeckoError: No further call can be made.
        """
        key = call_key("ask", self._engine.fingerprint, request_of(ask))
        held = self._held(key)
        if held is not None:
            self.calls_replayed += 1
            return held
        if self._stopped is not None:
            raise self._stopped
        future = self._under_way.get(key)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            self._under_way[key] = future
            self._waiting.append(Job(ask, key, future))
            self._pump()
        # Shielded: the same ask may be awaited twice, and one waiter's end must not cancel the other's.
        return await asyncio.shield(future)

    async def _map(self, work: Callable[[Item], Awaitable[Result]], items: Sequence[Item]) -> list[Result]:
        self._count_spent()
        results: dict[int, Result] = {}
        numbered = iter(enumerate(items))

        async def worker() -> None:
            for index, item in numbered:
                results[index] = await work(item)
                self.progress.row(self.budget)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(len(items), self._open_at_once())):
                    group.create_task(worker())
        except BaseExceptionGroup as failures:
            first = next(_leaves(failures))
            raise first from None
        finally:
            await self._drain()
        return [results[index] for index in range(len(items))]

    def _count_spent(self) -> None:
        """Take over what all the calls in the ledger have cost."""
        spent = self._ledger.stats()
        self.budget.start_from(spent["usd"], int(spent["input_tokens"] + spent["output_tokens"]))

    async def _drain(self) -> None:
        """Wait for the calls under way, which are paid for; start none, and forget those that were not started."""
        self._draining = True
        self._waiting.clear()
        if self._serving:
            await asyncio.wait(set(self._serving), timeout=_GRACE_SECONDS)
        for task in self._serving:
            task.cancel()
        for future in self._under_way.values():
            future.cancel()
        self._under_way.clear()
        self._draining = False

    def _open_at_once(self) -> int:
        """Rows that are worked on at the same time: enough for a next ask to be there whenever one is answered."""
        return 2 * self._engine.in_flight * self._engine.batch

    def _held(self, key: str) -> Answer | None:
        reply = self._ledger.get(key)
        if reply is None:
            return None
        try:
            return Answer.from_json(reply)
        except TypeError:
            self._ledger.reject(key)
            return None

    def _pump(self) -> None:
        """Start calls while the endpoint and the caps allow it."""
        traffic = self._traffic
        loop = asyncio.get_running_loop()
        while self._waiting and not self._ending() and traffic.active < int(traffic.limit):
            pause = traffic.paused_until - time.monotonic()
            if pause > 0:
                if self._wake is None:
                    self._wake = loop.call_later(pause, self._woken)
                return
            jobs, reserved = self._take()
            if not jobs:
                if traffic.active == 0:  # with calls under way, their real cost may leave room
                    self._stop(self.budget.reached())
                return
            traffic.active += 1
            task = loop.create_task(self._serve(jobs, reserved))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    def _ending(self) -> bool:
        return self._draining or self._stopped is not None

    def _woken(self) -> None:
        self._wake = None
        self._pump()

    def _take(self) -> tuple[list[Job], list[tuple[float, float]]]:
        """The next asks of one kind that the caps allow, as many as one call takes."""
        jobs: list[Job] = []
        reserved: list[tuple[float, float]] = []
        while self._waiting and len(jobs) < self._engine.batch:
            job = self._waiting[0]
            if jobs and job.ask.kind != jobs[0].ask.kind:
                break
            room = self.budget.reserve(job.ask)
            if room is None:
                break
            jobs.append(self._waiting.popleft())
            reserved.append(room)
        return jobs, reserved

    async def _serve(self, jobs: list[Job], reserved: list[tuple[float, float]]) -> None:
        started = time.monotonic()
        try:
            try:
                answers = await self._answered([job.ask for job in jobs])
            except EngineError as error:
                await self._settle_failure(jobs, reserved, error, time.monotonic() - started)
            except asyncio.CancelledError:
                for room in reserved:
                    self.budget.release(room)
                raise
            else:
                self._settle(jobs, reserved, answers, (time.monotonic() - started) / len(jobs))
        except Exception as error:  # a fault, wherever it is, must end the run in a line, not hang it
            self._stop(self._fault(error))
        finally:
            self._traffic.active -= 1
            self._pump()

    async def _answered(self, asks: Sequence[Ask]) -> list[Answer]:
        try:
            async with asyncio.timeout(self._patience.call_seconds):
                answers = await self._engine.answer(asks)
        except TimeoutError:
            seconds = self._patience.call_seconds
            raise EngineError(f"no answer in {seconds:g} s", retry=True, timeout=True) from None
        if len(answers) != len(asks):
            raise EngineError(f"{len(answers)} answers to {len(asks)} asks", retry=True)
        return answers

    def _fault(self, error: Exception) -> GeckoError:
        logger.debug("fault in a call", exc_info=error)
        return GeckoError(
            f"{self._engine.name} failed: {type(error).__name__}: {error}",
            "what was answered is kept: run the same command again to go on",
        )

    def _settle(
        self, jobs: list[Job], reserved: list[tuple[float, float]], answers: list[Answer], seconds: float
    ) -> None:
        self._traffic.answer()
        calls = []
        for job, room, answer in zip(jobs, reserved, answers, strict=True):
            usd = self.budget.settle(job.ask, room, answer)
            calls.append(self._call(job, answer, usd, seconds))
        try:
            self._ledger.put_many(calls)
        except GeckoError as error:
            self._stop(error)  # an answer that cannot be kept must not be used: it would be paid for again
            return
        for job, answer in zip(jobs, answers, strict=True):
            self.calls_made += 1
            self.progress.call(answer)
            self._finish(job, answer)

    async def _settle_failure(
        self, jobs: list[Job], reserved: list[tuple[float, float]], error: EngineError, seconds: float
    ) -> None:
        now, traffic = time.monotonic(), self._traffic
        lost = Answer(input_tokens=error.input_tokens, output_tokens=error.output_tokens, error=str(error))
        with contextlib.suppress(GeckoError):
            self._ledger.put_many(
                self._call(job, lost, self.budget.settle(job.ask, room, lost), seconds)
                for job, room in zip(jobs, reserved, strict=True)
            )
        if error.fatal and not (error.perhaps and (traffic.answered or await self._alive())):
            self._stop(GeckoError(str(error), "check the model's name, the key and the address; nothing is lost"))
            return
        # Refused whatever it asked, or maybe for what it asked: that shows when others are answered.
        everyone = (error.crowded or error.unreachable) and not error.timeout
        again = error.retry or error.fatal
        if error.crowded:
            if (error.wait or 0.0) >= _LONG_WAIT_SECONDS and now >= traffic.paused_until:
                self._tell(f"{self._engine.name} asks to wait {error.wait:.0f} s: {error}")
            traffic.crowd(now, error.wait or 0.0)
        if again:
            traffic.refuse(now)
            if traffic.dead(now, self._patience) and (everyone or not await self._alive()):
                self._stop(
                    GeckoError(
                        f"{self._engine.name} has refused {traffic.refusals} calls in a row: {error}",
                        "check that it runs and that the address is right, then run the same command again to go on",
                    )
                )
                return
        for job in jobs:
            job.attempts += 0 if everyone else 1
            if not again:
                self._finish(job, lost)
            elif job.attempts >= self._patience.attempts:
                await self._give_up(job, lost)
            else:
                self._later(job, max(error.wait or 0.0, self._backoff(job)))

    async def _give_up(self, job: Job, lost: Answer) -> None:
        """End an ask that failed too often: for this session, or for good where it did so in an earlier one too.

        The endpoint may have been out of order; but what fails for a second session while others are answered is the
        ask's own fault, and must not keep a run from ever ending.
        """
        name = f"given up {job.key}"
        own = self._ledger.noted(name) is not None and (self._traffic.answered > 0 or await self._alive())
        if not own:
            self._ledger.note(name, lost.error)
        self._finish(job, replace(lost, transient=not own))

    async def _alive(self) -> bool:
        """Whether the endpoint answers a plain question, asked once; then what it refuses is refused for what it is."""
        before = self._traffic.answered
        async with self._asking_plainly:
            if self._ending() or self._traffic.answered > before:
                return not self._ending()
            room = self.budget.reserve(_PLAIN)
            if room is None:
                return False
            started = time.monotonic()
            try:
                (answer,) = await self._answered([_PLAIN])
            except EngineError as error:
                self.budget.release(room)
                return not (error.retry or error.fatal)
            key = call_key("plain", self._engine.fingerprint, time.time())
            job = Job(_PLAIN, key, asyncio.get_running_loop().create_future())
            usd = self.budget.settle(_PLAIN, room, answer)
            self._ledger.put_many([self._call(job, answer, usd, time.monotonic() - started)])
            self._traffic.answer()
            return True

    def _later(self, job: Job, seconds: float) -> None:
        def again() -> None:
            if not self._ending() and not job.future.done():
                self._waiting.append(job)
                self._pump()

        asyncio.get_running_loop().call_later(seconds, again)

    def _backoff(self, job: Job) -> float:
        tries = job.attempts + min(self._traffic.refusals, 8)
        wait = self._patience.backoff_seconds * 2 ** max(tries - 1, 0)
        return min(wait, self._patience.longest_backoff_seconds) * self._scatter.uniform(0.5, 1.0)

    def _finish(self, job: Job, answer: Answer) -> None:
        self._under_way.pop(job.key, None)
        if not job.future.done():
            job.future.set_result(answer)

    def _stop(self, error: GeckoError) -> None:
        """Start nothing more: everyone who waits gets the error, also those waiting for a second attempt."""
        if self._stopped is None:
            self._stopped = error
        self._waiting.clear()
        for future in self._under_way.values():
            if not future.done():
                future.set_exception(self._stopped)
                future.exception()  # mark it as seen: its waiter may be gone
        self._under_way.clear()

    def _call(self, job: Job, answer: Answer, usd: float, seconds: float) -> Call:
        request = {"model": self._engine.name, **request_of(job.ask)}
        request["prompt"]["shared"] = self._ledger.keep_text(job.ask.prompt.shared)
        if not self.budget.price_known:
            request[UNPRICED] = True
        return Call(
            job.key,
            purpose_of(job.ask),
            request,
            answer.to_json(),
            answer.input_tokens,
            answer.output_tokens,
            usd,
            seconds,
            answer.error,
        )


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
