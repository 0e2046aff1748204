from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gecko.errors import GeckoError
from gecko.fret.generate import generate
from gecko.fret.rank import fuse
from gecko.records import GeneratedQuery, Passage, Quarantined
from gecko.teacher.ask import Answer, Ask, EngineError, Labels, Likelihood, Write
from gecko.teacher.budget import FREE, Budget, Price
from gecko.teacher.caller import Caller
from gecko.teacher.ledger import Ledger
from gecko.teacher.llm import LLMTeacher, best_rung, expected_relevance
from gecko.teacher.protocol import Capabilities, RankRequest
from gecko.teacher.schedule import Thrifty
from gecko.teacher.traffic import Patience
from gecko.teacher.wishes import PromptOptions

EXACT = Capabilities(generate=True, prompt_logprobs=True, label_logprobs_exact=True)
TOPK = Capabilities(generate=True, prompt_logprobs=True, label_logprobs_topk=20)
CHAT = Capabilities(generate=True, label_logprobs_topk=20)
TEXT = Capabilities(generate=True)


class ScriptedEngine:
    """Relevance is how many of the query's words a passage holds; replies may be replaced one by one."""

    def __init__(self, capabilities: Capabilities, replies: Sequence[Answer | EngineError] = ()) -> None:
        self.name = "openai:scripted"
        self.fingerprint = "scripted"
        self.in_flight, self.batch = 4, 1
        self.asked: list[Ask] = []
        self.probes = 0
        self._capabilities = capabilities
        self._replies = list(replies)
        self._dialect: dict[str, Any] = {}

    async def capabilities(self) -> Capabilities:
        self.probes += 1
        self._dialect = {"found": True}
        return self._capabilities

    def dialect(self) -> dict[str, Any]:
        return self._dialect

    def set_dialect(self, dialect: dict[str, Any]) -> None:
        self._dialect = dialect

    async def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        (ask,) = asks
        self.asked.append(ask)
        if self._replies:
            reply = self._replies.pop(0)
            if isinstance(reply, EngineError):
                raise reply
            return [reply]
        return [self._reply(ask)]

    def _reply(self, ask: Ask) -> Answer:
        own = ask.prompt.own
        if isinstance(ask, Likelihood):
            held = sum(word in own for word in ask.continuation.split())
            return Answer(logprobs=(-10.0 + held, -1.0), input_tokens=7, output_tokens=1)
        if isinstance(ask, Labels):
            query, _, passage = own.partition("\n")
            held = sum(word in passage for word in query.split()[1:])
            labels = {label: -abs(int(label) - min(held, 3)) * 2.0 for label in ask.labels}
            return Answer(labels=labels, input_tokens=5, output_tokens=1)
        if "grades" in str(ask.schema):
            count = own.count("\n[")
            reply: dict[str, Any] = {"grades": [3] + [0] * (count - 1), "order": list(range(1, count + 1))}
            return Answer(text=json.dumps(reply), finish="stop", input_tokens=50, output_tokens=9)
        if "order" in str(ask.schema):
            count = own.count("\n[")
            return Answer(text=json.dumps({"order": list(range(count, 0, -1))}), finish="stop", input_tokens=40)
        return written("Given a question, find a passage that answers it.", "where does the red fox sleep")

    async def count_tokens(self, text: str) -> int | None:
        return None

    async def close(self) -> None:
        pass


def written(task: str, query: str, skip: str = "") -> Answer:
    text = json.dumps({"skip": skip, "task": task, "query": query})
    return Answer(text=text, finish="stop", input_tokens=30, output_tokens=12)


def passage(name: str, text: str) -> Passage:
    return Passage(name, name, f"Title {name}", text, "", "en")


def teacher(engine: ScriptedEngine, folder: Path, **options: Any) -> LLMTeacher:
    ledger = Ledger(folder / "ledger.sqlite")
    caller = Caller(engine, ledger, Budget(FREE), patience=Patience(backoff_seconds=0.001))
    return LLMTeacher(engine, caller, ledger, prompts=PromptOptions(), **options)


SEED = passage("a", "The red fox sleeps below the old oak near the mill.")
REQUEST = RankRequest(
    GeneratedQuery("a", "t", "red fox oak", "en", "x", "x", 0, 0),
    [passage("b", "A blue house by the river."), SEED, passage("c", "The red barn.")],
)


