"""The objectives beside the contrastive term, written out; and all of them in blocks against all at once."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer import losses as st

from gecko.embedder.open import load_model
from gecko.train import total as total_module
from gecko.train.batch import BatchLayout
from gecko.train.loss_options import (
    DistillOptions,
    GuardOptions,
    HardnessOptions,
    ListwiseOptions,
    LossOptions,
    MarginMseOptions,
    SpreadOptions,
)
from gecko.train.objectives import distill, listwise, margin_mse, spread
from gecko.train.total import total
from gecko.train.vectors import Aids, TextVectors

ROWS, SLOTS = 7, 4


def unit(rng: np.random.Generator, count: int, width: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(rng.normal(size=(count, width))), dim=-1)


def batch(seed: int, texts: int = 40) -> tuple[torch.Tensor, BatchLayout]:
    """Rows of a query, a positive and four other texts: a hard negative, a further positive and two candidates."""
    rng = np.random.default_rng(seed)
    places = torch.tensor(rng.integers(0, texts, (ROWS, 2 + SLOTS)))
    filled = torch.tensor(rng.random((ROWS, SLOTS)) < 0.7)
    scores = torch.tensor(rng.uniform(0, 3, (ROWS, 1 + SLOTS)), dtype=torch.float32)
    scores[:, 1:][~filled] = float("nan")
    scores[torch.tensor(rng.random((ROWS, 1 + SLOTS)) < 0.15)] = float("nan")
    numbers = torch.arange(ROWS * (2 + SLOTS)).view(ROWS, -1).clone()
    numbers[:, 2:][~filled] = -1
    layout = BatchLayout(
        queries=places[:, 0],
        positives=places[:, 1],
        negatives=places[:, 2:3],
        has_negative=filled[:, :1],
        also=places[:, 3:4],
        has_also=filled[:, 1:2],
        places=places,
        scores=scores,
        in_batch=torch.tensor(rng.random(ROWS) < 0.8),
        same_tower=torch.tensor(rng.random(ROWS) < 0.8),
        texts=numbers,
    )
    return unit(rng, texts, 8), layout


ALL = slice(0, ROWS)
PARTS = [slice(0, 3), slice(3, 4), slice(4, ROWS)]


@pytest.mark.parametrize("texts", [40, 5, 1])
def test_spread(texts: int) -> None:
    vectors, layout = batch(0, texts)
    expected = 0.0
    for side in (layout.queries.tolist(), layout.positives.tolist()):
        squares = [float(vectors[a] @ vectors[b]) ** 2 for a in side for b in side if a != b]
        expected += sum(squares) / max(len(squares), 1)
    assert spread(vectors, layout, ALL).item() == pytest.approx(expected, abs=1e-12)
    assert sum(spread(vectors, layout, part).item() for part in PARTS) == pytest.approx(expected, abs=1e-12)


def kl(student: list[float], teacher: list[float]) -> float:
    def softmax(values: list[float]) -> list[float]:
        powers = [math.exp(value) for value in values]
        return [power / sum(powers) for power in powers]

    return sum(t * math.log(t / s) for s, t in zip(softmax(student), softmax(teacher), strict=True))


@pytest.mark.parametrize("temperature", [None, 0.2])
def test_listwise(temperature: float | None) -> None:
    options = ListwiseOptions(weight=1.0, temperature=temperature, teacher_temperature=0.7)
    for seed in range(6):
        vectors, layout = batch(seed)
        assert layout.scores is not None
        assert layout.places is not None
        found = []
        for i in range(ROWS):
            there = [slot for slot, score in enumerate(layout.scores[i].tolist()) if not math.isnan(score)]
            if len(there) > 1:
                query = vectors[layout.queries[i]]
                student = [float(query @ vectors[layout.places[i, 1 + slot]]) / (temperature or 0.5) for slot in there]
                found.append(kl(student, [float(layout.scores[i, slot]) / 0.7 for slot in there]))
        expected = sum(found) / len(found)
        assert listwise(vectors, layout, ALL, options, 0.5).item() == pytest.approx(expected, abs=1e-6)
        parts = sum(listwise(vectors, layout, part, options, 0.5).item() for part in PARTS)
        assert parts == pytest.approx(expected, abs=1e-6)


def test_listwise_is_sentence_transformers_where_every_row_is_full(tiny_model: str) -> None:
    vectors, layout = batch(1)
    assert layout.places is not None
    scores = torch.rand(ROWS, 1 + SLOTS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    options = ListwiseOptions(weight=1.0, temperature=0.2, teacher_temperature=0.7)
    theirs = st.DistillKLDivLoss(load_model(tiny_model), student_temperature=0.2, teacher_temperature=0.7)
    columns = [vectors[column] for column in layout.places.T]
    expected = theirs.compute_loss_from_embeddings(columns, scores) / 0.2**2
    found = listwise(vectors, replace(layout, scores=scores), ALL, options, 0.5)
    assert found.item() == pytest.approx(expected.item(), abs=1e-9)


def test_rows_without_scores_say_nothing() -> None:
    vectors, layout = batch(0)
    assert layout.scores is not None
    scores = torch.full_like(layout.scores, float("nan"))
    scores[:, 0] = 3.0  # a softmax over one candidate is 1, whatever the model
    leaf = vectors.requires_grad_()
    for silent in (replace(layout, scores=scores), replace(layout, scores=None)):
        assert listwise(leaf, silent, ALL, ListwiseOptions(weight=1.0), 0.5).item() == 0.0
        assert margin_mse(leaf, silent, ALL, MarginMseOptions(weight=1.0)).item() == 0.0
    scores[2, 1] = 1.0
    (gradient,) = torch.autograd.grad(
        listwise(leaf, replace(layout, scores=scores), ALL, ListwiseOptions(weight=1.0), 0.5), leaf
    )
    assert gradient.isfinite().all()
    assert layout.places is not None
    assert set(gradient.abs().sum(1).nonzero().flatten().tolist()) == set(layout.places[2, :3].tolist())


def test_margin_mse() -> None:
    options = MarginMseOptions(weight=1.0, scale=0.4)
    for seed in range(6):
        vectors, layout = batch(seed)
        assert layout.scores is not None
        assert layout.places is not None
        errors = []
        for i in range(ROWS):
            scores = layout.scores[i].tolist()
            query = vectors[layout.queries[i]]
            for slot in range(1, 1 + SLOTS):
                if not (math.isnan(scores[0]) or math.isnan(scores[slot])):
                    own, other = layout.places[i, 1], layout.places[i, 1 + slot]
                    margin = float(query @ vectors[own]) - float(query @ vectors[other])
                    errors.append((margin - 0.4 * (scores[0] - scores[slot])) ** 2)
        expected = sum(errors) / len(errors)
        assert margin_mse(vectors, layout, ALL, options).item() == pytest.approx(expected, abs=1e-6)
        parts = sum(margin_mse(vectors, layout, part, options).item() for part in PARTS)
        assert parts == pytest.approx(expected, abs=1e-6)


def test_margin_mse_is_sentence_transformers_where_every_row_is_full(tiny_model: str) -> None:
    vectors, layout = batch(1)
    assert layout.places is not None
    scores = torch.rand(ROWS, 1 + SLOTS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    columns = [vectors[column] for column in layout.places.T]
    expected = st.MarginMSELoss(load_model(tiny_model)).compute_loss_from_embeddings(columns, scores)
    found = margin_mse(vectors, replace(layout, scores=scores), ALL, MarginMseOptions(weight=1.0, scale=1.0))
    assert found.item() == pytest.approx(expected.item(), abs=1e-9)


@pytest.fixture
def aids(tiny_model: str) -> Aids:
    """A guide and a teacher of another width than the student's eight."""
    rng = np.random.default_rng(9)
    guide, teacher = (unit(rng, ROWS * (2 + SLOTS), width).numpy().astype(np.float32) for width in (5, 12))
    torch.manual_seed(0)
    projection = st.EmbedDistillLoss(load_model(tiny_model, device="cpu"), "cosine", projection_dim=12)
    projection.projection = torch.nn.Linear(8, 12)
    return Aids(TextVectors(guide), TextVectors(teacher), projection)


