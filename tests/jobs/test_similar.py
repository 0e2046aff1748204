import json

import numpy as np
import pytest

from gecko.jobs.similar import Like, similar_to, spread_of
from gecko.jobs.translations import match


@pytest.fixture
def items():
    """Three near copies at an angle of 0.1, three spread-out ones farther away, all unit vectors in the plane."""
    angles = np.array([0.10, 0.101, 0.102, 0.3, 0.6, 0.9])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


QUERY = np.array([[1.0, 0.0]], np.float32)


def test_without_diversity_the_nearest_come_in_order(items):
    (found,) = similar_to(QUERY, items, 4)
    assert [like.index for like in found] == [0, 1, 2, 3]
    assert found[0].score == pytest.approx(np.cos(0.1), abs=1e-6)


def test_an_item_does_not_list_itself(items):
    lists = similar_to(items, items, 5, own=list(range(6)))
    assert all(index not in {like.index for like in each} for index, each in enumerate(lists))
    assert [len(each) for each in lists] == [5] * 6


def test_diversity_spreads_a_list_out(items):
    (near,), (spread,) = similar_to(QUERY, items, 3), similar_to(QUERY, items, 3, diversity=0.7)
    assert spread[0].index == 0
    assert len({like.index for like in spread} & {0, 1, 2}) == 1
    assert spread_of([spread], items) > spread_of([near], items) + 0.05


def test_the_same_thing_again_is_left_out(items):
    (found,) = similar_to(QUERY, items, 6, same=0.9999)
    assert [like.index for like in found] == [0, 3, 4, 5]
    (without,) = similar_to(items[:1], items, 6, same=0.9999, own=[0])
    assert [like.index for like in without] == [3, 4, 5]


def test_lists_are_as_long_as_there_are_items():
    assert similar_to(QUERY, QUERY, 5, own=[0]) == [[]]
    assert similar_to(QUERY, QUERY, 5) == [[Like(0, 1.0)]]


def test_the_verb_takes_ids_and_texts(gecko, table, tiny_model, tmp_path):
    out = tmp_path / "out"
    code, value, said = gecko(
        "similar", tiny_model, "--items", table, "--to", "t0", "--to", "river road tree", "-k", 5, "--out", out
    )
    assert code == 0, said
    assert "'river road tree' is no item's id: taken as a text" in said
    assert "'t0'" not in said
    first, second = value["similar"]
    assert first["to"] == "t0"
    assert "t0" not in {like["id"] for like in first["like"]}
    labels = {f"t{n}": n % 3 for n in range(90)}
    assert [labels[like["id"]] for like in second["like"]].count(2) >= 4
    assert len((out / "similar.jsonl").read_text().splitlines()) == 2
    assert "river road tree" in (out / "similar.html").read_text()


def test_the_verb_lists_for_every_item_by_default(gecko, table, tiny_model, tmp_path):
    code, value, said = gecko("similar", tiny_model, "--items", table, "-k", 3, "--out", tmp_path / "out")
    assert code == 0, said
    rows = [json.loads(line) for line in (tmp_path / "out" / "similar.jsonl").read_text().splitlines()]
    assert value["lists"] == len(rows) == 90
    assert all(len(row["like"]) == 3 for row in rows)


def test_a_sentence_is_matched_by_margin_and_not_by_nearness_alone():
    rng = np.random.default_rng(0)
    left = rng.normal(size=(50, 32)).astype(np.float32)
    left /= np.linalg.norm(left, axis=1, keepdims=True)
    order = rng.permutation(50)
    right = left[order] + 0.05 * rng.normal(size=(50, 32)).astype(np.float32)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    hub = left.mean(axis=0, keepdims=True)  # near to everything, the translation of nothing
    found = match(left[:40], np.concatenate([right, hub / np.linalg.norm(hub)]))
    assert {(pair.left, int(order[pair.right])) for pair in found} == {(place, place) for place in range(40)}
    assert [pair.margin for pair in found] == sorted((pair.margin for pair in found), reverse=True)
    assert not match(left[:40], right, least=100)


def test_the_verb_matches_the_sentences_of_two_files(gecko, tiny_model, tmp_path, written):
    texts = [row["text"] for row in written[:20]]
    one, other = tmp_path / "one.txt", tmp_path / "other.jsonl"
    one.write_text("\n".join(texts) + "\n\n")
    other.write_text("".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(reversed(texts))))
    code, value, said = gecko("match", tiny_model, one, other, "--out", tmp_path / "pairs.jsonl", "--margin", 0.5)
    assert code == 0, said
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert value["pairs"] == len(rows) == len(set(texts))
    assert all(row["sentence1"] == row["sentence2"] for row in rows)
    assert "1 without text" in said
