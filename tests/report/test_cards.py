"""The cards say what a run's files say: every figure is compared with a count of its own, not with words."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from gecko.mixture.format import DOCUMENT_PROMPT, query_prompt, render_passage
from gecko.recipe import Recipe
from gecko.records import CANDIDATE, FRET, PASSAGES, QUARANTINE, UNIFIED, Quarantined
from gecko.report.card import write_cards
from gecko.report.columns import CANDIDATE_COLUMNS, FRET_COLUMNS, PASSAGE_COLUMNS, UNIFIED_COLUMNS
from gecko.report.dataset_card import DISTILLED_CARD, RUN_CARD, write_distilled_card
from gecko.report.licences import stated_licence
from gecko.report.own import write_own_card
from gecko.shards import write_table
from gecko.teacher.ledger import Ledger

SECRET = "the whole text of an evaluation question that nobody may read in a published card, since it is long"


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def task_result(kind: str, name: str, metric: str, tuned: float, low: float, high: float) -> dict[str, Any]:
    delta = round((low + high) / 2, 6)
    row = {"task_type": kind, "dataset": name, "metric": metric, "n": 100, "base": tuned - delta, "tuned": tuned}
    return row | {"delta": delta, "ci95": [low, high]}


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change; the human-labelled source it names stays where it is."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.fixture(scope="module")
def whole(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report's run with all that cards read beside: a mixture, a ledger, an audit, general tasks, a model."""
    tmp_path = tmp_path_factory.mktemp("cards")
    run, labelled = make_run(tmp_path / "run"), tmp_path / "human" / "topics"
    labelled.mkdir(parents=True)
    (labelled / "README.md").write_text(
        "# Topics\n\n## Licence (as stated)\nCC BY-SA 4.0, by the *authors*.\n\n## Sizes\n"
    )
    sources = [
        {"path": str(labelled), "kind": "classification"},
        {"path": "hf://owner/pairs/en", "kind": "pairs", "name": "hub-pairs"},
    ]
    recipe = Recipe.model_validate(
        {
            "corpus": {"sources": [str(tmp_path / "handbook")]},
            "teacher": {"spec": "openai:writer", "base_url": "http://secret.example/v1"},
            "train": {"student": "all-MiniLM-L6-v2", "dims": [384, 128], "max_length": 200},
            "mixture": {"sources": sources},
        }
    )
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    rows = [
        {
            "row_id": f"{source}{i}",
            "task": f"task {i % 3}",
            "query": "q",
            "positive": "p",
            "negatives": ["n"] * (i % 2),
            "symmetric": source == "topics",
            "source": source,
        }
        for source, count in (("fret", 550), ("topics", 24), ("hub-pairs", 11))
        for i in range(count)
    ]
    (run / "mixture").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, UNIFIED), run / "mixture" / "part-00000.parquet")
    bad = [Quarantined("mixture", str(i), f"cannot read {tmp_path}/human/x.jsonl", "") for i in range(5)]
    skipped = [Quarantined("generate", str(i), f"skipped by the teacher: reason {i}", "") for i in range(20)]
    twins = [Quarantined("corpus", str(i), f"near duplicate of p{i}", "") for i in range(3)]
    write_table(run / "queries" / "quarantine.parquet", skipped, QUARANTINE)
    write_table(run / "passages" / "quarantine.parquet", twins, QUARANTINE)
    write_table(run / "mixture" / "quarantine.parquet", bad, QUARANTINE)
    # Rows as stages name them, so that a card can read them.
    for path in [*run.glob("fret/0*.parquet"), *run.glob("passages/0*.parquet")]:
        path.rename(path.with_name(f"part-{path.name}"))
    account = {"source": "topics", "rows": 24, "read": 31, "used": 24, "unused": {"a repeat": 2}, "quarantined": 5}
    write(run / "mixture" / "_stage.json", {"rows": 585, "sources": [account | {"left_out": 0}]})
    write(run / "queries" / "_stage.json", {"rows": 611, "seeds": 640})
    drawn = [("fret", 550, 0.75, 1.9), ("topics", 24, 0.15, 3.1), ("hub-pairs", 11, 0.1, 4.0)]
    mixture = [{"source": n, "kind": "k", "rows": r, "share": s, "epochs": e} for n, r, s, e in drawn]
    write(run / "train" / "history.json", {"rows": 585, "steps": 77, "mixture": {"sources": mixture}, "soup": []})
    score = {"alpha": 0.75, "dev_gain": 0.082, "dev_ci95": [0.051, 0.114], "probe_gain": -0.004}
    gate = {"chosen": "interpolated", "alpha": 0.75, "reason": "best dev score", "scores": [score], "dev_queries": 43}
    write(run / "gate" / "gate.json", gate)
    evaluation = json.loads((run / "evaluation.json").read_text())
    tasks = [
        task_result("clustering", "snippets", "v_measure", 0.45, -0.05, -0.01),
        task_result("sts", "stsb", "cosine_spearman", 0.8, -0.004, 0.001),
        task_result("classification", "banking", "accuracy", 0.7, 0.01, 0.03),
    ]
    small = [row | {"dim": 128, "tuned": 0.1} for row in tasks]
    tasks = [row | {"dim": 384} for row in tasks]
    evaluation["tasks"] = {"results": [*tasks, *small], "mean": {}, "sets": [], "skipped": []}
    write(run / "evaluation.json", evaluation)
    found = {"rows": 2, "texts": 1, "kinds": {"exact": 2}}
    one = {"set": "scifact", "questions": 300, "documents": 9, "leaks": found, "overlaps": {"rows": 3}}
    leak = {"leak": True, "set": "scifact", "evaluation_id": "q1", "match": "exact", "evaluation_side": "query"}
    audit = {"rows": 587, "leaked": 2, "overlapping": 3, "action": "drop", "dropped": 2, "sets": [one]}
    audit |= {"examples": [leak | {"row_text": SECRET, "evaluation_text": SECRET}], "skipped": [], "common_ngrams": 0}
    write(run / "audit" / "audit.json", audit)
    write(run / "model" / "config_sentence_transformers.json", config())
    write(run / "model" / "sentence_bert_config.json", {"max_seq_length": 222})
    write(run / "model" / "1_Pooling" / "config.json", {"word_embedding_dimension": 384})
    for part in run.glob("ledger.sqlite*"):
        part.unlink()
    with Ledger(run / "ledger.sqlite") as ledger:
        for i in range(3):
            ledger.put(f"w{i}", "write", {"model": str(tmp_path / "llm.gguf")}, {}, 100, 7, 0.25)
        ledger.put("r", "grade", {"model": "judge"}, {}, 1000, 1, 0.5)
        ledger.put("f", "grade", {"model": "judge"}, {}, 0, 0, 0.0, error="timeout")
    return run


