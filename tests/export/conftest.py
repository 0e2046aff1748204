"""Tiny models, a run around one, and a test set whose words their tokenizer knows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml


@pytest.fixture(scope="session")
def run(tiny_model: str, tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> Path:
    """A run's folder as far as an export reads it: recipe, model with card and prompts, training rows."""
    from gecko.embedder.open import load_model
    from gecko.embedder.save import save_model
    from gecko.mixture.format import model_prompts
    from gecko.records import UNIFIED, UnifiedRow
    from gecko.shards import write_stage

    folder = tmp_path_factory.mktemp("export") / "run"
    model = load_model(tiny_model, device="cpu")
    model.prompts = model_prompts("gecko")
    save_model(model, folder / "model")
    (folder / "model" / "LICENSE").write_text("do as you like")
    (folder / "model" / "README.md").write_text("---\nlibrary_name: sentence-transformers\n---\n\n# mine\n")
    beir = beir_folder(folder.parent / "test", words)
    recipe = {"train": {"dims": [32, 16], "text_format": "gecko"}, "evaluation": {"beir": [str(beir)], "split": "test"}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rows = [
        UnifiedRow(
            row_id=f"r{place}",
            task="search result",
            query=f"{words[place]} {words[place + 1]}",
            positive=f"title: none | text: {words[place]} {words[place + 1]} river",
            negatives=(f"title: {words[-place - 1]} | text: old house",),
            source="fret",
        )
        for place in range(16)
    ]
    write_stage(folder / "mixture", rows, UNIFIED)
    return folder


def beir_folder(folder: Path, words: list[str]) -> Path:
    """Twelve documents of three animals each, and the first two of each asked for."""
    (folder / "qrels").mkdir(parents=True)
    places = range(12)
    documents = [
        {"_id": f"d{place}", "title": words[place], "text": f"{words[place + 1]} the {words[place + 2]}"}
        for place in places
    ]
    queries = [{"_id": f"q{place}", "text": f"{words[place]} {words[place + 1]}"} for place in places]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    lines = [f"q{place}\td{place}\t1\n" for place in places]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


@pytest.fixture(scope="session")
def onnx_export(run: Path) -> Path:
    """The run's model as ONNX; made once, to be copied by what changes it."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra onnx is not installed")
    from gecko.export.export import export_model

    out = run.parent / "onnx"
    export_model(str(run / "model"), "onnx", out, tell=lambda line: None)
    return out


@pytest.fixture
def copied(onnx_export: Path, tmp_path: Path) -> Path:
    """A copy of the ONNX export."""
    return Path(shutil.copytree(onnx_export, tmp_path / "copy"))
