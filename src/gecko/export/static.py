"""A table of token vectors distilled from a model and trained on its rows, for thousands of texts a second on a CPU.

As model2vec does it: every token of the vocabulary is encoded alone, the vectors are rotated by PCA, and frequent
tokens weigh less (SIF, Arora et al. 2017: a / (a + p)). Then the table is trained with the paper's loss on the rows
that trained the model. It knows no prompts: words that stand before every text would only move all vectors alike.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.input_module import InputModule
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tokenizers import Tokenizer
from torch import Tensor, nn

from gecko.embedder.embedder import Embedder
from gecko.embedder.save import save_model
from gecko.errors import GeckoError
from gecko.export.origin import recipe_of, run_of
from gecko.mixture.format import TextFormat, render_passage, source_passage
from gecko.mixture.unified_files import read_unified
from gecko.recipe import TrainOptions
from gecko.records import Quarantined, UnifiedRow
from gecko.train.finetune import loss_options, train_rows

SIF = 1e-3  # a: the share of all tokens at which a token weighs half
_AT_ONCE = 512
_MAX_TOKENS = 512


class TokenTable(InputModule):  # type: ignore[misc]
    """The table while it is trained: texts as padded tokens, as the loss reads them, and their mean.

    Args:
        tokenizer: The model's, of transformers' fast kind.
        weights: A vector a token, (v, d).
    """

    def __init__(self, tokenizer: Any, weights: np.ndarray) -> None:  # noqa: ANN401
        super().__init__()
        self.tokenizer: Any = tokenizer
        self.max_seq_length = _MAX_TOKENS
        self.embedding = nn.Embedding.from_pretrained(torch.from_numpy(weights), freeze=False)

    def preprocess(self, inputs: Any, prompt: str | None = None, **_: Any) -> dict[str, Tensor]:  # noqa: ANN401
        """Turn texts into tokens, without special ones."""
        tokens = self.tokenizer(
            [f"{prompt or ''}{text}" for text in inputs],
            add_special_tokens=False,
            padding=True,
            truncation=True,
            max_length=self.max_seq_length,
            return_tensors="pt",
        )
        return {"input_ids": tokens["input_ids"].long(), "attention_mask": tokens["attention_mask"].long()}

    def forward(self, features: dict[str, Tensor], **_: Any) -> dict[str, Tensor]:  # noqa: ANN401
        """The mean of each text's token vectors, (n, d)."""
        mask = features["attention_mask"].unsqueeze(-1).float()
        vectors = (self.embedding(features["input_ids"]) * mask).sum(1)
        return {**features, "sentence_embedding": vectors / mask.sum(1).clamp(min=1)}

    def get_embedding_dimension(self) -> int:
        """Length of a vector."""
        return int(self.embedding.embedding_dim)

    def save(self, output_path: str, *args: Any, **options: Any) -> None:  # noqa: ANN401
        """Refuse: the table is saved as a StaticEmbedding.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError


def write_static(
    model: Embedder,
    spec: str,
    out: Path,
    *,
    dim: int,
    dims: Sequence[int],
    rows: Path | None,
    tell: Callable[[str], None],
    seed: int,
) -> dict[str, Any]:
    """Distil a table of a model, train it, and save it as a Sentence-Transformers model.

    Args:
        model: The model.
        spec: Its name; the run that made it has the rows.
        out: An empty folder.
        dim: Dimensions.
        dims: Smaller sizes that are trained too.
        rows: Unified rows in place of the run's.
        tell: Receives lines.
        seed: Of the training.

    Returns:
        ``{"rows", "max_tokens"}``: how many rows it was trained on, and that a text may have any length.

    Raises:
        GeckoError: The tokenizer is of a kind that no table can be made with, or the rows cannot be read.
    """
    tokenizer = model.model.tokenizer
    if not hasattr(tokenizer, "_tokenizer"):
        raise GeckoError("a static table needs a fast tokenizer, and the model's is none", "try --format onnx-int8")
    taught = plain_rows(spec, rows, tell)
    tell(f"static: encoding the {len(tokenizer):,} tokens of the vocabulary")
    table = distil(model, dim, (text for row in taught for text in (row.positive, *row.negatives)))
    student: Any = SentenceTransformer(modules=[TokenTable(tokenizer, table), Normalize()], device="cpu")
    if len(taught) > 1:
        tell(f"static: training on {len(taught):,} rows")
        options = _training(spec, (dim, *dims))
        with tempfile.TemporaryDirectory(prefix="gecko-static-") as spare:
            train_rows(student, taught, options, loss_options(options, dim), Path(spare), seed=seed, tell=tell)
    else:
        tell("static: there are no rows to train on, so the table stays as it was distilled; --rows names some")
    weights = student[0].embedding.weight.detach().cpu()
    bare = Tokenizer.from_str(tokenizer._tokenizer.to_str())
    bare.no_truncation()  # a mean is as good of a long text
    saved = SentenceTransformer(modules=[StaticEmbedding(bare, weights), Normalize()], device="cpu")
    saved.prompts = {"query": "", "document": ""}
    save_model(saved, out)
    return {"rows": len(taught) if len(taught) > 1 else 0, "max_tokens": 0}


def _training(spec: str, dims: tuple[int, ...]) -> TrainOptions:
    """How a table is trained: a choice on held-out rows of one run (docs/log.md)."""
    return TrainOptions(
        student=spec,
        text_format="plain",
        bf16=False,
        dims=dims,
        learning_rate=3e-3,
        epochs=5.0,
        batch_size=128,
        weight_decay=0.0,
        mini_batch=0,
    )


def plain_rows(spec: str, place: Path | None, tell: Callable[[str], None]) -> list[UnifiedRow]:
    """The rows that trained a model, rendered without gecko's format; none where they are not at hand.

    Args:
        spec: The model.
        place: Rows in place of the run's.
        tell: Receives a line where some rows cannot be used.

    Raises:
        GeckoError: They cannot be read.
    """
    run = run_of(spec)
    if place is None:
        if run is None or not any((run / "mixture").glob("part-*.parquet")):
            return []
        place = run / "mixture"
    found = list(read_unified(place))
    rows = [row for row in found if isinstance(row, UnifiedRow)]
    if len(rows) < len(found):
        first = next(row for row in found if isinstance(row, Quarantined))
        tell(f"static: {len(found) - len(rows):,} of {len(found):,} rows set aside, such as {first.reason}")
    recipe = recipe_of(spec)
    text_format: TextFormat = "gecko" if recipe is None else recipe["train"].get("text_format", "gecko")
    return [_plain(row, text_format) for row in rows]


def _plain(row: UnifiedRow, text_format: TextFormat) -> UnifiedRow:
    def bare(text: str) -> str:
        source = source_passage(row, text, text_format)
        return text if source is None else render_passage(source.title, source.text, "plain")

    return replace(row, positive=bare(row.positive), negatives=tuple(map(bare, row.negatives)), candidates=())


def distil(model: Embedder, dim: int, texts: Iterable[str]) -> np.ndarray:
    """Make the table: every token's vector by the model, rotated by PCA, weighted by how rare it is in the texts.

    Args:
        model: The model.
        dim: Dimensions kept, at most the model's and the vocabulary's size.
        texts: Where frequencies are counted; without any, tokens are taken to follow Zipf's law in their order.

    Returns:
        Float32 (v, dim); special tokens are zero.
    """
    from sklearn.decomposition import PCA

    tokenizer = model.model.tokenizer
    vectors = _token_vectors(model.model, tokenizer)
    special = sorted(set(tokenizer.all_special_ids))
    ordinary = np.setdiff1d(np.arange(len(vectors)), special)
    pca = PCA(n_components=min(dim, *vectors[ordinary].shape), svd_solver="full").fit(vectors[ordinary])
    rotated = np.zeros((len(vectors), dim), np.float32)
    rotated[ordinary, : pca.n_components_] = pca.transform(vectors[ordinary])
    return rotated * _weights(tokenizer, texts, len(vectors), ordinary)[:, None]


def _token_vectors(model: Any, tokenizer: Any) -> np.ndarray:  # noqa: ANN401
    """The model's vector of each token alone, between the tokens that begin and end a text, (v, d)."""
    probe = tokenizer("a")["input_ids"]
    own = tokenizer("a", add_special_tokens=False)["input_ids"]
    start = next((at for at in range(len(probe)) if probe[at : at + len(own)] == own), 0)
    head, tail = probe[:start], probe[start + len(own) :]
    found = []
    with torch.inference_mode():
        for first in range(0, len(tokenizer), _AT_ONCE):
            ids = [[*head, token, *tail] for token in range(first, min(first + _AT_ONCE, len(tokenizer)))]
            tokens = torch.tensor(ids, device=model.device)
            features = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
            if "token_type_ids" in tokenizer.model_input_names:
                features["token_type_ids"] = torch.zeros_like(tokens)
            found.append(model(features)["sentence_embedding"].float().cpu().numpy())
    return np.concatenate(found)


def _weights(tokenizer: Any, texts: Iterable[str], size: int, ordinary: np.ndarray) -> np.ndarray:  # noqa: ANN401
    """SIF's weight of each token, (v,) float32."""
    counts: Counter[int] = Counter()
    for text in texts:
        counts.update(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    share = np.zeros(size)
    if counts:
        share[list(counts)] = list(counts.values())
    else:
        share[ordinary] = 1.0 / np.arange(1, len(ordinary) + 1)
    return np.asarray(SIF / (SIF + share / max(share.sum(), 1e-12)), np.float32)
