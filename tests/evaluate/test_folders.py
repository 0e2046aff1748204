"""What is a set, of which type, under which name; and what is none, with the reason."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gecko.errors import GeckoError, UsageError
from gecko.evaluate.folders import find_sets


def found(*places: Path, split: str = "test") -> dict[str, str]:
    return {f"{item.name}:{item.split}": item.task_type for item in find_sets(places, split)[0]}


def reasons(*places: Path, split: str = "test") -> dict[str, str]:
    return {item.place: item.reason for item in find_sets(places, split)[1]}


def test_a_folder_of_folders_gives_all_that_it_holds(data: Path) -> None:
    sets, skipped = find_sets([data])
    assert [(item.name, item.task_type) for item in sets] == [
        ("abstracts", "summarization"),
        ("alike", "sts"),
        ("groups", "clustering"),
        ("intents", "classification"),
        ("same", "pair_classification"),
        ("search", "retrieval"),
        ("search", "reranking"),
        ("words", "bitext"),
    ]
    assert next(item.train for item in sets if item.name == "intents") == data / "intents" / "train.jsonl"
    assert {item.place: item.reason for item in skipped} == {
        "pictures": "no data file",
        "unlabelled": "a corpus without queries.jsonl, qrels/test.tsv",
    }
    assert found(data / "alike", data / "alike") == {"alike:test": "sts"}  # once


def test_files_that_are_no_split_are_sets_of_their_own(data: Path, rows_to) -> None:
    row = {"sentence1": "a", "sentence2": "b", "score": 1}
    for name in ("sts13", "sts14", "sts13_train"):
        rows_to(data / "years" / f"{name}.jsonl", [row])
    rows_to(data / "years" / "notes.jsonl", [{"note": "x"}])
    (data / "years" / "README.md").touch()
    assert found(data / "years") == {"sts13:test": "sts", "sts14:test": "sts"}
    assert reasons(data) == {
        "pictures": "no data file",
        "unlabelled": "a corpus without queries.jsonl, qrels/test.tsv",
        "years/notes": "no type of task has the columns note",
        "years/sts13_train": "a training file",
    }
    assert found(data / "years" / "sts14.jsonl") == {"sts14:test": "sts"}  # a file that is named itself
    assert found(data / "intents" / "test.jsonl") == {"intents:test": "classification"}
    assert found(data / "intents" / "train.jsonl") == {"intents:train": "clustering"}  # nothing is left to train on


def test_splits(data: Path, rows_to) -> None:
    row = {"sentence1": "a", "sentence2": "b", "label": 1}
    rows_to(data / "pets" / "validation.jsonl", [row])
    rows_to(data / "pets" / "train.jsonl", [row])
    assert found(data / "pets") == {"pets:validation": "pair_classification"}  # there is no test
    assert found(data / "pets", split="validation") == {"pets:validation": "pair_classification"}
    with pytest.raises(GeckoError, match=r"pets: no split 'dev' \(train.jsonl, validation.jsonl\)") as caught:
        find_sets([data / "pets"], "dev")
    assert caught.value.hint
    (data / "search" / "qrels" / "test.tsv").rename(data / "search" / "qrels" / "dev.tsv")
    assert found(data / "search", split="dev") == {"search:dev": "retrieval"}  # reranking.jsonl is of test
    (data / "search" / "reranking.jsonl").rename(data / "search" / "reranking_dev.jsonl")
    assert found(data / "search", split="dev") == {"search:dev": "reranking"}


def test_names_that_clash_are_told_apart(tmp_path: Path, rows_to) -> None:
    row = {"sentence1": "a", "sentence2": "b", "score": 1}
    for place in ("one/en", "one/de", "two/en", "three/deep/en"):
        rows_to(tmp_path / place / "test.jsonl", [row])
    assert set(found(tmp_path)) == {"one/en:test", "one/de:test", "two/en:test", "three/deep/en:test"}
    assert set(found(tmp_path / "one", tmp_path / "two")) == {"one/en:test", "de:test", "two/en:test"}
    assert set(found(tmp_path / "one" / "en", tmp_path / "two" / "en")) == {"one/en:test", "two/en:test"}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_other_containers(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "set" / f"test.{suffix}"
    path.parent.mkdir()
    table = {"text": ["a", "b"], "label": ["1", "2"]}
    if suffix == "parquet":
        pq.write_table(pa.table(table), path)
    else:
        path.write_text("text,label\na,1\nb,2\n".replace(",", "\t" if suffix == "tsv" else ","))
    assert found(tmp_path / "set") == {"set:test": "clustering"}


def test_a_pair_with_an_unknown_column_is_no_translation(data: Path, rows_to) -> None:
    rows_to(data / "gold" / "test.jsonl", [{"sentence1": "a", "sentence2": "b", "gold": 1, "lang": "x"}])
    with pytest.raises(GeckoError, match="gold: its columns have neither score nor label, but gold"):
        find_sets([data / "gold"])
    rows_to(data / "gold" / "test.jsonl", [{"sentence1": "a", "sentence2": "b", "lang": "x", "id": 1}])
    assert found(data / "gold") == {"gold:test": "bitext"}


def test_links_are_named_not_followed(data: Path, tmp_path: Path) -> None:
    (data / "loop").symlink_to(data, target_is_directory=True)
    assert reasons(data)["loop"] == "a link, which is not followed"
    (tmp_path / "other").symlink_to(data / "alike", target_is_directory=True)
    assert found(tmp_path / "other") == {"alike:test": "sts"}  # the place that is named may be one


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "nowhere", "nowhere: no such folder"),
        (lambda root: root / "pictures", "pictures: no data file"),
        (lambda root: root / "unlabelled", "a corpus without queries"),
        (lambda root: root / "photo.png", "not a kind of file that is read: .png"),
        (lambda root: root / "empty.jsonl", "empty.jsonl: holds no row"),
        (lambda root: root / "odd.jsonl", "odd.jsonl: no type of task has the columns utterance, intent"),
        (lambda root: root / "broken.jsonl", "broken.jsonl, line 1: not JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_places_that_hold_no_set_are_an_error_with_a_hint(data: Path, rows_to, make, message: str) -> None:
    (data / "photo.png").touch()
    (data / "empty.jsonl").touch()
    (data / "broken.jsonl").write_text("{\n")
    rows_to(data / "odd.jsonl", [{"utterance": "a", "intent": 1}])
    with pytest.raises(GeckoError) as caught:
        find_sets([make(data)])
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert "photo" not in str(reasons(data))  # beside sets, only files of data are spoken of


def test_nothing_named() -> None:
    with pytest.raises(UsageError, match="nothing to evaluate on"):
        find_sets([])
