"""Queries in several languages from the recipe to the report, and what a teacher that cannot write them says."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent / "teacher"))

from endpoint import Endpoint

from gecko.checks import check_languages
from gecko.cli import app
from gecko.errors import UsageError
from gecko.mixture.load import check_sources, load_source
from gecko.recipe import FretOptions, load_recipe
from gecko.report.gather import read_fret
from gecko.report.pictures import fret_part
from gecko.report.training_part import fret_line
from gecko.shards import read_json, read_rows, to_fret, to_passage
from gecko.teacher.wishes import wishes

RECIPES = Path(__file__).parents[1] / "recipes"
ANIMALS = ("ant", "bear", "cat", "dog", "eel", "fox", "goat", "hen", "ibis", "jay")
MIX = "teacher.prompts.language={same: 1, German: 1}"


def polyglot(body: dict[str, Any]) -> str:
    """A model that writes German where it is asked to."""
    shown = body["messages"][-1]["content"]
    return reply(shown, german="language: German" in shown)


def monoglot(body: dict[str, Any]) -> str:
    """A model that writes English whatever it is asked."""
    return reply(body["messages"][-1]["content"], german=False)


def reply(shown: str, *, german: bool) -> str:
    if "Wish:" not in shown:
        lines = re.findall(r"^\[\d+\]", shown, re.MULTILINE)
        return json.dumps({"grades": [3] * len(lines), "order": list(range(1, len(lines) + 1))})
    found = re.findall(r"the (\w+) number \d+ lives", shown.lower())
    animal = found[0] if found else "thing"  # of the passages that probing shows
    query = f"wo wohnt das Tier, das {animal} heisst" if german else f"where is the home of the {animal} to be found"
    return json.dumps({"skip": "", "task": "Given a question, find a passage that answers it.", "query": query})


@pytest.fixture(scope="module")
def passages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rows = [
        {
            "_id": name,
            "title": name,
            "text": f"The {name} number {n} lives by the river and sleeps under the old trees.",
        }
        for n, name in enumerate(ANIMALS)
    ]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = CliRunner().invoke(app, ["corpus", str(folder / "corpus.jsonl"), "--out", str(folder / "passages")])
    assert result.exit_code == 0, result.output
    assert len(list(read_rows(folder / "passages", to_passage))) == len(ANIMALS)
    return folder / "passages"


def distill(
    passages: Path, out: Path, tiny_model: str, teacher: str, *settings: str, url: str = "http://127.0.0.1:9/v1"
) -> tuple[int, dict[str, Any], str]:
    own = (f"fret.miner={tiny_model}", "fret.neighbours=3", f"teacher.base_url={url}")
    more = [part for setting in (*own, *settings) for part in ("--set", setting)]
    folders = ["--corpus", str(passages), "--out", str(out), "--teacher", teacher]
    result = CliRunner().invoke(app, ["distill", *folders, *more, "--json"])
    return result.exit_code, json.loads(result.stdout) if result.exit_code == 0 else {}, result.stderr


def facts_of(out: Path, stage: str) -> dict[str, Any]:
    return read_json(out / ".work" / stage / "_stage.json" if stage == "queries" else out / "_stage.json") or {}


def test_a_mix_of_languages_makes_cross_lingual_rows_that_are_counted(
    passages: Path, tiny_model: str, tmp_path: Path
) -> None:
    with Endpoint(reply=polyglot) as endpoint:
        code, summary, said = distill(passages, tmp_path / "fret", tiny_model, "openai:toy", MIX, url=endpoint.url)
    assert code == 0, said
    rows = list(read_rows(tmp_path / "fret", to_fret))
    languages = Counter(row.lang for row in rows)
    assert len(rows) == summary["rows"] == len(ANIMALS)
    assert set(languages) == {"en", "de"}
    assert all((row.lang == "de") == row.query.startswith("wo wohnt") for row in rows)
    assert summary["cross_lingual"] == languages["de"]
    assert facts_of(tmp_path / "fret", "fret")["languages"] == dict(languages)
    queries = facts_of(tmp_path / "fret", "queries")
    assert (queries["cross_lingual"], queries["other_language"]) == (languages["de"], 0)
    assert "another language than expected" not in said
    found = read_fret(tmp_path / "fret")
    assert found.cross_lingual == languages["de"]
    assert f"{languages['de']} find a passage in another language" in fret_line(found, FretOptions().model_dump())
    assert fret_part(found, None, [])["cross_lingual"] == languages["de"]


def test_a_model_that_does_not_follow_the_wish_is_told_and_its_queries_are_kept(
    passages: Path, tiny_model: str, tmp_path: Path
) -> None:
    with Endpoint(reply=monoglot) as endpoint:
        code, summary, said = distill(passages, tmp_path / "fret", tiny_model, "openai:toy", MIX, url=endpoint.url)
    assert code == 0, said
    options = load_recipe(None, [MIX]).teacher.prompts
    rows = list(read_rows(tmp_path / "fret", to_fret))
    asked = sum("language" in wishes(passage_of(passages, row.seed_id), options) for row in rows)
    assert 0 < asked < len(rows) == len(ANIMALS)
    line = f"{asked} of {len(ANIMALS)} queries came in another language than expected; they are kept"
    assert line in " ".join(said.split())
    assert facts_of(tmp_path / "fret", "queries")["other_language"] == asked
    assert summary["cross_lingual"] == 0
    assert {row.lang for row in rows} == {"en"}


def passage_of(passages: Path, passage_id: str) -> Any:
    return next(row for row in read_rows(passages, to_passage) if row.passage_id == passage_id)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        (MIX, "the offline teacher cannot translate: it writes in the passage's own language, not in German"),
        ("teacher.prompts.language=French", "cannot translate: .* not in French"),
        ("teacher.prompts.task_language=query", "cannot translate: its tasks are in English"),
    ],
)
def test_the_offline_teacher_says_that_it_cannot_translate(
    passages: Path, tiny_model: str, tmp_path: Path, setting: str, line: str
) -> None:
    code, _, said = distill(passages, tmp_path / "fret", tiny_model, "offline", setting)
    assert code == 2
    assert re.search(line, " ".join(said.split()))
    assert "teacher.writer" in said
    assert not (tmp_path / "fret" / "_stage.json").exists()
    with pytest.raises(UsageError, match=line):
        check_languages(load_recipe(None, ["teacher.spec=offline", setting]))


def test_the_offline_teacher_may_rank_what_another_wrote_in_other_languages(
    passages: Path, tiny_model: str, tmp_path: Path
) -> None:
    with Endpoint(reply=polyglot) as endpoint:
        settings = (MIX, "teacher.ranker=offline", "fret.min_positive_rc=0")
        code, summary, said = distill(
            passages, tmp_path / "fret", tiny_model, "openai:toy", *settings, url=endpoint.url
        )
    assert code == 0, said
    rows = list(read_rows(tmp_path / "fret", to_fret))
    assert summary["cross_lingual"] > 0
    assert len(rows) == len(ANIMALS)  # none is set aside as unanswerable for want of common words
    for row in rows:
        crossing = row.lang == "de"
        assert all(candidate.rc is None for candidate in row.candidates) == crossing
        assert not crossing or (row.positive_id, row.negative_id) == (row.seed_id, "")
        assert ("words of de" in row.note) == crossing


def test_recorded_replies_stay_as_they_are_and_say_so(passages: Path, tiny_model: str, tmp_path: Path) -> None:
    (tmp_path / "recorded").mkdir()
    replies = [{"id": name, "task": "Find it.", "query": f"wo wohnt das Tier, das {name} heisst"} for name in ANIMALS]
    (tmp_path / "recorded" / "generations.jsonl").write_text("\n".join(map(json.dumps, replies)))
    teacher = f"recorded:{tmp_path / 'recorded'}"
    code, summary, said = distill(passages, tmp_path / "fret", tiny_model, teacher, "teacher.prompts.language=French")
    assert code == 0, said
    assert "recorded replies stay in the languages they were recorded in" in " ".join(said.split())
    assert {row.lang for row in read_rows(tmp_path / "fret", to_fret)} == {"de"}
    assert summary["cross_lingual"] == len(ANIMALS)
    _, _, plain = distill(passages, tmp_path / "plain", tiny_model, teacher)
    assert "recorded in" not in plain


def test_an_english_miner_is_named_where_other_languages_are_wished() -> None:
    def lines(*settings: str) -> list[str]:
        return check_languages(load_recipe(None, ["teacher.spec=openai:x", *settings]))

    (line,) = lines(MIX)
    assert line.startswith("fret.miner all-MiniLM-L6-v2 knows English only: queries in German find few")
    assert lines() == lines(MIX, "fret.miner=some/other") == []


# What each data set of the recipe holds, as its card on the Hub tells it.
SHAPES: dict[str, Callable[[int], dict[str, Any]]] = {
    "sentence-transformers/parallel-sentences-wikimatrix": lambda n: {
        "english": f"a cat {n}",
        "non_english": f"gato {n}",
    },
    "sentence-transformers/miracl": lambda n: {"anchor": f"who {n}", "positive": f"he {n}", "negative": f"she {n}"},
    "facebook/xnli": lambda n: {"premise": f"un gato {n // 3}", "hypothesis": f"un animal {n}", "label": n % 3},
    "PhilipMay/stsb_multi_mt": lambda n: {"sentence1": f"a {n}", "sentence2": f"b {n}", "similarity_score": n % 6},
}


def test_the_multilingual_recipe_finds_its_columns_in_what_the_hub_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    if not RECIPES.is_dir():
        pytest.skip("recipes/ is not beside the tests")
    recipe = load_recipe(RECIPES / "multilingual.yaml")
    asked = []

    def load_dataset(path: str, config: str | None, **options: Any) -> Any:
        asked.append((path, config))
        assert options["split"] == "train"
        rows = [SHAPES[path](n) for n in range(30)]
        made = datasets.Dataset.from_list(rows)
        if path == "facebook/xnli":
            made = made.cast_column("label", datasets.ClassLabel(names=["entailment", "neutral", "contradiction"]))
        return made.to_iterable_dataset()

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    check_sources(recipe.mixture)
    kinds = Counter(source.kind for source in recipe.mixture.sources)
    assert set(kinds) == {"bitext", "nli", "sts", "triples"}
    assert min(kinds.values()) > 1  # each in several languages
    for source in recipe.mixture.sources:
        loaded = load_source(source, recipe.train.text_format, recipe.seed)
        assert not loaded.quarantined
        assert loaded.rows
        if source.kind == "bitext":
            assert {row.query for row in loaded.rows} >= {"a cat 1", "gato 1"}  # both directions
    assert len(set(asked)) == len(recipe.mixture.sources)
    assert "tatoeba" not in str(asked).lower()  # a test set
    assert "xquad" not in str(asked).lower()


def test_the_multilingual_recipe_asks_for_languages_that_can_be_checked_and_names_models_that_know_them() -> None:
    if not RECIPES.is_dir():
        pytest.skip("recipes/ is not beside the tests")
    from gecko.corpus.language import code_of

    recipe = load_recipe(RECIPES / "multilingual.yaml")
    mix = recipe.teacher.prompts.language_mix
    assert mix.pop("same") > 0
    assert len(mix) > 2
    assert all(code_of(name) for name in mix)
    assert check_languages(recipe) == []
    assert recipe.fret.miner != "all-MiniLM-L6-v2"
    assert recipe.train.student != "all-MiniLM-L6-v2"
