"""Encoding as an engine runs it: a batch of passages in, their vectors out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gecko.embedder.embedder import Embedder


@dataclass(frozen=True, slots=True)
class Encoding:
    """How passages are encoded (:class:`gecko.engine.protocol.Work`).

    Sent to another process it is the model's name, so the model must be there too.
    """

    embedder: Embedder

    def open(self) -> Callable[[Sequence[tuple[str, str]]], np.ndarray]:
        """The function of a batch of (title, text) pairs; gives float32 unit vectors (n, dim)."""
        return self.embedder.encode_passages
