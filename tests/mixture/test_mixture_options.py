"""The recipe's section: names, tasks, and mistakes found when it is read."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gecko.mixture.options import MixtureOptions, SourceOptions
from gecko.mixture.tasks import task_kind


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/emotion", "emotion"),
        ("data/emotion/", "emotion"),
        ("data/emotion/train.jsonl", "emotion"),
        ("data/tatoeba/test.jsonl", "tatoeba"),
        ("data/sts12_train.jsonl", "sts12_train"),
        ("hf://owner/name/config", "owner/name/config"),
    ],
)
def test_a_source_is_named_by_its_path(path: str, name: str) -> None:
    assert SourceOptions(path=path, kind="pairs").name == name


def test_defaults_go_by_kind_and_survive_a_round_trip() -> None:
    source = SourceOptions(path="a", kind="sts")
    assert source.tasks[0] == "semantic similarity"
    assert len(source.tasks) == 2
    assert source.both_sides_alike
    assert not SourceOptions(path="a", kind="pairs").both_sides_alike
    assert SourceOptions(path="a", kind="pairs", symmetric=True).both_sides_alike
    assert SourceOptions(path="a", kind="sts", task="similar  texts").tasks == ("similar texts",)
    mixture = MixtureOptions(sources=(source,), sampling="temperature")
    assert MixtureOptions.model_validate(mixture.model_dump(mode="json")) == mixture


def mixture(**values: Any) -> MixtureOptions:
    return MixtureOptions.model_validate(values)


def test_mistakes_are_named() -> None:
    pairs = {"path": "a", "kind": "pairs"}
    with pytest.raises(ValidationError, match=r"'txt' is no role of classification \(text, label\)"):
        mixture(sources=[{"path": "a", "kind": "classification", "columns": {"txt": "x"}}])
    with pytest.raises(ValidationError, match="only retrieval sources have a corpus to mine"):
        mixture(sources=[{**pairs, "negatives": "mined"}])
    with pytest.raises(ValidationError, match="2 sources are called 'a'"):
        mixture(sources=[pairs, {**pairs, "path": "b/a"}])
    with pytest.raises(ValidationError, match="'fret' is the name of the run's own rows"):
        mixture(sources=[{**pairs, "name": "fret"}])
    with pytest.raises(ValidationError, match="a task string is empty"):
        mixture(sources=[{**pairs, "task": ["x", " "]}])
    with pytest.raises(ValidationError, match="needs the weight of a too"):
        mixture(sources=[pairs], sampling="weights", fret_weight=1)
    with pytest.raises(ValidationError, match="needs fret_weight too"):
        mixture(sources=[{**pairs, "weight": 2}], sampling="weights")
    with pytest.raises(ValidationError, match="the weight of a is read only with sampling: weights, not proportional"):
        mixture(sources=[{**pairs, "weight": 2}])
    with pytest.raises(ValidationError, match="extra"):
        mixture(sources=[{**pairs, "colums": {}}])


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("Given a claim, find a passage that supports or refutes it.", "fact checking"),
        ("Given a few keywords, find a passage that would be a good search result.", "search result"),
        ("Given a sentence, find a passage that says the same in other words.", "semantic similarity"),
        ("sentence similarity", "semantic similarity"),
        ("Given a question, find a passage that answers it.", "question answering"),
        ("Given a term, find a passage that defines it.", "question answering"),
        ("Classification", "classification"),
        ("search result", "search result"),
        ("", "question answering"),
        # A sentence in another language is no label of its own, or there would be as many kinds as rows.
        ("Finde zu einer Frage die Stelle, die sie beantwortet.", "question answering"),
        ("根据一个问题，找到能回答它的段落。", "question answering"),
        ("एक प्रश्न के लिए वह अंश खोजें जो उसका उत्तर देता है।", "question answering"),
    ],
)
def test_the_kind_of_a_task(task: str, kind: str) -> None:
    assert task_kind(task) == kind
