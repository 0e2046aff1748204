"""The switches of the contrastive term against sums written out term by term, in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from gecko.train.batch import BatchLayout
from gecko.train.contrast import Guide, contrast, read_guide
from gecko.train.loss_options import GuardOptions, HardnessOptions, LossOptions
from gecko.train.vectors import TextVectors

ROWS, SLOTS, ALSO = 6, 2, 2
TEXTS = 2 + SLOTS + ALSO


def unit(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    drawn = rng.normal(size=(count, width))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def batch(seed: int, texts: int = 40) -> tuple[np.ndarray, BatchLayout]:
    """Rows that draw from so few texts that some occur twice."""
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.tensor(rng.integers(0, texts, shape))

    layout = BatchLayout(
        queries=drawn(ROWS),
        positives=drawn(ROWS),
        negatives=drawn(ROWS, SLOTS),
        has_negative=torch.tensor(rng.random((ROWS, SLOTS)) < 0.7),
        also=drawn(ROWS, ALSO),
        has_also=torch.tensor(rng.random((ROWS, ALSO)) < 0.6),
        in_batch=torch.tensor(rng.random(ROWS) < 0.7),
        same_tower=torch.tensor(rng.random(ROWS) < 0.7),
        texts=torch.arange(ROWS * TEXTS).view(ROWS, TEXTS),
    )
    return unit(rng, texts, 8), layout


def written(  # noqa: C901
    vectors: np.ndarray, layout: BatchLayout, options: LossOptions, guide: np.ndarray | None = None
) -> float:
    """The loss, one exponential after the other; ``guide`` holds the guide's vectors by the rows' text numbers."""
    t = options.temperature
    q, p, n = (values.tolist() for values in (layout.queries, layout.positives, layout.negatives))
    number = None if layout.texts is None else layout.texts.tolist()

    def cos(a: int, b: int) -> float:
        return float(vectors[a] @ vectors[b])

    def guarded(i: int, other: int) -> bool:
        if guide is None or number is None:
            return False
        own = float(guide[number[i][0]] @ guide[number[i][1]])
        margin = options.guard.margin * (abs(own) if options.guard.kind == "relative" else 1.0)
        return float(guide[number[i][0]] @ guide[other]) > own - margin

    losses, nearest = [], []
    for i in range(len(q)):
        own = [p[i]]
        if layout.also is not None and layout.has_also is not None:
            own += [
                text for text, there in zip(layout.also[i].tolist(), layout.has_also[i].tolist(), strict=True) if there
            ]
        further = set(own[1:])
        against = 0.0
        for j in range(len(q)):
            given = [
                ("same_tower", q[j], number[j][0] if number else 0),
                ("in_batch", p[j], number[j][1] if number else 0),
            ]
            for slot, there in enumerate([] if layout.has_also is None else layout.has_also[j].tolist()):
                if there:
                    given.append(("in_batch", int(layout.also[j, slot]), number[j][2 + SLOTS + slot] if number else 0))
            for switch, other, named in given:
                on = getattr(layout, switch)
                if j == i or not (getattr(options, switch) if on is None else bool(on[i])):
                    continue
                masked = q[j] == q[i] or p[j] == p[i] or other in (q[i], p[i])
                if not ((options.mask_duplicates and masked) or other in further or guarded(i, named)):
                    against += math.exp(cos(q[i], other) / t)
        cosines = []
        for slot, there in enumerate(layout.has_negative[i].tolist()):
            if not there:
                continue
            near = cos(q[i], n[i][slot])
            cosines.append(near)
            if options.mask_duplicates and n[i][slot] in (p[i], q[i]):
                continue
            if options.guard.hard_negatives and guarded(i, number[i][2 + slot] if number else 0):
                continue
            alpha = options.hardness.alpha if options.hardness.scales == "negative" else 0.0
            against += math.exp(alpha * near) * math.exp(near / t)
        each = [-math.log(math.exp(cos(q[i], o) / t) / (math.exp(cos(q[i], o) / t) + against)) for o in own]
        losses.append(sum(each) / len(each))
        nearest.append(max(cosines, default=None))
    if options.hardness.alpha and options.hardness.scales == "row":
        weights = [math.exp(options.hardness.alpha * near) for near in nearest if near is not None]
        mean = sum(weights) / len(weights)
        scaled = [1.0 if near is None else math.exp(options.hardness.alpha * near) / mean for near in nearest]
        losses = [loss * weight for loss, weight in zip(losses, scaled, strict=True)]
    return sum(losses) / len(losses)


def plain(layout: BatchLayout) -> BatchLayout:
    return replace(layout, also=None, has_also=None, in_batch=None, same_tower=None)


def equation_3(
    vectors: torch.Tensor, layout: BatchLayout, options: LossOptions, guide: Guide | None = None
) -> torch.Tensor:
    """The contrastive term of a whole batch, at the width of the vectors."""
    unit_vectors = torch.nn.functional.normalize(vectors, dim=-1)
    return contrast(unit_vectors, layout, slice(0, len(layout)), options, guide) / len(layout)


def value(vectors: np.ndarray, layout: BatchLayout, options: LossOptions, guide: Any = None) -> float:
    return equation_3(torch.tensor(vectors), layout, options, guide).item()


@pytest.mark.parametrize("alpha", [0.5, 5.0])
@pytest.mark.parametrize("scales", ["negative", "row"])
def test_hardness(scales: Any, alpha: float) -> None:
    options = LossOptions(temperature=0.3, hardness=HardnessOptions(alpha=alpha, scales=scales))
    for seed in range(8):
        vectors, layout = batch(seed)
        layout = plain(layout)
        expected = written(vectors, layout, options)
        assert value(vectors, layout, options) == pytest.approx(expected, abs=1e-9)
        assert abs(expected - written(vectors, layout, LossOptions(temperature=0.3))) > 1e-5


def test_the_weight_of_a_negative_is_no_way_for_the_gradient() -> None:
    """sg[.]: with alpha, a negative's share of the softmax grows, but its cosine is still divided by t alone."""
    vectors, layout = batch(3)
    layout = replace(plain(layout), in_batch=torch.zeros(ROWS, dtype=torch.bool), same_tower=torch.zeros(ROWS) > 0)
    only = torch.zeros_like(layout.has_negative)
    only[:, 0] = True
    layout = replace(layout, has_negative=only)
    leaf = torch.tensor(vectors).requires_grad_()
    options = LossOptions(temperature=0.3, hardness=HardnessOptions(alpha=5.0))
    (gradient,) = torch.autograd.grad(equation_3(leaf, layout, options), leaf)
    q, p, n = (leaf[i] for i in (layout.queries, layout.positives, layout.negatives[:, 0]))
    weight = torch.exp(5.0 * (q * n).sum(-1).detach())
    terms = torch.exp((q * p).sum(-1) / 0.3), weight * torch.exp((q * n).sum(-1) / 0.3)
    unit_vectors = torch.nn.functional.normalize(leaf, dim=-1)
    assert torch.allclose(unit_vectors, leaf)
    (expected,) = torch.autograd.grad(-torch.log(terms[0] / (terms[0] + terms[1])).mean(), leaf)
    tangent = expected - (expected * leaf).sum(-1, keepdim=True) * leaf  # what the unit length leaves of it
    torch.testing.assert_close(gradient, tangent.detach(), atol=1e-9, rtol=0)


