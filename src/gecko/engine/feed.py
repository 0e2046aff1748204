"""What engines that work ahead share: how far ahead, and a reader of batches whose error waits for its turn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic

from gecko.engine.protocol import Batch
from gecko.errors import GeckoError

AHEAD = 3  # batches a worker: one worked on, one waiting for it, one done and waiting for its turn
TRIES = 4  # workers that a batch may lose before it is held to be what kills them


class Feed(Generic[Batch]):
    """Takes batches one by one; what goes wrong with them is kept until all before it is done.

    Without that, an engine that reads ahead would lose results that one without it has.
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = iter(batches)
        self._error: Exception | None = None

    def take(self) -> list[Batch]:
        """The next batch alone in a list, which is empty when there is none."""
        if self._error is None:
            try:
                return [next(self._batches)]
            except StopIteration:
                pass
            except Exception as error:  # whatever it is, its turn comes in finish()
                self._error = error
        return []

    def finish(self) -> None:
        """Raise what was kept."""
        if self._error is not None:
            raise self._error


def killer(said: str, hint: str) -> GeckoError:
    """The error for a batch that no worker outlived."""
    return GeckoError(f"{TRIES} workers died over the same batch: {said}", hint)
