"""A graph of any backbone, pooling and head gives the model's vectors, or the export is refused in a line.

An export takes seconds, so two stand for all: a decoder that ends in a projection, and positions that begin elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gecko.embedder.embedder import Embedder
from gecko.embedder.open import load_model
from gecko.embedder.save import save_model
from gecko.errors import GeckoError
from gecko.export.export import export_model
from gecko.mixture.format import model_prompts
from gecko.recipe import TrainOptions
from gecko.train.backbone import open_student
from gecko.train.student_options import BackboneOptions

TEXTS = ["cat", "the old house of the big owl in the green tree", "cat dog eel", "fox " * 100]


def quiet(line: str) -> None:
    """Tell nobody."""


@pytest.mark.parametrize(
    ("kind", "options", "dim"),
    [
        ("qwen3", {"pooling": "last", "projection": 16, "projection_init": "random"}, None),
        ("xlm-roberta", {}, 8),
    ],
)
def test_a_graph_of_any_backbone_answers_as_the_model(
    backbone: Callable[..., str], tmp_path: Path, kind: str, options: dict[str, Any], dim: int | None
) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra onnx is not installed")
    student = TrainOptions(student=backbone(kind), backbone=BackboneOptions(**options))
    model = open_student(student, device="cpu")
    model.prompts = model_prompts("gecko")
    save_model(model, tmp_path / "model")
    export_model(str(tmp_path / "model"), "onnx", tmp_path / "onnx", dim=dim, tell=quiet)
    ours, theirs = Embedder(tmp_path / "model", dim=dim, bf16=False), Embedder(tmp_path / "onnx")
    assert theirs.full_dim == (dim or options["projection"])
    for encode in ("encode_query", "encode_document"):
        np.testing.assert_allclose(getattr(theirs, encode)(TEXTS), getattr(ours, encode)(TEXTS), atol=1e-4)


def test_a_model_of_adapters_or_without_a_transformer_is_refused(run: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, TaskType
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer

    model = load_model(str(run / "model"), device="cpu")
    model[0].auto_model.add_adapter(LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, r=2, target_modules=["query"]))
    model.save_pretrained(str(tmp_path / "adapter"), create_model_card=False)
    tokenizer = Tokenizer.from_file(str(run / "model" / "tokenizer.json"))
    table = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    save_model(table, tmp_path / "table")
    for kind in ("compat", "static"):
        with pytest.raises(GeckoError, match="holds adapters") as caught:
            export_model(str(tmp_path / "adapter"), kind, tmp_path / "out", tell=quiet)
        assert caught.value.hint
    with pytest.raises(GeckoError, match="has no transformer"):
        export_model(str(tmp_path / "table"), "static", tmp_path / "out", tell=quiet)
    made = export_model(str(tmp_path / "table"), "compat", tmp_path / "out", tell=quiet)
    assert made.dim == 8
