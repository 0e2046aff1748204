"""A language model as the teacher: what it is asked in FRet's two steps, on the best rung that it can stand on.

The rungs, best first, are what a model's capabilities allow in place of the paper's exact QL and RC:

- ``ql+rc``: log-likelihood of the query, and of every relevance label, both exact;
- ``ql+rc-topk``: labels only among the likeliest tokens; one that is missing takes the last one's value;
- ``rc+listwise``: no likelihood of a given text, so the model's own order of the candidates stands for QL;
- ``graded+listwise``: no log-probabilities at all: the model grades and orders the candidates in one reply.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, replace
from typing import Literal, TypeVar, get_args

from gecko.errors import GeckoError
from gecko.records import GeneratedQuery, Passage, content_id
from gecko.teacher import prompting
from gecko.teacher.ask import Answer, Ask, Engine, EngineError, Labels, Likelihood, Prompt, Write
from gecko.teacher.caller import Caller
from gecko.teacher.ledger import UNPRICED, Ledger, call_key
from gecko.teacher.protocol import Capabilities, Generation, PassageStore, RankRequest, Rung, Scores
from gecko.teacher.reply import Skipped, Unreadable, read_generation, read_grades, read_order
from gecko.teacher.schedule import FULL, Kind, Schedule, State
from gecko.teacher.wishes import PromptOptions, wishes

RUNGS: tuple[Rung, ...] = get_args(Rung)
LABELS = ("0", "1", "2", "3")
_VERSION = "2"  # raised when the same answers would be read as something else
_COUNTS_KEPT = 10_000
_PROBE_TOKENS = 2_000  # what probing may use, on the high side for a model that does not think
_THOUGHT_ROOM = 2_048  # tokens beside the reply for a model that thinks all the same; a limit, not a cost

Value = TypeVar("Value")


def best_rung(capabilities: Capabilities) -> Rung:
    """The best rung a model can stand on."""
    labels = capabilities.label_logprobs_exact or capabilities.label_logprobs_topk >= len(LABELS)
    if capabilities.prompt_logprobs and capabilities.label_logprobs_exact:
        return "ql+rc"
    if capabilities.prompt_logprobs and labels:
        return "ql+rc-topk"
    return "rc+listwise" if labels else "graded+listwise"


def expected_relevance(labels: dict[str, float]) -> float:
    """RC as the expected grade, 0 to 3 (Zhuang et al. 2023): the softmax of the labels' log-probabilities, weighed.

    Args:
        labels: Natural log-probability of each label; they need not sum to 1.
    """
    top = max(labels.values())
    weights = {label: math.exp(value - top) for label, value in labels.items()}
    return sum(int(label) * weight for label, weight in weights.items()) / sum(weights.values())


class LLMTeacher:
    """A language model that writes queries and ranks candidates.

    Args:
        engine: The model.
        caller: Asks it.
        ledger: Remembers what it can do, so that a run that goes on does not probe again.
        prompts: Knobs of the prompts.
        temperature: Of step 1; 0 writes the likeliest query.
        max_tokens: Longest reply of step 1.
        rung: A rung to stand on, or ``auto`` for the best there is.
        seed: Seed of the task mix and of the sampling.
        rows_at_once: Rows it wants at once, so that there is always a next call to make.
        schedule: Which scores it is asked for, and when it is enough.
    """

    def __init__(
        self,
        engine: Engine,
        caller: Caller,
        ledger: Ledger,
        *,
        prompts: PromptOptions,
        temperature: float = 0.7,
        max_tokens: int = 300,
        rung: Rung | Literal["auto"] = "auto",
        seed: int = 0,
        rows_at_once: int = 1024,
        schedule: Schedule = FULL,
    ) -> None:
        self._schedule = schedule
        self.rows_at_once = rows_at_once
        self.name = engine.name
        self.prompt_version = prompting.version_of(prompts)
        self.capabilities = Capabilities(generate=True)
        self.rung = rung
        self.caller = caller
        self.fingerprint = content_id(
            "llm", _VERSION, engine.fingerprint, self.prompt_version, prompts.model_dump_json(), str(temperature),
            str(max_tokens), rung, str(seed), repr(schedule),
        )  # fmt: skip
        self._engine = engine
        self._ledger = ledger
        self._prompts = prompts
        self._temperature = temperature
        self._max_tokens = max_tokens
        self._seed = seed
        self._ready = False
        self._note = f"capabilities {engine.fingerprint}"
        self._counted: dict[str, int | None] = {}

    def close(self) -> None:
        """Close the connections, or free the model; it answers nothing after that."""
        self.caller.close()

    @property
    def calls_made(self) -> int:
        """Answers that came from the model."""
        return self.caller.calls_made

    @property
    def calls_replayed(self) -> int:
        """Answers that came from the ledger."""
        return self.caller.calls_replayed

    def seeds_available(self) -> set[str] | None:
        """Source ids it can answer for: None, all of them."""
        return None

    def prepare(self, passages: PassageStore) -> None:
        """Nothing: a language model needs no look at the corpus."""

    def begin(self, what: str, total: int) -> None:
        """Tell progress by a stage's whole number of rows."""
        self.caller.progress.begin(what, total)

    def write(self, seeds: Sequence[Passage]) -> list[Generation]:
        """Write a task and a query for each seed (paper, section 3.2, step 1)."""
        self.probe()
        return self.caller.map(self._write_one, seeds)

    def rank(
        self, query: GeneratedQuery, candidates: Sequence[Passage], miner_scores: Sequence[float] | None = None
    ) -> Scores:
        """Score one query's candidates."""
        return self.rank_many([RankRequest(query, candidates, miner_scores)])[0]

    def rank_many(self, requests: Sequence[RankRequest]) -> list[Scores]:
        """Score several queries' candidates (paper, section 3.2, step 2)."""
        self.probe()
        return self.caller.map(self._rank_one, requests)

    def probe(self, *, again: bool = False) -> Capabilities:
        """Find out what the model can do, once a run; the rung follows from it.

        Args:
            again: Ask although the ledger holds what an earlier probing found out.

        Raises:
            GeckoError: The model does not answer, or cannot do what the recipe's rung needs, or a cap is reached.
        """
        if self._ready:
            return self.capabilities
        known = (None if again else self._recalled()) or self._found_out()
        self.capabilities = self.caller.able(known)
        best = best_rung(self.capabilities)
        if self.rung == "auto":
            self.rung = best
        elif RUNGS.index(self.rung) < RUNGS.index(best):
            raise GeckoError(
                f"{self.name} cannot be asked for {self.rung}", f"the best it can do is {best}; or teacher.rung=auto"
            )
        self._ready = True
        return self.capabilities

    def _found_out(self) -> Capabilities:
        """Ask the model what it can do; what that used is in the ledger and counts to the caps."""
        budget, spent, started = self.caller.budget, self._ledger.stats(), time.monotonic()
        budget.start_from(spent["usd"], int(spent["input_tokens"] + spent["output_tokens"]))
        ask = Write(Prompt("", ""), _PROBE_TOKENS if self._is_remote() else 0)
        room = budget.reserve(ask)
        if room is None:
            raise budget.reached()
        try:
            known = self.caller.run(self._engine.capabilities)
        except EngineError as error:
            budget.release(room)
            raise GeckoError(
                f"{self.name} does not answer: {error}", "check that it runs, its address, its name and the key"
            ) from error
        dialect = self._engine.dialect()
        used = dialect.get("probe_input", 0), dialect.get("probe_output", 0)
        # As a failed answer, it is paid for and says nothing of how long answers are.
        usd = budget.settle(ask, room, Answer(input_tokens=used[0], output_tokens=used[1], error="probe"))
        found = {"capabilities": asdict(known), "dialect": dialect}
        if any(used):
            key = call_key("probe", self._note, time.time_ns())
            request = {"model": self.name, **({} if budget.price_known else {UNPRICED: True})}
            self._ledger.put(key, "probe", request, found, *used, usd=usd, seconds=time.monotonic() - started)
        self._ledger.note(self._note, found)
        return known

    def write_ask(self, seed: Passage) -> Write:
        """What it is asked to write a task and a query for a seed."""
        prompt = prompting.generate_prompt(seed, self._prompts, self._seed)
        return Write(prompt, self._room(self._max_tokens), self._temperature, prompting.GENERATE_SCHEMA, self._seed)

    def ranking_asks(self, request: RankRequest, rung: str) -> list[tuple[str, Ask]]:
        """All that it is asked to rank a query's candidates on a rung, each with its purpose."""
        if rung == "graded+listwise":
            return [("grade", self._grade_ask(request))]
        asks: list[tuple[str, Ask]] = [("labels", self._relevance_ask(request.query, p)) for p in request.candidates]
        if rung == "rc+listwise":
            return [("listwise", self._listwise_ask(request)), *asks]
        return [*(("likelihood", self._likelihood_ask(request.query, p)) for p in request.candidates), *asks]

    def likely_rung(self) -> tuple[str, bool]:
        """The rung it will stand on, without asking it; and whether that is a guess."""
        if self.rung != "auto":
            return self.rung, False
        known = self._recalled()
        if known is not None:
            return best_rung(self.caller.able(known)), False
        return ("rc+listwise", True) if self._is_remote() else ("ql+rc", False)

    def thoughts(self) -> int | None:
        """Tokens it thinks before a reply; None where it was not probed, and so that is not known."""
        if self._is_remote() and self._recalled() is None:
            return None
        return int(self._engine.dialect().get("thoughts", 0))

    def count_tokens(self, ask: Ask, characters_a_token: float) -> float:
        """Tokens of an ask's prompt, counted by the model's own tokenizer where that costs nothing, else estimated."""
        texts = [ask.prompt.shared, ask.prompt.own]
        if isinstance(ask, Likelihood):
            texts.append(ask.continuation)
        counts = [self._count(text) for text in texts]
        return sum(len(t) / characters_a_token if c is None else c for t, c in zip(texts, counts, strict=True))

    def counts_tokens(self) -> bool:
        """Whether its tokens can be counted without asking it."""
        self._recalled()
        return self._count("a") is not None

    def price(self, input_tokens: int, output_tokens: int) -> float | None:
        """Dollars for tokens, none of them cached; None where the price is not known."""
        return self.caller.budget.price_of(input_tokens, output_tokens)

    @property
    def in_flight(self) -> int:
        """Calls under way at once, at most."""
        return self._engine.in_flight * self._engine.batch

    def _is_remote(self) -> bool:
        return self.name.startswith("openai:")

    def _room(self, reply: int) -> int:
        """Limit of a reply, with room for the thoughts of a model that cannot be kept from them."""
        return reply + (_THOUGHT_ROOM if self._engine.dialect().get("thoughts") else 0)

    def _recalled(self) -> Capabilities | None:
        """What an earlier probing found out, or None; the engine takes it over."""
        known = self._ledger.noted(self._note)
        if known is None:
            return None
        self._engine.set_dialect(known["dialect"])
        return Capabilities(**known["capabilities"])

    def _count(self, text: str) -> int | None:
        if text not in self._counted:
            if len(self._counted) > _COUNTS_KEPT:
                self._counted.clear()
            try:
                self._counted[text] = self.caller.run(lambda: self._engine.count_tokens(text))
            except EngineError:
                self._counted[text] = None
        return self._counted[text]

    def _likelihood_ask(self, query: GeneratedQuery, passage: Passage) -> Likelihood:
        return Likelihood(prompting.likelihood_prompt(passage, self._prompts), prompting.continuation(query.query))

    def _relevance_ask(self, query: GeneratedQuery, passage: Passage) -> Labels:
        return Labels(prompting.relevance_prompt(passage, query.query, self._prompts), LABELS)

    def _listwise_ask(self, request: RankRequest) -> Write:
        prompt = prompting.listwise_prompt(request.query.query, _shown(request), self._prompts)
        return Write(
            prompt, self._room(20 + 6 * len(request.candidates)), 0.0, prompting.LISTWISE_SCHEMA, purpose="listwise"
        )

    def _grade_ask(self, request: RankRequest) -> Write:
        prompt = prompting.grade_prompt(request.query.query, _shown(request), self._prompts)
        return Write(
            prompt, self._room(40 + 10 * len(request.candidates)), 0.0, prompting.GRADE_SCHEMA, purpose="grade"
        )

    async def _write_one(self, seed: Passage) -> Generation:
        def reading(answer: Answer) -> tuple[str, str] | Skipped | Unreadable:
            return read_generation(answer.text, answer.finish, passage=seed, tokens=answer.output_tokens)

        read: tuple[str, str] | Skipped | Unreadable
        read, answers = await self._read(self.write_ask(seed), reading)
        raw, tokens = answers[-1].text, _tokens(answers)
        if isinstance(read, Unreadable):
            return Generation("", "", None, read.reason, raw, *tokens, _transient(answers))
        if isinstance(read, Skipped):
            return Generation("", "", read.reason, "", raw, *tokens)
        task, query = read
        wished = wishes(seed, self._prompts, self._seed).get("language", "")
        return Generation(task, query, None, "", raw, *tokens, language=wished)

    async def _read(
        self, ask: Write, read: Callable[[Answer], Value | Unreadable]
    ) -> tuple[Value | Unreadable, list[Answer]]:
        """Ask and read the reply, with one attempt to mend one that cannot be read.

        A cut reply is asked for again with twice the room; one in a wrong form is shown to the model.
        """
        answer = await self.caller.ask(ask)
        if answer.error:
            return Unreadable(answer.error), [answer]
        found = read(answer)
        if not isinstance(found, Unreadable):
            return found, [answer]
        if answer.finish == "length":
            again = replace(ask, max_tokens=2 * ask.max_tokens)
        elif found.mendable:
            again = replace(ask, prompt=prompting.repair_prompt(answer.text, found.reason), temperature=0.0)
        else:
            return found, [answer]
        second = await self.caller.ask(again)
        return (found if second.error else read(second)), [answer, second]

    async def _rank_one(self, request: RankRequest) -> Scores:
        if self.rung == "graded+listwise":
            return await self._graded(request)
        listwise = asyncio.ensure_future(self._listwise(request)) if self.rung == "rc+listwise" else None
        try:
            state, answers = await self._scored(request, with_likelihood=listwise is None)
            if listwise is None:
                return _scores(self.rung, state.scores("ql"), state.scores("rc"), answers, len(state.rc))
            order, replies = await listwise
            unknown: list[float | None] = [None] * len(request.candidates)
            found = unknown if isinstance(order, Unreadable) else order
            scores = _scores(self.rung, found, state.scores("rc"), [*replies, *answers], len(state.rc))
            if isinstance(order, Unreadable):
                # Without the order there is nothing of what the rung's name promises.
                return replace(scores, error=scores.error or f"no order: {order.reason}", raw=_raw(replies))
            return scores
        finally:
            if listwise is not None:
                listwise.cancel()

    async def _scored(self, request: RankRequest, *, with_likelihood: bool) -> tuple[State, list[Answer]]:
        """Ask for the scores that the schedule wants, step by step."""
        ids = [passage.passage_id for passage in request.candidates]
        seed = ids.index(request.query.seed_id) if request.query.seed_id in ids else 0
        state = State(request.miner_scores or [-float(place) for place in range(len(ids))], seed)
        answers: list[Answer] = []
        while asks := self._schedule.next(state):
            asked = []
            for candidate, kind in asks:
                if kind == "rc" or with_likelihood:
                    asked.append((candidate, kind))
                else:
                    state.note(candidate, kind, None)
            found = await asyncio.gather(*(self._score(request, candidate, kind) for candidate, kind in asked))
            for (candidate, kind), (score, answer) in zip(asked, found, strict=True):
                state.note(candidate, kind, score)
                answers.append(answer)
        return state, answers

    def _score(
        self, request: RankRequest, candidate: int, kind: Kind
    ) -> Coroutine[None, None, tuple[float | None, Answer]]:
        score = self._likelihood if kind == "ql" else self._relevance
        return score(request.query, request.candidates[candidate])

    async def _likelihood(self, query: GeneratedQuery, passage: Passage) -> tuple[float | None, Answer]:
        answer = await self.caller.ask(self._likelihood_ask(query, passage))
        # Summed, not averaged: the query is the same for all its candidates, so length changes nothing.
        return (None if answer.error else sum(answer.logprobs)), answer

    async def _relevance(self, query: GeneratedQuery, passage: Passage) -> tuple[float | None, Answer]:
        answer = await self.caller.ask(self._relevance_ask(query, passage))
        return (None if answer.error else expected_relevance(answer.labels)), answer

    async def _listwise(self, request: RankRequest) -> tuple[list[float | None] | Unreadable, list[Answer]]:
        count = len(request.candidates)
        order, answers = await self._read(
            self._listwise_ask(request), lambda a: read_order(a.text, count, a.finish, tokens=a.output_tokens)
        )
        if isinstance(order, Unreadable):
            return order, answers
        shuffled = _shuffled(request)
        return _from_order([shuffled[place] for place in order]), answers

    async def _graded(self, request: RankRequest) -> Scores:
        count = len(request.candidates)
        read, answers = await self._read(
            self._grade_ask(request), lambda a: read_grades(a.text, count, a.finish, tokens=a.output_tokens)
        )
        if isinstance(read, Unreadable):
            nothing = (None,) * count
            return Scores(
                nothing,
                nothing,
                "none",
                *_tokens(answers),
                _transient(answers),
                error=read.reason,
                raw=_raw(answers),
            )
        grades, order = read
        shuffled = _shuffled(request)
        rc = dict(zip(shuffled, map(float, grades), strict=True))
        ql = _from_order([shuffled[place] for place in order])
        return Scores(ql, [rc[place] for place in range(count)], "graded+listwise", *_tokens(answers))


