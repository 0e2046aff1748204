"""The fine-tuning loss of the paper, equation 3, over Matryoshka dimensions.

``L_i = -log e^{s(q_i,p_i)/t} / [ sum_j ( e^{s(q_i,p_j)/t} + 1[j!=i] e^{s(q_i,q_j)/t} ) + e^{s(q_i,n_i)/t} ]``

In-batch positives, same-tower (query-query) terms and the row's own hard negative only. Sentence-Transformers'
``MultipleNegativesRankingLoss`` puts every row's hard negatives in the denominator and masks no duplicates, so it
comes near this loss but does not equal it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import get_device_states, set_device_states

Features = dict[str, Tensor]

_GROUP = 32  # texts of like length encoded together: large enough for the hardware, small enough to pad little


@dataclass(frozen=True, slots=True)
class LossOptions:
    """Switches of the loss; the defaults are the paper's, with a mask of equal texts.

    Attributes:
        temperature: The divisor t of every cosine. The paper does not give its value.
        in_batch: Other rows' positives count as negatives.
        same_tower: Other rows' queries count as negatives (SamToNe).
        mask_duplicates: A text equal to the row's own query or positive never counts against it.
        dims: Matryoshka sizes, each with equal weight; empty means the full size only.
        mini_batch: Encode this many texts at a time and cache gradients (GradCache), so that memory is bounded by
            them and not by the batch; 0 keeps every activation.
    """

    temperature: float = 0.05
    in_batch: bool = True
    same_tower: bool = True
    mask_duplicates: bool = True
    dims: tuple[int, ...] = ()
    mini_batch: int = 0


@dataclass(frozen=True, slots=True)
class BatchLayout:
    """Which distinct text stands where in a batch of B rows with K negative slots.

    Attributes:
        queries: Index of each row's query among the distinct texts, (B,).
        positives: Index of each row's positive, (B,).
        negatives: Index of each row's negatives, (B, K).
        has_negative: Whether the slot holds a negative, (B, K) bool.
    """

    queries: Tensor
    positives: Tensor
    negatives: Tensor
    has_negative: Tensor


def equation_3(vectors: Tensor, layout: BatchLayout, options: LossOptions) -> Tensor:
    """Equation 3 at one dimension.

    Args:
        vectors: Embeddings of the distinct texts, (T, d); made unit length here.
        layout: Which of them are the rows' queries, positives and negatives.
        options: Temperature and switches.

    Returns:
        The mean loss over the batch, a scalar.
    """
    unit = functional.normalize(vectors, dim=-1)
    queries, positives = unit[layout.queries], unit[layout.positives]
    own = (queries * positives).sum(-1, keepdim=True) / options.temperature
    terms = [own]
    same_row = torch.eye(len(queries), dtype=torch.bool, device=vectors.device)
    other_positives = other_queries = same_row
    if options.mask_duplicates:
        duplicate = same_row | _equal(layout.queries, layout.queries) | _equal(layout.positives, layout.positives)
        # Symmetric tasks have the same text on both sides: (a, b) and (b, a) may stand in one batch.
        other_positives = duplicate | _equal(layout.queries, layout.positives)
        other_queries = duplicate | _equal(layout.positives, layout.queries)
    if options.in_batch:
        terms.append(_masked(queries @ positives.T / options.temperature, other_positives))
    if options.same_tower:
        terms.append(_masked(queries @ queries.T / options.temperature, other_queries))
    if layout.negatives.shape[1]:
        hard = torch.einsum("bd,bkd->bk", queries, unit[layout.negatives]) / options.temperature
        missing = ~layout.has_negative
        if options.mask_duplicates:
            missing = missing | (layout.negatives == layout.positives[:, None])
            missing = missing | (layout.negatives == layout.queries[:, None])
        terms.append(_masked(hard, missing))
    logits = torch.cat(terms, dim=1)
    return (torch.logsumexp(logits, dim=1) - own.squeeze(1)).mean()


def matryoshka(vectors: Tensor, layout: BatchLayout, options: LossOptions) -> Tensor:
    """Mean of equation 3 over the Matryoshka sizes (paper, section 3.3), in float32 or better."""
    vectors = vectors if vectors.dtype == torch.float64 else vectors.float()
    dims = options.dims or (vectors.shape[1],)
    return torch.stack([equation_3(vectors[:, :dim], layout, options) for dim in dims]).mean()


class GeckoLoss(nn.Module):
    """Equation 3 for the Sentence-Transformers trainer: columns query, positive, negatives…; label = how many.

    Each distinct text of the batch is encoded once. With ``mini_batch`` set, texts are encoded in small groups and
    gradients are cached (GradCache), which gives the same loss and gradients in bounded memory.

    Args:
        model: The Sentence-Transformers model being trained.
        options: See :class:`LossOptions`.
    """

    def __init__(self, model: Any, options: LossOptions) -> None:  # noqa: ANN401
        super().__init__()
        self.model = model
        self.options = options

    def forward(self, sentence_features: Iterable[Features], labels: Tensor) -> Tensor:
        """Loss of one batch.

        Args:
            sentence_features: One tokenised column each of B rows: queries, positives, then K columns of negatives.
            labels: How many of the K negative columns each row fills, (B,).
        """
        columns = list(sentence_features)
        texts, places = distinct_texts(columns)
        rows = len(labels)
        index = places.view(len(columns), rows)
        slots = torch.arange(len(columns) - 2, device=index.device)
        layout = BatchLayout(
            queries=index[0],
            positives=index[1],
            negatives=index[2:].T,
            has_negative=slots[None, :] < labels.to(index.device)[:, None],
        )
        if self.options.mini_batch and torch.is_grad_enabled():
            return self._cached(texts, layout)
        return matryoshka(self._embed(texts), layout, self.options)

    def _encode(self, texts: Features) -> Tensor:
        return torch.as_tensor(self.model(dict(texts))["sentence_embedding"])

    def _embed(self, texts: Features) -> Tensor:
        """Encode all texts, in groups of like length so that little of the work is padding."""
        groups, order = length_groups(texts, _GROUP)
        return torch.cat([self._encode(group) for group in groups])[order]

    def _cached(self, texts: Features, layout: BatchLayout) -> Tensor:
        """Loss with gradients computed at the embeddings first; the encoder's backward pass is run by a hook."""
        groups, order = length_groups(texts, self.options.mini_batch)
        embeddings: list[Tensor] = []
        states: list[_RandomState] = []
        with torch.no_grad():
            for group in groups:
                states.append(_RandomState(group["input_ids"]))
                embeddings.append(self._encode(group))
        leaves = torch.cat(embeddings).detach().requires_grad_()
        loss = matryoshka(leaves[order], layout, self.options)
        (gradient,) = torch.autograd.grad(loss, leaves)
        carrier = loss.detach().requires_grad_()

        def backward(upstream: Tensor) -> None:
            pieces = gradient.split([len(group["input_ids"]) for group in groups])
            for group, state, piece in zip(groups, states, pieces, strict=True):
                with torch.enable_grad(), state:
                    surrogate = (self._encode(group).to(piece.dtype) * piece).sum() * upstream
                surrogate.backward()  # type: ignore[no-untyped-call]

        carrier.register_hook(backward)  # type: ignore[no-untyped-call]
        # Multiplying keeps the carrier a leaf inside a graph, so that the trainer's scaling reaches the hook.
        return carrier * 1.0


