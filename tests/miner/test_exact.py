"""Exact search against a plain sort in float64: ties, blocks, shards, sizes, what is refused, and memory."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from gecko.miner import exact
from gecko.miner.exact import merge, search_shard, top_k


def by_sort(queries: np.ndarray, documents: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """What ``top_k`` promises, by definition: no matrix product, no blocks."""
    scores = np.array(
        [
            [np.float32(np.sum(query.astype(np.float64) * row.astype(np.float64))) for row in documents]
            for query in queries
        ]
    ).reshape(len(queries), len(documents))
    positions = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return positions, np.take_along_axis(scores, positions, 1)


def whole_numbers(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-2, 3, (rows, 4)).astype(np.float32)


def near_ties(rows: int, seed: int) -> np.ndarray:
    """Unit vectors, many of which differ in the last digits only: a float32 product cannot tell them apart."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(12, 96))
    vectors = centres[draw.integers(0, 12, rows)] + draw.normal(size=(rows, 96)) * 2e-7
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("make", [whole_numbers, near_ties])
@pytest.mark.parametrize(("k", "chunk"), [(1, 7), (17, 3), (17, 64), (17, 8192), (150, 40), (999, 64)])
def test_equals_a_plain_sort_whatever_the_blocks(
    make: Any, k: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "QUERY_BLOCK", 16)
    queries, documents = make(40, 0), make(300, 1)
    positions, scores = top_k(queries, documents, k, chunk=chunk)
    expected = by_sort(queries, documents, min(k, 300))
    assert positions.dtype == np.int64 and scores.dtype == np.float32
    np.testing.assert_array_equal(positions, expected[0])
    np.testing.assert_array_equal(scores, expected[1])


def test_of_equal_documents_the_first_are_found_wherever_they_lie() -> None:
    """Equal vectors in another chunk, or another column of a product, may differ in a float32 product."""
    one = near_ties(1, 5)
    documents = near_ties(2000, 6)
    places = [3, 511, 512, 513, 1024, 1500, 1999]
    documents[places] = one
    for chunk in (100, 512, 513, 4096):
        positions, scores = top_k(one, documents, len(places), chunk=chunk)
        assert positions.tolist() == [places]
        assert len(set(scores[0].tolist())) == 1


@pytest.mark.parametrize("sorted_by", ["rising", "falling"])
def test_a_corpus_sorted_by_nearness_is_searched_as_any(sorted_by: str) -> None:
    """Every chunk of a rising one replaces all that was found before."""
    query = near_ties(1, 7)
    documents = np.random.default_rng(8).normal(size=(900, 96)).astype(np.float32)
    order = np.argsort((documents @ query[0]) * (1 if sorted_by == "rising" else -1))
    positions, _ = top_k(query, documents[order], 20, chunk=128)
    np.testing.assert_array_equal(positions, by_sort(query, documents[order], 20)[0])


@pytest.mark.parametrize("bounds", [(0, 300), (0, 1, 300), (0, 10, 11, 150, 300), (0, 100, 200, 300)])
@pytest.mark.parametrize("make", [whole_numbers, near_ties])
def test_shards_merged_are_the_whole_to_the_bit(make: Any, bounds: tuple[int, ...]) -> None:
    queries, documents = make(50, 2), make(300, 3)
    whole = top_k(queries, documents, 20)
    parts = [search_shard(queries, documents[first:end], 20, first) for first, end in pairwise(bounds)]
    for order in (parts, parts[::-1]):
        merged = merge(order, 20)
        np.testing.assert_array_equal(merged[0], whole[0])
        np.testing.assert_array_equal(merged[1], whole[1])


def test_a_query_is_found_the_same_alone_and_among_others() -> None:
    queries, documents = near_ties(64, 4), near_ties(1000, 5)
    together = top_k(queries, documents, 10)
    for row in range(0, 64, 9):
        alone = top_k(queries[row : row + 1], documents, 10, chunk=77)
        np.testing.assert_array_equal(alone[0][0], together[0][row])
        np.testing.assert_array_equal(alone[1][0], together[1][row])


def test_small_and_empty() -> None:
    ones = np.ones((4, 3), np.float32)
    assert top_k(ones[:2], ones, 10)[0].tolist() == [[0, 1, 2, 3]] * 2
    for queries, documents, k, shape in [
        (ones, ones[:0], 5, (4, 0)),
        (ones[:0], ones, 3, (0, 3)),
        (ones, ones, 0, (4, 0)),
    ]:
        positions, scores = top_k(queries, documents, k)
        assert positions.shape == scores.shape == shape
    zeros = top_k(np.zeros((1, 3), np.float32), -ones, 2)
    assert zeros[0].tolist() == [[0, 1]]
    assert not np.signbit(zeros[1]).any()


def test_other_types_are_read_as_float32() -> None:
    queries, documents = near_ties(5, 1).astype(np.float16), near_ties(60, 2).astype(np.float16)
    positions, scores = top_k(queries, documents, 7)
    expected = by_sort(queries.astype(np.float32), documents.astype(np.float32), 7)
    np.testing.assert_array_equal(positions, expected[0])
    np.testing.assert_array_equal(scores, expected[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("side", ["queries", "documents"])
def test_what_is_no_number_is_refused(bad: float, side: str) -> None:
    vectors = {"queries": np.ones((30, 4), np.float32), "documents": np.full((500, 4), 10, np.float32)}
    vectors[side][29, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        top_k(vectors["queries"], vectors["documents"], 3, chunk=100)


def test_vectors_of_different_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="mismatch"):
        top_k(np.ones((2, 3), np.float32), np.ones((4, 5), np.float32), 1)


def test_memory_is_that_of_a_block_whatever_the_sizes(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "QUERY_BLOCK", 128)
    draw = np.random.default_rng(0)
    np.save(tmp_path / "v.npy", draw.normal(size=(40_000, 16)).astype(np.float32))
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    queries = draw.normal(size=(1000, 16)).astype(np.float32)

    def peak(queries: np.ndarray, documents: np.ndarray) -> int:
        tracemalloc.start()
        top_k(queries, documents, 10, chunk=1024)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    small, large = peak(queries[:128], mapped[:2048]), peak(queries, mapped)
    block = 128 * 1024 * 4
    assert block < small < 5 * block
    # The results, 12 bytes a neighbour, are all that grows: a matrix of all scores would take 160 MB.
    assert large < small + 2 * 12 * 10 * 1000 + block
