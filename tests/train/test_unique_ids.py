"""The unique ID of a long labelled text stays in the window, with a real tokenizer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gecko.embedder.open import load_model
from gecko.errors import GeckoError
from gecko.mixture.load import load_source
from gecko.mixture.options import SourceOptions
from gecko.mixture.sources.labels import unique_id_of
from gecko.recipe import TrainOptions
from gecko.records import UnifiedRow
from gecko.train import loss as loss_module
from gecko.train.finetune import train_rows, training_prompts
from gecko.train.loss_options import LossOptions
from gecko.train.unique_ids import keep_unique_ids

WINDOW = 32


class Stop(Exception):
    """The first batch is seen."""


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("all-MiniLM-L6-v2", device="cpu")


def labelled(folder: Path, text_format: Any, **more: Any) -> list[UnifiedRow]:
    """Rows of long texts, of short ones, and of a script that has a token a character."""
    records = [
        {"text": f"the {label} of number {n} " + filling, "label": label}
        for label in ("mole", "newt")
        for n, filling in enumerate(["digs unforgettably " * 20, "", "動物園で見た" * 30, "x" * 700])
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    options = SourceOptions(path=str(folder), kind="classification", name="pets", **more)
    return load_source(options, text_format, 0).rows


@pytest.mark.parametrize("text_format", ["gecko", "plain"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_encoder_sees_the_id_of_every_text(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_format: Any, symmetric: bool
) -> None:
    rows = labelled(tmp_path, text_format, symmetric=symmetric)
    seen: list[list[str]] = []

    def recording(self: Any, features: Any, labels: Any) -> None:
        ids = [column["input_ids"] for column in features]
        seen.extend(list(texts) for texts in zip(*map(model.tokenizer.batch_decode, ids), strict=True))
        raise Stop

    monkeypatch.setattr(loss_module.GeckoLoss, "forward", recording)
    options = TrainOptions(
        student="all-MiniLM-L6-v2", text_format=text_format, max_length=WINDOW, batch_size=8, bf16=False
    )
    told: list[str] = []
    before = model.max_seq_length, model.prompts
    try:
        with pytest.raises(Stop):
            train_rows(model, rows, options, LossOptions(), tmp_path / "out", tell=told.append)
    finally:
        model.max_seq_length, model.prompts = before
    tags = {unique_id_of(row).strip() for row in rows}
    assert len(seen) == len(tags) == 8
    found = set()
    for texts in seen:
        ends = {text.replace("[PAD]", "").replace("[SEP]", "").strip().rpartition(" ")[2] for text in texts}
        found |= ends
        assert len(ends) == 1, texts
    assert found == tags
    assert any("digs" in text for texts in seen for text in texts)
    (line,) = told
    assert "texts of pets are cut before their unique ID, to fit 32 tokens" in line


@pytest.mark.parametrize("text_format", ["gecko", "plain"])
def test_no_more_is_cut_than_must_be(model: Any, tmp_path: Path, text_format: Any) -> None:
    rows = labelled(tmp_path, text_format)
    prompts = training_prompts(text_format, {"query": "ask: ", "document": "tell: "})
    told: list[str] = []
    kept = keep_unique_ids(rows, model.tokenizer, WINDOW, text_format, prompts, told.append)
    for row, made in zip(rows, kept, strict=True):
        tag = unique_id_of(row)
        assert replace(made, query="", positive="", negatives=()) == replace(row, query="", positive="", negatives=())
        for text, cut in zip((row.positive, *row.negatives), (made.positive, *made.negatives), strict=True):
            before = "ask: " if text_format == "plain" else ""
            count = len(model.tokenizer(before + cut)["input_ids"])
            assert count <= WINDOW
            assert cut.endswith(tag)
            assert text.startswith(cut.removesuffix(tag))
            if cut != text:
                longer = text[: len(cut.removesuffix(tag)) + 2] + tag
                assert len(model.tokenizer(before + longer)["input_ids"]) >= WINDOW
        short = len(model.tokenizer(f"ask: task: {row.task} | query: {row.query}")["input_ids"]) <= WINDOW
        assert made.query == row.query or not short
    assert kept == keep_unique_ids(kept, model.tokenizer, WINDOW, text_format, prompts, told.append)
    assert len(told) == 1
    assert keep_unique_ids(rows, model.tokenizer, 4096, text_format, prompts, told.append) == rows


def test_rows_without_an_id_are_left_to_the_tokenizer(model: Any) -> None:
    long = "ant bear cat " * 40
    rows = [
        UnifiedRow("1", "search result", long + "harbor", f"title: A | text: {long}"),
        UnifiedRow("2", "search result", long, f"title: none | text: {long}"),
    ]
    assert keep_unique_ids(rows, model.tokenizer, WINDOW, "gecko", {}, pytest.fail) == rows


def test_a_window_that_holds_no_text_is_an_error_of_one_line(model: Any, tmp_path: Path) -> None:
    rows = labelled(tmp_path, "gecko")
    with pytest.raises(GeckoError, match="source pets: 12 tokens are too few") as caught:
        keep_unique_ids(rows, model.tokenizer, 12, "gecko", {}, pytest.fail)
    assert caught.value.hint == "raise train.max_length"
