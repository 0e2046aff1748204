"""Texts of like length encoded together, cut where padding and the number of groups cost least."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gecko.train.batch import Features

# What a group costs beside its tokens (weights are converted, their gradients added up), in tokens: measured on CPUs
# (docs/log.md). Other devices work on a group's texts side by side, so that there a few large groups are best.
_GROUP_COST = 256
_GROUP_COST_ELSEWHERE = 8192


def length_groups(texts: Features, size: int, tokens: int = 0) -> tuple[list[Features], Tensor]:
    """Cut tokenised texts into groups of like length, each padded to its own longest.

    Args:
        texts: The tokenised texts, (T, width) each.
        size: Texts of a group at most; it does not count where ``tokens`` is set.
        tokens: Tokens of a group at most, padding included; a text longer than that is a group of its own.

    Returns:
        The groups, longest texts first so that the memory of one is large enough for the next (docs/log.md), and the
        index that puts their concatenated outputs back in order, (T,).
    """
    lengths = texts["attention_mask"].sum(1)
    by_length = torch.argsort(lengths, stable=True)
    cost = _GROUP_COST if lengths.device.type == "cpu" else _GROUP_COST_ELSEWHERE
    parts = by_length.split(cheapest_cut(lengths[by_length].tolist(), size, tokens, cost))[::-1]
    groups = []
    for part in parts:
        width = int(lengths[part].max())
        groups.append({key: value[part, :width] for key, value in texts.items()})
    return groups, torch.argsort(torch.cat(parts))


def cheapest_cut(lengths: Sequence[int], size: int, tokens: int, cost: int) -> list[int]:
    """Sizes of the groups, in order, whose tokens with padding and ``cost`` a group are least in all.

    Args:
        lengths: The texts' lengths, rising.
        size: Texts of a group at most; it does not count where ``tokens`` is set.
        tokens: Tokens of a group at most, padding included; a longer text is a group of its own.
        cost: Of one group more, in tokens.
    """
    least = np.zeros(len(lengths) + 1)  # cost of the first n texts
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)  # where the last group of the first n texts starts
    for end, longest in enumerate(lengths, start=1):
        most = max(1, tokens // max(1, longest)) if tokens else size
        first = max(0, end - most)
        costs = least[first:end] + longest * np.arange(end - first, 0, -1)
        best = int(costs.argmin())
        least[end], starts[end] = costs[best] + cost, first + best
    sizes = []
    end = len(lengths)
    while end:
        sizes.append(end - int(starts[end]))
        end = int(starts[end])
    return sizes[::-1]
