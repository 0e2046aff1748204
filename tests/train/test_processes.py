"""Two processes on CPUs: one training of the same steps, and one writer."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gecko.embedder.open import load_model
from gecko.mixture.format import render_passage
from gecko.recipe import TrainOptions
from gecko.records import UnifiedRow
from gecko.train.finetune import finetune
from gecko.train.processes import average_gradients, is_main, join
from gecko.train.student_options import BackboneOptions, SoupOptions


def torchrun(*program: str) -> str:
    """What two processes say together; on a port of their own, for another test may run beside this one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    return subprocess.run([*command, *program], check=True, capture_output=True, text=True, timeout=900).stdout


PROGRAM = """
import json, sys
from pathlib import Path

import gecko.train.finetune as training

save = training.save_whole

def saying(*args):
    print("saved")
    save(*args)

training.save_whole = saying

def train():
    from gecko.recipe import TrainOptions
    from gecko.records import UnifiedRow
    from gecko.train.finetune import finetune
    given = json.loads(Path(sys.argv[1]).read_text())
    rows = [UnifiedRow(**{**row, "negatives": tuple(row["negatives"])}) for row in given["rows"]]
    options = TrainOptions.model_validate(given["options"])
    history = finetune(rows, options, Path(sys.argv[2]), seed=1)
    print("trained", history["steps"], history["rows"], history["soup"])

from gecko.train.processes import run_together
if __name__ == "__main__":
    run_together(train)
"""


@pytest.fixture
def rows(words: list[str]) -> list[UnifiedRow]:
    """Texts of very different lengths: the two processes' shares differ in their number of groups and padding."""
    draw = random.Random(0)
    return [
        UnifiedRow(
            row_id=str(n),
            task="search result",
            query=f"{word} {draw.choice(words)}",
            positive=render_passage(word, " ".join([word, *draw.choices(words, k=draw.randrange(1, 12))])),
            negatives=(render_passage("", " ".join(draw.choices(words, k=6))),) if n % 3 else (),
        )
        for n, word in enumerate(words[:24])
    ]


@pytest.fixture
def options(tiny_model: str) -> TrainOptions:
    """Without in-batch terms a row's loss is its own, so that it does not matter which process has the row."""
    return TrainOptions(
        student=tiny_model, epochs=2.0, batch_size=8, learning_rate=2e-3, dims=(32, 16), max_length=32, bf16=False,
        mini_batch=2, in_batch=False, same_tower=False,
        backbone=BackboneOptions.model_validate({"lora": {"rank": 4}, "projection": 16}) , soup=SoupOptions(last=2),
    ).model_copy(update={"dims": (16, 8)})  # fmt: skip


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_model(str(model), device="cpu").state_dict()


def test_two_processes_train_what_one_does_and_one_of_them_writes(
    rows: list[UnifiedRow], options: TrainOptions, tmp_path: Path
) -> None:
    from dataclasses import asdict

    given: dict[str, Any] = {"rows": [asdict(row) for row in rows], "options": options.model_dump(mode="json")}
    (tmp_path / "given.json").write_text(json.dumps(given))
    (tmp_path / "program.py").write_text(PROGRAM)
    said = torchrun(str(tmp_path / "program.py"), str(tmp_path / "given.json"), str(tmp_path / "two" / "model"))
    assert said.splitlines() == ["saved", "trained 6 24 [5, 6]"], "one process writes, and speaks"
    history = finetune(rows, options, tmp_path / "one" / "model", seed=1)
    assert history["steps"] == 6
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["model"]
    expected, start = weights(tmp_path / "one" / "model"), weights(Path(options.student))
    for name, value in weights(tmp_path / "two" / "model").items():
        torch.testing.assert_close(value, expected[name], atol=2e-6, rtol=0, msg=name)
    moved = [name for name in start if not torch.allclose(expected[name], start[name], atol=1e-3)]
    assert moved, "training must have moved the weights for this test to say anything"


def test_a_verb_started_twice_is_done_once(tiny_model: str, tmp_path: Path) -> None:
    said = torchrun("-m", "gecko", "soup", tiny_model, tiny_model, "--out", str(tmp_path / "soup"), "--json")
    (line,) = said.splitlines()
    assert json.loads(line)["weights"] == [0.5, 0.5]
    assert (tmp_path / "soup" / "modules.json").exists()


def test_alone_nothing_is_joined_and_nothing_averaged() -> None:
    assert join() == 1
    assert is_main()
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    average_gradients([parameter])
    assert parameter.grad.tolist() == [1, 1]
