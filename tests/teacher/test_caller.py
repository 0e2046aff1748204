from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from gecko.errors import GeckoError, UsageError
from gecko.teacher.ask import Answer, Ask, EngineError, Labels, Likelihood, Prompt, Write, purpose_of, request_of
from gecko.teacher.budget import FREE, Budget, Price, price_of
from gecko.teacher.caller import Caller
from gecko.teacher.ledger import Ledger
from gecko.teacher.openai_errors import refusal
from gecko.teacher.protocol import Capabilities
from gecko.teacher.traffic import Patience

QUICK = Patience(backoff_seconds=0.001, longest_backoff_seconds=0.01, endpoint_seconds=0.3, first_seconds=0.05)


class FakeEngine:
    """Answers with the prompt's own part; ``fail`` may raise for a call instead."""

    def __init__(self, fail: Callable[[int, str], None] = lambda number, own: None, *, batch: int = 1) -> None:
        self.name = "openai:fake"
        self.fingerprint = "fake"
        self.in_flight = 8
        self.batch = batch
        self.calls: list[list[str]] = []
        self.active = self.most_active = 0
        self._fail = fail

    async def capabilities(self) -> Capabilities:
        return Capabilities(generate=True)

    async def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        self.calls.append([ask.prompt.own for ask in asks])
        number = len(self.calls)
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            await asyncio.sleep(0.001)
            for ask in asks:
                self._fail(number, ask.prompt.own)
            return [
                Answer(text=ask.prompt.own, finish="stop", input_tokens=len(ask.prompt.own), output_tokens=2)
                for ask in asks
            ]
        finally:
            self.active -= 1

    async def count_tokens(self, text: str) -> int | None:
        return None

    async def close(self) -> None:
        pass


def asks(count: int, size: int = 10) -> list[Write]:
    return [Write(Prompt("shared ", f"{number:0{size}d}"), max_tokens=5) for number in range(count)]


def caller(
    engine: FakeEngine, folder: Path, budget: Budget | None = None, patience: Patience = QUICK
) -> closing[Caller]:
    return closing(Caller(engine, Ledger(folder / "ledger.sqlite"), budget or Budget(FREE), patience=patience))


def test_answers_come_in_the_asks_order_and_are_kept(tmp_path: Path) -> None:
    engine = FakeEngine()
    with caller(engine, tmp_path) as first:
        texts = [answer.text for answer in first.map(first.ask, asks(100))]
    assert texts == [f"{number:010d}" for number in range(100)]
    assert engine.most_active == engine.in_flight
    again = FakeEngine()
    with caller(again, tmp_path) as second:
        assert [answer.text for answer in second.map(second.ask, asks(100))] == texts
        assert (second.calls_made, second.calls_replayed) == (0, 100)
    assert again.calls == []


def test_the_same_ask_under_way_is_made_once(tmp_path: Path) -> None:
    engine = FakeEngine()
    with caller(engine, tmp_path) as asking:
        answers = asking.map(asking.ask, asks(1) * 20)
    assert len(engine.calls) == 1
    assert len(answers) == 20


def test_an_engine_that_takes_several_is_given_several_of_one_kind(tmp_path: Path) -> None:
    engine = FakeEngine(batch=4)
    mixed: list[Ask] = [*asks(8), *(Labels(Prompt("", f"label {i}"), ("0", "1")) for i in range(8))]
    with caller(engine, tmp_path) as asking:
        asking.map(asking.ask, mixed)
    assert max(map(len, engine.calls)) == 4
    assert all(len({own.startswith("label") for own in call}) == 1 for call in engine.calls)


def test_a_call_that_fails_is_made_again_and_each_attempt_is_recorded(tmp_path: Path) -> None:
    failed: set[str] = set()

    def once(number: int, own: str) -> None:
        if own not in failed:
            failed.add(own)
            raise EngineError("500 from the server", retry=True, input_tokens=3)

    engine = FakeEngine(once)
    with caller(engine, tmp_path, patience=replace(QUICK, first_seconds=10.0)) as asking:
        answers = asking.map(asking.ask, asks(20))
    assert not any(answer.error for answer in answers)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        stats = ledger.stats()
        assert (stats["calls"], stats["failed"]) == (20, 20)
        assert stats["input_tokens"] == 20 * 10 + 20 * 3
        assert {call["error"] for call in ledger.calls(failed=True)} == {"500 from the server"}