def test_distillation_of_all_the_rows_texts(aids: Aids) -> None:
    vectors, layout = batch(2)
    vectors = vectors.float() * 3.0
    assert layout.places is not None
    assert layout.texts is not None
    assert aids.teacher is not None
    distances = []
    for place, number in zip(layout.places.flatten().tolist(), layout.texts.flatten().tolist(), strict=True):
        if number >= 0:
            student = aids.projection.projection(vectors[place]).detach().numpy()
            teacher = aids.teacher.of(torch.tensor(number)).numpy()
            distances.append(1 - student @ teacher / np.linalg.norm(student) / np.linalg.norm(teacher))
    expected = float(np.mean(distances))
    found = distill(vectors, layout, ALL, aids.teacher, aids.projection)
    assert found.item() == pytest.approx(expected, abs=1e-6)
    parts = [distill(vectors, layout, part, aids.teacher, aids.projection).item() for part in PARTS]
    assert sum(parts) == pytest.approx(expected, abs=1e-6)


EVERYTHING = LossOptions(
    temperature=0.3,
    dims=(8, 5, 3),
    contrast=0.7,
    guard=GuardOptions(embedder="guide", margin=0.1),
    hardness=HardnessOptions(alpha=2.0),
    spread=SpreadOptions(weight=0.5),
    distill=DistillOptions(embedder="teacher", weight=1.5),
    listwise=ListwiseOptions(weight=0.8),
    margin_mse=MarginMseOptions(weight=0.9),
)