def test_rows_without_a_negative_have_weight_one() -> None:
    vectors, layout = batch(1)
    layout = replace(plain(layout), has_negative=torch.zeros_like(layout.has_negative))
    weighed = LossOptions(hardness=HardnessOptions(alpha=5.0, scales="row"))
    assert value(vectors, layout, weighed) == value(vectors, layout, LossOptions())
    none = replace(layout, negatives=layout.negatives[:, :0], has_negative=layout.has_negative[:, :0])
    assert value(vectors, none, weighed) == pytest.approx(value(vectors, layout, LossOptions()), abs=1e-12)


@pytest.mark.parametrize("kind", ["absolute", "relative"])
@pytest.mark.parametrize("margin", [0.0, 0.2])
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_guard(kind: Any, margin: float, hard: bool, mask: bool, several: bool) -> None:
    options = LossOptions(
        temperature=0.3,
        mask_duplicates=mask,
        guard=GuardOptions(embedder="guide", kind=kind, margin=margin, hard_negatives=hard),
    )
    changed = 0
    for seed in range(8):
        vectors, layout = batch(seed)
        layout = replace(layout, in_batch=None, same_tower=None) if several else plain(layout)
        seen = unit(np.random.default_rng(100 + seed), ROWS * TEXTS, 5).astype(np.float32)
        guide = read_guide(TextVectors(seen), layout, options.guard)
        expected = written(vectors, layout, options, seen)
        assert value(vectors, layout, options, guide) == pytest.approx(expected, abs=1e-6)
        changed += abs(expected - written(vectors, layout, options)) > 1e-3
    assert changed >= 6


