"""Which form of a model is served: the model itself, or its int8 export where that is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from serve_parts import CORPUS

from gecko.embedder.embedder import Embedder
from gecko.embedder.onnx import OnnxModel
from gecko.errors import GeckoError
from gecko.serve.engine import Engine, Text, _answers_in_int8, open_encoder
from gecko.serve.index import build_index
from gecko.serve.precision import Precision
from gecko.serve.search import SearchIndex, search_index

QUESTION = "the big red fox"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the exports of these tests lie: it is made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def opened(tiny_model: str, cache: Path, monkeypatch: pytest.MonkeyPatch):
    """Open the tiny model; gives the encoder and the lines that were told."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))

    def make(precision: Precision):
        told: list[str] = []
        return open_encoder(tiny_model, batch=8, precision=precision, tell=told.append), told

    return make


def test_int8_searches_the_index_of_its_model_and_no_other(opened, tiny_model, indexes, tmp_path):
    whole = Embedder(tiny_model, bf16=False)
    build_index(whole, CORPUS, tmp_path / "index")
    encoder, _ = opened(Precision.int8)
    assert isinstance(encoder.model, OnnxModel) and encoder.model.format == "onnx-int8"
    SearchIndex(tmp_path / "index").check(encoder)
    with pytest.raises(GeckoError, match="is not the model that made the index"):
        SearchIndex(indexes[0]).check(encoder)
    served = Engine(encoder, "tiny")
    (found,) = served._run([Text(QUESTION, "query")])
    served.batcher.close()
    assert found.vector @ whole.encode_queries([QUESTION])[0] > 0.9
    assert found.tokens == len(whole.model.tokenizer(whole.render_queries([QUESTION])[0])["input_ids"])


def test_int8_is_served_on_a_cpu_with_onnx_runtime_and_the_model_itself_elsewhere(opened, monkeypatch):
    assert isinstance(opened(Precision.auto)[0].model, OnnxModel)
    assert not isinstance(opened(Precision.bfloat16)[0].model, OnnxModel)
    with monkeypatch.context() as patch:
        patch.setattr("gecko.serve.engine.importlib.util.find_spec", lambda _name: None)
        encoder, told = opened(Precision.auto)
        assert not isinstance(encoder.model, OnnxModel) and told == []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert not _answers_in_int8("all-MiniLM-L6-v2")


def test_a_model_that_cannot_be_exported_is_served_as_it_is(opened, tiny_model, monkeypatch):
    def fail(*_: object) -> None:
        raise GeckoError("no such operator", "try compat")

    monkeypatch.setattr("gecko.export.cached.cached_int8", fail)
    encoder, told = opened(Precision.auto)
    np.testing.assert_allclose(encoder.encode([QUESTION]), Embedder(tiny_model).encode([QUESTION]), atol=1e-6)
    assert told == ["no int8 export, so the model itself answers: no such operator"]
    with pytest.raises(GeckoError, match="no such operator"):
        opened(Precision.int8)


def test_a_search_takes_the_int8_export_that_is_held(opened, tiny_model, tmp_path, monkeypatch):
    build_index(Embedder(tiny_model, bf16=False), CORPUS, tmp_path / "index")
    opened(Precision.int8)

    def refuse(*_: object) -> None:
        raise AssertionError("the model itself was loaded")

    monkeypatch.setattr("gecko.embedder.open.load_model", refuse)
    assert search_index(tmp_path / "index", QUESTION, mode="dense", k=1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    with pytest.raises(AssertionError, match="the model itself"):
        search_index(tmp_path / "index", QUESTION, mode="dense", k=1)
