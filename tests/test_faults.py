"""A disk that is full at any write: one line, what was there stays, and the next attempt ends as if nothing had been.

The system itself refuses to let a file grow (RLIMIT_FSIZE), so that what is tested is what libraries make of that, also
those whose files no Python ever sees.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from gecko.errors import GeckoError, is_memory_error
from gecko.miner.vectors import encode_corpus
from gecko.records import PASSAGES, Passage, Quarantined
from gecko.replace import replaced
from gecko.serve.index import build_index
from gecko.serve.search import search_index
from gecko.shards import read_rows, to_passage, write_stage
from gecko.teacher.ledger import Ledger
from gecko.train.save import is_write_error

DRAW = np.random.default_rng(0)
PASSAGE_ROWS = [Passage(f"p{n}", f"s{n}", "", DRAW.bytes(15).hex(), "made", "en") for n in range(400)]


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """No file that is written meanwhile gets larger than so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Encoder:
    """A vector of unit length for any text."""

    path, fingerprint, origin, dim = "made", "1", "1", 32

    def encode_passages(self, passages: list[tuple[str, str]]) -> np.ndarray:
        vectors = np.random.default_rng(0).normal(size=(len(passages), self.dim)).astype(np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    encode_queries = encode_passages


def full(place: Path) -> pytest.RaisesExc[GeckoError]:
    """Expect the one line that names a place, with its hint."""
    return pytest.raises(
        GeckoError,
        match=f"^cannot write {place}: File too large$",
        check=lambda error: "free space" in error.hint,
    )


def test_shards_and_what_is_set_aside(tmp_path: Path) -> None:
    write_stage(tmp_path, PASSAGE_ROWS[:3], PASSAGES)
    before = sorted(tmp_path.iterdir())
    with no_file_above(5_000), full(tmp_path / ".fresh" / "part-00000.parquet"):
        write_stage(tmp_path, PASSAGE_ROWS, PASSAGES)
    aside = [Quarantined("corpus", row.source_id, "no text", row.text) for row in PASSAGE_ROWS]
    with no_file_above(5_000), full(tmp_path / ".fresh"):
        write_stage(tmp_path, aside, PASSAGES)
    assert sorted(tmp_path.iterdir()) == before
    assert list(read_rows(tmp_path, to_passage)) == PASSAGE_ROWS[:3]


def test_vectors(tmp_path: Path) -> None:
    for size in (100, 10_000, 51_000):  # in the log's head, the first block, and its last buffer
        with no_file_above(size), full(tmp_path / ".encoding" / "vectors.npy"):
            encode_corpus(PASSAGE_ROWS, Encoder(), tmp_path, model="made")
    assert encode_corpus(PASSAGE_ROWS, Encoder(), tmp_path, model="made").made == 400


def test_an_approximate_index(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="the extra is not installed: pip install -e '.[faiss]'")
    from gecko.miner.indexes import IndexSearch

    vectors, path = Encoder().encode_passages([("", "")] * 400), tmp_path / "made.faiss"
    IndexSearch("hnsw", vectors, path)
    size = path.stat().st_size
    path.unlink()
    for lacking in (size, size // 2, 10):  # the last ten bytes are written when the file is closed
        with no_file_above(size - lacking), full(path):
            IndexSearch("hnsw", vectors, path)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("begun", [0, 100])
def test_an_index_for_searching(tmp_path: Path, begun: int) -> None:
    if begun:
        build_index(Encoder(), PASSAGE_ROWS[:begun], tmp_path)
    for _ in range(2):
        with no_file_above(5_000), full(tmp_path):
            build_index(Encoder(), PASSAGE_ROWS, tmp_path)
    assert build_index(Encoder(), PASSAGE_ROWS, tmp_path) == 400 - begun
    assert search_index(tmp_path, PASSAGE_ROWS[7].text, k=1, mode="text")[0].source_id == "s7"


def test_the_ledger_keeps_what_was_finished(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.put("first", "write", {}, {"text": "kept"})
        with no_file_above(40_000), pytest.raises(GeckoError, match="cannot use the ledger") as told:
            ledger.put("second", "write", {}, {"text": "x" * 200_000})
        assert "free space" in told.value.hint
        assert (ledger.get("first"), ledger.get("second")) == ({"text": "kept"}, None)
        ledger.put("second", "write", {}, {"text": "again"})
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.get("second") == {"text": "again"}


def test_what_models_are_written_with_is_known_by_its_words(tmp_path: Path, tiny_model: str) -> None:
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer

    weights = {"weights": torch.zeros(10_000)}
    tokenizer = Tokenizer.from_file(str(Path(tiny_model) / "tokenizer.json"))
    writes = {
        "torch": lambda: torch.save(weights, tmp_path / "torch"),
        "safetensors": lambda: save_file(weights, tmp_path / "safetensors"),
        "tokenizers": lambda: tokenizer.save(str(tmp_path / "tokenizers")),
    }
    for name, write in writes.items():
        write()
        size = (tmp_path / name).stat().st_size
        for lacking in (size - 100, size // 2, 10):
            with no_file_above(size - lacking), pytest.raises(Exception) as told:
                write()
            assert is_write_error(told.value), (name, lacking, told.value)
    assert not is_write_error(ValueError("a bug"))


def test_a_place_is_written_by_one_process(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with replaced(out) as fresh:
        (fresh / "first").touch()
        with pytest.raises(GeckoError, match="another process is writing"), replaced(out):
            pytest.fail("two processes write there")
    (tmp_path / ".out.new").mkdir()
    (tmp_path / ".out.new" / "of a process that was killed").touch()
    assert [path.name for path in out.iterdir()] == ["first"]
    with replaced(out) as fresh:
        (fresh / "second").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["second"]


def test_memory_that_ran_out_is_told_from_a_fault_of_gecko(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from typer.testing import CliRunner

    from gecko.cli import app

    with pytest.raises(MemoryError) as told:
        np.empty((sys.maxsize // 16, 2), np.float64)
    for error in (told.value, torch.OutOfMemoryError("HIP ran short"), RuntimeError("[enforce] not enough memory")):

        def ends(*_arguments: object, error: Exception = error, **_options: object) -> None:
            raise error

        assert is_memory_error(error)
        monkeypatch.setattr("gecko.report.report.write_report", ends)
        result = CliRunner().invoke(app, ["report", str(tmp_path)])
        assert (result.exit_code, len(result.stderr.splitlines())) == (1, 2)
        assert result.stderr.startswith("gecko: memory ran out: ")
        assert "fault of gecko" not in result.stderr
    assert not is_memory_error(RuntimeError("a bug"))
