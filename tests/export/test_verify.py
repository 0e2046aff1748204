"""An export that answers otherwise is found, told by how much, and fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gecko.cli import app
from gecko.embedder.onnx import MARK
from gecko.embedder.open import load_model
from gecko.embedder.save import save_model
from gecko.errors import GeckoError, UsageError
from gecko.export import verify as verify_module
from gecko.export.export import export_model
from gecko.export.verify import Limits, render_verify, verify

runner = CliRunner()


def quiet(line: str) -> None:
    """Tell nobody."""


@pytest.fixture(scope="module")
def compat(run: Path) -> Path:
    out = run.parent / "compat"
    export_model(str(run / "model"), "compat", out, tell=quiet)
    return out


@pytest.fixture
def spoilt(compat: Path, tmp_path: Path) -> Path:
    """The export with weights that are not those of its model any more."""
    out = tmp_path / "spoilt"
    shutil.copytree(compat, out)
    model = load_model(str(compat), device="cpu")
    for parameter in model.parameters():
        parameter.data += 0.3 * parameter.data.flip(0)
    save_model(model, out)
    return out


def test_exports_of_the_model_pass(run: Path, compat: Path, onnx_export: Path) -> None:
    report = verify(str(run / "model"), [str(compat), str(onnx_export)], tell=quiet)
    assert report["passed"]
    assert report["sets"] == ["test"]  # of the run's recipe
    for one, kind in zip(report["results"], ("compat", "onnx"), strict=True):
        assert (one["format"], one["faults"]) == (kind, [])
        assert 0 <= one["mean_gap"] <= one["worst_gap"] < 1e-5
        assert [(row["dataset"], row["dim"]) for row in one["ndcg"]] == [("test", 32), ("test", 16)]
        assert all(row["delta"] == pytest.approx(0, abs=1e-9) and row["model"] > 0.1 for row in one["ndcg"])
        assert one["texts_per_second"] > 0
        assert one["bytes"] > 1000
    table = render_verify(report)
    assert "1.000000" in table
    assert "test@16" in table
    assert "FAILED" not in table


def test_other_weights_fail_and_the_command_exits_with_1(run: Path, compat: Path, spoilt: Path) -> None:
    result = runner.invoke(app, ["verify", str(run / "model"), str(compat), str(spoilt), "--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert not report["passed"]
    good, bad = report["results"]
    assert good["faults"] == []
    assert bad["worst_gap"] > 1e-3
    assert "worst cosine gap" in bad["faults"][0]
    assert "1 of 2 exports" in result.stderr
    loose = ["--max-gap", "2", "--max-loss", "1"]
    assert runner.invoke(app, ["verify", str(run / "model"), str(spoilt), *loose]).exit_code == 0


def test_a_loss_on_the_test_fails(run: Path, compat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = verify_module.encode_set

    def reversed_documents(model, data):
        queries, documents = encode(model, data)
        return queries, documents if model.path == str(run / "model") else documents[::-1].copy()

    monkeypatch.setattr(verify_module, "encode_set", reversed_documents)
    (one,) = verify(str(run / "model"), [str(compat)], tell=quiet)["results"]
    assert one["worst_gap"] < 1e-5
    assert any("nDCG@10 on test" in fault for fault in one["faults"])


def test_limits_are_those_of_the_format() -> None:
    assert Limits().of("onnx", measured=True) == (1e-4, 0.005)
    assert Limits().of("onnx-int8", measured=True) == (None, 0.005)
    assert Limits().of("onnx-int8", measured=False) == (0.1, 0.005)
    assert Limits().of("static", measured=True) == (None, None)
    assert Limits(0.5, 0.1).of("onnx", measured=True) == (0.5, 0.1)
    assert Limits(0.5, 0.1).of("static", measured=True) == (None, 0.1)


def test_a_static_table_is_measured_by_its_ranking_alone(run: Path, tmp_path: Path) -> None:
    export_model(str(run / "model"), "static", tmp_path / "static", dim=8, tell=quiet)
    (one,) = verify(str(run / "model"), [str(tmp_path / "static")], tell=quiet)["results"]
    assert (one["worst_gap"], one["dim"], one["faults"]) == (None, 8, [])
    assert [row["dim"] for row in one["ndcg"]] == [8]


def test_an_export_of_another_model_is_refused(run: Path, compat: Path, tiny_model: str, tmp_path: Path) -> None:
    with pytest.raises(GeckoError, match="made from another model") as caught:
        verify(tiny_model, [str(compat)], tell=quiet)
    assert "gecko export" in caught.value.hint
    with pytest.raises(UsageError, match="is the model itself"):
        verify(tiny_model, [tiny_model], tell=quiet)
    with pytest.raises(UsageError, match="dimension 64"):
        verify(str(run / "model"), [str(compat)], dims=[64], tell=quiet)
    with pytest.raises(GeckoError, match="no model directory"):
        verify(str(run / "model"), [str(tmp_path / "nothing")], tell=quiet)


def test_without_a_test_set_the_table_says_so(tiny_model: str, tmp_path: Path) -> None:
    export_model(tiny_model, "compat", tmp_path / "out", tell=quiet)
    report = verify(tiny_model, [str(tmp_path / "out")], tell=quiet)
    assert report["passed"]
    assert report["results"][0]["ndcg"] == []
    assert report["texts"] > 100
    assert "--beir" in render_verify(report)


def test_vectors_that_are_not_numbers_fail(run: Path, compat: Path, tmp_path: Path) -> None:
    out = tmp_path / "broken"
    shutil.copytree(compat, out)
    model = load_model(str(compat), device="cpu")
    next(model.parameters()).data[:] = np.nan
    save_model(model, out)
    assert (out / MARK).exists()
    with pytest.raises(GeckoError, match="not numbers"):
        verify(str(run / "model"), [str(out)], tell=quiet)


def test_a_missing_export_is_said_before_anything_is_encoded(run: Path, compat: Path, tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(GeckoError, match="no model directory"):
        verify(str(run / "model"), [str(compat), str(tmp_path / "nothing")], tell=said.append)
    assert said == []


def test_a_wider_model_is_no_export(tiny_model: str, tmp_path: Path) -> None:
    from sentence_transformers.models import Dense

    narrow = load_model(tiny_model, device="cpu")
    narrow.append(Dense(32, 8, bias=False))
    save_model(narrow, tmp_path / "narrow")
    with pytest.raises(GeckoError, match=r"has 32 dimensions, .* has 8"):
        verify(str(tmp_path / "narrow"), [tiny_model], tell=quiet)
