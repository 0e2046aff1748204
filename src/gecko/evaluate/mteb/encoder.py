"""A model as MTEB asks for it (``EncoderProtocol``); gecko renders the texts, with the words of the paper's table 9."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gecko.evaluate.evaluate import Embedder
from gecko.evaluate.mteb.data import KINDS
from gecko.evaluate.mteb.places import plain_name
from gecko.evaluate.retrieval import cut
from gecko.mixture.tasks import DATASETS, task_word


def word_of(mteb_type: str, name: str, words: Mapping[str, str] | None = None) -> str:
    """The words that a task of MTEB is asked with.

    Args:
        mteb_type: Its type, as MTEB calls it.
        name: Its name. MTEB has many versions of a set (``FiQA2018``, ``NQHardNegatives``), which share the beginning
            of their names with the set that the paper gives a word.
        words: Other words, by the task's name or gecko's name of the type.
    """
    kind = KINDS[mteb_type]
    if word := (words or {}).get(name) or (words or {}).get(kind):
        return word
    sets = [known for known in DATASETS if plain_name(name).startswith(known)]
    return task_word(kind, max(sets, key=len, default=name))


class MtebEncoder:
    """Encodes what MTEB hands over as ``gecko evaluate`` would; of ``EncoderProtocol``'s shape.

    Args:
        model: Encodes; it may remember texts, so that further dimensions cost nothing.
        dim: Dimensions kept, renormalised.
        meta: The model's ``ModelMeta``.
        words: As :func:`word_of` takes them.
    """

    def __init__(self, model: Embedder, dim: int, meta: Any, words: Mapping[str, str] | None = None) -> None:  # noqa: ANN401
        self._model = model
        self._dim = dim
        self._words = words
        self.mteb_model_meta = meta

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,  # noqa: ANN401
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> np.ndarray:
        """Encode batches of texts to float32 unit vectors of shape (n, dim).

        Queries and passages are rendered as such in retrieval and reranking; in all other types every text alike.
        """
        word = word_of(task_metadata.type, task_metadata.name, self._words)
        asymmetric = KINDS[task_metadata.type] in ("retrieval", "reranking")
        batches = list(inputs)
        if asymmetric and getattr(prompt_type, "value", prompt_type) == "document":
            passages = [pair for batch in batches for pair in _passages(batch)]
            return cut(self._model.encode_passages(passages), self._dim)
        texts = [str(text) for batch in batches for text in batch["text"]]
        if asymmetric:
            return cut(self._model.encode_queries(texts, word), self._dim)
        return cut(self._model.encode_symmetric(texts, word, task_metadata.type), self._dim)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:  # noqa: ANN401
        """Cosines (n, m) of all pairs of unit vectors, as a tensor."""
        import torch

        return torch.as_tensor(embeddings1) @ torch.as_tensor(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:  # noqa: ANN401
        """Cosines (n,) of unit vectors in pairs, as a tensor."""
        import torch

        return (torch.as_tensor(embeddings1) * torch.as_tensor(embeddings2)).sum(-1)


def _passages(batch: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """(title, text) of each document; MTEB's ``text`` has the title in it already, its ``body`` has not."""
    texts = batch.get("body", batch["text"])
    titles = batch.get("title", [""] * len(texts)) if "body" in batch else [""] * len(texts)
    return zip(map(str, titles), map(str, texts), strict=True)
