"""Two processes that train together against one process with all the rows."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from gecko.embedder.open import load_model
from gecko.train.finetune import finetune

SCRIPT = Path(__file__).with_name("processes.py")


@pytest.fixture(scope="module")
def jobs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("processes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["processes"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def run_two(folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(2):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        threads = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "ACCELERATE_USE_CPU": "true"}
        environment = os.environ | threads | {name: str(value) for name, value in variables.items()}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        command = [sys.executable, str(SCRIPT), str(folder)]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    try:
        said = [process.communicate(timeout=300)[0].decode(errors="replace") for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, words: list[str]) -> Path:
    """Where the two processes left what they did."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "told.json").write_text(json.dumps({"model": tiny_model, "words": words}))
    run_two(folder)
    return folder


@pytest.fixture(scope="module")
def both(done: Path) -> list[dict[str, Any]]:
    return [torch.load(done / f"loss-{rank}.pt", weights_only=True) for rank in range(2)]


def alone(jobs: ModuleType, model: str, words: list[str], case: str, rows: slice) -> tuple[float, dict[str, Any]]:
    encoder, loss = jobs.make_loss(model, jobs.CASES[case])
    value = loss(*jobs.batch(encoder, words, rows))
    value.backward()
    return value.item(), jobs.gradients(encoder, loss)


@pytest.mark.parametrize("case", ["equation 3", "cached", "tokens", "everything", "everything, cached"])
def test_gathered_loss_is_that_of_one_process(
    jobs: ModuleType, both: list[dict[str, Any]], tiny_model: str, words: list[str], case: str
) -> None:
    """Four rows on the one, three on the other; texts are shared between them, each has its own number of pieces."""
    value, expected = alone(jobs, tiny_model, words, case, slice(0, jobs.ROWS))
    assert len(expected) > 20
    assert ("projection 0" in expected) == case.startswith("everything")
    for found in both:
        assert found[case]["value"].item() == pytest.approx(value, abs=1e-5)
        assert found[case]["gradients"].keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[case]["gradients"][name], gradient, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("case", ["apart", "everything, apart"])
def test_without_gathering_each_process_has_its_own_rows_and_gradients_are_averaged(
    jobs: ModuleType, both: list[dict[str, Any]], tiny_model: str, words: list[str], case: str
) -> None:
    halves = [alone(jobs, tiny_model, words, case, rows) for rows in (slice(0, 4), slice(4, jobs.ROWS))]
    for found, (value, _) in zip(both, halves, strict=True):
        assert found[case]["value"].item() == pytest.approx(value, abs=1e-5)
        for name, gradient in found[case]["gradients"].items():
            mean = (halves[0][1][name] + halves[1][1][name]) / 2
            torch.testing.assert_close(gradient, mean, atol=2e-5, rtol=1e-4, msg=name)


def test_two_processes_train_the_model_that_one_trains(
    jobs: ModuleType, done: Path, tmp_path: Path, tiny_model: str, words: list[str]
) -> None:
    rows, options = jobs.rows_to_train(words), jobs.options_to_train(tiny_model)
    history = finetune(rows, options, tmp_path / "model")
    assert history["steps"] == torch.load(done / "steps-0.pt") == torch.load(done / "steps-1.pt")
    texts = [row.query for row in rows]
    one, two, base = (
        load_model(str(path), device="cpu").encode(texts, show_progress_bar=False)
        for path in (tmp_path / "model", done / "both" / "model", tiny_model)
    )
    assert np.abs(one - base).max() > 0.05, "the training must change something for this test to say anything"
    np.testing.assert_allclose(two, one, atol=2e-3)
    assert not (done / "both" / "checkpoints").exists()
    assert [path.suffix for path in (done / "both" / "vectors").iterdir() if path.suffix == ".f32"] == [".f32"]


@pytest.mark.parametrize("case", ["equation 3", "everything", "everything, cached"])
def test_shuffled_rows_are_the_same_loss(jobs: ModuleType, tiny_model: str, words: list[str], case: str) -> None:
    """From the tokens on: merging equal texts and cutting groups must not depend on the order of rows either."""
    found = []
    for order in (torch.arange(jobs.ROWS), torch.tensor([3, 0, 6, 5, 1, 4, 2])):
        encoder, loss = jobs.make_loss(tiny_model, jobs.CASES[case])
        columns, facts = jobs.batch(encoder, words, slice(0, jobs.ROWS))
        columns = [
            {name: value[order] if torch.is_tensor(value) else value for name, value in column.items()}
            for column in columns
        ]
        value = loss(columns, {name: fact[order] for name, fact in facts.items()})
        value.backward()
        found.append((value.item(), jobs.gradients(encoder, loss)))
    (whole, gradients), (value, others) = found
    assert value == pytest.approx(whole, abs=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, atol=1e-5, rtol=1e-4, msg=name)
