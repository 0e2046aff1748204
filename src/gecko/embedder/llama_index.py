"""A model as LlamaIndex's ``BaseEmbedding``: ``GeckoEmbedding("runs/docs/model")``; needs llama-index-core."""

from __future__ import annotations

from llama_index.core.embeddings import BaseEmbedding
from pydantic import PrivateAttr

from gecko.embedder.embedder import Embedder


class GeckoEmbedding(BaseEmbedding):  # type: ignore[misc]
    """Queries and documents as the model was trained to see them; ``dim`` cuts the vectors."""

    _embedder: Embedder = PrivateAttr()

    def __init__(self, model_name: str, dim: int | None = None, embed_batch_size: int = 64) -> None:
        super().__init__(model_name=model_name, embed_batch_size=embed_batch_size)
        self._embedder = Embedder(model_name, dim=dim)

    def _get_query_embedding(self, query: str) -> list[float]:
        return list(self._embedder.encode_query(query).tolist())

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return list(self._embedder.encode_document(text).tolist())

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return [vector.tolist() for vector in self._embedder.encode_document(texts)]