def everything(**changes: Any) -> LossOptions:
    return replace(EVERYTHING, **changes)


@pytest.mark.parametrize("block", [1, 3 * ROWS, 10**6])
@pytest.mark.parametrize("row_weights", [False, True])
def test_blocks_of_rows_are_the_whole_batch(
    aids: Aids, monkeypatch: pytest.MonkeyPatch, block: int, row_weights: bool
) -> None:
    options = everything(hardness=HardnessOptions(alpha=2.0, scales="row")) if row_weights else EVERYTHING
    vectors, layout = batch(5)
    vectors = vectors.float() * 2.0
    whole = total(vectors, layout, options, aids)
    monkeypatch.setattr(total_module, "_BLOCK", block)
    found = total(vectors, layout, options, aids)
    assert found.value.item() == pytest.approx(whole.value.item(), abs=1e-6)
    torch.testing.assert_close(found.gradient, whole.gradient, atol=1e-6, rtol=1e-5)
    for one, other in zip(found.of_parameters, whole.of_parameters, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    shares = [total(vectors, layout, options, aids, rows=part) for part in PARTS]
    assert sum(share.value.item() for share in shares) == pytest.approx(whole.value.item(), abs=1e-6)
    torch.testing.assert_close(sum(share.gradient for share in shares), whole.gradient, atol=1e-6, rtol=1e-5)


def test_the_gradient_is_that_of_the_value(aids: Aids) -> None:
    """Against differences, in double precision but for the projection."""
    vectors, layout = batch(6)
    options = everything(distill=DistillOptions())
    aids = Aids(guide=aids.guide)
    found = total(vectors, layout, options, aids)
    rng = np.random.default_rng(0)
    for text, dim in zip(rng.integers(0, 40, 30), rng.integers(0, 8, 30), strict=True):
        step = torch.zeros_like(vectors)
        step[text, dim] = 1e-6
        up, down = (total(vectors + s * step, layout, options, aids, with_gradient=False).value.item() for s in (1, -1))
        # The hardness weight is held still by the loss, not by differences; without hard negatives it is no matter.
        if not (layout.negatives == text).any() and not (layout.queries == text).any():
            assert found.gradient[text, dim].item() == pytest.approx((up - down) / 2e-6, abs=1e-7)


def test_the_projection_s_gradient_is_that_of_the_value(aids: Aids) -> None:
    vectors, layout = batch(6)
    found = total(vectors.float(), layout, EVERYTHING, aids)
    weight = aids.projection.projection.weight
    for row, column in ((0, 0), (3, 5), (11, 7)):
        values = []
        for step in (1e-2, -1e-2):
            with torch.no_grad():
                weight[row, column] += step
            values.append(total(vectors.float(), layout, EVERYTHING, aids, with_gradient=False).value.item())
            with torch.no_grad():
                weight[row, column] -= step
        assert found.of_parameters[0][row, column].item() == pytest.approx((values[0] - values[1]) / 2e-2, abs=1e-4)


@pytest.mark.parametrize("switch", ["contrast", "guard", "hardness", "spread", "distill", "listwise", "margin_mse"])
def test_every_switch_is_heard(aids: Aids, switch: str) -> None:
    vectors, layout = batch(7)
    off = {"contrast": 0.0, "guard": None, "distill": None}
    if off.get(switch, 0) is None:
        kept = {"guard": replace(aids, guide=None), "distill": replace(aids, teacher=None)}[switch]
        changed = total(vectors.float(), layout, EVERYTHING, kept)
    else:
        section = off.get(switch, type(getattr(EVERYTHING, switch))())
        changed = total(vectors.float(), layout, everything(**{switch: section}), aids)
    assert abs(changed.value.item() - total(vectors.float(), layout, EVERYTHING, aids).value.item()) > 1e-4


def test_only_an_objective_with_nothing_to_say_is_no_loss_and_no_gradient(aids: Aids) -> None:
    vectors, layout = batch(0)
    options = LossOptions(contrast=0.0, listwise=ListwiseOptions(weight=1.0), dims=(8, 4))
    found = total(vectors, replace(layout, scores=None), options)
    assert found.value.item() == 0.0
    assert torch.equal(found.gradient, torch.zeros_like(vectors))


def shuffled(layout: BatchLayout, order: torch.Tensor) -> BatchLayout:
    """The same batch with its rows in another order."""
    values = {field.name: getattr(layout, field.name) for field in fields(layout)}
    return BatchLayout(**{name: None if value is None else value[order] for name, value in values.items()})


ALONE = {
    "in-batch": LossOptions(0.3, same_tower=False),
    "same tower": LossOptions(0.3, in_batch=False),
    "unmasked": LossOptions(0.3, mask_duplicates=False),
    "guard": LossOptions(0.3, guard=GuardOptions(embedder="guide", margin=0.1, hard_negatives=True)),
    "hardness": LossOptions(0.3, hardness=HardnessOptions(alpha=2.0)),
    "hardness of rows": LossOptions(0.3, hardness=HardnessOptions(alpha=2.0, scales="row")),
    "spread": LossOptions(contrast=0.0, spread=SpreadOptions(weight=1.0)),
    "distill": LossOptions(contrast=0.0, distill=DistillOptions(embedder="teacher")),
    "listwise": LossOptions(contrast=0.0, listwise=ListwiseOptions(weight=1.0)),
    "margin_mse": LossOptions(contrast=0.0, margin_mse=MarginMseOptions(weight=1.0)),
    "everything": EVERYTHING,
}


@pytest.mark.parametrize("switches", [True, False], ids=["switches of rows", "switches of options"])
@pytest.mark.parametrize("negatives_only", [True, False])
@pytest.mark.parametrize("term", ALONE)
def test_the_order_of_a_batch_s_rows_does_not_matter(
    aids: Aids, term: str, negatives_only: bool, switches: bool
) -> None:
    options = ALONE[term]
    aids = Aids(
        aids.guide if options.guard.embedder else None,
        aids.teacher if options.distill.embedder else None,
        aids.projection if options.distill.embedder else None,
    )
    vectors, layout = batch(8, texts=20)
    vectors = vectors.float()
    if negatives_only:
        layout = replace(layout, also=None, has_also=None)
    if not switches:
        layout = replace(layout, in_batch=None, same_tower=None)
    whole = total(vectors, layout, options, aids)
    assert whole.value.item() > 1e-3
    rng = np.random.default_rng(0)
    for order in (torch.arange(ROWS).flip(0), *(torch.tensor(rng.permutation(ROWS)) for _ in range(3))):
        found = total(vectors, shuffled(layout, order), options, aids)
        assert found.value.item() == pytest.approx(whole.value.item(), abs=1e-6)
        torch.testing.assert_close(found.gradient, whole.gradient, atol=1e-6, rtol=1e-5)
        for one, other in zip(found.of_parameters, whole.of_parameters, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
