"""The contrastive term: the paper's equation 3, and the switches that change its denominator or its rows' weights.

``L_i = -log e^{s(q_i,p_i)/t} / [ sum_j ( e^{s(q_i,p_j)/t} + 1[j!=i] e^{s(q_i,q_j)/t} ) + e^{s(q_i,n_i)/t} ]``

In-batch positives, same-tower (query-query) terms and the row's own hard negative only. Sentence-Transformers'
``MultipleNegativesRankingLoss`` puts every row's hard negatives in the denominator and masks no duplicates, and its
``GISTEmbedLoss`` adds positive-positive terms, so they come near this loss but do not equal it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from gecko.train.batch import BatchLayout
from gecko.train.loss_options import GuardOptions, LossOptions
from gecko.train.vectors import TextVectors

_NOTHING = -1e4  # a logit that weighs nothing beside a cosine over any temperature in use


@dataclass(frozen=True, slots=True)
class Guide:
    """What the guide embedder thinks of a batch (GISTEmbed, arXiv:2402.16829).

    Attributes:
        queries: Its unit vectors of the rows' queries, (B, g).
        positives: Of their positives, (B, g).
        negatives: Of their hard negatives, (B, K, g); None where it is not asked about them.
        also: Of their further positives, (B, E, g); None where there are none.
        limit: The cosine above which a text is taken for one that answers the row's query, (B, 1).
    """

    queries: Tensor
    positives: Tensor
    negatives: Tensor | None
    also: Tensor | None
    limit: Tensor


def read_guide(vectors: TextVectors, layout: BatchLayout, options: GuardOptions) -> Guide:
    """Look up what the guide thinks of a batch."""
    if layout.texts is None:
        raise ValueError("the guard needs the numbers of the rows' texts")
    queries, positives = vectors.of(layout.texts[:, 0]), vectors.of(layout.texts[:, 1])
    own = (queries * positives).sum(-1, keepdim=True)
    margin = options.margin * own.abs() if options.kind == "relative" else options.margin
    first = 2 + layout.negatives.shape[1]
    negatives = vectors.of(layout.texts[:, 2:first]) if options.hard_negatives else None
    also = None if layout.also is None else vectors.of(layout.texts[:, first : first + layout.also.shape[1]])
    return Guide(queries, positives, negatives, also, own - margin)


def contrast(unit: Tensor, layout: BatchLayout, rows: slice, options: LossOptions, guide: Guide | None) -> Tensor:
    """Sum of the contrastive losses of some of a batch's rows.

    Where a row has several positives, all are negatives of other rows, and its loss is the average over them of the
    loss with that one positive, the others left out of the denominator: the average outside of the logarithm, which
    SupCon (arXiv:2004.11362, equation 2) found better than the one inside. A row weighs the same however many it has.

    Args:
        unit: Unit vectors of all distinct texts, (T, d).
        layout: The batch of B rows.
        rows: Of which rows the losses are taken; all rows' texts count as their negatives.
        options: Temperature and switches.
        guide: What the guide thinks of the batch, where there is one.
    """
    queries, positives = unit[layout.queries], unit[layout.positives]
    asked = _part(queries, rows)
    own = (asked * _part(positives, rows)).sum(-1, keepdim=True) / options.temperature
    terms = [own]
    for others in _others(unit, queries, positives, layout, guide):
        if _is_on(others, layout, options):
            excluded = _excluded(others, layout, rows, options, guide)
            terms.append(_masked(asked @ others.vectors.T / options.temperature, excluded))
    if layout.negatives.shape[1]:
        terms.append(_hard(unit, asked, layout, rows, options, guide))
    if layout.also is None or layout.has_also is None:
        losses = torch.logsumexp(torch.cat(terms, dim=1), dim=1) - own.squeeze(1)
    else:
        against = torch.logsumexp(torch.cat([torch.full_like(own, _NOTHING), *terms[1:]], dim=1), dim=1, keepdim=True)
        further = torch.einsum("bd,bkd->bk", asked, unit[layout.also[rows]]) / options.temperature
        counted = functional.pad(layout.has_also[rows], (1, 0), value=True)
        each = functional.softplus(against - torch.cat([own, further], dim=1))
        losses = each.masked_fill(~counted, 0.0).sum(1) / counted.sum(1)
    if options.hardness.alpha and options.hardness.scales == "row" and layout.negatives.shape[1]:
        losses = losses * _row_weights(unit, layout, options)[rows]
    return losses.sum()


@dataclass(frozen=True, slots=True)
class _Others:
    """A text of each row that is a negative of other rows.

    Attributes:
        switch: The option that decides whether it is.
        texts: The texts, (B,).
        vectors: Their unit vectors, (B, d).
        there: Which rows have one, (B,) bool; None: all.
        guided: The guide's vectors of them, (B, g).
    """

    switch: Literal["in_batch", "same_tower"]
    texts: Tensor
    vectors: Tensor
    there: Tensor | None
    guided: Tensor | None


def _others(
    unit: Tensor, queries: Tensor, positives: Tensor, layout: BatchLayout, guide: Guide | None
) -> Iterator[_Others]:
    yield _Others("in_batch", layout.positives, positives, None, None if guide is None else guide.positives)
    if layout.also is not None and layout.has_also is not None:
        for slot, (texts, there) in enumerate(zip(layout.also.unbind(1), layout.has_also.unbind(1), strict=True)):
            guided = None if guide is None or guide.also is None else guide.also[:, slot]
            yield _Others("in_batch", texts, unit[texts], there, guided)
    yield _Others("same_tower", layout.queries, queries, None, None if guide is None else guide.queries)


def _is_on(others: _Others, layout: BatchLayout, options: LossOptions) -> bool:
    switch: Tensor | None = getattr(layout, others.switch)
    return bool(getattr(options, others.switch) if switch is None else switch.any())


def _excluded(others: _Others, layout: BatchLayout, rows: slice, options: LossOptions, guide: Guide | None) -> Tensor:
    """Which of other rows' texts are no negatives of a row, (rows, B) bool."""
    asked, told = layout.queries[rows], layout.positives[rows]
    number = torch.arange(len(layout), device=asked.device)
    excluded = _equal(number[rows], number)
    if options.mask_duplicates:
        excluded = excluded | _equal(asked, layout.queries) | _equal(told, layout.positives)
        # Symmetric tasks have the same text on both sides: (a, b) and (b, a) may stand in one batch.
        excluded = excluded | _equal(asked, others.texts) | _equal(told, others.texts)
    if layout.also is not None and layout.has_also is not None:
        for also, there in zip(layout.also[rows].unbind(1), layout.has_also[rows].unbind(1), strict=True):
            excluded = excluded | (_equal(also, others.texts) & there[:, None])
    if others.there is not None:
        excluded = excluded | ~others.there
    switch: Tensor | None = getattr(layout, others.switch)
    if switch is not None:
        excluded = excluded | ~switch[rows, None]
    if guide is not None and others.guided is not None:
        excluded = excluded | (guide.queries[rows] @ others.guided.T > guide.limit[rows])
    return excluded


