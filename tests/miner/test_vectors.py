"""The corpus encoded once: growth, interruption, damage, a full disk, and vectors that are not to be reused."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gecko.errors import GeckoError
from gecko.keys import DigestIndex, passage_digests
from gecko.miner import kept as kept_module
from gecko.miner import vectors as vectors_module
from gecko.miner.vectors import Encoded, encode_corpus
from gecko.records import Passage

FILES = ["vectors.keys", "vectors.log", "vectors.npy"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors_module, "BLOCK_ROWS", 4)


def corpus(*numbers: int) -> list[Passage]:
    return [Passage(f"p{n}", f"s{n}", f"title {n}", f"text {n}", "src", "en") for n in numbers]


class Encoder:
    """A passage's vector is a unit vector that tells its number; counts what it encodes, and may fail."""

    dim = 3

    def __init__(self, fail_after: int = 10**9) -> None:
        self.seen: list[str] = []
        self.fail_after = fail_after

    def encode_passages(self, passages: Sequence[tuple[str, str]]) -> np.ndarray:
        if len(self.seen) + len(passages) > self.fail_after:
            raise KeyboardInterrupt
        self.seen += [text for _, text in passages]
        return expected(int(text.split()[1]) for _, text in passages)


def expected(numbers: Iterator[int] | Sequence[int]) -> np.ndarray:
    angles = np.array([number / 100 for number in numbers])
    return np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1).astype(np.float32)


def stored(folder: Path) -> np.ndarray:
    assert sorted(path.name for path in folder.iterdir()) == FILES
    return np.load(folder / "vectors.npy", mmap_mode="r")


def run(folder: Path, passages: Sequence[Passage], encoder: Encoder | None = None, model: str = "m") -> Encoder:
    encoder = encoder or Encoder()
    encode_corpus(passages, encoder, folder, model=model)
    return encoder


def test_vectors_are_float32_rows_in_the_order_of_the_corpus(tmp_path: Path) -> None:
    passages = corpus(*range(11))
    assert encode_corpus(passages, Encoder(), tmp_path / "miner", model="m") == Encoded(11, 0)
    vectors = stored(tmp_path / "miner")
    assert isinstance(vectors, np.memmap) and vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, expected(range(11)))
    lines: list[str] = []
    assert encode_corpus(passages, Encoder(0), tmp_path / "miner", model="m", tell=lines.append) == Encoded(0, 11)
    assert lines == []


@pytest.mark.parametrize(
    "numbers",
    [
        [*range(11), 20, 21],
        [20, *range(6), 21, *range(6, 11)],
        [10, 3, 20, 7],
        [4],
        [*range(10, -1, -1)],
        [1, 1, 20, 1, 20],
    ],
    ids=["appended", "in between", "fewer", "one left", "turned round", "twice"],
)
def test_of_a_changed_corpus_only_what_is_new_is_encoded(tmp_path: Path, numbers: list[int]) -> None:
    run(tmp_path, corpus(*range(11)))
    encoder = run(tmp_path, corpus(*numbers))
    assert set(encoder.seen) == {f"text {number}" for number in numbers if number >= 11}
    np.testing.assert_array_equal(stored(tmp_path), expected(numbers))
    assert run(tmp_path, corpus(*numbers), Encoder(0)).seen == []  # and the next time nothing


def test_what_a_passage_says_counts_not_its_id(tmp_path: Path) -> None:
    before = corpus(1, 2)
    run(tmp_path, before)
    now = [replace(before[0], text="text 5"), replace(before[1], passage_id="other")]
    assert run(tmp_path, now).seen == ["text 5"]
    np.testing.assert_array_equal(stored(tmp_path), expected([5, 2]))


def test_vectors_of_another_model_or_width_are_not_reused(tmp_path: Path) -> None:
    run(tmp_path, corpus(1, 2, 3), model="one")
    assert len(run(tmp_path, corpus(1, 2, 3, 4), model="other").seen) == 4

    class Wide(Encoder):
        dim = 4

        def encode_passages(self, passages: Sequence[tuple[str, str]]) -> np.ndarray:
            return np.pad(super().encode_passages(passages), ((0, 0), (0, 1)))

    assert len(run(tmp_path, corpus(1, 2, 3, 4), Wide(), model="other").seen) == 4
    assert stored(tmp_path).shape == (4, 4)


def test_vectors_without_a_log_are_of_an_earlier_version_and_made_anew(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", np.zeros((3, 3), np.float32))
    assert len(run(tmp_path, corpus(1, 2, 3)).seen) == 3
    np.testing.assert_array_equal(stored(tmp_path), expected([1, 2, 3]))


@pytest.mark.parametrize("stop", [0, 3, 4, 9, 12])
def test_an_interrupted_encoding_goes_on_at_the_last_whole_block(tmp_path: Path, stop: int) -> None:
    passages = corpus(*range(14))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, passages, Encoder(stop))
    assert not (tmp_path / "vectors.npy").exists()
    lines: list[str] = []
    encoder = Encoder()
    encode_corpus(passages, encoder, tmp_path, model="m", tell=lines.append)
    whole = stop // 4 * 4
    assert encoder.seen == [f"text {number}" for number in range(whole, 14)]
    assert lines == ([f"miner      goes on after {whole} of 14 vectors"] if whole else [])
    np.testing.assert_array_equal(stored(tmp_path), expected(range(14)))