def test_an_ask_that_fails_for_good_is_an_answer_with_the_reason_and_is_tried_again_next_time(tmp_path: Path) -> None:
    def poison(number: int, own: str) -> None:
        if own.endswith("3"):
            raise EngineError("400 too long", retry=False)
        if own.endswith("4"):
            raise EngineError("damaged reply", retry=True)

    engine = FakeEngine(poison)
    with caller(engine, tmp_path) as asking:
        answers = asking.map(asking.ask, asks(10))
    assert [answer.error for answer in answers if answer.error] == ["400 too long", "damaged reply"]
    assert sum(call == ["0000000003"] for call in engine.calls) == 1
    assert sum(call == ["0000000004"] for call in engine.calls) == QUICK.attempts
    healthy = FakeEngine()
    with caller(healthy, tmp_path) as asking:
        assert not any(answer.error for answer in asking.map(asking.ask, asks(10)))
    assert sorted(healthy.calls) == [["0000000003"], ["0000000004"]]


def test_a_crowded_endpoint_gets_fewer_calls_at_once_and_its_wait_is_honoured(tmp_path: Path) -> None:
    seen: list[float] = []

    def crowded(number: int, own: str) -> None:
        seen.append(time.monotonic())
        if number == 1:
            raise EngineError("429", retry=True, crowded=True, wait=0.2)

    engine = FakeEngine(crowded)
    engine.in_flight = 1
    with caller(engine, tmp_path) as asking:
        assert not any(answer.error for answer in asking.map(asking.ask, asks(4)))
    assert seen[1] - seen[0] >= 0.19

    def always_crowded_above_two(number: int, own: str) -> None:
        if engine.active > 2:
            raise EngineError("429", retry=True, crowded=True)

    engine = FakeEngine(always_crowded_above_two)
    with caller(engine, tmp_path / "two", patience=Patience(backoff_seconds=0.001)) as asking:
        assert not any(answer.error for answer in asking.map(asking.ask, asks(200)))


def test_a_long_wait_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gecko.teacher.caller._LONG_WAIT_SECONDS", 0.05)
    lines: list[str] = []

    def crowded(number: int, own: str) -> None:
        if number == 1:
            raise EngineError("429 too many requests", retry=True, crowded=True, wait=0.06)

    asking = Caller(FakeEngine(crowded), Ledger(tmp_path / "ledger.sqlite"), Budget(FREE), tell=lines.append)
    asking.map(asking.ask, asks(3))
    asking.close()
    assert lines == ["openai:fake asks to wait 0 s: 429 too many requests"]


def test_a_dead_endpoint_ends_the_run_in_one_line(tmp_path: Path) -> None:
    def dead(number: int, own: str) -> None:
        raise EngineError("connection refused", retry=True, unreachable=True)

    engine = FakeEngine(dead)
    started = time.monotonic()
    with caller(engine, tmp_path) as asking, pytest.raises(GeckoError, match=r"has refused .* connection refused"):
        asking.map(asking.ask, asks(50))
    assert time.monotonic() - started < 5


def test_an_outage_shorter_than_the_patience_costs_no_row(tmp_path: Path) -> None:
    started = time.monotonic()

    def outage(number: int, own: str) -> None:
        if number > 20 and time.monotonic() - started < 0.15:
            raise EngineError("connection refused", retry=True, unreachable=True)

    engine = FakeEngine(outage)
    with caller(engine, tmp_path) as asking:
        assert not any(answer.error for answer in asking.map(asking.ask, asks(60)))