def distinct_texts(columns: Sequence[Features]) -> tuple[Features, Tensor]:
    """Merge equal tokenised texts of all columns, so that each is encoded once and duplicates are seen as such.

    Args:
        columns: Tokenised columns of B rows, possibly of different padded lengths.

    Returns:
        The features of the distinct texts (T rows), and for each of the C*B inputs, column by column, which one it is.
    """
    width = max(column["input_ids"].shape[1] for column in columns)
    keys = [key for key in columns[0] if _per_token(columns[0], key)]
    merged = {key: torch.cat([_padded(column[key], width) for column in columns]) for key in keys}
    # Padding counts as -1: its id may differ from the 0 that columns are widened with, or be a token's too.
    signature = merged["input_ids"].masked_fill(merged["attention_mask"] == 0, -1)
    _, places = torch.unique(signature, dim=0, return_inverse=True)
    count = int(places.max()) + 1
    first = torch.full((count,), len(places), device=places.device)
    first.scatter_reduce_(0, places, torch.arange(len(places), device=places.device), reduce="amin")
    return {key: value[first] for key, value in merged.items()}, places


class _RandomState:
    """Replays the random numbers (dropout) of the first forward pass in the second."""

    def __init__(self, *tensors: Tensor) -> None:
        self.cpu = torch.get_rng_state()
        self.devices, self.states = get_device_states(*tensors)

    def __enter__(self) -> None:
        self.fork = torch.random.fork_rng(devices=self.devices, enabled=True)
        self.fork.__enter__()
        torch.set_rng_state(self.cpu)
        set_device_states(self.devices, self.states)

    def __exit__(self, *error: Any) -> None:  # noqa: ANN401
        self.fork.__exit__(*error)


def length_groups(texts: Features, size: int) -> tuple[list[Features], Tensor]:
    """Cut tokenised texts into groups of ``size`` of like length, each padded to its own longest.

    Returns:
        The groups, shortest texts first, and the index that puts their concatenated outputs back in order, (T,).
    """
    lengths = texts["attention_mask"].sum(1)
    by_length = torch.argsort(lengths, stable=True)
    groups = []
    for part in by_length.split(size):
        width = int(lengths[part].max())
        groups.append({key: value[part, :width] for key, value in texts.items()})
    return groups, torch.argsort(by_length)


def _equal(own: Tensor, other: Tensor) -> Tensor:
    return own[:, None] == other[None, :]


def _masked(logits: Tensor, excluded: Tensor) -> Tensor:
    return logits.masked_fill(excluded, float("-inf"))


def _per_token(column: Features, key: str) -> bool:
    value = column[key]
    return torch.is_tensor(value) and value.shape == column["input_ids"].shape


def _padded(values: Tensor, width: int) -> Tensor:
    return functional.pad(values, (0, width - values.shape[1]))