def test_what_was_encoded_is_kept_when_the_corpus_grows_after_an_interruption(tmp_path: Path) -> None:
    """Twice, and what an earlier run had finished is kept as well."""
    run(tmp_path, corpus(30, 31, 32))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, corpus(*range(10), 30), Encoder(9))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, corpus(20, 21, 22, 23, *range(9), 31), Encoder(4))
    now = corpus(40, 20, *range(10), 30, 31)
    encoder = run(tmp_path, now)
    assert sorted(encoder.seen) == ["text 40", "text 8", "text 9"]
    np.testing.assert_array_equal(stored(tmp_path), expected([40, 20, *range(10), 30, 31]))


def test_bytes_of_a_block_that_was_not_whole_are_overwritten(tmp_path: Path) -> None:
    passages = corpus(*range(10))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, passages, Encoder(8))
    fresh = tmp_path / ".encoding"
    for name, rest in (("vectors.npy", b"\x01" * 7), ("vectors.keys", b"x" * 20), ("vectors.log", b"[4, 12")):
        with (fresh / name).open("ab") as handle:
            handle.write(rest)
    assert run(tmp_path, passages).seen == ["text 8", "text 9"]
    np.testing.assert_array_equal(stored(tmp_path), expected(range(10)))


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_kill_while_the_new_files_take_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    """The old log beside the new vectors must never be believed."""
    run(tmp_path, corpus(1, 2, 3))
    replaced: list[Path] = []
    honest = Path.replace

    def dying(self: Path, target: Path) -> Path:
        if len(replaced) == moved:
            raise KeyboardInterrupt
        replaced.append(self)
        return honest(self, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "replace", dying)
        run(tmp_path, corpus(9, 1, 2, 3))
    assert len(replaced) == moved
    assert run(tmp_path, corpus(9, 1, 2, 3), Encoder(0)).seen == []
    np.testing.assert_array_equal(stored(tmp_path), expected([9, 1, 2, 3]))


@pytest.mark.parametrize("name", FILES)
def test_what_is_gone_is_made_again(tmp_path: Path, name: str) -> None:
    run(tmp_path, corpus(*range(10)))
    (tmp_path / name).unlink()
    assert len(run(tmp_path, corpus(*range(10))).seen) == 10
    np.testing.assert_array_equal(stored(tmp_path), expected(range(10)))


@pytest.mark.parametrize("then", ["again", "grown"])
@pytest.mark.parametrize("damage", ["value", "cut", "keys", "keys cut", "log"])
def test_damaged_vectors_are_refused_with_a_way_out(tmp_path: Path, damage: str, then: str) -> None:
    run(tmp_path, corpus(*range(10)))
    path = tmp_path / {"keys": "vectors.keys", "keys cut": "vectors.keys", "log": "vectors.log"}.get(
        damage, "vectors.npy"
    )
    data = bytearray(path.read_bytes())
    if damage in {"value", "keys"}:
        data[-6 * (12 if damage == "value" else 16)] ^= 1  # in the second block
        path.write_bytes(data)
    elif damage in {"cut", "keys cut"}:
        path.write_bytes(data[:-1])
    else:
        path.write_bytes(data.replace(b"[4,", b"[4;", 1))
    with pytest.raises(GeckoError, match=r"vectors\.npy is damaged") as caught:
        run(tmp_path, corpus(*range(10 if then == "again" else 12)))
    assert caught.value.hint == f"delete {tmp_path} and run again: the vectors are made anew"


def test_a_damaged_block_of_an_interrupted_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, corpus(*range(10)), Encoder(8))
    path = tmp_path / ".encoding" / "vectors.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(GeckoError, match="rows 4 to 8 are not what was written"):
        run(tmp_path, corpus(*range(10)))


@pytest.mark.parametrize("full_at", range(1, 12))
def test_a_full_disk_leaves_the_old_vectors_whole_and_loses_no_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_at: int
) -> None:
    run(tmp_path, corpus(*range(6)))
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    count = 0
    honest: Callable[[int], None] = os.fsync

    def full(handle: int) -> None:
        nonlocal count
        count += 1
        if count >= full_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(handle)

    with monkeypatch.context() as patched, pytest.raises(GeckoError, match="No space left") as caught:
        patched.setattr(kept_module.os, "fsync", full)
        run(tmp_path, corpus(*range(18)))
    assert "free space" in caught.value.hint
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before
    encoder = run(tmp_path, corpus(*range(18)))
    # The head's fsync is the first; a block has three, the last of which is its line in the log.
    assert len(encoder.seen) <= 12 - max(0, min((full_at - 2) // 3 * 4, 16) - 6)
    np.testing.assert_array_equal(stored(tmp_path), expected(range(18)))


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (np.full((2, 3), 0.5, np.float32), "unit length"),
        (np.full((2, 3), np.nan, np.float32), "finite"),
        (np.eye(2, 3), "float32"),
        (np.eye(2, 4, dtype=np.float32), "float32"),
    ],
)
def test_what_is_no_unit_vector_is_refused(tmp_path: Path, vectors: np.ndarray, said: str) -> None:
    encoder = Encoder()
    encoder.encode_passages = lambda _: vectors  # type: ignore[method-assign]
    with pytest.raises(GeckoError, match=said):
        run(tmp_path, corpus(1, 2), encoder)


def test_keys_tell_texts_apart_and_find_the_last_of_equal_ones() -> None:
    keys = passage_digests([("a", "b"), ("ab", ""), ("", "ab"), ("a", "b"), ("\ud800", "")])
    assert len(np.unique(keys, axis=0)) == 4
    index = DigestIndex()
    index.add(keys)
    assert index.find(passage_digests([("a", "b"), ("x", ""), ("", "ab")])).tolist() == [3, -1, 2]
    assert DigestIndex().find(keys[:2]).tolist() == [-1, -1]
