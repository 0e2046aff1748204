"""Which passages are seeds: an even draw that hardly changes when the corpus grows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gecko.fret.generate import sample_seeds
from gecko.fret.store import PassageTable
from gecko.records import PASSAGES, Passage, content_id
from gecko.shards import write_stage

ROWS = [Passage(content_id(str(i)), f"s{i}", "", f"text {i}", "src", "en") for i in range(1010)]


def drawn(folder: Path, rows: list[Passage], limit: int, seed: int = 0, available: set[str] | None = None) -> list[str]:
    write_stage(folder, rows, PASSAGES)
    return [passage.passage_id for passage in sample_seeds(PassageTable(folder), limit, available, seed)]


def test_a_corpus_that_grows_by_a_hundredth_keeps_nearly_all_its_seeds(tmp_path: Path) -> None:
    before = drawn(tmp_path, ROWS[:1000], 200)
    grown = [*ROWS[:500], *ROWS[1000:], *ROWS[500:1000]]  # what is new stands in the middle
    after = drawn(tmp_path, grown, 200)
    assert len(set(before)) == len(set(after)) == 200
    new = {row.passage_id for row in ROWS[1000:]}
    assert set(after) - set(before) <= new  # a seed is replaced by a new passage only
    assert len(set(before) & set(after)) >= 194
    order = {row.passage_id: place for place, row in enumerate(grown)}
    assert [order[name] for name in after] == sorted(order[name] for name in after)


def test_the_draw_depends_on_the_seed_and_is_even(tmp_path: Path) -> None:
    one, other = (drawn(tmp_path, ROWS, 300, seed) for seed in (0, 1))
    assert 60 <= len(set(one) & set(other)) <= 120  # 89 are to be expected of chance
    places = [row.passage_id for row in ROWS]
    quarters = np.histogram([places.index(name) for name in one], bins=4, range=(0, len(ROWS)))[0]
    assert quarters.min() >= 50


@pytest.mark.parametrize("limit", [2, 3, 10])
def test_only_seeds_that_the_teacher_can_answer_for(tmp_path: Path, limit: int) -> None:
    found = drawn(tmp_path, ROWS, limit, available={"s7", "s500", "s900"})
    assert len(found) == min(limit, 3)
    assert set(found) <= {ROWS[n].passage_id for n in (7, 500, 900)}