def test_a_wrong_key_ends_the_run_at_once_and_keeps_what_was_answered(tmp_path: Path) -> None:
    def refused(number: int, own: str) -> None:
        if number > 10:
            raise EngineError("401 the key is not accepted", fatal=True)

    engine = FakeEngine(refused)
    with caller(engine, tmp_path) as asking, pytest.raises(GeckoError, match="401"):
        asking.map(asking.ask, asks(50))
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.stats()["calls"] == 10


def test_a_call_that_never_ends_is_given_up(tmp_path: Path) -> None:
    engine = FakeEngine()

    async def hang(asks: Sequence[Ask]) -> list[Answer]:
        await asyncio.sleep(60)
        return []

    engine.answer = hang  # type: ignore[method-assign]
    patience = Patience(call_seconds=0.02, attempts=2, backoff_seconds=0.001)
    with caller(engine, tmp_path, patience=patience) as asking:
        (answer,) = asking.map(asking.ask, asks(1))
    assert answer.error == "no answer in 0.02 s"


def test_an_engines_own_fault_ends_the_run_in_a_line(tmp_path: Path) -> None:
    def broken(number: int, own: str) -> None:
        raise ValueError("a bug")

    fault = pytest.raises(GeckoError, match="ValueError: a bug")
    with caller(FakeEngine(broken), tmp_path) as asking, fault as caught:
        asking.map(asking.ask, asks(3))
    assert "run the same command again" in caught.value.hint


@pytest.mark.parametrize("status", [500, 502, 504])
def test_an_outage_behind_a_proxy_ends_the_run_in_one_line_and_costs_no_row(tmp_path: Path, status: int) -> None:
    def out_of_order(number: int, own: str) -> None:
        if number > 20:
            raise refusal(status, "<html>Bad Gateway</html>", {})

    patience = replace(QUICK, attempts=1000)
    with (
        caller(FakeEngine(out_of_order), tmp_path, patience=patience) as asking,
        pytest.raises(GeckoError, match=rf"has refused .* HTTP {status}"),
    ):
        asking.map(asking.ask, asks(60))
    engine = FakeEngine()
    with caller(engine, tmp_path) as asking:
        assert not any(answer.error for answer in asking.map(asking.ask, asks(60)))
    assert len(engine.calls) == 40


def test_dropped_connections_end_the_run_too(tmp_path: Path) -> None:
    def dropped(number: int, own: str) -> None:
        raise EngineError("the connection was dropped", retry=True)

    patience = replace(QUICK, attempts=1000)
    with caller(FakeEngine(dropped), tmp_path, patience=patience) as asking, pytest.raises(GeckoError, match="dropped"):
        asking.map(asking.ask, asks(20))


def poisoned(error: Callable[[], EngineError]) -> Callable[[int, str], None]:
    """Asks that end in 3 or 4 always fail."""

    def fail(number: int, own: str) -> None:
        if own.endswith(("3", "4")):
            raise error()

    return fail


@pytest.mark.parametrize("status", [500, 502, 403, 404])
def test_what_fails_while_others_are_answered_is_for_another_session_and_in_that_its_own_fault(
    tmp_path: Path, status: int
) -> None:
    engine = FakeEngine(poisoned(lambda: refusal(status, {"error": {"message": "no"}}, {})))
    patience = replace(QUICK, refusals=4)
    for transient in (True, False):
        # In the second session nothing else is left to ask: the endpoint must not be held dead for it.
        with caller(engine, tmp_path, patience=patience) as asking:
            answers = asking.map(asking.ask, asks(10))
        assert [answer.transient for answer in answers if answer.error] == [transient] * 2
        assert sum(not answer.error for answer in answers) == 8


def test_what_fails_in_two_sessions_of_an_outage_is_not_given_up(tmp_path: Path) -> None:
    def refused(number: int, own: str) -> None:
        raise refusal(502, "", {})

    for _ in range(3):
        with caller(FakeEngine(refused), tmp_path, patience=replace(QUICK, refusals=1000)) as asking:
            assert all(answer.transient for answer in asking.map(asking.ask, asks(2)))


