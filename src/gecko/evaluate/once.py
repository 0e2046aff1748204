"""A model that encodes each text of a folder once, however many dimensions and tasks ask for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from gecko.evaluate.evaluate import Embedder, check_finite


class EncodedOnce:
    """Answers as the model would and remembers its vectors; made anew for each folder, which bounds what it holds.

    Equal texts get equal vectors, too: encoded apart, they may differ in the last digits and break ties at random.

    Args:
        model: Encodes what was not asked for before.
    """

    def __init__(self, model: Embedder) -> None:
        self.path = model.path
        self.dim = model.dim
        self._model = model
        self._rows: dict[Hashable, dict[Hashable, int]] = {}
        self._vectors: dict[Hashable, np.ndarray] = {}

    def encode_queries(self, queries: Sequence[str], task: str | Sequence[str] | None = None) -> np.ndarray:
        """Encode queries of one task to float32 unit vectors of shape (n, dim)."""
        if task is not None and not isinstance(task, str):
            return self._model.encode_queries(queries, task)
        return self._known(("query", task), queries, lambda new: self._model.encode_queries(new, task))

    def encode_symmetric(self, texts: Sequence[str], task: str, prompt_name: str = "") -> np.ndarray:
        """Encode texts that are compared with their like to float32 unit vectors of shape (n, dim)."""
        key = ("symmetric", task, prompt_name)
        return self._known(key, texts, lambda new: self._model.encode_symmetric(new, task, prompt_name))

    def encode_passages(self, passages: Sequence[tuple[str, str]]) -> np.ndarray:
        """Encode (title, text) pairs to float32 unit vectors of shape (n, dim)."""
        return self._known("passage", passages, self._model.encode_passages)

    def _known(self, key: Hashable, items: Sequence[Hashable], encode: Callable[..., np.ndarray]) -> np.ndarray:
        """Look items up that were rendered alike; encode the new ones first."""
        rows = self._rows.setdefault(key, {})
        new = [item for item in dict.fromkeys(items) if item not in rows]
        if new:
            vectors = np.asarray(encode(new), np.float32)
            check_finite(self._model, vectors)
            first = len(rows)
            rows.update((item, first + place) for place, item in enumerate(new))
            before = self._vectors.get(key)
            self._vectors[key] = vectors if before is None else np.concatenate([before, vectors])
        found = self._vectors.get(key, np.zeros((0, self.dim), np.float32))
        return found[[rows[item] for item in items]]