@pytest.mark.parametrize(
    ("capabilities", "rung", "asks"),
    [(EXACT, "ql+rc", 6), (TOPK, "ql+rc-topk", 6), (CHAT, "rc+listwise", 4), (TEXT, "graded+listwise", 1)],
)
def test_every_rung_asks_what_it_can_and_scores_every_candidate(
    tmp_path: Path, capabilities: Capabilities, rung: str, asks: int
) -> None:
    engine = ScriptedEngine(capabilities)
    asked = teacher(engine, tmp_path)
    assert best_rung(capabilities) == rung
    planned = asked.ranking_asks(REQUEST, rung)
    scores = asked.rank_many([REQUEST])[0]
    assert scores.rung == rung
    assert [ask for _, ask in planned] == sorted(engine.asked, key=[ask for _, ask in planned].index)
    assert len(engine.asked) == asks
    assert not scores.error
    assert all(score is not None for score in (*scores.ql, *scores.rc))
    if rung.startswith("ql"):
        ranked = fuse(["b", "a", "c"], [0.9, 0.8, 0.7], scores.ql, scores.rc)
        assert [candidate.passage_id for candidate in ranked] == ["a", "c", "b"]
        assert scores.input_tokens == 3 * 7 + 3 * 5


@pytest.mark.parametrize("capabilities", [CHAT, TEXT])
def test_listed_candidates_are_shuffled_and_their_scores_find_the_way_back(
    tmp_path: Path, capabilities: Capabilities
) -> None:
    """The model prefers passages by their length, wherever they stand in the list."""
    candidates = [passage(name, "word " * (number + 3)) for number, name in enumerate("abcdefgh")]
    request = RankRequest(REQUEST.query, candidates)
    engine = ScriptedEngine(capabilities)
    listed: list[list[int]] = []

    def by_length(ask: Ask) -> Answer:
        if isinstance(ask, Labels):
            return Answer(labels=dict.fromkeys(ask.labels, -1.0))
        lines = [line.count("word") for line in ask.prompt.own.splitlines() if line.startswith("[")]
        listed.append(lines)
        order = sorted(range(len(lines)), key=lambda place: -lines[place])
        reply = {"grades": [3 if count > 8 else 0 for count in lines], "order": [place + 1 for place in order]}
        return Answer(text=json.dumps(reply), finish="stop")

    engine._reply = by_length  # type: ignore[method-assign]
    scores = teacher(engine, tmp_path).rank_many([request])[0]
    assert listed[0] != sorted(listed[0])
    assert scores.ql == [-7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0]
    if capabilities == TEXT:
        assert scores.rc == [0.0] * 6 + [3.0] * 2


def test_expected_relevance_is_the_weighed_grade() -> None:
    assert expected_relevance({"0": -1.0, "1": -1.0, "2": -1.0, "3": -1.0}) == pytest.approx(1.5)
    assert expected_relevance({"0": -900.0, "1": -900.0, "2": -900.0, "3": 0.0}) == pytest.approx(3.0)
    assert expected_relevance({"0": math.log(0.25), "3": math.log(0.75)}) == pytest.approx(2.25)


def test_a_thrifty_schedule_asks_for_less_and_finds_the_same_positive(tmp_path: Path) -> None:
    words = ["oak", "mill", "house", "river", "barn", "road", "field", "pond", "lane", "gate"]
    found = [passage(word, f"The blue {word} near the {word}.") for word in words]
    request = RankRequest(REQUEST.query, [SEED, *found], [0.9 - 0.02 * place for place in range(len(found) + 1)])
    full, thrifty = ScriptedEngine(EXACT), ScriptedEngine(EXACT)
    whole = teacher(full, tmp_path / "full").rank_many([request])[0]
    part = teacher(thrifty, tmp_path / "thrifty", schedule=Thrifty()).rank_many([request])[0]
    assert len(full.asked) == 2 * 11
    assert len(thrifty.asked) <= 6
    ids = [candidate.passage_id for candidate in request.candidates]
    best = [fuse(ids, request.miner_scores or (), scores.ql, scores.rc)[0].passage_id for scores in (whole, part)]
    assert best == ["a", "a"]


def test_a_run_that_goes_on_neither_probes_nor_asks_again(tmp_path: Path) -> None:
    first = ScriptedEngine(CHAT)
    scores = teacher(first, tmp_path).rank_many([REQUEST] * 2)
    again = ScriptedEngine(TEXT)
    asked = teacher(again, tmp_path)
    assert asked.likely_rung() == ("rc+listwise", False)
    assert asked.rank_many([REQUEST] * 2) == scores
    assert (again.probes, again.asked, again.dialect()) == (0, [], {"found": True})


def test_a_rung_below_the_best_may_be_chosen_and_one_above_it_not(tmp_path: Path) -> None:
    assert teacher(ScriptedEngine(EXACT), tmp_path / "a", rung="graded+listwise").rank_many([REQUEST])[0].rung == (
        "graded+listwise"
    )
    with pytest.raises(GeckoError, match="cannot be asked for ql") as caught:
        teacher(ScriptedEngine(CHAT), tmp_path / "b", rung="ql+rc").rank_many([REQUEST])
    assert "rc+listwise" in caught.value.hint


