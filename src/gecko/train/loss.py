"""The fine-tuning loss for the Sentence-Transformers trainer: equation 3, and what a recipe puts beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gecko.errors import GeckoError
from gecko.train.batch import Facts, Features, distinct_texts, lay_out, row_facts, signature
from gecko.train.columns import ColumnLayout
from gecko.train.gather import Gathered, gather, own_gradient
from gecko.train.gradient_cache import Encoded, encode
from gecko.train.loss_options import LossOptions
from gecko.train.processes import processes, summed
from gecko.train.total import Total, total
from gecko.train.vectors import Aids


class GeckoLoss(nn.Module):
    """Columns query, positive and others in, loss out; the gradient at the embeddings is taken on the way.

    Each distinct text of the batch is encoded once. With ``mini_batch`` or ``mini_tokens`` set, texts are encoded in
    small groups and gradients are cached (GradCache), which gives the same loss and gradients in bounded memory.

    Args:
        model: The Sentence-Transformers model being trained.
        options: See :class:`LossOptions`.
        columns: Of what kind the columns behind query and positive are; None: hard negatives.
        aids: The vectors that the guard and embedding distillation read; the projection is trained with the model.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401
        options: LossOptions,
        columns: ColumnLayout | None = None,
        aids: Aids | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.options = options
        self.columns = columns
        self.aids = aids or Aids()
        self.projection = self.aids.projection

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | Facts) -> Tensor:
        """Loss of one batch.

        Args:
            sentence_features: One tokenised column each of B rows: queries, positives, then the others.
            labels: The facts of the rows (:class:`RowCollator`), or how many of the other columns, all hard
                negatives, each row fills, (B,).

        Raises:
            GeckoError: The loss is not a number.
        """
        columns = list(sentence_features)
        texts, places = distinct_texts(columns)
        facts = row_facts(labels, len(columns) - 2)
        facts = {name: value.to(places.device) for name, value in facts.items()}
        index = places.view(len(columns), -1)
        encoded = encode(self.model, texts, self.options)
        with_gradient = torch.is_grad_enabled()
        gathered = None
        vectors = encoded.vectors
        if self.options.gather and processes() > 1:
            gathered = gather(vectors, signature(texts), index, facts)
            vectors, index, facts = gathered.vectors, gathered.index, gathered.facts
        layout = lay_out(index, facts, self.columns or ColumnLayout(len(columns) - 2))
        found = total(
            vectors,
            layout,
            self.options,
            self.aids,
            rows=None if gathered is None else gathered.rows,
            with_gradient=with_gradient,
        )
        value = found.value if gathered is None else summed(found.value)
        _check(value)
        return self._carried(value, found, encoded, gathered) if with_gradient else value

    def _carried(self, value: Tensor, found: Total, encoded: Encoded, gathered: Gathered | None) -> Tensor:
        """The value, whose backward pass sends the gradient that is known already through the encoder."""
        gradient = found.gradient if gathered is None else own_gradient(found.gradient, gathered)
        # As own_gradient: of a batch of all processes' rows, the gradients' mean is to be the sum of their shares.
        share = 1 if gathered is None else processes()
        of_parameters = [one * share for one in found.of_parameters]
        carrier = value.detach().requires_grad_()

        def backward(upstream: Tensor) -> None:
            for parameter, one in zip(self.aids.parameters(), of_parameters, strict=True):
                scaled = one * upstream
                parameter.grad = scaled if parameter.grad is None else parameter.grad + scaled
            encoded.backward(gradient * upstream)

        carrier.register_hook(backward)  # type: ignore[no-untyped-call]
        # Multiplying keeps the carrier a leaf inside a graph, so that the trainer's scaling reaches the hook.
        return carrier * 1.0


def _check(value: Tensor) -> None:
    """Stop a training that diverged before it spoils another checkpoint; all processes stop together."""
    if summed((~value.isfinite()).to(torch.float32)).item():
        raise GeckoError(
            "the training diverged: the loss is not a number",
            "lower train.learning_rate, or raise train.temperature; the checkpoints before it are kept",
        )
