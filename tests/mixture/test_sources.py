"""Adapters: each kind of labelled data becomes the rows it should, and no record is lost without a word."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from gecko.errors import GeckoError
from gecko.mixture.load import LoadedSource, check_sources, load_mixture, load_source, mixture_state
from gecko.mixture.options import MixtureOptions, SourceOptions
from gecko.records import UnifiedRow

ID = re.compile(r" [a-z]{6}$")
PREFIX = re.compile(r"^task: (.+?) \| query: ")


def write(path: Path, records: Iterable[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def load(path: str | Path, kind: str, seed: int = 0, text_format: str = "gecko", **more: Any) -> LoadedSource:
    options = SourceOptions.model_validate({"path": str(path), "kind": kind, **more})
    loaded = load_source(options, text_format, seed)  # type: ignore[arg-type]
    assert loaded.read == loaded.used + sum(loaded.unused.values()) + len(loaded.quarantined)
    return loaded


def bare(text: str) -> str:
    """A rendered text without its task or title."""
    return re.sub(r"^title: .+? \| text: ", "", PREFIX.sub("", text))


def texts(rows: Iterable[UnifiedRow]) -> list[tuple[str, str, list[str]]]:
    return [(row.query, bare(row.positive), [bare(text) for text in row.negatives]) for row in rows]


@pytest.fixture
def labelled(tmp_path: Path) -> str:
    records = [{"text": f"{label} number {n}", "label": label} for label in ("cat", "dog", "eel") for n in range(8)]
    return write(tmp_path / "pets" / "train.jsonl", records)


def test_a_triple_has_a_text_of_its_label_and_one_of_another(labelled: str) -> None:
    rows = load(labelled, "classification").rows
    assert len(rows) == 24
    for row in rows:
        own, like, unlike = (bare(text).split()[0] for text in (row.query, row.positive, row.negatives[0]))
        assert own == like != unlike
        assert bare(row.positive) != row.query
        assert row.symmetric
    assert {PREFIX.match(row.positive)[1] for row in rows} == {row.task for row in rows}
    assert {row.task for row in rows} == {"classification", "Given a text, find a text of the same class."}


def test_clustering_texts_of_a_group_belong_together_and_are_asked_as_such(tmp_path: Path) -> None:
    records = [{"headline": f"{topic} story {n}", "topic": topic} for topic in ("sea", "war", "art") for n in range(30)]
    path = write(tmp_path / "news" / "train.jsonl", [*records, {"headline": "of no group", "topic": "odd"}])
    loaded = load(path, "clustering", columns={"text": "headline", "label": "topic"}, max_negatives=2)
    assert loaded.unused == {"the only text of its label (odd)": 1}
    assert sorted(ID.sub("", row.query) for row in loaded.rows) == sorted(record["headline"] for record in records)
    tags = set()
    for row in loaded.rows:
        own, like, *unlike = (ID.sub("", bare(text)) for text in (row.query, row.positive, *row.negatives))
        assert own != like
        assert own.split()[0] == like.split()[0]
        assert len(unlike) == len(set(unlike)) == 2
        assert all(text.split()[0] not in (own.split()[0],) for text in unlike)
        assert row.symmetric
        assert all(text.startswith(f"task: {row.task} | query: ") for text in (row.positive, *row.negatives))
        tags |= {ID.search(text)[0] for text in (row.query, row.positive, *row.negatives)}
    assert len(tags) == len(loaded.rows) == 90
    words = [row.task for row in loaded.rows]
    assert set(words) == {"search result", "Given a text, find a text on the same topic."}
    assert 25 < words.count("search result") < 65
    assert not any(
        row.negatives
        for row in load(path, "clustering", columns={"text": "headline", "label": "topic"}, negatives="none").rows
    )


def test_the_three_texts_of_a_row_share_an_id_that_no_other_row_has(labelled: str) -> None:
    tags = []
    for row in load(labelled, "classification", max_negatives=3).rows:
        own = {ID.search(text)[0] for text in (row.query, row.positive, *row.negatives)}
        assert len(row.negatives) == 3
        assert len(own) == 1
        tags.append(own.pop())
    assert len(set(tags)) == 24


def test_the_id_survives_a_long_text(tmp_path: Path) -> None:
    records = [{"text": f"{n} " + "ant bear " * 200, "label": n % 2} for n in range(6)]
    for row in load(write(tmp_path / "train.jsonl", records), "classification", max_chars=100).rows:
        assert ID.search(row.query)
        assert ID.search(row.positive)
        assert len(row.query) <= 100 + len(" abcdef")


@pytest.mark.parametrize("kind", ["nli", "sts", "pair_classification", "bitext", "pairs", "triples"])
def test_only_labelled_texts_get_an_id(tmp_path: Path, kind: str) -> None:
    fields = {
        "nli": {"premise": "a cat sat", "hypothesis": "an animal sat", "label": 0},
        "sts": {"sentence1": "a cat sat", "sentence2": "an animal sat", "score": 5},
        "pair_classification": {"sentence1": "a cat sat", "sentence2": "an animal sat", "label": 1},
        "bitext": {"text": "a cat sat", "translation": "an animal sat"},
        "pairs": {"query": "a cat sat", "positive": "an animal sat"},
        "triples": {"query": "a cat sat", "positive": "an animal sat", "negative": "a dog ran"},
    }
    for row in load(write(tmp_path / "train.jsonl", [fields[kind]]), kind).rows:
        assert {row.query, bare(row.positive)} == {"a cat sat", "an animal sat"}


def test_plain_format_keeps_the_texts_with_their_id(labelled: str) -> None:
    for row in load(labelled, "clustering", text_format="plain").rows:
        assert re.fullmatch(r"(cat|dog|eel) number \d [a-z]{6}", row.positive)


def test_labels_may_be_numbers_strings_or_floats_and_repeats_are_counted(tmp_path: Path) -> None:
    records = [
        {"utterance": "a", "intent": 1},
        {"utterance": "b", "intent": "1"},
        {"utterance": "c", "intent": 1.0},
        {"utterance": "c", "intent": 1},
        {"utterance": "d", "intent": 0},
        {"utterance": "e", "intent": False},
        {"utterance": "f", "intent": 7},
        {"utterance": "twice", "intent": 0},
        {"utterance": "twice", "intent": 1},
        {"utterance": " ", "intent": 1},
        {"utterance": "g", "intent": None},
    ]
    loaded = load(
        write(tmp_path / "train.jsonl", records), "classification", columns={"text": "utterance", "label": "intent"}
    )
    assert sorted(row.query.split()[0] for row in loaded.rows) == ["a", "b", "c", "d", "e"]
    assert loaded.unused == {"repeats an earlier text": 1, "the only text of its label (7)": 1}
    assert [item.reason for item in loaded.quarantined] == [
        "utterance: an empty text, or none",
        "intent: no label",
        "the same text has the labels 0, 1",
        "the same text has the labels 0, 1",
    ]


def test_nli(tmp_path: Path) -> None:
    def pair(premise: str, hypothesis: str, label: object) -> dict[str, object]:
        return {"premise": premise, "hypothesis": hypothesis, "label": label}

    records = [
        pair("p", "yes one", "entailment"),
        pair("p", "yes two", 0),
        pair("p", "no one", 2),
        pair("p", "no two", "contradiction"),
        pair("p", "perhaps", 1),
        pair("q", "so it is", "entailment"),
        pair("r", "never", "contradiction"),
        pair("p", "unsettled", -1),
        pair("p", "odd", "maybe"),
    ]
    path = write(tmp_path / "train.jsonl", records)
    loaded = load(path, "nli")
    assert texts(loaded.rows) == [
        ("p", "yes one", ["no one"]),
        ("p", "yes two", ["no two"]),
        ("q", "so it is", []),
    ]
    assert all(row.symmetric and PREFIX.match(row.positive)[1] == row.task for row in loaded.rows)
    assert loaded.unused == {"neutral": 1, "an unlike pair that no row needs": 1}
    assert [item.reason for item in loaded.quarantined] == ["no gold label", "label 'maybe' is none of an NLI set"]
    assert texts(load(path, "nli", max_negatives=2).rows)[0][2] == ["no one", "no two"]
    without = load(path, "nli", negatives="none")
    assert all(not row.negatives for row in without.rows)
    assert without.unused["an unlike pair that no row needs"] == 3


def test_sts_takes_both_orders_and_low_pairs_as_negatives(tmp_path: Path) -> None:
    def pair(one: str, other: str, score: object) -> dict[str, object]:
        return {"sentence1": one, "sentence2": other, "score": score}

    records = [
        pair("a", "b", 4.5),
        pair("a", "far", 1),
        pair("near", "b", "2.0"),
        pair("x", "y", 3),
        pair("u", "v", 0),
        pair("c", "d", "high"),
        pair("c", "c", 5),
        pair("b", "a", 5),
    ]
    path = write(tmp_path / "train.jsonl", records)
    loaded = load(path, "sts")
    assert texts(loaded.rows) == [("a", "b", ["far"]), ("b", "a", ["near"])]
    assert loaded.unused == {
        "score between 2 and 4": 1,
        "an unlike pair that no row needs": 1,
        "both texts are the same": 1,
        "repeats an earlier row": 1,
    }
    assert [item.reason for item in loaded.quarantined] == ["score: not a number"]
    with pytest.raises(GeckoError, match=r"no pair scores 6 or more; the scores run from 0 to 5"):
        load(path, "sts", min_score=6)


def test_pair_classification(tmp_path: Path) -> None:
    records = [
        {"question1": "a", "question2": "b", "is_duplicate": "1"},
        {"question1": "a", "question2": "c", "is_duplicate": False},
        {"question1": "z", "question2": "c", "is_duplicate": 0},
        {"question1": "e", "question2": "f", "is_duplicate": 3},
    ]
    loaded = load(write(tmp_path / "train.jsonl", records), "pair_classification")
    assert texts(loaded.rows) == [("a", "b", ["c"])]
    assert loaded.rows[0].symmetric
    assert [item.reason for item in loaded.quarantined] == ["label '3' is neither 1 nor 0"]


def test_bitext_goes_both_ways(tmp_path: Path) -> None:
    records = [{"sentence1": "der Hund", "sentence2": "the dog"}, {"sentence1": "Taxi", "sentence2": "Taxi"}]
    path = write(tmp_path / "train.jsonl", records)
    loaded = load(path, "bitext")
    assert texts(loaded.rows) == [("der Hund", "the dog", []), ("the dog", "der Hund", [])]
    assert loaded.unused == {"both texts are the same": 1}
    (one,) = load(path, "bitext", symmetric=False).rows
    assert (one.positive, one.symmetric) == ("title: none | text: the dog", False)


def test_pairs_and_triples_render_passages(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"q": "why", "a": "so", "t": "Reasons"}, {"q": "how", "a": ["thus", "or so"]}])
    pairs = load(path, "pairs", columns={"query": "q", "positive": "a", "title": "t"})
    assert [row.positive for row in pairs.rows] == [
        "title: Reasons | text: so",
        "title: none | text: thus",
        "title: none | text: or so",
    ]
    assert not any(row.symmetric for row in pairs.rows)
    path = write(tmp_path / "t.jsonl", [{"query": "why", "positive": "so", "negative": ["so", "no", "no", "not"]}])
    (row,) = load(path, "triples", max_negatives=5).rows
    assert row.negatives == ("title: none | text: no", "title: none | text: not")
    (row,) = load(path, "triples", symmetric=True, task="paraphrase").rows
    assert row.positive == "task: paraphrase | query: so"


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "jsonl"])
def test_every_container_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    table = {"sentence1": ["a cat", 'the "old" dog'], "sentence2": ["one cat", "a dog, old"], "score": [5.0, 4.2]}
    path = tmp_path / f"train.{suffix}"
    if suffix == "csv":
        pa.csv.write_csv(pa.table(table), path)
    elif suffix == "tsv":
        lines = ["\t".join(table), *("\t".join(map(str, row)) for row in zip(*table.values(), strict=True))]
        path.write_text("\ufeff" + "\n".join(lines))
    elif suffix == "parquet":
        pa.parquet.write_table(pa.table(table), path)
    else:
        write(path, [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)])
    found = texts(load(tmp_path, "sts").rows)
    assert found[0] == ("a cat", "one cat", [])
    assert found[2] == ('the "old" dog', "a dog, old", [])


def test_broken_lines_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(
        b'{"query": "q", "positive": "p"}\n{"query": \n[1]\n\n{"query": "x\xff"}\n{"query": 5, "positive": "p"}\n'
    )
    loaded = load(path, "pairs")
    assert len(loaded.rows) == 1
    assert loaded.read == 5
    assert [item.reason.split(":")[0] for item in loaded.quarantined] == [
        "line 2 is not JSON in UTF-8",
        "line 3 is not a JSON object",
        "line 5 is not JSON in UTF-8",
        "query",
    ]
    path = tmp_path / "train.csv"
    path.write_text("query,positive\nq,p\na,b,c\nonly\n")
    assert [item.reason for item in load(path, "pairs").quarantined] == [
        "3 columns instead of 2: a,b,c",
        "1 columns instead of 2: only",
    ]


def test_bad_input_is_one_line_with_the_source_and_its_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "pets" / "train.jsonl", [{"utterance": "a", "intent": 1}])
    with pytest.raises(GeckoError) as caught:
        load(path, "classification")
    assert caught.value.message == ("source pets: no column 'text' or 'sentence' for text; there are utterance, intent")
    assert caught.value.hint == "name it: columns: {text: COLUMN}"
    with pytest.raises(GeckoError, match=r"no column 'words' for text; there are utterance, intent"):
        load(path, "classification", columns={"text": "words"})
    columns = {"text": "utterance", "label": "intent"}
    with pytest.raises(GeckoError, match=r"pets: all 1 texts have the label '1'"):
        load(path, "classification", columns=columns)
    write(tmp_path / "pets" / "train.jsonl", [{"utterance": "a", "intent": 1}, {"utterance": "b", "intent": 2}])
    with pytest.raises(GeckoError, match=r"none of its 2 labels has two texts"):
        load(path, "classification", columns=columns)
    Path(path).write_text("")
    with pytest.raises(GeckoError, match="no usable text"):
        load(path, "classification")
    with pytest.raises(GeckoError, match=r"gives no row of 0 records \(it is empty\)"):
        load(path, "pairs")
    write(tmp_path / "pets" / "train.jsonl", [{"query": "", "positive": "x"}])
    with pytest.raises(GeckoError, match=r"gives no row of 1 records \(1 set aside, the first for: query: an empty"):
        load(path, "pairs")
    with pytest.raises(GeckoError, match=r"no file of split 'dev' \(train.jsonl\)"):
        load(tmp_path / "pets", "pairs", split="dev")
    with pytest.raises(GeckoError, match="no file or folder"):
        load(tmp_path / "nowhere", "pairs")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(GeckoError, match=r"source x: cannot read .*x.parquet"):
        load(tmp_path / "x.parquet", "pairs")
    (tmp_path / "x.txt").write_text("text")
    with pytest.raises(GeckoError, match="not a kind of file that is read"):
        load(tmp_path / "x.txt", "pairs")
    with pytest.raises(GeckoError, match="is not a BEIR folder"):
        load(path, "retrieval")


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(labelled: str) -> None:
    first, again, other = (load(labelled, "classification", seed=seed).rows for seed in (3, 3, 4))
    assert first == again
    assert [row.query for row in first] == [row.query for row in other]
    assert first != other


def test_a_limit_is_a_sample_by_the_seed_that_does_not_hang_on_the_order(tmp_path: Path) -> None:
    records = [{"query": f"q{n}", "positive": f"p{n}"} for n in range(50)]
    path = write(tmp_path / "a.jsonl", records)
    loaded = load(path, "pairs", limit=10, name="n")
    assert (len(loaded.rows), loaded.left_out, loaded.used) == (10, 40, 50)
    turned = load(write(tmp_path / "b.jsonl", records[::-1]), "pairs", limit=10, name="n")
    assert {row.row_id for row in loaded.rows} == {row.row_id for row in turned.rows}
    assert [row.row_id for row in loaded.rows] == [row.row_id for row in turned.rows[::-1]]
    assert {row.row_id for row in load(path, "pairs", limit=10, name="n", seed=1).rows} != {
        row.row_id for row in loaded.rows
    }


def test_both_task_strings_are_trained_each_on_its_share(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"query": f"q{n}", "positive": f"p{n}"} for n in range(200)])
    tasks = [row.task for row in load(path, "pairs", task=["fact checking", "Given a claim, find proof."]).rows]
    assert 70 < tasks.count("fact checking") < 130
    assert set(tasks) == {"fact checking", "Given a claim, find proof."}


def test_a_hub_data_set_is_streamed_and_its_labels_are_read_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[object] = []

    def fake(name: str, config: str | None, *, split: str, streaming: bool) -> datasets.Dataset:
        asked.append((name, config, split, streaming))
        features = datasets.Features(
            premise=datasets.Value("string"),
            hypothesis=datasets.Value("string"),
            label=datasets.ClassLabel(names=["contradiction", "entailment"]),
        )
        return datasets.Dataset.from_dict(
            {"premise": ["p", "p", "p"], "hypothesis": ["not", "yes", "?"], "label": [0, 1, -1]}, features=features
        )

    monkeypatch.setattr(datasets, "load_dataset", fake)
    loaded = load("hf://owner/sets/en", "nli")
    assert asked == [("owner/sets", "en", "train", True)]
    assert texts(loaded.rows) == [("p", "yes", ["not"])]
    assert loaded.rows[0].source == "owner/sets/en"

    def away(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", away)
    with pytest.raises(GeckoError, match=r"cannot load hf://owner/sets: no network"):
        load("hf://owner/sets", "nli")


def test_a_mixture_is_checked_before_it_is_loaded(tmp_path: Path, labelled: str) -> None:
    pairs = write(tmp_path / "pairs.jsonl", [{"query": "q", "positive": "p"}])
    good = MixtureOptions.model_validate(
        {"sources": [{"path": labelled, "kind": "classification"}, {"path": pairs, "kind": "pairs"}]}
    )
    check_sources(good)
    state = mixture_state(good)
    assert [Path(name).name for name, *_ in state] == ["train.jsonl", "pairs.jsonl"]
    assert [len(loaded.rows) for loaded in load_mixture(good, "gecko", 0)] == [24, 1]
    write(tmp_path / "pairs.jsonl", [{"question": "q", "reply": "p"}])
    assert mixture_state(good) != state
    with pytest.raises(GeckoError, match="source pairs: no column 'positive'"):
        check_sources(good)
    beir = MixtureOptions.model_validate({"sources": [{"path": str(tmp_path), "kind": "retrieval"}]})
    with pytest.raises(GeckoError, match=r"there is no .*corpus.jsonl"):
        check_sources(beir)
