"""The miner's vectors and its search in a run: what is encoded again, what is marked, and what is noted."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gecko.context import RunContext
from gecko.embedder.embedder import Embedder
from gecko.recipe import Recipe
from gecko.run import run_stage
from gecko.stages import _fret_mark, stages_for

ANIMALS = ("ant", "bear", "cat", "dog", "eel", "fox", "goat", "hen", "ibis", "jay", "koala", "lion", "mole", "newt")
PLACES = ("river", "road", "house", "tree")


def write_corpus(path: Path, animals: tuple[str, ...]) -> None:
    rows = [
        {
            "_id": f"{animal}-{place}",
            "title": animal,
            "text": f"The {animal} lives by the {place}. It is a small {animal}.",
        }
        for animal in animals
        for place in PLACES
    ]
    path.write_text("\n".join(map(json.dumps, rows)))


def run_fret(recipe: Recipe, out: Path, lines: list[str]) -> dict[str, Any]:
    """Make FRet rows; what the stages noted of themselves, ``skipped`` among it."""
    with RunContext(recipe, out, tell=lines.append) as context:
        results = [run_stage(stage, context, lines.append) for stage in stages_for(recipe, "fret")]
        return {result.name: {**context.facts(result.name), "skipped": result.skipped} for result in results}


def test_a_grown_corpus_is_not_encoded_again_and_an_index_tells_its_recall(
    tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "corpus.jsonl", ANIMALS[:11])
    asked = {"corpus": {"sources": [str(tmp_path / "corpus.jsonl")]}, "fret": {"limit": 20, "miner": tiny_model}}
    recipe = Recipe.model_validate(asked)
    facts = run_fret(recipe, tmp_path / "run", [])
    before = facts["passages"]["rows"]
    assert (facts["miner"]["made"], facts["miner"]["kept"]) == (before, 0)
    assert "search" not in facts["fret"]
    encoded: list[int] = []
    honest = Embedder.encode_passages

    def counting(self: Embedder, passages: Any) -> Any:
        encoded.append(len(passages))
        return honest(self, passages)

    monkeypatch.setattr(Embedder, "encode_passages", counting)
    write_corpus(tmp_path / "corpus.jsonl", ANIMALS)
    facts = run_fret(recipe, tmp_path / "run", [])
    new = facts["passages"]["rows"] - before
    assert 0 < new == sum(encoded) < before
    assert (facts["miner"]["made"], facts["miner"]["kept"]) == (new, before)

    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    monkeypatch.setattr("gecko.miner.indexes.LEAST", 10)
    lines: list[str] = []
    with_index = recipe.model_copy(update={"fret": recipe.fret.model_copy(update={"search": "hnsw"})})
    facts = run_fret(with_index, tmp_path / "run", lines)
    assert facts["miner"]["skipped"] and not facts["fret"]["skipped"]
    assert facts["fret"]["search"] == "hnsw" and facts["fret"]["recall"] > 0.9
    assert sum(line.startswith("search     hnsw: ") for line in lines) == 1
    assert len(list((tmp_path / "run" / "miner" / ".index").glob("hnsw-*.faiss"))) == 1
    assert all(stage["skipped"] for stage in run_fret(with_index, tmp_path / "run", []).values())


def test_the_search_is_in_the_mark_only_where_it_is_not_the_default() -> None:
    def mark(**fret: Any) -> Any:
        context = SimpleNamespace(
            recipe=Recipe.model_validate({"fret": fret}), ranker=SimpleNamespace(fingerprint="ranker")
        )
        return _fret_mark(context)  # type: ignore[arg-type]

    assert "search" not in mark()[1] and len(mark()[1]) > 5
    assert mark() == mark(search="auto")
    assert mark(search="ivfpq")[1] == {**mark()[1], "search": "ivfpq"}
