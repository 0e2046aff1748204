"""All objectives of a batch together, and their gradient at the embeddings, in memory that a block of rows bounds.

A batch of B rows has B x B similarities at each Matryoshka size. They are computed for some rows at a time, and their
gradient is taken and added up before the next rows: the sum is exact, and no two blocks are in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from gecko.train.batch import BatchLayout
from gecko.train.contrast import contrast, read_guide
from gecko.train.loss_options import LossOptions
from gecko.train.objectives import distill, listwise, margin_mse, spread
from gecko.train.vectors import Aids

_BLOCK = 2**23  # similarities of one kind that are in memory at once: 32 MB of float32, some ten times that in all


@dataclass(frozen=True, slots=True)
class Total:
    """A batch's value, or some rows' share of it, with its gradients.

    Attributes:
        value: A scalar.
        gradient: At the embeddings, (T, d), of their type; zeros where it was not asked for.
        of_parameters: At the aids' parameters, in their order.
    """

    value: Tensor
    gradient: Tensor
    of_parameters: list[Tensor]


def total(
    vectors: Tensor,
    layout: BatchLayout,
    options: LossOptions,
    aids: Aids | None = None,
    *,
    rows: slice | None = None,
    with_gradient: bool = True,
) -> Total:
    """Value and gradient of a batch, in float32 or better.

    The contrastive term and the objectives of cosines are means over the Matryoshka sizes (paper, section 3.3);
    embedding distillation sees the whole vectors.

    Args:
        vectors: Embeddings of the distinct texts, (T, d).
        layout: Which of them stands where.
        options: Objectives and switches.
        aids: What objectives read beside the batch.
        rows: Whose share is taken; None for all.
        with_gradient: Whether the gradient is wanted.
    """
    aids = aids or Aids()
    full = vectors.detach()
    full = (full if full.dtype == torch.float64 else full.float()).requires_grad_(with_gradient)
    blocks = _blocks(rows or slice(0, len(layout)), layout)
    guide = read_guide(aids.guide, layout, options.guard) if aids.guide is not None else None
    dims = options.dims or (full.shape[1],)

    def share(unit: Tensor, block: slice) -> Tensor:
        value = unit.new_zeros(())
        if options.contrast:
            value = value + options.contrast * contrast(unit, layout, block, options, guide) / len(layout)
        if options.spread.weight:
            value = value + options.spread.weight * spread(unit, layout, block)
        if options.listwise.weight:
            found = listwise(unit, layout, block, options.listwise, options.temperature)
            value = value + options.listwise.weight * found
        if options.margin_mse.weight:
            value = value + options.margin_mse.weight * margin_mse(unit, layout, block, options.margin_mse)
        return value

    per_dim: list[Tensor] = []
    gradient = torch.zeros_like(full)
    one = torch.ones((), dtype=full.dtype, device=full.device)
    # Backwards, as autograd would go through the mean of the sizes: the sum is the same to the last bit.
    for dim in reversed(dims):
        with torch.set_grad_enabled(with_gradient):
            unit = functional.normalize(full[:, :dim], dim=-1)
        value, (at_unit,) = _in_blocks(share, unit, [], blocks, one / len(dims), with_gradient)
        per_dim.insert(0, value)
        if with_gradient:
            gradient = torch.autograd.grad(unit, full, at_unit)[0] + gradient
    value = torch.stack(per_dim).mean()
    parameters = aids.parameters()
    of_parameters = [torch.zeros_like(parameter) for parameter in parameters]
    if aids.teacher is not None and aids.projection is not None:
        teacher, projection = aids.teacher, aids.projection

        def distance(leaf: Tensor, block: slice) -> Tensor:
            return options.distill.weight * distill(leaf, layout, block, teacher, projection)

        more, found = _in_blocks(distance, full, parameters, blocks, one, with_gradient)
        value = value + more
        gradient, of_parameters = gradient + found[0], found[1:]
    return Total(value, gradient.to(vectors.dtype), of_parameters)


def _in_blocks(
    share: Callable[[Tensor, slice], Tensor],
    at: Tensor,
    parameters: list[nn.Parameter],
    blocks: Sequence[slice],
    weight: Tensor,
    with_gradient: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Add up blocks' values, and ``weight`` times their gradients at a tensor and at parameters."""
    leaf = at.detach().requires_grad_(with_gradient)
    value = leaf.new_zeros(())
    gradients: list[Tensor] = []
    for block in blocks:
        with torch.set_grad_enabled(with_gradient):
            part = share(leaf, block)
        value = value + part.detach()
        if part.requires_grad:  # else these rows say nothing
            found = torch.autograd.grad(part, [leaf, *parameters], weight, materialize_grads=True)
            gradients = [a + b for a, b in zip(gradients, found, strict=True)] if gradients else list(found)
    return value, gradients or [torch.zeros_like(one) for one in (leaf, *parameters)]


def _blocks(rows: slice, layout: BatchLayout) -> list[slice]:
    kinds = 1 if layout.also is None else 1 + layout.also.shape[1]
    size = max(1, _BLOCK // (kinds * len(layout)))
    return [slice(start, min(start + size, rows.stop)) for start in range(rows.start, rows.stop, size)]
