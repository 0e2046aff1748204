"""What each of several processes does in test_gather.py: ``python processes.py FOLDER``, torchrun's variables set.

A module of its own, so that the processes need nothing of pytest.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gecko.embedder.open import load_model
from gecko.recipe import TrainOptions
from gecko.records import ScoredText, UnifiedRow
from gecko.train.columns import ColumnLayout
from gecko.train.finetune import disable_dropout, finetune
from gecko.train.loss import GeckoLoss
from gecko.train.loss_options import (
    DistillOptions,
    GuardOptions,
    HardnessOptions,
    ListwiseOptions,
    LossOptions,
    MarginMseOptions,
    SpreadOptions,
)
from gecko.train.processes import average_gradients
from gecko.train.vectors import Aids, TextVectors

ROWS = 7
EVERYTHING = LossOptions(
    dims=(32, 16),
    guard=GuardOptions(embedder="guide", margin=0.1),
    hardness=HardnessOptions(alpha=2.0, scales="row"),
    spread=SpreadOptions(weight=0.5),
    distill=DistillOptions(embedder="teacher"),
    listwise=ListwiseOptions(weight=0.8),
    margin_mse=MarginMseOptions(weight=0.9),
)
CASES = {
    "equation 3": LossOptions(dims=(32, 16)),
    "cached": LossOptions(dims=(32, 16), mini_batch=2),
    "tokens": LossOptions(dims=(32, 16), mini_tokens=40),
    "everything": EVERYTHING,
    "everything, cached": replace(EVERYTHING, mini_batch=3),
    "apart": LossOptions(dims=(32, 16), gather=False),
    "everything, apart": replace(EVERYTHING, gather=False),
}


def batch(model: Any, words: list[str], rows: slice) -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """Some rows of a batch of seven; texts are shared within and between the halves."""
    rng = np.random.default_rng(3)
    columns = [[" ".join(rng.choice(words, int(rng.integers(2, 12)))) for _ in range(ROWS)] for _ in range(5)]
    columns[1][5] = columns[1][0]  # two rows share a positive
    columns[0][6] = columns[0][2]  # two a query
    columns[2][1] = columns[1][4]  # a negative is another row's positive
    filled = torch.tensor(rng.random((ROWS, 3)) < 0.7)
    scores = torch.tensor(rng.uniform(0, 3, (ROWS, 4)), dtype=torch.float32)
    scores[:, 1:][~filled] = float("nan")
    numbers = torch.arange(ROWS * 5).view(ROWS, 5)
    numbers[:, 2:][~filled] = -1
    facts = {
        "filled": filled,
        "scores": scores,
        "in_batch": torch.tensor(rng.random(ROWS) < 0.8),
        "same_tower": torch.tensor(rng.random(ROWS) < 0.8),
        "texts": numbers,
    }
    features = [dict(model.preprocess(column[rows])) for column in columns]
    return features, {name: value[rows] for name, value in facts.items()}


def make_loss(path: str, options: LossOptions) -> tuple[Any, GeckoLoss]:
    """The model and the loss; both are the same in every process."""
    from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss

    model = load_model(path, device="cpu")
    disable_dropout(model)
    model.train()
    rng = np.random.default_rng(1)
    drawn = (rng.normal(size=(ROWS * 5, width)).astype(np.float32) for width in (6, 10))
    guide, teacher = (TextVectors(v / np.linalg.norm(v, axis=1, keepdims=True)) for v in drawn)
    torch.manual_seed(0)
    projection = EmbedDistillLoss(model, "cosine", projection_dim=10)
    aids = Aids(
        guide if options.guard.embedder else None,
        teacher if options.distill.embedder else None,
        projection if options.distill.embedder else None,
    )
    return model, GeckoLoss(model, options, ColumnLayout(1, 1, 1), aids)


def gradients(model: Any, loss: GeckoLoss) -> dict[str, torch.Tensor]:
    """Those of the model, and of the projection."""
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    for place, parameter in enumerate(loss.aids.parameters()):
        if parameter.grad is not None:
            found[f"projection {place}"] = parameter.grad
    return found


def rows_to_train(words: list[str]) -> list[UnifiedRow]:
    """Rows with candidates and scores."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(23):  # no multiple of the batch
        texts = [" ".join([words[number % 20], *rng.choice(words, 5)]) for _ in range(4)]
        candidates = tuple(ScoredText(text, float(rng.uniform(0, 3)), 1.0) for text in texts)
        query = f"{words[number % 20]} {rng.choice(words)}"
        made.append(UnifiedRow(str(number), "search result", query, texts[0], (texts[1],), candidates=candidates))
    return made


def options_to_train(model: str) -> TrainOptions:
    """Every kind of objective, and mini-batches."""
    return TrainOptions(
        student=model,
        text_format="plain",
        epochs=2,
        batch_size=8,
        mini_batch=4,
        learning_rate=1e-3,
        dims=(32, 16),
        max_length=32,
        bf16=False,
        guard=GuardOptions(embedder=model),
        distill=DistillOptions(embedder=model),
        listwise=ListwiseOptions(weight=1.0),
    )


def main(folder: Path) -> None:
    """Train, take each case's loss and gradients, and leave what that gave in the folder."""
    from torch import distributed

    torch.set_num_threads(1)
    told = json.loads((folder / "told.json").read_text())
    history = finetune(rows_to_train(told["words"]), options_to_train(told["model"]), folder / "both" / "model")
    rank = distributed.get_rank()
    torch.save(history["steps"], folder / f"steps-{rank}.pt")
    found = {}
    for name, options in CASES.items():
        model, loss = make_loss(told["model"], options)
        half = slice(0, 4) if rank == 0 else slice(4, ROWS)
        features, facts = batch(model, told["words"], half)
        value = loss(features, facts)
        value.backward()
        average_gradients(loss.parameters())
        found[name] = {"value": value.detach(), "gradients": gradients(model, loss)}
    torch.save(found, folder / f"loss-{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
