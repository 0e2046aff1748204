"""Which text of a row stands in which column, and what the loss is told of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from gecko.embedder.open import load_model
from gecko.mixture.format import SourceText
from gecko.mixture.options import MixtureOptions
from gecko.recipe import TrainOptions
from gecko.records import ScoredText, UnifiedRow
from gecko.train.batch import lay_out
from gecko.train.columns import (
    ColumnLayout,
    RowCollator,
    TrainingRow,
    column_layout,
    describe_rows,
    make_dataset,
    training_rows,
)
from gecko.train.finetune import loss_options
from gecko.train.vectors import TextNumbers

SCORED = tuple(
    ScoredText(text, rc, rrf)
    for text, rc, rrf in [
        ("pos", 2.8, 2.0),
        ("good", 2.9, 1.0),
        ("fair", 2.0, 0.7),
        ("neg", 0.5, 0.5),
        ("fine", 2.6, 0.4),
        ("dull", None, 0.3),
        ("bad", 0.1, 0.2),
    ]
)
ROW = UnifiedRow("r", "task", "query", "pos", ("neg", "neg2"), candidates=SCORED)
BARE = UnifiedRow("s", "task", "other", "answer")


def made(row: UnifiedRow = ROW, **settings: Any) -> TrainingRow:
    options = TrainOptions.model_validate(settings)
    return training_rows([row], options, loss_options(options, 384), MixtureOptions())[0]


def test_by_default_a_row_is_its_positive_and_its_hard_negatives() -> None:
    assert made() == TrainingRow(ROW, ("neg",), (), (), {}, True, True)
    assert made(negatives=0).negatives == ()
    assert made(negatives=5).negatives == ("neg", "neg2")
    assert made(BARE).negatives == ()


@pytest.mark.parametrize(
    ("extra", "least", "positives"), [(0, 0.0, ()), (1, 2.5, ("good",)), (9, 2.5, ("good", "fine")), (9, 3.0, ())]
)
def test_further_positives_are_the_best_ranked_that_are_graded_so_high(
    extra: int, least: float, positives: tuple[str, ...]
) -> None:
    assert made(positives={"extra": extra, "min_rc": least}).positives == positives


def test_a_hard_negative_is_never_a_further_positive() -> None:
    assert "neg" not in made(positives={"extra": 9, "min_rc": 0.0}).positives
    assert made(negatives=0, positives={"extra": 9, "min_rc": 0.0}).positives[2] == "neg"


@pytest.mark.parametrize(
    ("count", "score", "candidates"),
    [
        (8, "rc", ("fair", "bad")),
        (8, "rrf", ("fair", "dull", "bad")),
        (4, "rc", ("fair",)),
        (3, "rc", ()),
        (1, "rc", ()),
    ],
)
def test_candidates_are_the_best_ranked_that_have_a_score(count: int, score: str, candidates: tuple[str, ...]) -> None:
    """The hard negative and the two further positives are among the count."""
    settings = {"candidates": {"count": count, "score": score}, "positives": {"extra": 2}}
    row = made(listwise={"weight": 1.0}, **settings)
    assert row.candidates == candidates
    assert row.scores["pos"] == (2.8 if score == "rc" else 2.0)
    assert ("dull" in row.scores) == (score == "rrf")
    assert made(**settings).candidates == (), "no objective reads scores"


def test_columns_facts_and_numbers_belong_together(tiny_model: str) -> None:
    settings = {
        "text_format": "plain",
        "negatives": 2,
        "positives": {"extra": 1},
        "margin_mse": {"weight": 1},
        "candidates": {"count": 4},
    }
    options = TrainOptions.model_validate(settings)
    rows = [made(**settings), made(BARE, **settings)]
    layout = column_layout(rows, options)
    assert layout == ColumnLayout(2, 1, 1)
    numbers = TextNumbers()
    data = make_dataset(rows, layout, "plain", {"query": "Q ", "document": "D "}, numbers)
    assert data[0]["query"] == "Q query"
    texts = ["positive", "negative_1", "negative_2", "positive_1", "candidate_1"]
    assert [data[0][name] for name in texts] == ["D pos", "D neg", "D neg2", "D good", "D fair"]
    assert [data[1][name] for name in texts] == ["D answer", "", "", "", ""]
    model = load_model(tiny_model, device="cpu")
    batch = RowCollator(preprocess_fn=model.preprocess)([data[0], data[1]])
    assert [key for key in batch if key.endswith("_input_ids")] == [f"{name}_input_ids" for name in ("query", *texts)]
    facts = batch["label"]
    assert facts["filled"].tolist() == [[True] * 4, [False] * 4]
    assert facts["scores"][0].tolist() == pytest.approx([2.8, 0.5, math.nan, 2.9, 2.0], nan_ok=True)
    assert facts["scores"][1].isnan().all()
    assert facts["texts"].tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, -1, -1, -1, -1]]
    assert numbers.texts[0] == SourceText("task", "", "query")
    assert [text.text for text in numbers.texts[1:]] == ["pos", "neg", "neg2", "good", "fair", "other", "answer"]
    index = torch.arange(12).view(6, 2)
    found = lay_out(index, facts, layout)
    assert found.negatives.tolist() == [[4, 6], [5, 7]]
    assert found.has_negative.tolist() == [[True, True], [False, False]]
    assert found.also is not None
    assert found.has_also is not None
    assert (found.also.tolist(), found.has_also.tolist()) == ([[8], [9]], [[True], [False]])
    assert found.places is not None
    assert found.places[0].tolist() == [0, 2, 4, 6, 8, 10]
    assert found.scored.sum().item() == 4


def test_a_symmetric_row_asks_on_both_sides() -> None:
    row = UnifiedRow("r", "task", "a", "b", ("c",), symmetric=True)
    data = make_dataset([made(row)], ColumnLayout(1), "plain", {"query": "Q ", "document": "D "})
    assert [data[0][name] for name in ("query", "positive", "negative_1")] == ["Q a", "Q b", "Q c"]


def test_what_rows_hold_is_told() -> None:
    settings = {"listwise": {"weight": 1}, "positives": {"extra": 1}, "hardness": {"alpha": 5}}
    options = TrainOptions.model_validate(settings)
    rows = [made(**settings), made(BARE, **settings)]
    assert describe_rows(rows, options, loss_options(options, 384)) == [
        "training: 1 of 2 rows have scored texts, 6.0 each",
        "training: 1 of 2 rows have more than one positive, of rc 2.5 or more",
        "training: 1 of 2 rows have a hard negative to be weighed",
    ]
    assert describe_rows(rows, TrainOptions(), loss_options(TrainOptions(), 384)) == []
