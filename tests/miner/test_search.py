"""Approximate search: its recall is measured and told, its index kept, and its scores are the true ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gecko.checks import check_recipe
from gecko.errors import GeckoError, UsageError
from gecko.miner import search as search_module
from gecko.miner.exact import top_k
from gecko.miner.search import ExactSearch, MeasuredSearch, open_search, recall_of
from gecko.recipe import Recipe

COUNT, DIM = 12_000, 16


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    draw = np.random.default_rng(0)
    values = draw.normal(size=(60, DIM))[draw.integers(0, 60, COUNT)] + draw.normal(size=(COUNT, DIM)) * 0.5
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def indexes(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    folder = tmp_path_factory.mktemp("indexes")
    for kind in ("hnsw", "ivfpq"):
        open_search(kind, vectors, folder / kind, "m")
    return folder


@pytest.mark.parametrize(("kind", "least"), [("hnsw", 0.95), ("ivfpq", 0.7)])
def test_an_index_finds_most_scores_truly_and_tells_what_it_misses(
    vectors: np.ndarray, indexes: Path, kind: str, least: float
) -> None:
    lines: list[str] = []
    search = open_search(kind, vectors, indexes / kind, "m", lines.append)
    assert search.facts() == {"search": kind}
    queries = vectors[5:3000:10] + np.float32(0.01)
    positions, scores = search.find(queries, 20)
    truth, _ = top_k(queries, vectors, 20)
    every = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(positions.tolist(), truth.tolist(), strict=True)])
    assert least <= every <= 1
    facts = search.facts()
    assert facts["recall"] == pytest.approx(every, abs=0.05)
    assert (facts["search"], facts["recall_at"], facts["recall_queries"]) == (kind, 20, 200)
    assert len(lines) == 1
    assert lines[0].startswith(f"search     {kind}: {facts['recall']:.3f} of the true 20 nearest found, on 200 queries")
    assert ("fret.search=exact" in lines[0]) == (facts["recall"] < 0.95)
    search.find(queries, 20)
    assert len(lines) == 1, "measured once"
    exactly = np.einsum("nd,nkd->nk", queries.astype(np.float64), vectors[positions].astype(np.float64))
    np.testing.assert_array_equal(scores, exactly.astype(np.float32))
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row)) == 20 for row in positions.tolist())


def test_an_index_is_read_again_and_made_anew_for_other_vectors(
    vectors: np.ndarray, indexes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gecko.miner.indexes as module

    folder = indexes / "hnsw"
    first = open_search("hnsw", vectors, folder, "m").find(vectors[:9], 5)
    with monkeypatch.context() as patched:
        patched.setattr(module, "_new_index", None)  # would be called to make one
        again = open_search("hnsw", vectors, folder, "m").find(vectors[:9], 5)
    np.testing.assert_array_equal(first[0], again[0])
    with pytest.raises(GeckoError, match="belongs to another corpus"):
        open_search("hnsw", vectors[:-1], folder, "m")
    whole = (folder / "hnsw-m.faiss").read_bytes()
    (folder / "hnsw-m.faiss").write_bytes(whole[:1000])
    with pytest.raises(GeckoError, match="damaged") as caught:
        open_search("hnsw", vectors, folder, "m")
    assert "delete it" in caught.value.hint
    open_search("hnsw", vectors, folder, "other")
    assert [path.name for path in folder.iterdir()] == ["hnsw-other.faiss"]


def test_a_row_that_the_index_cannot_fill_is_searched_exactly(vectors: np.ndarray, indexes: Path) -> None:
    search = open_search("ivfpq", vectors, indexes / "ivfpq", "m")
    positions, _ = search.find(vectors[:3], COUNT)
    np.testing.assert_array_equal(np.sort(positions, axis=1), np.tile(np.arange(COUNT), (3, 1)))


def test_auto_is_exact_up_to_a_size(vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = open_search("auto", vectors, tmp_path, "m")
    assert isinstance(search, ExactSearch)
    assert search.facts() == {}
    np.testing.assert_array_equal(search.find(vectors[:3], 4)[0], top_k(vectors[:3], vectors, 4)[0])
    monkeypatch.setattr(search_module, "EXACT_MOST", COUNT - 1)
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    assert open_search("auto", vectors, tmp_path, "m").facts() == {"search": "ivfpq"}


def test_too_few_vectors_are_searched_exactly_and_it_is_told(vectors: np.ndarray, tmp_path: Path) -> None:
    lines: list[str] = []
    assert isinstance(open_search("hnsw", vectors[:9999], tmp_path, "m", lines.append), ExactSearch)
    assert lines == ["search     exact, not hnsw: 9,999 vectors are too few for an index"]


def test_without_faiss_an_index_is_an_error_before_any_work_and_auto_is_exact(
    vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "find_spec", lambda _: None)
    for kind in ("hnsw", "ivfpq"):
        for ask in (
            lambda kind=kind: open_search(kind, vectors, tmp_path, "m"),
            lambda kind=kind: check_recipe(Recipe.model_validate({"fret": {"search": kind}})),
        ):
            with pytest.raises(UsageError, match=f"fret.search is {kind}, and faiss is not installed") as caught:
                ask()
            assert "[faiss]" in caught.value.hint
    monkeypatch.setattr(search_module, "EXACT_MOST", COUNT - 1)
    lines: list[str] = []
    assert isinstance(open_search("auto", vectors, tmp_path, "m", lines.append), ExactSearch)
    assert lines == ["search     exact: faiss is not installed (pip install 'gecko-embed[faiss]')"]


def test_a_low_recall_is_told_with_a_hint(vectors: np.ndarray) -> None:
    class Half:
        def find(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            positions, scores = top_k(queries, vectors, k)
            positions[:, : k // 2] = -1
            return positions, scores

    lines: list[str] = []
    search = MeasuredSearch("half", Half(), vectors, lines.append)
    search.find(vectors[:50], 10)
    assert search.facts() == {"search": "half", "recall": 0.5, "recall_at": 10, "recall_queries": 50}
    assert lines == [
        "search     half: 0.500 of the true 10 nearest found, on 50 queries; too few? fret.search=exact finds all"
    ]
    assert recall_of(top_k(vectors[:7], vectors, 3)[0], vectors[:7], vectors) == 1
