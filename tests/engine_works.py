"""Works for the tests of engines; a module of their own, since other processes import what they are sent."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gecko.errors import UsageError


@dataclass(frozen=True)
class Square:
    """Squares numbers, some of them slowly; gives the process's id with each."""

    slow: tuple[int, ...] = ()

    def open(self) -> Callable[[int], tuple[int, int]]:
        def square(number: int) -> tuple[int, int]:
            if number in self.slow:
                time.sleep(0.5)
            return number * number, os.getpid()

        return square


@dataclass(frozen=True)
class Failing:
    """Fails on one number as a user's mistake, a bug or full memory does."""

    number: int
    kind: str = "mistake"

    def open(self) -> Callable[[int], int]:
        if self.kind == "opening":
            raise UsageError("cannot open", "try another")

        def run(number: int) -> int:
            if number == self.number and self.kind == "mistake":
                raise UsageError(f"no {number} please", "leave it out")
            if number == self.number:
                raise MemoryError("no room") if self.kind == "memory" else ZeroDivisionError("a bug")
            return number

        return run


@dataclass(frozen=True)
class Dying:
    """Kills the process that works, as the system does where memory runs out: at its second batch once, as told by a
    file, or at every batch.
    """

    work: Any
    flag: Path | None = None
    home: int = field(default_factory=os.getpid)

    def open(self) -> Callable[[Any], Any]:
        function, done = self.work.open(), 0

        def run(batch: Any) -> Any:
            nonlocal done
            done += 1
            if os.getpid() != self.home and (self.flag is None or done == 2):
                if self.flag is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                try:
                    self.flag.open("x").close()
                except FileExistsError:
                    return function(batch)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(batch)

        return run


@dataclass
class Counting:
    """Batches that count how far ahead of the results they are taken."""

    batches: Iterable[Any]
    taken: int = 0
    given: int = 0
    most: int = 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            self.taken += 1
            self.most = max(self.most, self.taken - self.given)
            yield batch

    def counted(self, results: Iterable[Any]) -> list[Any]:
        found = []
        for result in results:
            found.append(result)
            time.sleep(0.01)  # a slow consumer: an engine must not run ahead of it
            self.given += 1
        return found


class Deadly:
    """An engine under which every work loses a worker once.

    Attributes:
        deaths: How many there were.
    """

    name = "deadly"

    def __init__(self, engine: Any, folder: Path) -> None:
        self._engine, self._folder, self._works = engine, folder, 0

    def map_batches(self, work: Any, batches: Iterable[Any], *, model: bool = False) -> Iterator[Any]:
        self._works += 1
        flag = self._folder / f"died-{self._works}"
        yield from self._engine.map_batches(Dying(work, flag), batches, model=model)

    @property
    def deaths(self) -> int:
        return len(list(self._folder.glob("died-*")))