def config(**more: object) -> dict[str, Any]:
    prompts = {"query": query_prompt(), "document": DOCUMENT_PROMPT}
    return {"prompts": prompts, "similarity_fn_name": "dot", "__version__": {"transformers": "9.9.9"}} | more


def card(run: Path, of: str = "model/README.md") -> str:
    write_cards(run)
    return (run / of).read_text()


def data_card(run: Path) -> str:
    return card(run, "README.md")


def front(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---")[1])


def lines(text: str, *cells: object) -> list[list[str]]:
    """The lines of tables that begin with these cells."""
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines()]
    return [row for row in rows if row[: len(cells)] == [str(cell) for cell in cells]]


def test_the_model_card_gives_the_strings_of_training_the_similarity_and_the_sizes(run: Path) -> None:
    text = card(run)
    assert f"`{query_prompt()}{{query}}`" in text
    assert f"`{render_passage('{title}', '{text}')}`" in text
    assert f"`{render_passage('', '{text}')}`" in text
    assert "Similarity: dot. Trained for vectors of 384, 128 dimensions; `truncate_dim=128`" in text
    assert "At most 222 tokens" in text and "texts were cut at 200 tokens" in text
    write(run / "model" / "1_Pooling" / "config.json", {"word_embedding_dimension": 768})
    text = card(run)
    assert "vectors of 768, 384, 128 dimensions; `truncate_dim=384`" in text and "at 768, 384, 128 dim" in text
    write(run / "model" / "config_sentence_transformers.json", config(prompts={"query": "find: ", "document": ""}))
    text = card(run)
    assert "`find: {query}`" in text and "`{title} {text}`" in text and "task: " not in text.split("## Training")[0]


