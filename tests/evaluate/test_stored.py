"""Stored vectors rank as their definition says, by a plain computation."""

import numpy as np
import pytest

from gecko.errors import UsageError
from gecko.evaluate.retrieval import cut
from gecko.evaluate.stored import SHORTLIST, bytes_of, rank_stored, vector_kinds


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    documents = rng.normal(size=(300, 24)).astype(np.float32)
    queries = documents[:40] + rng.normal(scale=0.7, size=(40, 24)).astype(np.float32)
    return tuple(part / np.linalg.norm(part, axis=1, keepdims=True) for part in (queries, documents))


def test_float_is_the_cosine_of_the_kept_dimensions(vectors):
    queries, documents = (cut(part, 16) for part in vectors)
    expected = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :10]
    assert rank_stored(*vectors, 16, "float", 10).tolist() == expected.tolist()


def test_int8_has_255_steps_in_each_dimension(vectors):
    queries, documents = vectors
    low, high = documents.min(axis=0), documents.max(axis=0)
    steps = (high - low) / 255
    decoded = low + (np.clip(np.floor((documents - low) / steps), 0, 255) + 0.5) * steps
    expected = np.argsort(-(queries @ decoded.T), axis=1, kind="stable")[:, :10]
    found = rank_stored(queries, documents, 24, "int8", 10)
    assert (found == expected).mean() > 0.99  # of equal scores the last digit decides
    floats = rank_stored(queries, documents, 24, "float", 10)
    assert 0.9 < (found == floats).mean() < 1  # it is close to the floats, and not the floats


def test_binary_is_a_hamming_shortlist_scored_by_the_query(vectors):
    queries, documents = vectors
    bits = documents > 0
    for row, query in enumerate(queries):
        distance = ((query > 0) != bits).sum(axis=1)
        chosen = np.sort(np.argsort(distance, kind="stable")[: SHORTLIST * 5])
        scores = np.where(bits[chosen], query, -query).sum(axis=1)
        expected = chosen[np.argsort(-scores, kind="stable")][:5]
        assert rank_stored(queries, documents, 24, "binary", 5)[row].tolist() == expected.tolist()


def test_few_documents_and_equal_ones(vectors):
    queries, documents = vectors
    for kind in ("float", "int8", "binary"):
        found = rank_stored(queries, documents[:3], 24, kind, 10)
        assert np.sort(found, axis=1).tolist() == [[0, 1, 2]] * 40
        assert rank_stored(queries[:1], np.repeat(documents[:1], 4, axis=0), 20, kind, 4).tolist() == [[0, 1, 2, 3]]


def test_sizes_and_names():
    assert [bytes_of(kind, 100) for kind in ("float", "int8", "binary")] == [400, 100, 13]
    assert vector_kinds(["int8", "float", "int8"]) == ("int8", "float")
    for names in (["int4"], []):
        with pytest.raises(UsageError, match="kind"):
            vector_kinds(names)
