"""What is published is said before, needs a card, and goes whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from typer.testing import CliRunner

from gecko.cli import app
from gecko.embedder.onnx import MARK
from gecko.embedder.open import load_model
from gecko.embedder.save import save_model
from gecko.errors import GeckoError, UsageError
from gecko.export.push import push

runner = CliRunner()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What reaches the Hub, which has a token and takes everything."""
    calls: list[object] = []

    class Api:
        def create_repo(self, name: str, **options: object) -> None:
            calls.append((name, options["private"]))

        def create_commit(self, name: str, operations, **_: object) -> SimpleNamespace:
            calls.append(sorted(one.path_in_repo for one in operations))
            return SimpleNamespace(commit_url=f"https://hub/{name}/commit")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
    return calls


def test_without_a_token_nothing_is_sent(run: Path, sent: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    result = runner.invoke(app, ["push", str(run / "model"), "me/mine", "--json"])
    assert result.exit_code == 0
    value = json.loads(result.stdout)
    assert (value["dry_run"], value["hub"], value["private"]) == (True, True, True)
    assert value["files"]["model.safetensors"] == (run / "model" / "model.safetensors").stat().st_size
    assert "README.md" in value["files"]
    assert sent == []
    assert "no token" in runner.invoke(app, ["push", str(run / "model"), "me/mine"]).stderr


def test_files_and_graphs_go_to_a_private_repository(run: Path, sent: list[object], onnx_export: Path) -> None:
    (run / "model" / ".hidden").touch()
    done = push(str(run / "model"), "me/mine", [onnx_export])
    (run / "model" / ".hidden").unlink()
    assert sent[0] == ("me/mine", True)
    assert {"README.md", "model.safetensors", "onnx/model.onnx", "1_Pooling/config.json"} <= set(sent[1])
    assert ".hidden" not in sent[1]
    assert (done.dry_run, done.url) == (False, "https://hub/me/mine/commit")
    push(str(run / "model"), "me/mine", public=True)
    assert sent[2] == ("me/mine", False)
    push(str(run / "model"), "me/mine", dry_run=True)
    assert len(sent) == 4


def test_what_the_hub_refuses_is_one_line(run: Path, sent: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("403 Forbidden\nmore")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(GeckoError, match=r"did not take me/mine: 403 Forbidden$"):
        push(str(run / "model"), "me/mine")


def test_a_folder_gets_the_files_and_is_replaced_only_where_it_was_a_model(run: Path, tmp_path: Path) -> None:
    place = tmp_path / "published"
    for _ in range(2):
        done = push(str(run / "model"), str(place))
    assert not done.hub
    assert (place / "model.safetensors").read_bytes() == (run / "model" / "model.safetensors").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["published"]
    push(str(run / "model"), str(tmp_path / "dry"), dry_run=True)
    assert not (tmp_path / "dry").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    for bad in (tmp_path / "mine", run, run / "model", run / "model" / "inside"):
        with pytest.raises(UsageError, match="holds"):
            push(str(run / "model"), str(bad))
    assert (run / "model" / "model.safetensors").exists()


def test_a_model_needs_a_card_and_its_own_exports(
    run: Path, tmp_path: Path, onnx_export: Path, tiny_model: str
) -> None:
    shutil.copytree(run / "model", tmp_path / "model")
    (tmp_path / "model" / "README.md").unlink()
    with pytest.raises(GeckoError, match="has no card"):
        push(str(tmp_path / "model"), "me/mine")
    shutil.copytree(tiny_model, tmp_path / "tiny")
    (tmp_path / "tiny" / "README.md").write_text("# tiny")
    with pytest.raises(GeckoError, match="made from another model"):
        push(str(tmp_path / "tiny"), "me/mine", [onnx_export], dry_run=True)
    with pytest.raises(GeckoError, match="not an ONNX export"):
        push(str(run / "model"), "me/mine", [run / "model"], dry_run=True)
    with pytest.raises(GeckoError, match="no folder of yours"):
        push("all-MiniLM-L6-v2", "me/mine")


@pytest.mark.parametrize("target", ["mine", "a/b/c", "me/"])
def test_a_target_that_is_neither_is_refused(run: Path, target: str) -> None:
    with pytest.raises(UsageError, match="neither a repository nor a folder"):
        push(str(run / "model"), target)


def test_exports_that_are_published_are_one_of_a_format_and_stay_where_they_are(
    run: Path, tmp_path: Path, onnx_export: Path, copied: Path
) -> None:
    with pytest.raises(UsageError, match="second --export of onnx"):
        push(str(run / "model"), str(tmp_path / "out"), [onnx_export, copied])
    with pytest.raises(UsageError, match="holds what is to be published"):
        push(str(run / "model"), str(copied), [copied])
    assert (copied / "onnx" / "model.onnx").exists()


def test_a_table_is_not_published_with_graphs_of_its_model(run: Path, tmp_path: Path, onnx_export: Path) -> None:
    table = Path(shutil.copytree(run / "model", tmp_path / "table"))
    facts = json.loads((onnx_export / MARK).read_text())
    (table / MARK).write_text(json.dumps(facts | {"format": "static"}))
    weights = load_model(str(table), device="cpu")
    next(weights.parameters()).data += 1
    save_model(weights, table)
    with pytest.raises(GeckoError, match="made from another model"):
        push(str(table), str(tmp_path / "out"), [onnx_export])