def test_a_model_trained_for_whole_vectors_alone_has_a_card(run: Path) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["train"]["dims"] = []
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert "truncate_dim" not in write_cards(run).read_text()


def test_the_model_card_counts_rows_sources_licences_and_what_was_set_aside(run: Path) -> None:
    text = card(run)
    rows = pq.read_table(run / "fret" / "part-00000.parquet").to_pylist()
    moved = sum(row["relabelled"] for row in rows)
    bare = sum(not row["negative_id"] for row in rows)
    assert "600 FRet rows" in text and f"({moved:,}) have another positive" in text
    assert f"{bare:,} have no hard negative" in text
    assert "550 of them were trained on, 43 were held out for the gate." in text
    assert "Fine-tuned on 585 rows in 77 steps.\n" in text
    assert lines(text, "topics", "k", r"CC BY-SA 4.0, by the \*authors\* (topics/README.md)", 24, "15.0%", "3.10")
    assert lines(text, "hub-pairs", "k", "licence not stated", 11)
    assert front(text)["datasets"] == ["owner/pairs"]
    languages = Counter(row["lang"] for path in run.glob("passages/part*") for row in pq.read_table(path).to_pylist())
    assert f"900 passages (en ({languages['en']}), de ({languages['de']}))" in text
    assert front(text)["language"] == ["en", "de"]
    assert ["fret", "reply is not JSON", "7"] in lines(text, "fret")
    assert ["mixture", "cannot read x.jsonl", "5"] in lines(text, "mixture")
    assert ["generate", "skipped by the teacher", "20"] in lines(text, "generate")
    assert ["corpus", "near duplicate", "3"] in lines(text, "corpus")
    assert "36 in all" in text


def test_the_model_card_says_who_taught_and_what_the_calls_cost(run: Path, whole: Path) -> None:
    text = card(run)
    assert ["recorded:stdlib", "-", "grades", r"grade\_v1", "600"] in lines(text)
    assert ["write", "llm.gguf", "3", "0", "300", "21", "0.75"] in lines(text)
    assert ["grade", "judge", "1", "1", "1,000", "1", "0.50"] in lines(text)
    assert ["total", "", "4", "1", "1,300", "22", "1.25"] in lines(text)
    assert str(whole.parent) not in text and "secret.example" not in text
    (run / "ledger.sqlite").unlink()
    assert "There is no ledger" in card(run)


def test_the_hub_reads_the_model_card_s_figures_as_those_of_the_evaluation(run: Path) -> None:
    from huggingface_hub import ModelCard

    write_cards(run)
    data = ModelCard.load(run / "model" / "README.md").data
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2" and data.library_name == "sentence-transformers"
    measured = json.loads((run / "evaluation.json").read_text())
    rows = [r for r in measured["results"] if r["metric"] == "ndcg_at_10"] + measured["tasks"]["results"]
    wanted = {(r["dataset"], r["metric"], round(r["tuned"], 5)) for r in rows if r["dim"] == 384}
    assert {(r.dataset_name, r.metric_type, r.metric_value) for r in data.eval_results} == wanted
    assert {r.task_type for r in data.eval_results} == {"Retrieval", "Clustering", "STS", "Classification"}
    text = card(run)
    for row in rows:
        low, high = (100 * bound for bound in row["ci95"])
        gain = f"{100 * row['delta']:+.1f} [{low:+.1f}, {high:+.1f}]"
        cells = [line for line in lines(text) if row["dataset"] in line[:2] and str(row["dim"]) in line]
        assert any(gain in line and f"{100 * row['tuned']:.1f}" in line for line in cells), (row, cells)
    assert (
        "On 43 held-out queries that the teacher wrote, the gate measured +8.2 points of nDCG@10 [+5.1, +11.4]" in text
    )
    assert "probe of general questions changed by -0.4 points" in text
    assert "Better than the base" in text.split("## Use")[0]
    # All figures of a task are there, those at smaller sizes folded away.
    shown, folded = text.split("<details>")[0], text.split("<details>")[1].split("</details>")[0]
    assert lines(shown, "sts", "stsb", "cosine_spearman", 384) and not lines(
        shown, "sts", "stsb", "cosine_spearman", 128
    )
    assert lines(folded, "sts", "stsb", "cosine_spearman", 128)


