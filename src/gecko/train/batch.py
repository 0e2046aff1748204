"""A batch as the loss sees it: its distinct texts, and which of them stands where in which row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from gecko.train.columns import ColumnLayout

Features = dict[str, Tensor]
Facts = Mapping[str, Tensor]


@dataclass(frozen=True)
class BatchLayout:
    """Which distinct text stands where in a batch of B rows.

    Texts are named by their index among the batch's distinct texts, so equal indices are equal texts.

    Attributes:
        queries: Each row's query, (B,).
        positives: Each row's positive, (B,).
        negatives: Its hard negatives, (B, K).
        has_negative: Whether the slot holds a negative, (B, K) bool.
        also: Its further positives, (B, E); None stands for none.
        has_also: Whether the slot holds one, (B, E) bool.
        places: Its query, its positive and all its S other texts, (B, 2 + S).
        scores: The ranker's scores of the positive and the other texts, (B, 1 + S), NaN where there is none.
        in_batch: Whether other rows' positives count as the row's negatives, (B,) bool; None: as the options say.
        same_tower: Likewise for other rows' queries.
        texts: Numbers of all its texts in the files of vectors, (B, 2 + S), -1 where the slot is empty.
    """

    queries: Tensor
    positives: Tensor
    negatives: Tensor
    has_negative: Tensor
    also: Tensor | None = None
    has_also: Tensor | None = None
    places: Tensor | None = None
    scores: Tensor | None = None
    in_batch: Tensor | None = None
    same_tower: Tensor | None = None
    texts: Tensor | None = None

    def __len__(self) -> int:
        return len(self.queries)

    @cached_property
    def scored(self) -> Tensor:
        """Whether the positive and each other text have a score, (B, 1 + S) bool."""
        if self.scores is None:
            return torch.zeros(len(self), 1, dtype=torch.bool, device=self.queries.device)
        return ~self.scores.isnan()


def lay_out(index: Tensor, facts: Facts, columns: ColumnLayout) -> BatchLayout:
    """Read from the columns' kinds and the rows' facts what each text of a batch is.

    Args:
        index: The distinct text in each column of each row, (2 + S, B): query, positive, other columns.
        facts: ``filled`` (B, S) bool, and what else :class:`RowCollator` stacks.
        columns: Of what kind the other columns are.
    """
    others, filled = index[2:].T, facts["filled"]
    first, last = columns.negatives, columns.negatives + columns.positives
    return BatchLayout(
        queries=index[0],
        positives=index[1],
        negatives=others[:, :first],
        has_negative=filled[:, :first],
        also=others[:, first:last] if columns.positives else None,
        has_also=filled[:, first:last] if columns.positives else None,
        places=index.T,
        scores=facts.get("scores"),
        in_batch=facts.get("in_batch"),
        same_tower=facts.get("same_tower"),
        texts=facts.get("texts"),
    )


def row_facts(labels: Tensor | Facts, slots: int) -> dict[str, Tensor]:
    """The rows' facts; a plain label is the number of hard negatives a row has.

    Raises:
        ValueError: A row is said to have more negatives than there are columns.
    """
    if isinstance(labels, Tensor):
        if len(labels) and int(labels.max()) > slots:
            raise ValueError(f"a row has {int(labels.max())} negatives in {slots} columns")
        return {"filled": torch.arange(slots, device=labels.device)[None, :] < labels[:, None]}
    return dict(labels)


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
    first, places = merge_equal(signature(merged))
    return {key: value[first] for key, value in merged.items()}, places


def signature(texts: Features) -> Tensor:
    """What tells tokenised texts apart, (T, width): their tokens, and -1 for padding.

    The id of padding may differ from the 0 that columns are widened with, or be a token's too.
    """
    return texts["input_ids"].masked_fill(texts["attention_mask"] == 0, -1)


def merge_equal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Find equal rows of a matrix (n, width): where each distinct one stands first, and which one each row is."""
    _, places = torch.unique(rows, dim=0, return_inverse=True)
    count = int(places.max()) + 1
    first = torch.full((count,), len(places), device=places.device)
    first.scatter_reduce_(0, places, torch.arange(len(places), device=places.device), reduce="amin")
    return first, places


def _per_token(column: Features, key: str) -> bool:
    value = column[key]
    return torch.is_tensor(value) and value.shape == column["input_ids"].shape


def _padded(values: Tensor, width: int) -> Tensor:
    return functional.pad(values, (0, width - values.shape[1]))
