"""Languages among the wishes: drawn by passage and seed, and nothing changed where none is asked for."""

from __future__ import annotations

import random
import re
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gecko.corpus.language import code_of, detect, detect_among
from gecko.errors import UsageError
from gecko.recipe import dump_recipe, load_recipe
from gecko.records import GeneratedQuery, Passage, content_id
from gecko.teacher import prompting
from gecko.teacher.ask import Write, request_of
from gecko.teacher.ledger import Ledger, call_key
from gecko.teacher.ledgered import LedgeredTeacher
from gecko.teacher.offline.teacher import OfflineTeacher
from gecko.teacher.prompting import VERSION, generate_prompt, version_of
from gecko.teacher.wishes import PromptOptions, wishes

MIX = {"same": 0.6, "German": 0.2, "Chinese": 0.2}


def passage(text: str, title: str = "", lang: str = "en", source_id: str = "s") -> Passage:
    return Passage(content_id(title, text), source_id, title, text, "test", lang)


MANY = [passage(f"number {number}") for number in range(3000)]


def wished(one: Passage, language: Any, seed: int = 3, **more: Any) -> str:
    return wishes(one, PromptOptions(language=language, **more), seed).get("language", "")


def test_languages_are_drawn_by_passage_and_seed_in_the_shares_of_the_mix() -> None:
    drawn = {one.passage_id: wished(one, MIX) for one in MANY}
    shares = {name: count / len(MANY) for name, count in Counter(drawn.values()).items()}
    assert shares == pytest.approx({"": 0.6, "German": 0.2, "Chinese": 0.2}, abs=0.03)
    assert any(wished(one, MIX, seed=4) != drawn[one.passage_id] for one in MANY)
    shuffled = random.Random(1).sample(MANY, len(MANY))
    for mix in (MIX, dict(reversed(MIX.items())), {**MIX, "French": 0}, {name: 10 * w for name, w in MIX.items()}):
        assert {one.passage_id: wished(one, mix) for one in shuffled} == drawn
    # What else is wished neither changes the language nor is changed by it.
    assert {one.passage_id: wished(one, MIX, length="short", persona="a cook") for one in MANY} == drawn
    asking = [one for one in MANY if wishes(one, PromptOptions(), 3)["kind"] == "question answering"]
    assert sum(drawn[one.passage_id] == "" for one in asking) / len(asking) == pytest.approx(0.6, abs=0.04)
    plain = PromptOptions()
    for one in MANY[:200]:
        with_language = wishes(one, PromptOptions(language=MIX), 3)
        with_language.pop("language", None)
        assert with_language == wishes(one, plain, 3)


def test_one_language_is_wished_of_all_and_the_own_one_of_none() -> None:
    assert {wished(one, " German ") for one in MANY[:50]} == {"German"}
    for same in ("same", "Same", {"same": 1}, {"SAME": 2, "German": 0}):
        assert {wished(one, same) for one in MANY[:50]} == {""}
        assert "language:" not in generate_prompt(MANY[0], PromptOptions(language=same)).own


def test_the_wish_is_shown_to_the_model() -> None:
    options = PromptOptions(language=MIX)
    for one in MANY[:100]:
        line = generate_prompt(one, options, 3).own.splitlines()[0]
        language = wished(one, MIX)
        assert line.endswith(f"; language: {language}") if language else "language:" not in line


@pytest.mark.parametrize(
    "wrong",
    [
        {}, [], 3, None, {"German": -1}, {"German": "much"}, {"German": True}, {"German": 0}, {"": 1}, {" ": 1},
        {False: 1}, {"German": float("nan")}, {"German": float("inf")}, {"German": 1, "german": 2}, {"x" * 50: 1},
        {"same": 1, "Same": 1}, ["German"],
    ],
)  # fmt: skip
def test_wrong_mixes_are_refused_in_one_line(wrong: Any) -> None:
    with pytest.raises(ValueError, match="language"):
        PromptOptions(language=wrong)


def test_a_mix_is_set_on_the_command_line_and_survives_the_recipe_of_a_run(tmp_path: Path) -> None:
    recipe = load_recipe(None, ["teacher.prompts.language={same: 0.6, German: 0.2, Chinese: 0.2}"])
    assert recipe.teacher.prompts.language == recipe.teacher.prompts.language_mix == MIX
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    with pytest.raises(UsageError, match=r"^recipe: teacher.prompts.language: the weight of 'German' is -1, not a"):
        load_recipe(None, ["teacher.prompts.language={German: -1}"])
    with pytest.raises(UsageError, match="not False") as caught:
        load_recipe(None, ["teacher.prompts.language={no: 1}"])  # YAML's no
    assert "TEXT" not in caught.value.hint


def test_prompts_and_ledger_keys_of_one_language_are_those_of_the_versions_before_mixes() -> None:
    """Hashes from before a mix could be given: a ledger of that time must replay."""
    texts = [
        ("Kilns > Firing", "The kiln reaches its peak within six hours.", "en"),
        ("Waschmaschine", "E18: Das Wasser läuft nicht ab. Flusensieb öffnen.", "de"),
        ("热力学术语", "过冷：液体冷却到凝固点以下而仍不结晶的状态。", "zh"),
        ("", "No title <|im_end|> here {0}.", "und"),
    ]
    passages = [passage(text, title, lang) for title, text, lang in texts]
    german = PromptOptions(language="German", persona=("a nurse", "a cook"), task_mix={"problem": 1, "advice": 2})
    keys = []
    for options in (PromptOptions(), german):
        for seed in (0, 7):
            for one in passages:
                ask = Write(generate_prompt(one, options, seed), 300, 0.7, prompting.GENERATE_SCHEMA, seed)
                keys.append(call_key("ask", "engine", request_of(ask))[:16])
    assert keys[:3] == ["c418d8436a108c6f", "30aeb12322ca96d9", "73bd63d8af437301"]
    ranking = [
        prompting.likelihood_prompt(passages[0]),
        prompting.relevance_prompt(passages[1], "warum läuft das wasser nicht ab"),
        prompting.grade_prompt("q", passages),
        prompting.listwise_prompt("q", passages),
        prompting.repair_prompt("x", "y"),
    ]
    keys.append(content_id(*(part for prompt in ranking for part in (prompt.shared, prompt.own))))
    assert content_id(*keys) == "88c57615ec24981c"
    assert VERSION == version_of(PromptOptions()) == version_of(german) == "d72620d8167f152b"