def test_the_limits_name_what_was_lost_and_what_was_not_measured(run: Path) -> None:
    text = card(run).split("## Limits")[1]
    assert "of 3 general tasks at 384 dimensions 2 are below the base, 1 with an interval wholly below zero" in text
    assert "(snippets -3.0); the lowest is snippets, -3.0 points" in text
    assert "Not measured in this run: reranking, pair classification, bitext, summarization." in text
    measured = json.loads((run / "evaluation.json").read_text())
    del measured["tasks"]
    write(run / "evaluation.json", measured)
    text = card(run).split("## Limits")[1]
    assert "what tuning costs on other tasks was not measured" in text and "sts" in text.split("Not measured")[1]


def test_the_model_card_says_what_was_rehearsed_and_what_else_the_loss_was(run: Path) -> None:
    assert "No general texts were rehearsed" in card(run)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())

    def told(**train: Any) -> str:
        (run / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"train": recipe["train"] | train}))
        return card(run).split("## Training data")[1].split("## Teacher")[0]

    text = told(rehearse={"weight": 7.5, "count": 33, "texts": "general"}, temperature=0.07, same_tower=False)
    assert "in every step 33 general English texts" in text and "with weight 7.5" in text
    assert "temperature 0.07" in text and "other rows' positives" in text and "other rows' queries" not in text
    assert "frequent words (de)" in told(rehearse={"weight": 1, "count": 8, "texts": "words:de"})
    text = told(rehearse={"weight": 1, "count": 8, "texts": "/home/me/own.txt"}, spread={"weight": 0.3})
    assert "the file own.txt" in text and "/home/me" not in text and "(weight 0.3)" in text


def test_a_leak_is_told_without_the_text_of_the_evaluation_set(run: Path) -> None:
    text = card(run)
    assert "2 rows ask 1 of 300 questions" in text and SECRET[:40] in text
    assert SECRET not in text and SECRET[:90] not in text
    (run / "audit" / "audit.json").unlink()
    (run / "audit").rmdir()
    assert "were not audited" in card(run)


def test_a_base_that_was_shipped_unchanged_keeps_its_licence_and_nothing_is_claimed_of_it(run: Path) -> None:
    assert "license" not in front(card(run))
    write(run / "gate" / "gate.json", {"chosen": "base", "alpha": 0.0, "reason": "no gain", "scores": []})
    text = card(run)
    assert front(text)["license"] == "apache-2.0"
    assert "none of this has gone into these weights" in text and "Trained for vectors" not in text
    assert "Language: tuned" not in text and "tuned with gecko" not in text


@pytest.mark.parametrize(
    ("files", "stated"),
    [
        ({"README.md": "---\nlicense: cc-by-4.0\n---\n# x"}, "cc-by-4.0 (data/README.md)"),
        ({"README.md": "# x\n**License**: MIT\n"}, "MIT (data/README.md)"),
        (
            {"README.md": "# x\n## Licence\n\n## Sizes\nmany\n", "LICENSE": "MIT License\nmore"},
            "MIT License (data/LICENSE)",
        ),
        ({"dataset_infos.json": '{"default": {"license": "odc-by"}}'}, "odc-by (data/dataset_infos.json)"),
        ({"datapackage.json": '{"licenses": [{"name": "A"}, {"title": "B"}]}'}, "A, B (data/datapackage.json)"),
        ({"README.md": "the licensed driver: a story"}, "licence not stated"),
        ({"metadata.json": "not JSON"}, "licence not stated"),
        ({}, "licence not stated"),
    ],
)
def test_a_licence_is_what_the_files_beside_the_data_state(tmp_path: Path, files: dict, stated: str) -> None:
    (tmp_path / "data").mkdir()
    for name, text in files.items():
        (tmp_path / "data" / name).write_text(text)
    (tmp_path / "data" / "train.jsonl").touch()
    assert stated_licence(str(tmp_path / "data")) == stated
    assert stated_licence(str(tmp_path / "data" / "train.jsonl")) == stated
    assert stated_licence(str(tmp_path / "absent")) == "licence not stated"


