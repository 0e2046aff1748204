"""The engine of one machine: a model runs in this process, and pure Python in processes beside it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass
from typing import Any

from gecko.engine.feed import AHEAD, TRIES, Feed, killer
from gecko.engine.protocol import Batch, Result, Work
from gecko.errors import reason

# Batches done here before other processes are started: those take a second, in which a small corpus is done.
_HERE = 4
_MEMORY = "most likely memory ran out: end what else needs it, and run again; nothing finished is lost"


def cores() -> int:
    """How many cores this process may use: in a container, fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LocalEngine:
    """Runs work on this machine.

    Work that runs a model is done in this process, since torch uses all cores by itself; other work is done by
    processes beside it, once there is enough of it. One of these that dies is replaced, and its batches done again.

    Args:
        workers: Processes beside this one; 0 does everything in it. None: one less than there are cores, since this
            one has its own work.
    """

    name = "local"

    def __init__(self, workers: int | None = None) -> None:
        self.workers = max(0, cores() - 1) if workers is None else workers

    def map_batches(
        self, work: Work[Batch, Result], batches: Iterable[Batch], *, model: bool = False
    ) -> Iterator[Result]:
        """Do the work to every batch, in order (:class:`gecko.engine.protocol.Engine`)."""
        feed, function = Feed(batches), work.open()
        alone = model or self.workers == 0
        done = 0
        while (alone or done < _HERE) and (batch := feed.take()):
            yield function(batch[0])
            done += 1
        if not alone:
            yield from _in_processes(work, feed, self.workers)
        feed.finish()

    def close(self) -> None:
        """Nothing is held between two works."""


@dataclass(slots=True)
class _Task:
    batch: Any
    future: Future[Any]
    tries: int = 0


def _in_processes(work: Work[Batch, Result], feed: Feed[Batch], workers: int) -> Iterator[Result]:
    tasks: deque[_Task] = deque()
    pool: Any = None
    try:
        while True:
            while len(tasks) < AHEAD * workers and (batch := feed.take()):
                pool = pool or _pool(workers)
                tasks.append(_Task(batch[0], _submitted(pool, work, batch[0])))
            if not tasks:
                return
            try:
                result = tasks[0].future.result()
            except BrokenExecutor as error:
                tasks[0].tries += 1
                if tasks[0].tries == TRIES:
                    raise killer(reason(error), _MEMORY) from error
                pool.shutdown(kill_workers=True)
                pool = _pool(workers)
                for task in tasks:
                    if not task.future.done() or isinstance(task.future.exception(), BrokenExecutor):
                        task.future = _submitted(pool, work, task.batch)
                continue
            tasks.popleft()
            yield result
    finally:
        for task in tasks:
            task.future.cancel()
        if pool is not None:
            pool.shutdown()


def _submitted(pool: Any, work: Work[Any, Any], batch: Any) -> Future[Any]:  # noqa: ANN401
    """Hand a batch to the processes; where one has died since the last result, as if it had died over this batch."""
    try:
        return pool.submit(_run, work, batch)  # type: ignore[no-any-return]
    except BrokenExecutor as error:
        refused: Future[Any] = Future()
        refused.set_exception(error)
        return refused


def _pool(workers: int) -> Any:  # noqa: ANN401
    """Start processes that share nothing with this one: forks of a process with threads may hang.

    Those of loky, unlike the standard library's, do not run the user's own script once more.
    """
    from joblib.externals.loky import ProcessPoolExecutor

    return ProcessPoolExecutor(workers, env={"OMP_NUM_THREADS": "1"})


_opened: list[Callable[[Any], Any]] = []  # in a process beside: its work, which is the only one it ever gets


def _run(work: Work[Any, Any], batch: Any) -> Any:  # noqa: ANN401
    if not _opened:
        _opened.append(work.open())
    return _opened[0](batch)
