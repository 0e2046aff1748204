"""Several processes' rows as one batch: the loss and the gradients are those of one process with all the rows.

Each process encodes its own texts and takes the loss of its own rows against all rows' texts; values and gradients at
the embeddings are then added up over the processes, and those at the weights are averaged once a step (``processes``).
Batches may differ in size. Sentence-Transformers' ``all_gather_with_grad`` wants them equal and tells nothing of texts
that several processes hold, which here are one text, as they are in one process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, distributed
from torch.nn import functional

from gecko.train.batch import merge_equal
from gecko.train.processes import processes, summed

_ABSENT = -1


@dataclass(frozen=True, slots=True)
class Gathered:
    """The batch of all processes, and what of it is this one's.

    Attributes:
        vectors: Embeddings of all distinct texts, (T, d).
        index: The distinct text in each column of each row, (C, B).
        facts: The facts of all rows.
        rows: This process's rows.
        mine: Of each of this process's texts the number among the distinct ones, (t,).
        first: Which of them count: of a text that several processes hold, the first one's copy does, (t,) bool.
    """

    vectors: Tensor
    index: Tensor
    facts: dict[str, Tensor]
    rows: slice
    mine: Tensor
    first: Tensor


def gather(vectors: Tensor, texts: Tensor, index: Tensor, facts: Mapping[str, Tensor]) -> Gathered:
    """Put the batches of all processes together; every process must call it.

    Args:
        vectors: Embeddings of this process's distinct texts, (t, d).
        texts: What tells them apart, (t, width) integers, -1 where there is none.
        index: The distinct text in each column of each row, (C, b).
        facts: The facts of the rows, (b, ...) each.
    """
    counts = _sizes(len(texts), index.shape[1], texts.shape[1], device=vectors.device)
    held, rows, widths = (counts[:, column].tolist() for column in range(3))
    rank = distributed.get_rank()
    wide = functional.pad(texts, (0, max(widths) - texts.shape[1]), value=_ABSENT)
    first, places = merge_equal(_gather_rows(wide, held))
    start = sum(held[:rank])
    mine = places[start : start + held[rank]]
    own = torch.arange(start, start + held[rank], device=vectors.device)
    shifted = index.T + start  # among all texts, copies counted
    before = sum(rows[:rank])
    return Gathered(
        vectors=_gather_rows(vectors, held)[first],
        index=places[_gather_rows(shifted.contiguous(), rows)].T,
        facts={name: _gather_rows(value, rows) for name, value in facts.items()},
        rows=slice(before, before + rows[rank]),
        mine=mine,
        first=first[mine] == own,
    )


def own_gradient(gradient: Tensor, gathered: Gathered) -> Tensor:
    """This process's part of the gradient of all rows, (t, d), times the number of processes.

    Args:
        gradient: Of this process's rows, at all distinct texts, (T, d).
        gathered: The batch.

    The factor undoes the mean that ``average_gradients`` takes of the processes' gradients.
    """
    whole = summed(gradient)
    return whole[gathered.mine] * gathered.first[:, None] * processes()


def _sizes(*sizes: int, device: torch.device) -> Tensor:
    """Each process's sizes, (processes, n)."""
    own = torch.tensor(sizes, device=device)
    found = [torch.empty_like(own) for _ in range(processes())]
    distributed.all_gather(found, own)
    return torch.stack(found)


def _gather_rows(own: Tensor, counts: list[int]) -> Tensor:
    """All processes' rows in the order of the processes, (sum of counts, ...)."""
    most = max(counts)
    padded = own.new_zeros((most, *own.shape[1:]))
    padded[: len(own)] = own
    found = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(found, padded)
    return torch.cat([part[:count] for part, count in zip(found, counts, strict=True)])