def _raw(answers: Sequence[Answer]) -> str:
    """The last reply that says anything."""
    return next((answer.text for answer in reversed(answers) if answer.text), "")


def _tokens(answers: Sequence[Answer]) -> tuple[int, int]:
    return sum(answer.input_tokens for answer in answers), sum(answer.output_tokens for answer in answers)


def _transient(answers: Sequence[Answer]) -> bool:
    return any(answer.transient for answer in answers)


def _shuffled(request: RankRequest) -> list[int]:
    """The order in which candidates are listed to a model: by hash, so that neither miner rank nor seed shows in it."""
    query, passages = request.query.query, request.candidates
    return sorted(range(len(passages)), key=lambda place: content_id(query, passages[place].passage_id))


def _shown(request: RankRequest) -> list[Passage]:
    return [request.candidates[place] for place in _shuffled(request)]


def _from_order(order: Sequence[int]) -> list[float | None]:
    """Scores, higher is better, from places: ``order`` holds the candidates' positions, best first."""
    places = {index: place for place, index in enumerate(order)}
    return [-float(places[index]) if index in places else None for index in range(len(order))]


def _scores(
    rung: str, ql: Sequence[float | None], rc: Sequence[float | None], answers: Sequence[Answer], scored: int
) -> Scores:
    failed = [answer.error for answer in answers if answer.error]
    floored = sum(bool(answer.floored) for answer in answers)
    notes = [f"{len(failed)} of {len(answers)} calls failed, the first with: {failed[0]}"] if failed else []
    if floored:
        notes.append(f"a label was missing and floored for {floored} of {scored} candidates")
    return Scores(
        ql,
        rc,
        rung,
        *_tokens(answers),
        _transient(answers),
        note="; ".join(notes),
        error=notes[0] if len(failed) == len(answers) else "",
    )