def test_a_guard_that_likes_every_text_leaves_the_row_s_own_alone() -> None:
    vectors, layout = batch(2)
    layout = plain(layout)
    guide = read_guide(TextVectors(np.ones((99, 4), np.float32) / 2), layout, GuardOptions(margin=0.1))
    alone = replace(layout, in_batch=torch.zeros(ROWS, dtype=torch.bool), same_tower=torch.zeros(ROWS) > 0)
    assert value(vectors, layout, LossOptions(), guide) == pytest.approx(value(vectors, alone, LossOptions()), abs=1e-9)


@pytest.mark.parametrize("mask", [False, True])
def test_several_positives(mask: bool) -> None:
    options = LossOptions(temperature=0.3, mask_duplicates=mask)
    for seed, texts in enumerate([40, 40, 12, 12, 6, 6]):
        vectors, layout = batch(seed, texts)
        layout = replace(layout, in_batch=None, same_tower=None)
        expected = written(vectors, layout, options)
        assert value(vectors, layout, options) == pytest.approx(expected, abs=1e-9)
        assert abs(expected - written(vectors, plain(layout), options)) > 1e-3


def test_no_further_positive_is_equation_3() -> None:
    vectors, layout = batch(4)
    none = replace(layout, has_also=torch.zeros(ROWS, ALSO, dtype=torch.bool))
    without = replace(layout, also=None, has_also=None)
    assert value(vectors, none, LossOptions()) == pytest.approx(value(vectors, without, LossOptions()), abs=1e-12)


def test_nothing_to_contrast_with_is_no_loss_and_no_gradient() -> None:
    """One query and its two positives in all rows: every other text is a duplicate."""
    vectors = torch.tensor(unit(np.random.default_rng(0), 3, 4)).requires_grad_()
    layout = BatchLayout(
        queries=torch.zeros(2).long(),
        positives=torch.ones(2).long(),
        negatives=torch.zeros(2, 0).long(),
        has_negative=torch.zeros(2, 0, dtype=torch.bool),
        also=torch.full((2, 1), 2),
        has_also=torch.ones(2, 1, dtype=torch.bool),
    )
    loss = equation_3(vectors, layout, LossOptions())
    (gradient,) = torch.autograd.grad(loss, vectors)
    assert loss.item() == 0.0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize(("in_batch", "same_tower"), [(True, True), (False, True), (True, False), (False, False)])
def test_the_rows_switches_go_before_the_options(in_batch: bool, same_tower: bool) -> None:
    options = LossOptions(temperature=0.3, in_batch=in_batch, same_tower=same_tower)
    for seed in range(6):
        vectors, layout = batch(seed)
        layout = replace(layout, also=None, has_also=None)
        expected = written(vectors, layout, options)
        assert value(vectors, layout, options) == pytest.approx(expected, abs=1e-9)
        off = replace(layout, in_batch=torch.zeros(ROWS) > 0, same_tower=torch.zeros(ROWS) > 0)
        assert value(vectors, off, options) == pytest.approx(written(vectors, off, options), abs=1e-9)
        assert abs(expected - written(vectors, off, options)) > 1e-3
