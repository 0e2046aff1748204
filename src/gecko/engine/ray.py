"""The engine of many machines: actors on a Ray cluster, or on a Ray of this process's own.

Every actor opens the work once and is sent one batch after the other. What dies with an actor or a node, finished
results among it, is done again elsewhere: this process keeps a batch until its result is handed on. Actors of a cluster
are freed at the end of a work, for others may wait for them; those of a Ray of our own are kept for the next work,
since importing torch takes longer than many a stage.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from gecko.engine.feed import AHEAD, TRIES, Feed, killer
from gecko.engine.local import cores
from gecko.engine.protocol import Batch, Result, Work
from gecko.errors import GeckoError, reason

logger = logging.getLogger(__name__)

_QUEUE = 2  # batches sent to an actor: one worked on, one waiting for it
_WAIT_SECONDS = 30.0
_CONNECT_SECONDS = 10.0
# Only batches under way lie in the object store, and of those few; Ray's own choice is a third of the memory.
_STORE_BYTES = 512 << 20
_MEMORY = "most likely memory ran out: give it more, or run again with --engine local; nothing finished is lost"


_joined: dict[str, str | None] = {}  # the address that this process joined last


class RayEngine:
    """Runs work on a Ray cluster.

    A worker for a model gets as many cores as torch uses in this process, so that it computes what this process would;
    any other worker gets one. There are as many workers as the cluster has room for.

    Args:
        address: Of the cluster; None starts Ray on this machine with the first work, and ends it in :meth:`close`.
        gpus: GPUs that each worker with a model asks for, where the cluster has any.
        tell: Receives a line when workers are waited for.

    Attributes:
        address: Of the cluster, or None.
    """

    name = "ray"

    def __init__(
        self, address: str | None = None, *, gpus: float = 0.0, tell: Callable[[str], None] | None = None
    ) -> None:
        self.address = address
        self._gpus = gpus
        self._tell = tell or logger.info
        self._ray: Any = None
        self._ours = False
        self._kept: list[Any] = []
        self._kept_for: Any = None  # what the kept ones had asked for

    def map_batches(
        self, work: Work[Batch, Result], batches: Iterable[Batch], *, model: bool = False
    ) -> Iterator[Result]:
        """Do the work to every batch, in order (:class:`gecko.engine.protocol.Engine`)."""
        ray = self._started()
        threads = _threads() if model else None
        asked, most = _room(ray, threads, self._gpus if model else 0.0)
        workers = _Workers(ray, work, asked, most, threads, self._tell)
        if self._kept_for == asked:
            workers.employ(self._kept)
        else:
            for actor in self._kept:
                ray.kill(actor)
        self._kept, self._kept_for = [], asked
        feed = Feed(batches)
        try:
            yield from workers.results(feed)
        finally:
            self._kept = workers.close(keep=self.address is None)
        feed.finish()

    def close(self) -> None:
        """Free the workers; end the Ray that was started here, leave the cluster that was joined."""
        if self._ray is not None and self._ray.is_initialized():
            for actor in self._kept:
                self._ray.kill(actor)
            if self._ours:
                self._ray.shutdown()
        self._ray, self._kept, self._kept_for, self._ours = None, [], None, False

    def _started(self) -> Any:  # noqa: ANN401
        if self._ray is None:
            self._ray, self._ours = join(self.address)
        return self._ray


def join(address: str | None) -> tuple[Any, bool]:
    """Join a Ray cluster, or start Ray on this machine, unless this process has done so already.

    Args:
        address: Of the cluster; None starts Ray here.

    Returns:
        The module, and whether it was this call that joined or started.

    Raises:
        GeckoError: There is no such cluster, or Ray does not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as Ray asks to be told, in three lines
    import ray

    if ray.is_initialized():
        if address is not None and address != _joined.get("address", address):
            used = _joined["address"] or "a Ray of its own"
            raise GeckoError(f"this process uses {used} already, and cannot join {address}", "name it in --ray-address")
        return ray, False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:  # "local", lest RAY_ADDRESS makes it join a cluster
        quiet |= {"num_cpus": cores(), "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    try:
        if address is not None:
            _knock(address)
        ray.init(address or "local", **quiet)
    except Exception as error:  # of the network, the versions or the machine; Ray has no class for them
        where = f"no Ray cluster at {address}" if address else "Ray does not start here"
        hint = "its address is what `ray status` knows it by; it must run the same versions of Ray and Python"
        raise GeckoError(f"{where}: {reason(error)}", hint if address else "--engine local") from error
    _joined["address"] = address
    return ray, True


def _knock(address: str) -> None:
    """Fail at once where nobody listens: Ray itself tries for five minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()


def _threads() -> int:
    import torch

    return int(torch.get_num_threads())


def _room(ray: Any, threads: int | None, gpus: float) -> tuple[dict[str, float], int]:  # noqa: ANN401
    """What a worker asks Ray for, and how many of them the cluster holds."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    on_gpus = sum(int(node.get("GPU", 0) // gpus) for node in nodes) if gpus else 0
    if on_gpus:
        return {"num_cpus": 1, "num_gpus": gpus}, on_gpus
    most = max((int(node.get("CPU", 0)) for node in nodes), default=1)
    asked = max(1, min(threads or 1, most))
    return {"num_cpus": asked}, max(1, sum(int(node.get("CPU", 0) // asked) for node in nodes))


class _Worker:
    """An actor: a work, opened once."""

    def __init__(self) -> None:
        self._function: Callable[[Any], Any] | None = None

    def open(self, work: Work[Any, Any], threads: int | None) -> GeckoError | None:
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        self._function = None  # the work before, whose model need not be in memory beside the new one's
        try:
            self._function = work.open()
        except GeckoError as error:
            return error  # as a value: what Ray raises has another class and a traceback for its message
        return None

    def run(self, batch: Any) -> Any:  # noqa: ANN401
        assert self._function is not None  # noqa: S101 - open() was called first, and calls are made in order
        try:
            return self._function(batch)
        except GeckoError as error:
            return error


@dataclass(slots=True)
class _Task:
    number: int
    batch: Any
    tries: int = 0


class _Workers:
    """The actors of one work, and which batch each of them has."""

    def __init__(
        self,
        ray: Any,  # noqa: ANN401
        work: Work[Any, Any],
        resources: dict[str, float],
        most: int,
        threads: int | None,
        tell: Callable[[str], None],
    ) -> None:
        self._ray = ray
        self._work = work
        self._threads = threads
        self._actor = ray.remote(_Worker).options(**resources, scheduling_strategy="SPREAD")
        self._asked = resources
        self._most = most
        self._tell = tell
        self._load: dict[Any, int] = {}  # actors that are ready, with the number of their batches
        self._opening: dict[Any, Any] = {}  # what says that an actor is ready, and the actor
        self._under_way: dict[Any, tuple[Any, _Task]] = {}  # result to come: by which actor, of which batch
        self._waiting: deque[_Task] = deque()
        self._done: dict[int, Any] = {}
        self._failed_starts = 0

    def results(self, feed: Feed[Any]) -> Iterator[Any]:
        """Yield the results in the batches' order."""
        taken = given = 0
        while True:
            while taken - given < AHEAD * self._most and (batch := feed.take()):
                self._waiting.append(_Task(taken, batch[0]))
                taken += 1
            self._send()
            if given == taken:
                return
            if given not in self._done:
                self._wait()
                continue
            result = self._done.pop(given)
            if isinstance(result, GeckoError):
                raise result
            given += 1
            yield result

    def employ(self, actors: Iterable[Any]) -> None:
        """Have actors open the work."""
        for actor in actors:
            self._opening[actor.open.remote(self._work, self._threads)] = actor

    def close(self, *, keep: bool) -> list[Any]:
        """Free the actors; those that are idle are given back where they are to be kept."""
        kept = [actor for actor, batches in self._load.items() if keep and not batches]
        for actor in (*self._load, *self._opening.values()):
            if actor not in kept:
                self._ray.kill(actor)
        return kept

    def _send(self) -> None:
        """Give waiting batches to actors with room for them, and start the actors that are missing."""
        while self._waiting:
            actor = min(self._load, key=lambda one: self._load[one], default=None)
            if actor is None or self._load[actor] >= _QUEUE:
                break
            task = self._waiting.popleft()
            self._under_way[actor.run.remote(task.batch)] = actor, task
            self._load[actor] += 1
        missing = min(self._most - len(self._load), len(self._waiting)) - len(self._opening)
        self.employ(self._actor.remote() for _ in range(missing))

    def _wait(self) -> None:
        """Wait until an actor is ready or a batch is done."""
        ray = self._ray
        found, _ = ray.wait([*self._under_way, *self._opening], num_returns=1, timeout=_WAIT_SECONDS)
        if not found and not self._load:
            asked = " and ".join(f"{size:g} {name.removeprefix('num_').upper()}" for name, size in self._asked.items())
            self._tell(f"ray        waiting for a worker with {asked}")
        for ref in found:
            task = self._under_way[ref][1] if ref in self._under_way else None
            try:
                value = ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error  # the work's own error; Ray's has a traceback for its message
            except ray.exceptions.RayError as error:
                self._lose(ref, error)
                continue
            if task is None:
                if value is not None:
                    raise value
                self._load[self._opening.pop(ref)] = 0
                self._failed_starts = 0
            else:
                actor, _ = self._under_way.pop(ref)
                if actor in self._load:
                    self._load[actor] -= 1
                self._done[task.number] = value

    def _lose(self, ref: Any, error: Exception) -> None:  # noqa: ANN401
        """Take an actor, or the machine it was on, for dead; its batch is done again."""
        logger.debug("a Ray worker was lost", exc_info=error)
        if ref in self._opening:
            actor = self._opening.pop(ref)
            self._failed_starts += 1
            if self._failed_starts == TRIES:
                if isinstance(error, self._ray.exceptions.OutOfMemoryError):
                    raise GeckoError(f"no Ray worker starts: {reason(error)}", _MEMORY) from error
                # Its first line names the actor, its last one says why.
                said = str(error).strip().rpartition("\n")[2].strip()
                raise GeckoError(
                    f"no Ray worker starts: {said}", "is the same gecko installed on every machine of the cluster?"
                ) from error
        else:
            actor, task = self._under_way.pop(ref)
            task.tries += 1
            if task.tries == TRIES:
                raise killer(reason(error), _MEMORY) from error
            self._waiting.appendleft(task)
        if self._load.pop(actor, None) is not None:
            self._ray.kill(actor)