def test_a_first_403_ends_the_run(tmp_path: Path) -> None:
    def forbidden(number: int, own: str) -> None:
        raise refusal(403, {"error": {"message": "not from your country"}}, {})

    engine = FakeEngine(forbidden)
    with caller(engine, tmp_path) as asking, pytest.raises(GeckoError, match="HTTP 403"):
        asking.map(asking.ask, asks(50))
    assert len(engine.calls) <= engine.in_flight + 1


def test_an_ask_above_a_minutes_limit_is_not_asked_again(tmp_path: Path) -> None:
    said = "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 38211."
    engine = FakeEngine(poisoned(lambda: refusal(429, {"error": {"message": said, "code": "rate_limit_exceeded"}}, {})))
    with caller(engine, tmp_path) as asking:
        answers = asking.map(asking.ask, asks(10))
    assert [answer.error != "" for answer in answers].count(True) == 2
    assert len(engine.calls) == 10


@pytest.mark.parametrize("answer", [Answer(text="x", input_tokens=10**30), Answer(text="x", error="half \ud83d")])
def test_an_answer_that_cannot_be_kept_ends_the_run_in_a_line(tmp_path: Path, answer: Answer) -> None:
    engine = FakeEngine()

    async def strange(asks: Sequence[Ask]) -> list[Answer]:
        return [answer]

    engine.answer = strange  # type: ignore[method-assign]
    with caller(engine, tmp_path) as asking, pytest.raises(GeckoError, match=r"OverflowError|UnicodeEncodeError"):
        asking.map(asking.ask, asks(2))
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.put("free", "write", {}, {})  # no transaction is left open


