"""A model as LangChain's ``Embeddings``: ``GeckoEmbeddings("runs/docs/model")``; needs langchain-core."""

from __future__ import annotations

from typing import Any

from langchain_core.embeddings import Embeddings

from gecko.embedder.embedder import Embedder


class GeckoEmbeddings(Embeddings):  # type: ignore[misc]
    """Queries and documents as the model was trained to see them.

    Args:
        model: As :class:`Embedder` takes it.
        task: What the searches are for, in words.
        options: :class:`Embedder`'s.
    """

    def __init__(self, model: str, *, task: str | None = None, **options: Any) -> None:  # noqa: ANN401
        self.embedder, self.task = Embedder(model, **options), task

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of documents."""
        return [vector.tolist() for vector in self.embedder.encode_document(texts)]

    def embed_query(self, text: str) -> list[float]:
        """Vector of a query."""
        return list(self.embedder.encode_query(text, self.task).tolist())