def test_a_reply_in_a_wrong_form_is_shown_to_the_model_once(tmp_path: Path) -> None:
    bad = Answer(text='{"task": "Given a question, find a passage that answers it."}', finish="stop", output_tokens=5)
    engine = ScriptedEngine(TEXT, [bad])
    (reply,) = teacher(engine, tmp_path).write([SEED])
    assert reply.query == "where does the red fox sleep"
    assert [type(ask) for ask in engine.asked] == [Write, Write]
    assert bad.text in engine.asked[1].prompt.own
    assert reply.output_tokens == 5 + 12
    engine = ScriptedEngine(TEXT, [bad, bad])
    (reply,) = teacher(engine, tmp_path / "twice").write([SEED])
    assert (reply.error, reply.raw, len(engine.asked)) == (
        "the reply holds no JSON object with query or skip",
        bad.text,
        2,
    )


def test_a_cut_reply_is_asked_for_again_with_more_room_and_is_then_called_truncated(tmp_path: Path) -> None:
    cut = Answer(text='{"skip": "", "task": "Given a', finish="length", output_tokens=300)
    engine = ScriptedEngine(TEXT, [cut, cut])
    (reply,) = teacher(engine, tmp_path).write([SEED])
    assert "truncated" in reply.error
    assert [ask.max_tokens for ask in engine.asked if isinstance(ask, Write)] == [300, 600]


def test_skips_leaning_queries_and_failures_are_set_aside_with_their_reasons(tmp_path: Path) -> None:
    task = "Given a question, find a passage that answers it."
    replies = [
        written("", "", skip="a bare signature"),
        written(task, "what does the fox do according to this passage"),
        EngineError("400 the content filter refused it"),
        written(task, "where does the red fox sleep"),
    ]
    engine = ScriptedEngine(TEXT, replies)
    engine.in_flight = 1
    seeds = [passage(name, f"The red fox {name} sleeps below the old oak.") for name in "abcd"]
    rows = list(generate(seeds, teacher(engine, tmp_path)))  # type: ignore[arg-type]
    reasons = [row.reason if isinstance(row, Quarantined) else row.query for row in rows]
    assert reasons[0] == "skipped by the teacher: a bare signature"
    assert "passage" in reasons[1]
    assert reasons[2] == "400 the content filter refused it"
    assert reasons[3] == "where does the red fox sleep"
    assert len(rows) == len(seeds)


def test_a_candidate_that_could_not_be_scored_is_told_and_all_of_them_is_an_error(tmp_path: Path) -> None:
    engine = ScriptedEngine(EXACT, [EngineError("400 too long")])
    scores = teacher(engine, tmp_path).rank_many([REQUEST])[0]
    assert sum(score is None for score in (*scores.ql, *scores.rc)) == 1
    assert scores.note == "1 of 6 calls failed, the first with: 400 too long"
    assert not scores.error
    engine = ScriptedEngine(EXACT, [EngineError("400 too long")] * 6)
    assert "6 of 6 calls failed" in teacher(engine, tmp_path / "all").rank_many([REQUEST])[0].error
    engine = ScriptedEngine(TEXT, [Answer(text="I'd rather not.", finish="stop")] * 2)
    assert teacher(engine, tmp_path / "text").rank_many([REQUEST])[0].error


class Outage(ScriptedEngine):
    """Answers 502 for asks that hold a word, as long as it is out of order."""

    def __init__(self, capabilities: Capabilities, word: str) -> None:
        super().__init__(capabilities)
        self.word = word

    async def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        if self.word and self.word in asks[0].prompt.own:
            raise EngineError("HTTP 502", retry=True)
        return await super().answer(asks)


def test_a_step_with_rows_that_an_outage_hit_is_not_finished(tmp_path: Path) -> None:
    engine = Outage(TEXT, "cat")
    seeds = [passage(name, f"The red fox sleeps by the {name}.") for name in ("cat", "dog", "eel")]
    rows = generate(seeds, teacher(engine, tmp_path))  # type: ignore[arg-type]
    found: list[Any] = []
    with pytest.raises(GeckoError, match="did not answer for 1 of 3 seeds") as caught:
        found.extend(rows)
    assert [isinstance(row, Quarantined) for row in found] == [True, False, False]
    assert "run the same command again" in caught.value.hint
    engine.word = ""
    asked = len(engine.asked)
    again = list(generate(seeds, teacher(engine, tmp_path)))  # type: ignore[arg-type]
    assert not any(isinstance(row, Quarantined) for row in again)
    assert len(engine.asked) == asked + 1


@pytest.mark.parametrize("capabilities", [EXACT, CHAT, TEXT])
def test_a_ranking_that_an_outage_hit_is_for_another_session(tmp_path: Path, capabilities: Capabilities) -> None:
    engine = Outage(capabilities, "blue house")
    assert teacher(engine, tmp_path).rank_many([REQUEST])[0].transient
    engine.word = ""
    again = teacher(engine, tmp_path).rank_many([REQUEST])[0]
    assert not again.transient
    assert not again.error
    assert all(score is not None for score in again.rc)


