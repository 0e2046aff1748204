"""A model that serves: texts of requests, encoded in batches the way the model was trained to see them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from gecko.embedder.open import resolve_model
from gecko.errors import GeckoError, UsageError
from gecko.serve.batching import Batcher
from gecko.serve.precision import Precision
from gecko.serve.store import TextEncoder

Kind = Literal["raw", "query", "document"]
# Characters that count as one text of the queue: what waits is held in memory, and long texts take their time.
_TEXT_CHARS = 4000
# Texts of a forward call on a CPU: of like length, so that little of it is padding.
_CPU_BATCH = 16


class Encoder(TextEncoder, Protocol):
    """What a server asks of a model: :class:`gecko.embedder.embedder.Embedder` has it."""

    def render_queries(self, queries: Sequence[str], task: str | Sequence[str] | None = None) -> list[str]:
        """What the model sees of queries."""
        ...

    def render_passages(self, passages: Sequence[tuple[str, str]]) -> list[str]:
        """What the model sees of (title, text) pairs."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (n, dim) of texts as they stand."""
        ...


@dataclass(frozen=True, slots=True)
class Text:
    """A text of a request, and as what it is to be encoded; ``task`` is of queries."""

    text: str
    kind: Kind = "raw"
    task: str | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """A unit vector (dim,); how many tokens the model read, its prompt's among them, and how many there were."""

    vector: np.ndarray
    tokens: int
    whole: int


class Tokens:
    """Counts tokens and turns token ids into text.

    It holds a copy of the model's tokenizer. The model's own is changed by every call (padding, truncation) and fails
    with "Already borrowed" where another thread uses it meanwhile.

    Args:
        encoder: A model whose ``model.tokenizer`` is one of Hugging Face's, or whose directory holds tokenizer.json. Of
            others tokens are guessed, and no text is known to be too long.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        model = getattr(encoder, "model", None)
        self._tokenizer = _copied(getattr(model, "tokenizer", None), Path(encoder.path) / "tokenizer.json")
        self.limit: int | None = getattr(model, "max_seq_length", None) if self._tokenizer else None

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, those after the model's limit too."""
        if self._tokenizer is None:
            return [max(1, len(text) // 4) for text in texts]
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch(list(texts))]

    def text(self, ids: Sequence[int]) -> str:
        """The text that token ids stand for.

        Raises:
            UsageError: The tokenizer has no such id, or there is no tokenizer.
        """
        if self._tokenizer is None:
            raise UsageError("this model takes no token ids", "send the text itself")
        size = self._tokenizer.get_vocab_size()
        strange = next((token for token in ids if not 0 <= token < size), None)
        if strange is not None:
            raise UsageError(
                f"token id {strange} is none of this model's {size:,}",
                "send text; in LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False)",
            )
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))


def _copied(tokenizer: object, file: Path) -> Any:  # noqa: ANN401
    from tokenizers import Tokenizer

    own = getattr(tokenizer, "backend_tokenizer", None)
    if own is None and not file.is_file():
        return None
    copy = Tokenizer.from_str(own.to_str()) if own is not None else Tokenizer.from_file(str(file))
    copy.no_truncation()
    copy.no_padding()
    return copy


class Engine:
    """One model behind a queue.

    Args:
        encoder: The model.
        name: What it is called in requests.
        batch: Texts of a call at most.
        room: Texts that may wait; a long one counts as several.
        observe: Told the size of each batch.
    """

    def __init__(
        self,
        encoder: Encoder,
        name: str,
        *,
        batch: int = 64,
        room: int = 4096,
        observe: Callable[[int], None] = lambda _size: None,
    ) -> None:
        self.encoder = encoder
        self.name = name
        self.dim = encoder.dim
        self.tokens = Tokens(encoder)
        self.batcher: Batcher[Text, Encoded] = Batcher(
            self._run, batch=batch, room=room, weigh=_weight, observe=observe
        )

    async def embed(self, texts: Sequence[Text]) -> list[Encoded]:
        """Encode the texts of a request.

        Raises:
            QueueFull: Too many texts wait.
        """
        return await self.batcher.submit(texts)

    def _run(self, texts: list[Text]) -> list[Encoded]:
        seen = [self._render(text) for text in texts]
        counts = self.tokens.count(seen)
        vectors = self.encoder.encode(seen)
        if not np.isfinite(vectors).all():
            raise GeckoError(f"{self.name} makes vectors that are not finite", "train it again, or serve another")
        limit = self.tokens.limit
        return [
            Encoded(vector, count if limit is None else min(count, limit), count)
            for vector, count in zip(vectors, counts, strict=True)
        ]

    def _render(self, text: Text) -> str:
        if text.kind == "query":
            return self.encoder.render_queries([text.text], text.task)[0]
        if text.kind == "document":
            return self.encoder.render_passages([("", text.text)])[0]
        return text.text


def _weight(text: Text) -> int:
    return 1 + len(text.text) // _TEXT_CHARS


def open_encoder(spec: str, *, batch: int, precision: Precision, tell: Callable[[str], None]) -> Encoder:
    """Open the model that is served, here and nowhere else: whatever an Embedder opens can be served.

    Args:
        spec: A path, a Hub id or all-MiniLM-L6-v2; an export of any format is served as it is.
        batch: Texts of a forward call at most.
        precision: Of the forward pass; int8 is the model's export, made at the first start and kept in the user's
            cache; auto is int8 on a CPU where ONNX Runtime is installed, and else bfloat16 where the hardware has it.
        tell: Receives a line where an export is made.

    Raises:
        GeckoError: The model cannot be loaded, or has no int8 export.
    """
    from gecko.embedder.embedder import Embedder

    if precision is Precision.int8 or (precision is Precision.auto and _answers_in_int8(spec)):
        from gecko.export.cached import cached_int8

        try:
            return Embedder(cached_int8(spec, tell))
        except GeckoError as error:
            if precision is Precision.int8:
                raise
            tell(f"no int8 export, so the model itself answers: {error}")
    encoder = Embedder(spec, bf16=precision.bf16)
    device = getattr(encoder.model, "device", None)
    encoder.batch_size = batch if getattr(device, "type", "cpu") != "cpu" else min(batch, _CPU_BATCH)
    return encoder


def _answers_in_int8(spec: str) -> bool:
    """Whether a model is a folder, the runtime of its export is installed, and there is no GPU to compute on."""
    if not Path(resolve_model(spec)).is_dir() or importlib.util.find_spec("onnxruntime") is None:
        return False
    from torch import cuda

    return not cuda.is_available()