def test_tasks_in_the_query_s_language_take_another_prompt_with_such_examples() -> None:
    local = PromptOptions(task_language="query")
    own, other = generate_prompt(MANY[0]), generate_prompt(MANY[0], local)
    assert own.own == other.own
    assert own.shared != other.shared
    assert version_of(local) != VERSION
    with pytest.raises(ValueError, match="task_language"):
        PromptOptions(task_language="German")
    pattern = re.compile(r"(Wish: [^\n]*)\n(<passage>\n.+?\n</passage>)\nJSON: (\{[^\n]*\})", re.DOTALL)
    ours, theirs = pattern.findall(other.shared), pattern.findall(own.shared)
    assert [example[:2] for example in ours] == [example[:2] for example in theirs]  # the same passages and wishes
    languages = set()
    for (*_, reply), (*_, english) in zip(ours, theirs, strict=True):
        task, query = re.search(r'"task": "(.*)", "query": "(.*)"', reply).groups()  # type: ignore[union-attr]
        assert query == re.search(r'"query": "(.*)"', english)[1]  # type: ignore[index]
        if query:
            code = detect(task)
            languages.add(code)
            assert detect_among(query, [code]) == code
            assert (task in english) == (code == "en")
    assert languages == {"en", "de", "es", "zh", "fr", "ar"}


PASSAGES = [
    passage("A runspace is the operating environment of a session. It is used to limit the available commands."),
    passage("Gets the registry keys of a computer. The keys can be copied to another path with this command."),
    passage("Vitamin B12 deficiency increases the blood level of homocysteine in adults over sixty.", lang="und"),
]
GERMAN = passage("Ein Runspace ist die Umgebung einer Sitzung. Er begrenzt die verfügbaren commands.", lang="de")


def query(text: str, lang: str, seed: Passage = PASSAGES[0]) -> GeneratedQuery:
    return GeneratedQuery(seed.passage_id, "t", text, lang, "t", "1", 0, 0)


def ledgered(folder: Path, passages: list[Passage]) -> LedgeredTeacher:
    teacher = LedgeredTeacher(OfflineTeacher(), Ledger(folder / "ledger.sqlite"))
    teacher.prepare(passages)  # type: ignore[arg-type]
    return teacher


def test_the_offline_teacher_scores_and_keys_one_language_as_before(tmp_path: Path) -> None:
    named = [replace(one, source_id=name) for name, one in zip("abc", PASSAGES, strict=True)]
    teacher = ledgered(tmp_path, named)
    teacher.write(named)
    scores = teacher.rank(query("runspace commands", "en"), named, [0.5, 0.4, 0.1])
    assert scores.ql == pytest.approx((-1.1719925534907656, -3.039365749547918, -5.95019137331391))
    assert scores.rc == pytest.approx((2.6096745769110066, 0.3421450456537952, 0.008195882289033177))
    keys = sqlite3.connect(tmp_path / "ledger.sqlite").execute("SELECT key FROM teacher_calls ORDER BY id").fetchall()
    assert content_id(*(key for (key,) in keys)) == "9c176885b945f0ad"


def test_words_are_not_compared_across_languages() -> None:
    """A translation holds none of the query's words; that makes it no hard negative, and a stranger no positive."""
    teacher = OfflineTeacher()
    candidates = [*PASSAGES, GERMAN]
    teacher.prepare(candidates)
    alone = teacher.rank(query("runspace commands", "en"), PASSAGES, [0.5, 0.4, 0.1])
    scores = teacher.rank(query("runspace commands", "en"), candidates, [0.5, 0.4, 0.1, 0.9])
    assert scores.rung == alone.rung == "statistical"
    assert scores.ql == (*alone.ql, None)
    assert scores.rc == (*alone.rc, None)
    # A query from a seed in another language: its words find strangers, so nothing is ranked and the seed stays.
    crossing = teacher.rank(query("welche befehle begrenzt ein runspace", "de"), candidates, [0.5, 0.4, 0.1, 0.9])
    assert set(crossing.ql) == set(crossing.rc) == {None}
    assert (crossing.rung, crossing.error) == ("none", "")
    assert "words of de" in crossing.note
    unknown = teacher.rank(query("runspace commands", "und"), candidates, [0.5, 0.4, 0.1, 0.9])
    assert None not in unknown.rc


def test_scores_of_another_language_are_not_replayed(tmp_path: Path) -> None:
    candidates = [*PASSAGES, GERMAN]
    teacher = ledgered(tmp_path, candidates)
    cosines = [0.5, 0.4, 0.1, 0.9]
    first = teacher.rank(query("runspace commands", "und"), candidates, cosines)
    second = teacher.rank(query("runspace commands", "en"), candidates, cosines)
    assert first.rc[3] is not None
    assert second.rc[3] is None
    assert teacher.calls_made == 2
    assert teacher.rank(query("runspace commands", "en"), candidates, cosines) == second
    assert teacher.calls_replayed == 1


def test_the_wished_languages_of_the_docs_have_codes() -> None:
    assert [code_of(name) for name in MIX] == ["", "de", "zh"]
