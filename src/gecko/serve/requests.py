"""Requests into texts, vectors into answers."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pydantic_core import to_json

from gecko.corpus.decode import clean
from gecko.embedder.embedder import cut
from gecko.errors import UsageError
from gecko.serve.engine import Encoded, Engine, Kind, Text
from gecko.serve.wire import EmbeddingRequest, InputType

_KINDS: dict[InputType | None, Kind] = {
    "query": "query",
    "search_query": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
}


class BadField(UsageError):
    """A field of a request that cannot be.

    Args:
        param: Its name.
        message: What is wrong.
        hint: What to do.
    """

    def __init__(self, param: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.param = param


def texts_of(request: EmbeddingRequest, engine: Engine) -> list[Text]:
    """Read the input: a text, texts, token ids or lists of such.

    Raises:
        BadField: A text is empty, a token id strange, a field contradicts another, or a dimension is not there.
    """
    if request.dimensions is not None and request.dimensions > engine.dim:
        raise BadField("dimensions", f"{engine.name} has {engine.dim} dimensions, not {request.dimensions}")
    # Texts that are compared with their like are rendered as queries of their task, as in training.
    kind: Kind = _KINDS.get(request.input_type, "query" if request.task else "raw")
    if kind == "document" and request.task:
        raise BadField("task", "task is of queries", "leave it out, or set input_type to query")
    if not request.truncate and engine.tokens.limit is None:
        raise BadField("truncate", "how long a text may be is not known of this model", "leave it out")
    task = clean(request.task) if request.task else None
    raw: Any = request.input
    if isinstance(raw, str) or (raw and isinstance(raw[0], int)):
        raw = [raw]
    texts = []
    for place, item in enumerate(raw):
        try:
            text = clean(item if isinstance(item, str) else engine.tokens.text(item))
        except UsageError as error:
            raise BadField("input", error.message, error.hint) from error
        if not text:
            raise BadField("input", f"input {place} is empty", "leave it out")
        texts.append(Text(text, kind, task))
    return texts


def refuse_cut(encoded: Iterable[Encoded], limit: int | None) -> None:
    """Refuse texts that the model did not read to their end.

    Raises:
        BadField: There is one.
    """
    for place, one in enumerate(encoded):
        if one.whole > one.tokens:
            raise BadField(
                "input", f"input {place} has {one.whole} tokens, the model reads {limit}", "cut it, or allow truncate"
            )


def embedding_body(request: EmbeddingRequest, encoded: Sequence[Encoded], name: str) -> bytes:
    """Write the answer of /v1/embeddings."""
    vectors = np.stack([one.vector for one in encoded])
    if request.dimensions is not None:
        vectors = cut(vectors, request.dimensions)
    if request.encoding_format == "base64":
        little = vectors.astype("<f4")
        values: list[Any] = [base64.b64encode(row.tobytes()).decode("ascii") for row in little]
    else:
        values = vectors.tolist()
    tokens = sum(one.tokens for one in encoded)
    return to_json(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": i, "embedding": value} for i, value in enumerate(values)],
            "model": name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )
