"""Duplicates are those that datasketch finds a passage at a time, wherever blocks are cut; planted ones are found."""

from __future__ import annotations

import importlib.resources
import random

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH

from gecko.corpus.dedup import Deduplicator, sketch
from gecko.records import Passage

TEXTS = importlib.resources.files("gecko.train").joinpath("general.txt").read_text(encoding="utf-8").splitlines()


class Plain:
    """The same decisions with datasketch's own sketch and index, and dictionaries."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.empty = MinHash(num_perm=64, seed=1)
        self.index = MinHashLSH(threshold=min(threshold, 0.95), num_perm=64)
        self.exact: dict[str, str] = {}
        self.signatures: dict[str, np.ndarray] = {}

    def admit(self, passage: Passage) -> str | None:
        words = f"{passage.title} {passage.text}".casefold().split()
        if (plain := " ".join(words)) in self.exact:
            return f"exact duplicate of {self.exact[plain]}"
        if len(words) >= 8:
            sketched = self.empty.copy()
            sketched.update_batch({" ".join(words[i : i + 5]).encode() for i in range(len(words) - 4)})
            for other in sorted(self.index.query(sketched)):
                if np.mean(self.signatures[other] == sketched.hashvalues) >= self.threshold:
                    return f"near duplicate of {other}"
            self.index.insert(passage.source_id, sketched)
            self.signatures[passage.source_id] = sketched.hashvalues
        self.exact[plain] = passage.source_id
        return None


def planted() -> tuple[list[Passage], dict[str, str]]:
    """Passages of general texts, with copies of some: unchanged, in capitals, and with one or many words changed."""
    draw = random.Random(0)
    texts = [" ".join(TEXTS[start : start + 6]) for start in range(0, 900, 6)]
    passages = [Passage(f"p{n}", f"s{n:03}", "a title", text, "src", "en") for n, text in enumerate(texts)]
    kinds: dict[str, str] = {}
    for number, passage in enumerate(passages[:120]):
        words = passage.text.split()
        kind = ("same", "case", "near", "far")[number % 4]
        if kind == "near":
            words[-1] = "changed"
        elif kind == "far":
            words[::3] = ["changed"] * len(words[::3])
        text = " ".join(words) if kind != "case" else "  ".join(words).upper()
        copy = Passage(f"c{number}", f"x{number:03}", "a title", text, "src", "en")
        kinds[copy.source_id] = kind
        passages.insert(draw.randint(number + 1, len(passages)) if kind == "far" else len(passages), copy)
    return passages, kinds


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9, 0.97])
@pytest.mark.parametrize("block", [1, 17, 10_000])
def test_the_answers_are_datasketchs(threshold: float, block: int) -> None:
    passages, _ = planted()
    random.Random(block).shuffle(passages)
    plain, own = Plain(threshold), Deduplicator(threshold)
    wanted = [plain.admit(passage) for passage in passages]
    found = [
        answer for start in range(0, len(passages), block) for answer in own.admit_all(passages[start : start + block])
    ]
    assert found == wanted
    assert sum(answer is not None and answer.startswith("near") for answer in wanted) >= 5


def test_the_signatures_are_datasketchs() -> None:
    empty = MinHash(num_perm=64, seed=1)
    texts = [("A Title", text) for text in TEXTS[:50] if len(text.split()) >= 6]
    signatures = sketch(texts).signatures
    for (title, text), signature in zip(texts, signatures, strict=True):
        words = f"{title} {text}".casefold().split()
        sketched = empty.copy()
        sketched.update_batch({" ".join(words[i : i + 5]).encode() for i in range(len(words) - 4)})
        assert signature.tolist() == sketched.hashvalues.tolist()


def test_planted_duplicates_are_found_and_nothing_else() -> None:
    passages, kinds = planted()
    answers = dict(zip((p.source_id for p in passages), Deduplicator(0.8).admit_all(passages), strict=True))
    found = {name for name, answer in answers.items() if answer is not None}
    assert found <= {name for name, kind in kinds.items() if kind != "far"}  # precision 1
    for kind in ("same", "case"):
        assert all(str(answers[name]).startswith("exact") for name in kinds if kinds[name] == kind)
    near = [name for name in kinds if kinds[name] == "near"]
    assert sum(str(answers[name]).startswith("near") for name in near) >= 0.95 * len(near)
    assert all(answers[name] in {None, f"near duplicate of s{name[1:]}"} for name in near)
