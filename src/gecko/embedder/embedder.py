"""A trained or base model in use: texts in, unit vectors out, with the prompts its directory names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from gecko.embedder.onnx import OnnxModel
from gecko.embedder.open import lasting_name, open_model
from gecko.embedder.texts import Side, as_passages, as_texts, is_alone, windows
from gecko.errors import GeckoError
from gecko.mixture.format import DEFAULT_TASK, format_of_prompts, render_passage, render_query

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class Embedder:
    """Encodes queries and passages the way the model was trained to see them.

    ``encode_query``, ``encode_document``, ``encode`` and ``stream`` take whatever a caller has; ``encode_queries`` and
    ``encode_passages``, which the rooms use among each other, take sequences.

    Args:
        model: A path, a Hub id or ``all-MiniLM-L6-v2``, or an already loaded model. The path may be that of an export
            (``gecko export``), of any format.
        dim: Keep only the first ``dim`` dimensions (Matryoshka), renormalised. None keeps all.
        batch_size: Texts per forward pass; texts are sorted by length first. An ONNX export has its own way.
        bf16: Run the forward pass under bfloat16 autocast (about twice as fast on CPUs that have it);
            None decides by the hardware. An ONNX export computes as it was exported.

    Raises:
        GeckoError: The model cannot be loaded, or has no such dimension.
    """

    def __init__(
        self,
        model: str | Path | SentenceTransformer,
        *,
        dim: int | None = None,
        batch_size: int = 64,
        bf16: bool | None = None,
    ) -> None:
        self.path = str(model) if isinstance(model, str | Path) else str(getattr(model, "gecko_path", ""))
        self.model: Any = open_model(str(model)) if isinstance(model, str | Path) else model
        self.model.eval()
        self.batch_size = batch_size
        self.format = format_of_prompts(self.model.prompts)
        self.full_dim = int(self.model.get_embedding_dimension() or 0)
        if dim is not None and not 0 < dim <= self.full_dim:
            raise GeckoError(f"dimension {dim} is outside 1..{self.full_dim}", "choose a smaller --dims")
        self.dim = dim or self.full_dim
        if bf16 is None:
            bf16 = not isinstance(self.model, OnnxModel) and has_fast_bf16()
        self._bf16 = bf16

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to another process, it is its model's name and how it is run; the model is loaded there."""
        if not self.path:
            raise TypeError("an embedder of a model without a path stays in its process")
        settings: dict[str, Any] = {"dim": self.dim, "batch_size": self.batch_size, "bf16": self._bf16}
        return partial(Embedder, lasting_name(self.path), **settings), ()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights and prompts: vectors of models that differ in them are not to be compared."""
        digest = hashlib.sha256(json.dumps(self.model.prompts, sort_keys=True).encode())
        if isinstance(self.model, OnnxModel):
            digest.update(self.model.digest)
            return digest.hexdigest()[:16]
        import torch

        for tensor in self.model.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    @property
    def origin(self) -> str:
        """Fingerprint of the model that an ONNX export was made from, which its vectors stand for; else its own."""
        return self.model.origin if isinstance(self.model, OnnxModel) else self.fingerprint

    @property
    def asked(self) -> str:
        """How texts are put to it, in words: models of different schemes are compared as each was trained."""
        if self.format == "gecko":
            return "in gecko's format"
        own = {name: text for name, text in self.model.prompts.items() if text}
        named = ", ".join(f"{name} {text!r}" for name, text in sorted(own.items()))
        return f"with its own prompts ({named})" if own else "without prompts"

    def encode_query(
        self, queries: str | Iterable[str], task: str | None = None, *, convert_to_tensor: bool = False
    ) -> Any:  # noqa: ANN401
        """Encode one query, or as many as an iterable gives.

        Args:
            queries: A text, or texts; a generator is read as it is encoded.
            task: What the search is for, in words, for a model of gecko's format.
            convert_to_tensor: Return a torch tensor in place of a numpy array.

        Returns:
            Float32 unit vectors, (n, dim), or (dim,) for one text.

        Raises:
            GeckoError: Something among them is no text.
        """
        return self._gathered(queries, "query", task, convert_to_tensor)

    def encode_document(self, documents: Any, *, convert_to_tensor: bool = False) -> Any:  # noqa: ANN401
        """Encode one document, or as many as an iterable gives; as :meth:`encode_query`.

        Args:
            documents: A text, a (title, text) tuple or a mapping with ``title`` and ``text``; or an iterable of such.
            convert_to_tensor: Return a torch tensor in place of a numpy array.
        """
        return self._gathered(documents, "document", None, convert_to_tensor)

    def encode(self, texts: str | Iterable[str], *, task: str | None = None, convert_to_tensor: bool = False) -> Any:  # noqa: ANN401
        """Encode texts as they are, or rendered for a task whose two sides are alike; as :meth:`encode_query`.

        Args:
            texts: A text, or texts.
            task: The task's words, such as ``clustering``; both sides of it are rendered alike. None: the texts are
                rendered already.
            convert_to_tensor: Return a torch tensor in place of a numpy array.
        """
        return self._gathered(texts, "text", task, convert_to_tensor)

    def stream(self, texts: Iterable[Any], side: Side = "document", task: str | None = None) -> Iterator[np.ndarray]:
        """Encode texts without end: yields blocks of unit vectors (m, dim), in order, and holds one block at a time.

        Args:
            texts: What :meth:`encode_query`, :meth:`encode_document` or :meth:`encode` take.
            side: Which of these: ``query``, ``document`` or ``text``.
            task: As theirs.

        Raises:
            GeckoError: Something among them is no text; or there is no such side.
        """
        if side not in get_args(Side):
            raise GeckoError(f"there is no side {side!r}", "it is query, document or text")
        if is_alone(texts, side):
            texts = [texts]
        if side == "document":
            yield from map(self.encode_passages, windows(as_passages(texts)))
            return
        for block in windows(as_texts(texts)):
            if side == "query":
                yield self.encode_queries(block, task)
            elif task is not None:
                yield self.encode_symmetric(block, task)
            else:
                yield self._vectors(block)

    def encode_queries(self, queries: Sequence[str], task: str | Sequence[str] | None = None) -> np.ndarray:
        """Encode queries, of one task or of one each, to float32 unit vectors of shape (n, dim)."""
        return self._vectors(self.render_queries(queries, task))

    def render_queries(self, queries: Sequence[str], task: str | Sequence[str] | None = None) -> list[str]:
        """The strings that the encoder sees of queries."""
        if self.format == "gecko":
            tasks = [task or DEFAULT_TASK] * len(queries) if task is None or isinstance(task, str) else task
            return [render_query(own, query) for own, query in zip(tasks, queries, strict=True)]
        prefix = self.model.prompts.get("query") or ""
        return [f"{prefix}{query}" for query in queries]

    def encode_symmetric(self, texts: Sequence[str], task: str, prompt_name: str = "") -> np.ndarray:
        """Encode texts that are compared with their like to float32 unit vectors of shape (n, dim).

        Args:
            texts: Both sides of a symmetric task, which are rendered alike, as in training.
            task: The task's words, for the unified format.
            prompt_name: Under which a plain model may keep a prompt of its own for this kind of task (MTEB's name of
                it, such as ``STS``); where it has none, its prompt for queries is used.
        """
        if self.format == "gecko":
            return self.encode_queries(texts, task)
        own = self.model.prompts.get(prompt_name)
        prefix = (self.model.prompts.get("query") or "") if own is None else own
        return self._vectors([f"{prefix}{text}" for text in texts])

    def encode_passages(self, passages: Sequence[tuple[str, str]]) -> np.ndarray:
        """Encode (title, text) pairs to float32 unit vectors of shape (n, dim)."""
        return self._vectors(self.render_passages(passages))

    def render_passages(self, passages: Sequence[tuple[str, str]]) -> list[str]:
        """The strings that the encoder sees of (title, text) pairs."""
        prefix = "" if self.format == "gecko" else (self.model.prompts.get("document") or "")
        return [prefix + render_passage(title, text, self.format) for title, text in passages]

    def _gathered(self, texts: Any, side: Side, task: str | None, convert_to_tensor: bool) -> Any:  # noqa: ANN401
        """All blocks of a stream together; one text, which is a string, a pair or a mapping, gives one vector."""
        blocks = list(self.stream(texts, side, task))
        vectors = np.concatenate(blocks) if blocks else np.zeros((0, self.dim), np.float32)
        if is_alone(texts, side):
            vectors = vectors[0]
        if not convert_to_tensor:
            return vectors
        import torch

        return torch.from_numpy(vectors)

    def _vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts that are rendered already to float32 unit vectors of shape (n, dim)."""
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        if isinstance(self.model, OnnxModel):
            return cut(self.model.encode(texts), self.dim)
        import torch

        device_type = torch.device(self.model.device).type
        with torch.autocast(device_type, dtype=torch.bfloat16, enabled=self._bf16):
            vectors = self.model.encode(
                list(texts), prompt="", batch_size=self.batch_size, convert_to_numpy=True, show_progress_bar=False
            )
        return cut(np.asarray(vectors, dtype=np.float32), self.dim)


def cut(vectors: np.ndarray, dim: int) -> np.ndarray:
    """Keep the first ``dim`` dimensions of (n, d) vectors and make them unit length again.

    Sentence-Transformers truncates after its Normalize module, which leaves shorter vectors; cosine needs them whole.
    """
    kept = vectors[:, :dim]
    norms = np.linalg.norm(kept, axis=1, keepdims=True)
    return np.asarray(kept / np.maximum(norms, 1e-12), dtype=np.float32)


def has_fast_bf16() -> bool:
    """Whether bfloat16 matrix products run in hardware here; emulated ones are far slower than float32."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags or " bf16 " in flags
