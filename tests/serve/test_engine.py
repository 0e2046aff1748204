"""Which form of a model is served: its int8 export where the CPU does the work, else the model itself."""

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
from gecko.export import cached
from gecko.serve import engine
from gecko.serve.engine import Engine, Text, open_encoder
from gecko.serve.index import build_index
from gecko.serve.precision import Precision
from gecko.serve.search import SearchIndex

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


def test_auto_is_int8_where_nothing_is_faster(opened, monkeypatch):
    monkeypatch.setattr(engine, "_int8_pays", lambda: True)
    assert isinstance(opened(Precision.auto)[0].model, OnnxModel)
    monkeypatch.setattr(engine, "_int8_pays", lambda: False)
    assert not isinstance(opened(Precision.auto)[0].model, OnnxModel)


def test_without_the_extra_int8_does_not_pay(monkeypatch):
    monkeypatch.setattr(engine, "find_spec", lambda name: None if name == "onnxscript" else object())
    assert not engine._int8_pays()


def test_a_model_that_has_no_int8_is_served_as_it_is_and_that_is_said(opened, tiny_model, monkeypatch):
    def refuse(_spec, _tell):
        raise GeckoError("no such export", "try another")

    monkeypatch.setattr(cached, "cached_int8", refuse)
    monkeypatch.setattr(engine, "_int8_pays", lambda: True)
    encoder, told = opened(Precision.auto)
    np.testing.assert_allclose(encoder.encode([QUESTION]), Embedder(tiny_model).encode([QUESTION]), atol=1e-6)
    assert told == [f"{tiny_model} is served as it is and not in int8: no such export"]
    with pytest.raises(GeckoError, match="no such export"):
        opened(Precision.int8)
