"""Matches found by joins on hashes are those that a slow, plain comparison of the words finds."""

import random

import numpy as np
import pytest

from gecko.corpus import words as words_module
from gecko.corpus.decontaminate import KINDS, Alike, Decontaminator
from gecko.corpus.near import NearIndex, NearVectors
from gecko.corpus.words import read_words

NUMBERS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
LONG = " ".join(NUMBERS)


def index(references, *, groups=None, asking=None, **options):
    groups = np.zeros(len(references), int) if groups is None else np.array(groups)
    asking = np.ones(len(references), bool) if asking is None else np.array(asking)
    return Decontaminator(references, groups, asking, **options)


def found(matches):
    rows = zip(matches.texts.tolist(), matches.references.tolist(), matches.kinds.tolist(), strict=True)
    return {(text, reference, KINDS[kind]) for text, reference, kind in rows}


def match(decontaminator, texts, asking=None):
    asking = np.ones(len(texts), bool) if asking is None else np.array(asking)
    return found(decontaminator.match(texts, asking))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I rotate the keys?", "  how do i\n rotate - the KEYS"),
        ("ﬁle Ｎａｍｅ", "file name"),
        ("naïve café", "nai\u0308ve cafe\u0301"),
        ("名前は何ですか。", "名前は何ですか"),
        ("don't_stop", "don t stop"),
    ],
)
def test_case_spacing_punctuation_and_forms_make_no_difference(one, other):
    assert match(index([one], near=0), [other]) == {(0, 0, "exact")}


@pytest.mark.parametrize("other", ["naive cafe", "naïve cafés", "café", "naïve  "])
def test_letters_do(other):
    assert match(index(["naïve café"], near=0), [other]) == set()


@pytest.mark.parametrize("empty", ["", " ", "?!", "\u200b", "…"])
def test_a_text_without_a_word_matches_nothing(empty):
    decontaminator = index([empty, "a word", empty], near=0.5)
    assert match(decontaminator, [empty, "A word.", ""]) == {(1, 1, "exact")}


def test_nothing_is_found_among_no_references_or_no_texts():
    assert match(index([]), ["a text", LONG]) == set()
    assert match(index([LONG]), []) == set()


def test_the_same_words_in_another_order_are_found_but_not_other_words_as_often():
    decontaminator = index(["does the ant see the bear"], near=0)
    assert match(decontaminator, ["the bear the ant does see", "does the ant see ant bear"]) == {(0, 0, "order")}


def test_a_run_of_n_words_is_found_and_one_of_fewer_is_not():
    reference = f"before {LONG} after"
    texts = [f"x {' '.join(NUMBERS[2:15])} y", f"x {' '.join(NUMBERS[2:14])} y", " ".join(NUMBERS[3:])]
    assert match(index([reference], near=0), texts) == {(0, 0, "ngram"), (2, 0, "ngram")}
    # Two halves of a run that stand in neighbouring texts are none.
    assert match(index([reference], near=0), [" ".join(NUMBERS[:8]), " ".join(NUMBERS[8:])]) == set()


def test_a_run_in_many_references_of_a_group_is_boilerplate():
    page = [f"page {i} says {LONG} and ends {i}" for i in range(4)]
    assert match(index(page, common=4, near=0), [f"see {LONG}"]) == {(0, 0, "ngram")}
    decontaminator = index(page, common=3, near=0)
    assert match(decontaminator, [f"see {LONG}"]) == set()
    assert decontaminator.ignored == 7  # of the 19 words that all four pages share
    assert match(index(page, groups=[0, 0, 1, 1], common=3, near=0), [f"see {LONG}"]) == {
        (0, 0, "ngram"),
        (0, 2, "ngram"),
    }
    # Twice in one text is not twice as common; and whole texts count however often they come.
    assert match(index([f"{LONG} {LONG}"], common=1, near=0), [f"see {LONG}"]) == {(0, 0, "ngram")}
    assert match(index(["so what"] * 5, common=1, near=0), ["So what?"]) == {(0, 0, "exact")}


