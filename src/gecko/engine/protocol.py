"""The seam between what a stage does to a batch and the machines that it is done on (design: scale and failure).

A stage cuts its input into batches and says what becomes of one; an engine decides where that happens. Engines differ
in speed and in which failures they outlive, and in nothing else: results come back in the batches' order, so that rows
are the same whatever the engine, and no engine takes part in a stage's mark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Batch = TypeVar("Batch")
Result = TypeVar("Result")
Taken = TypeVar("Taken", contravariant=True)
Made = TypeVar("Made", covariant=True)


class Work(Protocol[Taken, Made]):
    """What is done to every batch, as plain settings that can be sent to another process."""

    def open(self) -> Callable[[Taken], Made]:
        """Load what the work needs, such as a model, once a worker.

        Returns:
            A pure function: a batch that is done again, after a worker died, gives the same result.

        Raises:
            GeckoError: Something it needs is not there.
        """
        ...


class Engine(Protocol):
    """Runs work over batches.

    Attributes:
        name: As on the command line.
    """

    name: str

    def map_batches(
        self, work: Work[Batch, Result], batches: Iterable[Batch], *, model: bool = False
    ) -> Iterator[Result]:
        """Do the work to every batch; results in the batches' order.

        Batches are taken from their iterator as they are needed: never more than a few a worker are between being taken
        and being handed on, whatever the corpus's size. What ``batches`` itself raises is raised after the results of
        all batches before it.

        Args:
            work: What is done.
            batches: To what; read in this process.
            model: Whether the work runs a model, whose library uses many cores, or a GPU, by itself.

        Raises:
            GeckoError: As the work raised it, hint and all; or workers died again and again.
        """
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...
