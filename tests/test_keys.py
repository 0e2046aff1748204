"""Places by key: what a dictionary would answer, whatever the order and the size of what is added."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gecko.keys import DigestIndex, KeyIndex, digests


@pytest.mark.parametrize("most", [1, 7, 300])
def test_every_place_of_a_key_is_found(most: int) -> None:
    draw = random.Random(most)
    index, plain = KeyIndex(), {}
    place = 0
    for _ in range(60):
        keys = [draw.randrange(200) for _ in range(draw.randint(0, most))]
        for key in keys:
            plain.setdefault(key, []).append(place)
            place += 1
        index.add(np.array(keys, np.uint64), np.arange(place - len(keys), place))
    wanted = np.arange(250, dtype=np.uint64)
    whose, places = index.find(wanted)
    found: dict[int, list[int]] = {}
    for number, where in zip(whose.tolist(), places.tolist(), strict=True):
        found.setdefault(number, []).append(where)
    assert {key: sorted(where) for key, where in found.items()} == plain
    assert len(index._runs) <= 12


def test_a_digest_has_the_last_place_it_was_given() -> None:
    index = DigestIndex()
    texts = [f"text {number % 40}" for number in range(100)]
    for start in range(0, 100, 7):
        index.add(digests(texts[start : start + 7]))
    assert len(index) == 100
    plain = {text: place for place, text in enumerate(texts)}
    assert index.find(digests([*plain, "text 40", ""])).tolist() == [*plain.values(), -1, -1]


def test_digests_of_equal_first_halves_are_told_apart() -> None:
    index = DigestIndex()
    index.add(np.array([[5, 1], [5, 2]], np.uint64))
    assert index.find(np.array([[5, 2], [5, 1], [5, 3]], np.uint64)).tolist() == [1, 0, -1]


def test_nothing_is_found_in_an_empty_index() -> None:
    assert DigestIndex().find(digests(["a", "b"])).tolist() == [-1, -1]
    assert DigestIndex().find(digests([])).tolist() == []
