"""The objectives that may stand beside the contrastive term: spread-out, embedding, listwise and margin distillation.

Each takes some of a batch's rows and gives their share of the batch's value: the shares of all rows add up to it. So a
batch can be taken a block of rows at a time, and rows can lie on several processes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gecko.train.batch import BatchLayout
from gecko.train.loss_options import ListwiseOptions, MarginMseOptions
from gecko.train.vectors import TextVectors


def spread(unit: Tensor, layout: BatchLayout, rows: slice) -> Tensor:
    """Mean squared cosine of different queries plus that of different positives (EmbeddingGemma, arXiv:2509.20354).

    Sentence-Transformers' ``GlobalOrthogonalRegularizationLoss`` is another function: it takes 1/d off and cuts the
    rest at zero, counts equal texts, which nothing can push apart, and needs the whole matrix at once.

    Args:
        unit: Unit vectors of all distinct texts, (T, d).
        layout: The batch.
        rows: Whose share is taken.
    """
    value = unit.new_zeros(())
    for side in (layout.queries, layout.positives):
        times = torch.bincount(side)
        pairs = len(side) ** 2 - int((times * times).sum())
        if pairs:
            vectors = unit[side]
            squares = (vectors[rows] @ vectors.T).square()
            value = value + squares.masked_fill(side[rows, None] == side[None, :], 0.0).sum() / pairs
    return value


def listwise(unit: Tensor, layout: BatchLayout, rows: slice, options: ListwiseOptions, temperature: float) -> Tensor:
    """KL divergence of the student's softmax over a row's candidates from the teacher's, mean over rows with scores.

    The softmax of ``cos / temperature`` learns that of ``score / teacher_temperature`` (arXiv:2010.11386, 2607.27178).
    Sentence-Transformers' ``DistillKLDivLoss`` wants the same number of candidates in every row and scales the value
    by the squared temperature; rows here have as many as the ranker scored.

    Args:
        unit: Unit vectors of all distinct texts, (T, d).
        layout: The batch; a row with fewer than two scores says nothing.
        rows: Whose share is taken.
        options: The teacher's temperature, and the student's where it is not the loss's.
        temperature: The loss's.
    """
    usable = layout.scored.sum(1) >= 2
    if layout.places is None or layout.scores is None or not usable[rows].any():
        return unit.new_zeros(())
    chosen = torch.arange(len(layout), device=unit.device)[rows][usable[rows]]
    missing = ~layout.scored[chosen]
    cosines = torch.einsum("bd,bkd->bk", unit[layout.queries[chosen]], unit[layout.places[chosen, 1:]])
    student = _log_softmax(cosines / (options.temperature or temperature), missing)
    teacher = _log_softmax(layout.scores[chosen].to(unit.dtype) / options.teacher_temperature, missing)
    return (teacher.exp() * (teacher - student)).masked_fill(missing, 0.0).sum() / usable.sum()


def margin_mse(unit: Tensor, layout: BatchLayout, rows: slice, options: MarginMseOptions) -> Tensor:
    """Mean squared error of the cosine margins between positive and other candidates (arXiv:2010.02666).

    The teacher's margin is that of its scores times ``scale``. Sentence-Transformers' ``MarginMSELoss`` is the same
    function of rows that all have as many scored candidates; here each row has its own number.

    Args:
        unit: Unit vectors of all distinct texts, (T, d).
        layout: The batch; a row whose positive has no score says nothing.
        rows: Whose share is taken.
        options: The scale.
    """
    counted = layout.scored[:, :1] & layout.scored[:, 1:]
    if layout.places is None or layout.scores is None or not counted[rows].any():
        return unit.new_zeros(())
    cosines = torch.einsum("bd,bkd->bk", unit[layout.queries[rows]], unit[layout.places[rows, 1:]])
    scores = layout.scores[rows].to(unit.dtype).nan_to_num()
    margins = cosines[:, :1] - cosines[:, 1:]
    wanted = (scores[:, :1] - scores[:, 1:]) * options.scale
    errors = functional.mse_loss(margins, wanted, reduction="none")
    return errors.masked_fill(~counted[rows], 0.0).sum() / counted.sum()


def distill(vectors: Tensor, layout: BatchLayout, rows: slice, teacher: TextVectors, loss: object) -> Tensor:
    """Cosine distance of the projected vectors of all the rows' texts from the teacher's, mean over the texts.

    Queries, positives and the other texts weigh the same (EmbeddingGemma, arXiv:2509.20354); the student is projected
    to the teacher's width, as the other way round collapses (jina-embeddings-v5, arXiv:2602.15547).

    Args:
        vectors: Embeddings of all distinct texts, (T, d), not of unit length.
        layout: The batch.
        rows: Whose share is taken.
        teacher: The teacher's vectors.
        loss: Sentence-Transformers' ``EmbedDistillLoss``, which holds the projection.
    """
    if layout.texts is None or layout.places is None:
        raise ValueError("distillation needs the numbers of the rows' texts")
    numbers = layout.texts[rows]
    there = numbers >= 0
    student, wanted = vectors[layout.places[rows][there]], teacher.of(numbers[there])
    share = int(there.sum()) / int((layout.texts >= 0).sum())
    return loss.compute_loss_from_embeddings([student], [wanted]) * share  # type: ignore[attr-defined,no-any-return]


def _log_softmax(logits: Tensor, missing: Tensor) -> Tensor:
    """Logarithms of the softmax over what is there; 0 where nothing is, so that products with it stay numbers."""
    return functional.log_softmax(logits.masked_fill(missing, float("-inf")), dim=1).masked_fill(missing, 0.0)