def _hard(
    unit: Tensor, asked: Tensor, layout: BatchLayout, rows: slice, options: LossOptions, guide: Guide | None
) -> Tensor:
    """Logits of the rows' own hard negatives, (rows, K)."""
    negatives = layout.negatives[rows]
    cosines = torch.einsum("bd,bkd->bk", asked, unit[negatives])
    logits = cosines / options.temperature
    if options.hardness.alpha and options.hardness.scales == "negative":
        logits = logits + options.hardness.alpha * cosines.detach()
    missing = ~layout.has_negative[rows]
    if options.mask_duplicates:
        missing = missing | (negatives == layout.positives[rows, None])
        missing = missing | (negatives == layout.queries[rows, None])
    if guide is not None and guide.negatives is not None:
        found = torch.einsum("bd,bkd->bk", guide.queries[rows], guide.negatives[rows])
        missing = missing | (found > guide.limit[rows])
    return _masked(logits, missing)


def _row_weights(unit: Tensor, layout: BatchLayout, options: LossOptions) -> Tensor:
    """Weights of all rows by their nearest hard negative, (B,): of mean 1 among those that have one, else 1."""
    with torch.no_grad():
        cosines = torch.einsum("bd,bkd->bk", unit[layout.queries], unit[layout.negatives])
        nearest = _masked(cosines, ~layout.has_negative).amax(1)
        has = layout.has_negative.any(1)
        weights = torch.exp(options.hardness.alpha * nearest)
        return torch.where(has, weights * has.sum() / weights.sum(), torch.ones_like(weights))


def _part(values: Tensor, rows: slice) -> Tensor:
    """Some rows of a tensor; all of them are the tensor itself, so that a batch in one block adds no node."""
    return values if rows == slice(0, len(values)) else values[rows]


def _equal(own: Tensor, other: Tensor) -> Tensor:
    return own[:, None] == other[None, :]


def _masked(logits: Tensor, excluded: Tensor) -> Tensor:
    return logits.masked_fill(excluded, float("-inf"))
