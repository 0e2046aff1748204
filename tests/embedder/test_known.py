"""Known passages are looked up; the vectors are the embedder's own."""

from __future__ import annotations

import numpy as np

from gecko.embedder.embedder import Embedder
from gecko.embedder.known import KnownPassages


def test_only_unknown_passages_are_encoded(tiny_model: str, monkeypatch) -> None:
    embedder = Embedder(tiny_model)
    passages = [("title", "red house"), ("", "blue river"), ("title", "green tree")]
    vectors = embedder.encode_passages(passages)
    known = KnownPassages(embedder, passages[:2], vectors[:2])
    asked = []
    encode = embedder.encode_passages
    monkeypatch.setattr(embedder, "encode_passages", lambda rows: asked.extend(rows) or encode(rows))

    again = known.encode_passages([passages[2], passages[0], passages[1], passages[0]])

    assert asked == [passages[2]]
    np.testing.assert_allclose(again, vectors[[2, 0, 1, 0]], atol=2e-2)
    np.testing.assert_array_equal(again[1:], vectors[[0, 1, 0]])


def test_queries_and_names_are_the_embedders(tiny_model: str) -> None:
    embedder = Embedder(tiny_model)
    known = KnownPassages(embedder, [], np.empty((0, embedder.dim), np.float32))
    np.testing.assert_array_equal(known.encode_queries(["old road"]), embedder.encode_queries(["old road"]))
    vectors = embedder.encode_symmetric(["old road"], "x", "STS")
    np.testing.assert_array_equal(known.encode_symmetric(["old road"], "x", "STS"), vectors)
    assert (known.path, known.dim) == (embedder.path, embedder.dim)
    assert known.encode_passages([("", "new wolf")]).shape == (1, embedder.dim)