def test_a_failure_that_cannot_be_kept_ends_the_run_in_a_line(tmp_path: Path) -> None:
    def strange(number: int, own: str) -> None:
        raise EngineError("half \ud83d", retry=True)

    with caller(FakeEngine(strange), tmp_path) as asking, pytest.raises(GeckoError, match="UnicodeEncodeError"):
        asking.map(asking.ask, asks(2))


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """As in a terminal: a shell starts what it runs in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
def test_after_an_interrupt_no_call_is_begun_and_those_under_way_are_kept(tmp_path: Path) -> None:
    engine, begun = FakeEngine(), []

    async def slow(asks: Sequence[Ask]) -> list[Answer]:
        own = asks[0].prompt.own
        begun.append(own)
        if len(begun) == engine.in_flight:
            signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(0.2 if own.endswith("7") else 0.05)
        if own.endswith("7"):
            return [Answer(text="x", finish="stop")]
        raise EngineError("500", retry=True)

    engine.answer = slow  # type: ignore[method-assign]
    with caller(engine, tmp_path) as asking, pytest.raises(KeyboardInterrupt):
        asking.map(asking.ask, asks(20))
    assert len(begun) == engine.in_flight
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.stats()["calls"] == 1


@pytest.mark.parametrize("cap", [{"max_tokens": 300}, {"max_usd": 300e-6}])
def test_a_cap_is_never_passed_by_more_than_the_calls_under_way_and_a_run_goes_on_after_it(
    tmp_path: Path, cap: dict[str, float]
) -> None:
    price = Price(1.0, 1.0)
    engine = FakeEngine()
    with caller(engine, tmp_path, Budget(price, **cap)) as asking, pytest.raises(GeckoError, match="pass the cap"):  # type: ignore[arg-type]
        asking.map(asking.ask, asks(100))
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        stats = ledger.stats()
        used = stats["input_tokens"] + stats["output_tokens"]
        assert 300 - 12 * engine.in_flight <= used <= 300
        assert stats["usd"] == pytest.approx(used / 1e6)
    with caller(engine, tmp_path, Budget(price, max_tokens=10_000)) as asking:
        assert len(asking.map(asking.ask, asks(100))) == 100
    assert len(engine.calls) == 100


def test_what_earlier_sessions_spent_counts_against_the_cap(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.put("another", "write", {}, {}, 90, 9)
    engine = FakeEngine()
    capped = Budget(Price(1, 1), max_tokens=100)
    with caller(engine, tmp_path, capped) as asking, pytest.raises(GeckoError, match="cap of 100 tokens"):
        asking.map(asking.ask, asks(1))
    assert engine.calls == []


def test_a_cap_in_dollars_needs_a_price() -> None:
    with pytest.raises(UsageError, match="price"):
        Budget(None, max_usd=1)


def test_prices() -> None:
    assert price_of("openai:gpt-4o-mini") == price_of("openai:gpt-4o-mini-2024-07-18")
    assert price_of("openai:gpt-4o-2024-05-13") is None  # not the price of the model without a date
    assert price_of("openai:gpt-4o-mini-2026-07-18") is None
    assert price_of("openai:gpt-4o") != price_of("openai:gpt-4o-mini")
    assert price_of("openai:some-vendor/gpt-4.1") == price_of("openai:gpt-4.1")
    assert price_of("openai:a-model-nobody-knows") is None
    assert price_of("transformers:tiny") == FREE
    assert Price(1.0, 2.0, cached=0.5).of(1_000_000, 500_000, 400_000) == pytest.approx(0.6 + 0.2 + 1.0)


def test_progress_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr("gecko.teacher.progress._EVERY_SECONDS", 0.0)
    asking = Caller(FakeEngine(), Ledger(tmp_path / "ledger.sqlite"), Budget(None), tell=lines.append)
    asking.progress.begin("queries", 30)
    asking.map(asking.ask, asks(30))
    asking.close()
    assert lines[-1].startswith("queries: 30 of 30 rows, ")
    assert "price not known" in lines[-1]
    assert lines[-1].endswith(" 0 s left")
    assert lines[0].startswith("queries: 1 of 30 rows, ")


def test_progress_without_a_whole_number_promises_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr("gecko.teacher.progress._EVERY_SECONDS", 0.0)
    asking = Caller(FakeEngine(), Ledger(tmp_path / "ledger.sqlite"), Budget(FREE), tell=lines.append)
    asking.map(asking.ask, asks(3))
    asking.close()
    assert lines[-1].startswith("rows: 3 rows, ")
    assert "left" not in lines[-1]


def test_the_ledger_keeps_a_shared_prompt_once_and_finds_calls_again(tmp_path: Path) -> None:
    with caller(FakeEngine(), tmp_path) as asking:
        asking.map(asking.ask, asks(5))
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        calls = list(ledger.calls())
        assert len({call["request"]["prompt"]["shared"] for call in calls}) == 1
        assert ledger.text(calls[0]["request"]["prompt"]["shared"]) == "shared "
        assert [call["reply"]["text"] for call in ledger.calls(last=2)] == [c["reply"]["text"] for c in calls[-2:]]
        assert list(ledger.calls(kind="labels")) == []
        (row,) = ledger.totals()
        assert (row["kind"], row["model"], row["calls"]) == ("write", "openai:fake", 5)
        ledger.note("probe", {"a": [1]})
        assert ledger.noted("probe") == {"a": [1]}
        assert ledger.noted("nothing") is None


def test_the_keys_of_old_ledgers_still_hold() -> None:
    """What is hashed must not change with the code: every call of every ledger would be paid for again."""
    write = Write(Prompt("a", "b"), 5, 0.5, {"type": "object"}, 3, purpose="grade")
    labels = Labels(Prompt("a", "b"), ("0", "1"))
    likelihood = Likelihood(Prompt("a", "b"), " c")
    assert json.dumps([request_of(ask) for ask in (write, labels, likelihood)]) == (
        '[{"prompt": {"shared": "a", "own": "b"}, "max_tokens": 5, "temperature": 0.5, "schema": {"type": "object"}, '
        '"seed": 3, "kind": "write"}, '
        '{"prompt": {"shared": "a", "own": "b"}, "labels": ["0", "1"], "kind": "labels"}, '
        '{"prompt": {"shared": "a", "own": "b"}, "continuation": " c", "kind": "likelihood"}]'
    )
    assert [purpose_of(ask) for ask in (write, labels, likelihood)] == ["grade", "labels", "likelihood"]