def test_a_step_tells_its_whole_number_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gecko.teacher.progress._EVERY_SECONDS", 0.0)
    asked = teacher(ScriptedEngine(TEXT), tmp_path, rows_at_once=2)
    lines: list[str] = []
    asked.caller.progress._tell = lines.append
    list(generate([passage(name, f"The red fox {name} sleeps.") for name in "abcde"], asked))
    assert [line.partition(" rows,")[0] for line in lines] == [f"queries: {number} of 5" for number in range(1, 6)]


def test_floored_labels_are_told(tmp_path: Path) -> None:
    floored = Answer(labels={"0": -1.0, "1": -2.0, "2": -9.0, "3": -9.0}, floored=("2", "3"))
    engine = ScriptedEngine(TOPK, [floored])
    engine.in_flight = 1  # the labels are asked first
    scores = teacher(engine, tmp_path).rank_many([REQUEST])[0]
    assert scores.note == "a label was missing and floored for 1 of 3 candidates"


def test_an_endpoint_that_does_not_answer_the_probe_is_told_in_a_line(tmp_path: Path) -> None:
    engine = ScriptedEngine(TEXT)

    async def nobody() -> Capabilities:
        raise EngineError("connection refused", retry=True, unreachable=True)

    engine.capabilities = nobody  # type: ignore[method-assign]
    with pytest.raises(GeckoError, match="openai:scripted does not answer: connection refused"):
        teacher(engine, tmp_path).write([SEED])


def test_probing_is_paid_for_and_counts_to_the_caps(tmp_path: Path) -> None:
    engine = ScriptedEngine(CHAT)

    async def probing() -> Capabilities:
        engine.probes += 1
        engine._dialect = {"probe_input": 100, "probe_output": 20}
        return CHAT

    engine.capabilities = probing  # type: ignore[method-assign]
    asked = teacher(engine, tmp_path)
    asked.caller.budget = Budget(Price(1.0, 10.0))
    asked.probe()
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        spent = ledger.stats()
        assert (spent["input_tokens"], spent["output_tokens"], spent["usd"]) == (100, 20, pytest.approx(3e-4))
        assert [total["kind"] for total in ledger.totals()] == ["probe"]
    capped = teacher(engine, tmp_path / "capped")
    capped.caller.budget = Budget(FREE, max_tokens=50)
    with pytest.raises(GeckoError, match="cap of 50 tokens"):
        capped.probe()
    assert engine.probes == 1


def test_a_check_probes_although_it_was_probed_before(tmp_path: Path) -> None:
    teacher(ScriptedEngine(TEXT), tmp_path).probe()
    engine = ScriptedEngine(EXACT)
    assert teacher(engine, tmp_path).probe(again=True) == EXACT
    assert engine.probes == 1
    assert teacher(ScriptedEngine(TEXT), tmp_path).probe() == EXACT  # the newer note is in place of the older


def test_a_model_that_thinks_all_the_same_has_room_for_it(tmp_path: Path) -> None:
    engine = ScriptedEngine(TEXT)
    asked = teacher(engine, tmp_path)
    assert asked.thoughts() is None
    asked.probe()
    assert (asked.thoughts(), asked.write_ask(SEED).max_tokens) == (0, 300)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        note = ledger.noted("capabilities scripted")
        ledger.note("capabilities scripted", {**note, "dialect": {"thoughts": 700}})
    again = teacher(ScriptedEngine(TEXT), tmp_path)
    assert again.thoughts() == 700
    limits = [again.write_ask(SEED), *(ask for _, ask in again.ranking_asks(REQUEST, "graded+listwise"))]
    assert [ask.max_tokens for ask in limits if isinstance(ask, Write)] == [300 + 2048, 70 + 2048]


def test_an_order_that_cannot_be_read_is_an_error_with_the_reply(tmp_path: Path) -> None:
    engine = ScriptedEngine(CHAT)
    plain = engine._reply

    def weather(ask: Ask) -> Answer:
        if isinstance(ask, Write):
            return Answer(text="I'd rather talk about the weather.", finish="stop", output_tokens=9)
        return plain(ask)

    engine._reply = weather  # type: ignore[method-assign]
    scores = teacher(engine, tmp_path).rank_many([REQUEST])[0]
    assert scores.error.startswith("no order: ")
    assert scores.raw == "I'd rather talk about the weather."
    engine = ScriptedEngine(TEXT, [Answer(text="No grades today.", finish="stop")] * 2)
    assert teacher(engine, tmp_path / "graded").rank_many([REQUEST])[0].raw == "No grades today."