def test_the_readme_above_speaks_for_a_folder_only_where_it_names_it(tmp_path: Path) -> None:
    for name in ("en", "tence"):
        (tmp_path / name).mkdir()
    (tmp_path / "README.md").write_text("A sentence. Folders: `en/`.\n## License\nMIT\n")
    assert stated_licence(str(tmp_path / "en")).startswith("MIT (")
    assert stated_licence(str(tmp_path / "tence")) == "licence not stated"


def test_every_column_has_a_meaning_and_stands_in_the_card(run: Path) -> None:
    assert list(FRET_COLUMNS) == FRET.names and list(UNIFIED_COLUMNS) == UNIFIED.names
    assert list(PASSAGE_COLUMNS) == PASSAGES.names
    assert list(CANDIDATE_COLUMNS) == [CANDIDATE.field(i).name for i in range(CANDIDATE.num_fields)]
    text = data_card(run)
    for columns in (FRET_COLUMNS, CANDIDATE_COLUMNS, UNIFIED_COLUMNS, PASSAGE_COLUMNS):
        assert all(lines(text, f"`{name}`", meaning) for name, meaning in columns.items())


def test_the_folders_of_a_run_stay_folders_of_parquet_and_its_root_is_a_data_set(run: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    write_cards(run)
    for of, rows in (("fret", 600), ("mixture", 585), ("passages", 900)):
        loaded = load_dataset(str(run), of, split="train", cache_dir=str(tmp_path / "cache"))
        assert loaded.column_names == pq.read_schema(run / of / "part-00000.parquet").names and len(loaded) == rows
        (run / of / "quarantine.parquet").unlink()
        assert pq.read_table(run / of).num_rows == rows  # as do pandas and all that stands on Arrow
    assert len(load_dataset(str(run), split="train", cache_dir=str(tmp_path / "cache"))) == 600


def test_the_card_of_distilled_rows_leaves_their_folder_readable(run: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    folder = run / "fret"
    (folder / "quarantine.parquet").unlink()
    write_distilled_card(folder, run / "passages", Recipe().model_dump(mode="json"))
    assert pq.read_table(folder).num_rows == 600
    assert len(load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "one"))) == 600
    text = (folder / DISTILLED_CARD).read_text()
    assert front(text)["pretty_name"] == "FRet rows of passages" and str(run) not in text
    # On the Hub it is the README.md beside the shards.
    (folder / DISTILLED_CARD).rename(folder / RUN_CARD)
    assert len(load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "two"))) == 600


def test_the_data_card_says_how_many_rows_came_of_what_by_whom(run: Path, whole: Path) -> None:
    text = data_card(run)
    assert front(text)["size_categories"] == ["1K<n<10K"]
    assert front(text)["pretty_name"] == "FRet rows and training mixture of handbook"
    assert "From 640 seed passages came 611 queries, from these 600 rows." in text
    assert ["fret", "reply is not JSON", "7"] in lines(text, "fret") and "36 in all" in text
    assert ["total", "", "4", "1", "1,300", "22", "1.25"] in lines(text)
    assert "fused: 1 / (rank by QL) + 1 / (rank by RC)" in text
    assert "negative: the best-ranked with an RC of at most 1 " in text
    assert str(whole.parent) not in text and "secret.example" not in text


def test_the_data_card_counts_each_source_of_the_mixture_with_its_licence(run: Path) -> None:
    text = data_card(run).split("## Training mixture")[1]
    licence = r"CC BY-SA 4.0, by the \*authors\* (topics/README.md)"
    assert ["topics", "classification", licence, "24", "0.50", "3", "yes"] in lines(text)
    assert ["hub-pairs", "pairs", "licence not stated", "11", "0.45", "3", "no"] in lines(text)
    assert ["topics", "31", "24", "2", "5", "0"] in lines(text)
    assert "585 rows:" in text and "Of 600 FRet rows 43 were held out" in text
    assert "2 rows were dropped because they ask" in text
    assert front(data_card(run))["source_datasets"] == ["owner/pairs"]


def test_a_card_that_someone_made_theirs_is_kept(tmp_path: Path) -> None:
    place = tmp_path / "README.md"
    write_own_card(place, "one")
    ours = place.read_text()
    write_own_card(place, "two")
    assert place.read_text() == ours.replace("one", "two", 1)
    place.write_text("my own words")
    write_own_card(place, "three")
    assert place.read_text() == "my own words"