def test_only_what_asks_is_compared_loosely_and_with_what_asks():
    references = ["ant bear cat dog eel", "fox goat hen ibis jay"]
    decontaminator = index(references, groups=[0, 1], asking=[True, False])
    shuffled = ["eel dog cat bear ant", "jay ibis hen goat fox"]
    assert match(decontaminator, shuffled) == {(0, 0, "order")}
    assert match(decontaminator, shuffled, [False, False]) == set()
    assert match(decontaminator, references, [False, False]) == {(0, 0, "exact"), (1, 1, "exact")}


def test_of_a_group_the_strongest_match_is_told_and_of_every_group_one():
    references = [f"{LONG} more", LONG, " ".join(reversed(NUMBERS))]
    assert match(index(references), [LONG]) == {(0, 1, "exact")}
    assert match(index(references, groups=[0, 1, 2]), [LONG]) == {(0, 0, "near"), (0, 1, "exact"), (0, 2, "order")}


@pytest.mark.parametrize("threshold", [0.34, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("held", [1, 50, 1 << 19])
def test_near_duplicates_are_exactly_those_of_a_comparison_of_all_pairs(threshold, held, monkeypatch):
    monkeypatch.setattr("gecko.corpus.near._EXPANDED", held)
    draw = random.Random(1)
    vocabulary = [f"w{i}" for i in range(40)]

    def texts(count):
        return [" ".join(draw.choices(vocabulary[: draw.choice([8, 40])], k=draw.randint(0, 9))) for _ in range(count)]

    references, asked = texts(150), texts(120)
    asked = [f"{text} new{i % 7}" if i % 3 == 0 else text for i, text in enumerate(asked)]
    pairs = NearIndex(read_words(references), threshold).find(read_words(asked))
    expected = {
        (i, j)
        for i, one in enumerate(set(text.split()) for text in asked)
        for j, other in enumerate(set(text.split()) for text in references)
        if one and other and len(one & other) / len(one | other) >= threshold
    }
    assert len(expected) > 5
    assert sorted(zip(*(side.tolist() for side in pairs), strict=True)) == sorted(expected)


def test_exact_order_and_runs_are_those_of_a_plain_comparison_whatever_the_blocks(monkeypatch):
    draw = random.Random(2)
    vocabulary = [f"w{i}" for i in range(5)]
    references = [" ".join(draw.choices(vocabulary, k=draw.randint(0, 7))) for _ in range(200)]
    texts = [" ".join(draw.choices(vocabulary, k=draw.randint(0, 7))) for _ in range(200)]

    def runs(text):
        split = text.split()
        return {tuple(split[i : i + 4]) for i in range(len(split) - 3)}

    def kind(one, other):
        if not one or not other:
            return None
        if one == other:
            return "exact"
        if sorted(one.split()) == sorted(other.split()):
            return "order"
        return "ngram" if runs(one) & runs(other) else None

    expected = {
        (i, j, kind(one, other))
        for i, one in enumerate(texts)
        for j, other in enumerate(references)
        if kind(one, other)
    }
    assert {each for *_, each in expected} == {"exact", "order", "ngram"}
    every = np.arange(len(references))
    assert match(index(references, groups=every, ngram=4, common=0, near=0), texts) == expected
    monkeypatch.setattr(words_module, "_BLOCK", 30)
    assert match(index(references, groups=every, ngram=4, common=0, near=0), texts) == expected


def test_vectors_are_compared_where_they_are_at_hand():
    angles = {"north": 90, "nearly north": 80, "east": 0, "south": 270}

    def encode(texts):
        turned = np.deg2rad([angles[text] for text in texts])
        return np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32).reshape(-1, 2)

    alike = Alike(encode, cosine=0.97)
    decontaminator = index(["north", "east"], groups=[0, 1], alike=alike, near=0)
    assert match(decontaminator, ["south", "nearly north"]) == {(1, 0, "embedding")}
    assert match(decontaminator, ["nearly north", "south"], [False, True]) == set()
    pairs = NearVectors(["north", "east"], encode, 0.97).find(["nearly north"] * 300 + ["east"])
    assert pairs[0].tolist() == list(range(301)) and pairs[1].tolist() == [0] * 300 + [1]
