"""What a caller has goes in, whatever its shape; vectors come out in its order, in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import gecko
from gecko.embedder import embedder as embedder_module
from gecko.embedder.embedder import Embedder
from gecko.embedder.open import load_model
from gecko.embedder.texts import windows
from gecko.errors import GeckoError
from gecko.mixture.format import model_prompts


@pytest.fixture(scope="module")
def embedder(tiny_model: str) -> Embedder:
    model = load_model(tiny_model, device="cpu")
    model.prompts = model_prompts("gecko")
    return Embedder(model, bf16=False)


def test_the_package_offers_it_and_imports_it_late(tiny_model: str) -> None:
    assert gecko.Embedder is Embedder
    with pytest.raises(AttributeError, match="no_such"):
        _ = gecko.no_such
    program = "import sys, gecko; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_queries_of_any_shape(embedder: Embedder) -> None:
    expected = embedder.encode_queries(["cat", "dog owl"])
    for queries in (["cat", "dog owl"], ("cat", "dog owl"), (text for text in ("cat", "dog owl"))):
        np.testing.assert_allclose(embedder.encode_query(queries), expected, atol=1e-6)
    assert embedder.encode_query("cat").shape == (32,)
    np.testing.assert_allclose(
        embedder.encode_query("cat", "red"), embedder.encode_queries(["cat"], "red")[0], atol=1e-6
    )
    assert not np.allclose(embedder.encode_query("cat", "red"), embedder.encode_query("cat"), atol=1e-3)
    assert embedder.encode_query([]).shape == (0, 32)


def test_a_path_and_a_size_will_do(tiny_model: str) -> None:
    cut, whole = gecko.Embedder(Path(tiny_model), dim=8, bf16=False), Embedder(tiny_model, bf16=False)
    expected = whole.encode(["cat"])[:, :8]
    np.testing.assert_allclose(cut.encode(["cat"]), expected / np.linalg.norm(expected), atol=1e-6)


def test_documents_of_any_shape(embedder: Embedder) -> None:
    expected = embedder.encode_passages([("", "cat"), ("Owl", "dog"), ("Owl", "dog"), ("", "fox")])
    mixed = ["cat", ("Owl", "dog"), {"title": "Owl", "text": "dog", "id": 3}, {"text": "fox", "title": None}]
    np.testing.assert_allclose(embedder.encode_document(mixed), expected, atol=1e-6)
    for alone in (("Owl", "dog"), {"title": "Owl", "text": "dog"}):
        np.testing.assert_allclose(embedder.encode_document(alone), expected[1], atol=1e-6)
    np.testing.assert_allclose(embedder.encode_document("cat"), expected[0], atol=1e-6)


def test_encode_is_as_it_is_or_for_a_task(embedder: Embedder) -> None:
    plain = embedder.encode("task: red | query: cat")
    np.testing.assert_allclose(embedder.encode("cat", task="red"), plain, atol=1e-6)
    assert not np.allclose(embedder.encode("cat"), plain, atol=1e-3)


def test_tensors_where_they_are_asked_for(embedder: Embedder) -> None:
    for found in (
        embedder.encode_query(["cat"], convert_to_tensor=True),
        embedder.encode_document(["cat"], convert_to_tensor=True),
        embedder.encode(["cat"], convert_to_tensor=True),
    ):
        assert isinstance(found, torch.Tensor)
        assert found.shape == (1, 32)


def test_a_stream_holds_one_window_at_a_time(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder_module, "windows", partial(windows, size=3))
    read = 0

    def without_end() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "cat" if read % 2 else "dog owl"

    assert next(embedder.stream("cat dog", "query")).shape == (1, 32)
    blocks = embedder.stream(without_end())
    first, second = next(blocks), next(blocks)
    assert (len(first), len(second), read) == (3, 3, 6)
    expected = embedder.encode_passages([("", "cat"), ("", "dog owl"), ("", "cat"), ("", "dog owl")])
    np.testing.assert_allclose(np.concatenate([first, second])[:4], expected, atol=1e-6)
    found = embedder.encode_query(f"{word} owl" for word in "cat dog fox hen ibis".split())
    np.testing.assert_allclose(found[4], embedder.encode_query("ibis owl"), atol=1e-6)


def test_what_is_no_text_is_said(embedder: Embedder) -> None:
    for call in (
        lambda: embedder.encode_query(["cat", 3]),
        lambda: embedder.encode_document([("a", "b", "c")]),
        lambda: embedder.encode_document([{"title": "x"}]),
        lambda: embedder.encode_document([None]),
        lambda: embedder.encode([b"cat"]),
        lambda: embedder.encode_query(None),
        lambda: embedder.encode_document(7),
    ):
        with pytest.raises(GeckoError, match="not"):
            call()
    with pytest.raises(GeckoError, match="no side"):
        next(embedder.stream(["cat"], "passage"))  # type: ignore[arg-type]
    for half in (lambda: embedder.encode("a\ud83e"), lambda: embedder.encode_document([("\udc00", "a")])):
        with pytest.raises(GeckoError, match="half a character"):
            half()


def test_langchain_takes_it(tiny_model: str) -> None:
    pytest.importorskip("langchain_core.embeddings", reason="langchain-core is not installed")
    from gecko.embedder.langchain import GeckoEmbeddings

    adapter, direct = GeckoEmbeddings(tiny_model, dim=8, bf16=False), Embedder(tiny_model, dim=8, bf16=False)
    np.testing.assert_allclose(
        adapter.embed_documents(["cat", "dog"]), direct.encode_document(["cat", "dog"]), atol=1e-6
    )
    np.testing.assert_allclose(adapter.embed_query("cat"), direct.encode_query("cat"), atol=1e-6)
    assert isinstance(adapter.embed_query("cat")[0], float)


def test_llama_index_takes_it(tiny_model: str) -> None:
    pytest.importorskip("llama_index.core.embeddings", reason="llama-index-core is not installed")
    from gecko.embedder.llama_index import GeckoEmbedding

    adapter, direct = GeckoEmbedding(tiny_model, dim=8), Embedder(tiny_model, dim=8)
    texts = ["cat", "dog owl"]
    np.testing.assert_allclose(adapter.get_text_embedding_batch(texts), direct.encode_document(texts), atol=1e-2)
    np.testing.assert_allclose(adapter.get_query_embedding("cat"), direct.encode_query("cat"), atol=1e-2)
