"""The bench of the training's speed: sides take the same loss, each part is really taken away, ratios are right."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "bench" / "train.py"
    spec = importlib.util.spec_from_file_location("bench_train", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rows(words: list[str]) -> list[list[str]]:
    """Forty rows of texts of many lengths, among them equal ones."""
    made = [
        [" ".join(words[place % 20 :][: 1 + place % 3]), " ".join(words[:: 1 + place % 7]), words[place % 5]]
        for place in range(40)
    ]
    return [*made[:38], made[0], made[1]]


def cell(kind: str, rows: int, *sides: str) -> dict[str, Any]:
    return {"kind": kind, "data": "stdlib", "rows": rows, "bf16": False, "sides": list(sides), "repeats": 2}


def test_all_sides_of_the_first_table_take_the_same_loss(
    bench: ModuleType, rows: list[list[str]], tiny_model: str
) -> None:
    sides = (bench.THEIRS, bench.THEIR_TOKENS, bench.OURS, bench.OUR_TOKENS, bench.SMALL, bench.UNCACHED)
    found = bench.measure(cell("speed", len(rows), *sides), rows, tiny_model)
    assert set(found["loss"]) == set(sides)
    assert found["loss"][bench.THEIRS] > 0.1
    for value in found["loss"].values():
        assert value == pytest.approx(found["loss"][bench.THEIRS], abs=1e-5)
    assert all(len(seconds) == 3 for seconds in found["seconds"].values())
    assert (found["texts"], found["gigabytes"] > 0.1) == (80, True)
    assert found["distinct"] < 80


def encoded(bench: ModuleType, model: Any, rows: list[list[str]], side: str) -> list[tuple[int, int]]:
    """Shapes of what a step encodes without one part."""
    shapes: list[tuple[int, int]] = []
    handle = model.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0]["input_ids"].shape)))
    parts = bench.changes(model)
    with mock.patch.object(*parts[side]) if side in parts else mock.MagicMock():
        features = [model.preprocess(list(column)) for column in zip(*rows, strict=True)]
        bench.make_loss(model, side, "parts")(features, torch.ones(len(rows), dtype=torch.long)).backward()
    handle.remove()
    return shapes


def test_each_part_is_taken_away(bench: ModuleType, rows: list[list[str]], tiny_model: str) -> None:
    model = bench.open_model(tiny_model, False)
    order, even, equal, twice, *_ = bench.PARTS
    shapes = {side: encoded(bench, model, rows, side) for side in (bench.WHOLE, order, even, equal, twice)}
    texts = {side: sum(count for count, _ in found) for side, found in shapes.items()}
    tokens = {side: sum(count * width for count, width in found) for side, found in shapes.items()}
    distinct = len({text for row in rows for text in row})
    assert texts[twice] == 2 * distinct
    assert distinct < texts[bench.WHOLE] <= 2 * distinct - 32 // 2, "more than half a mini-batch is kept"
    assert texts[equal] > 2 * distinct
    assert tokens[order] > 1.2 * tokens[twice], "twice is by length"
    assert {count for count, _ in shapes[even]} == {32, distinct % 32}
    assert bench.changes(model).keys() == {*bench.PARTS, bench.COMPILED}


def test_a_large_step_is_one_of_pre_finetuning(bench: ModuleType, rows: list[list[str]], tiny_model: str) -> None:
    found = bench.pretrain(cell("prefinetune", 40), [row[:2] for row in rows], tiny_model)
    assert (found["texts"], len(found["seconds"][bench.OURS])) == (80, 1)


def test_the_tables_show_the_worst_ratio(bench: ModuleType) -> None:
    facts = {"texts": 128, "distinct": 120, "tokens": 9000, "gigabytes": 2.5, "loss": {}}

    def found(**seconds: list[float]) -> dict[str, Any]:
        names = {"theirs": bench.THEIRS, "ours": bench.OURS, "plain": bench.UNCACHED, "whole": bench.WHOLE}
        named = {names[name]: values for name, values in seconds.items()}
        return {**facts, "seconds": named, "loss": dict.fromkeys(named, 0.5)}

    done = [
        (cell("speed", 64), found(theirs=[99, 6, 5, 9], ours=[99, 2, 3, 1], plain=[99, 1.6, 1.6, 1.6])),
        (cell("speed", 256), found(theirs=[99, 8, 8, 8], ours=[99, 5, 5, 5])),
        (cell("parts", 64), found(whole=[99, 2, 2, 2], plain=[99, 3, 3, 3])),
        (cell("memory", 64), found(ours=[1])),
        (cell("memory", 4096), {**found(ours=[60]), "gigabytes": 2.75}),
        (cell("prefinetune", 16384), {**found(ours=[99]), "gigabytes": 3.25}),
    ]
    text = "\n".join(bench.tables(done))
    assert "times plain Sentence-Transformers: 1.60 to 3.00" in text
    assert "at most 1.25 (" in text
    assert "64 to 4,096 rows: 2.50 to 2.75 GB" in text
    assert "of 16,384 rows: 3.25 GB" in text
    assert "| Sentence-Transformers | 0.50000 | 6.00 (5.00 to 9.00) | 10.7 | 1.00 |" in text
    assert "| gecko | 0.50000 | 2.00 (1.00 to 3.00) | 32.0 | 3.00 |" in text
    assert "| gecko, uncached | 3.00 (3.00 to 3.00) | 1.50 |" in text
    assert "stdlib, 4,096 rows, 128 texts, 9,000 tokens | float32 | 2.75 |" in text
