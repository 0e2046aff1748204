"""The Batch API as a way of asking: what it keeps, counts and asks again, and what it survives."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint
from endpoint_model import Refused

from gecko.errors import GeckoError, UsageError
from gecko.teacher.ask import Answer, Ask, Prompt, Write, request_of
from gecko.teacher.batch import BatchClient
from gecko.teacher.batched import BatchCaller
from gecko.teacher.budget import FREE, Budget, Price
from gecko.teacher.ledger import Ledger, call_key
from gecko.teacher.llm import LLMTeacher
from gecko.teacher.openai import OpenAIEngine
from gecko.teacher.protocol import Capabilities
from gecko.teacher.wishes import PromptOptions

DIALECT = {"write": "chat", "schema": "json_schema", "labels": "chat", "top": 20, "batch": True, "probed": True}
PENDING = "pending batches"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("gecko.teacher.batched._QUIET_SECONDS", 0.01)
    for name in ("OPENAI_API_KEY", "GECKO_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with Endpoint("openai") as running:
        yield running


class Session:
    """One run's way of asking, as a new process would open it."""

    def __init__(self, endpoint: Endpoint, folder: Path, budget: Budget | None = None) -> None:
        self.engine = OpenAIEngine("toy", base_url=endpoint.url, api_key="k" * 10)
        self.engine.set_dialect(DIALECT)
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.told: list[str] = []
        self.caller = BatchCaller(
            self.engine, self.ledger, budget or Budget(FREE), poll_seconds=0.01, tell=self.told.append
        )

    def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        with closing(self.caller):
            return self.caller.map(self.caller.ask, asks)

    def by_key(self, asks: Sequence[Ask]) -> dict[str, Ask]:
        return {call_key("ask", self.engine.fingerprint, request_of(ask)): ask for ask in asks}

    def submit(self, asks: Sequence[Ask]) -> list[str]:
        """Submit a batch and be killed before it is waited for."""
        client = BatchClient(self.engine)
        ids = client.submit(self.by_key(asks))
        self.ledger.note(PENDING, ids)
        client.close()
        return ids


def asks(count: int, tag: str = "") -> list[Write]:
    return [Write(Prompt("Shared.\n", f"{tag}Passage {number}"), 60) for number in range(count)]


def lines(endpoint: Endpoint) -> int:
    """Calls in all the batches that were created."""
    files = endpoint.batches.files
    return sum(files[batch["input_file_id"]].count(b"\n") for batch in endpoint.batches.batches.values())


def test_a_failed_batch_ends_the_run_once_and_is_submitted_again(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.batches.end = "failed"
    with pytest.raises(GeckoError, match="invalid_json_line"):
        Session(endpoint, tmp_path).ask(asks(4))
    endpoint.batches.end = "completed"
    assert all(answer.text for answer in Session(endpoint, tmp_path).ask(asks(4)))


def test_a_failed_batch_of_an_earlier_session_is_told_and_submitted_again(endpoint: Endpoint, tmp_path: Path) -> None:
    (batch_id,) = Session(endpoint, tmp_path).submit(asks(4))
    endpoint.batches.batches[batch_id]["status"] = "failed"
    session = Session(endpoint, tmp_path)
    assert all(answer.text for answer in session.ask(asks(4)))
    assert any(f"batch {batch_id} brings nothing" in line for line in session.told)
    assert len(endpoint.batches.batches) == 2


def test_a_batch_or_a_result_that_is_gone_is_submitted_again(endpoint: Endpoint, tmp_path: Path) -> None:
    session = Session(endpoint, tmp_path)
    session.ledger.note(PENDING, ["batch_77"])
    assert all(answer.text for answer in session.ask(asks(4)))
    (batch_id,) = Session(endpoint, tmp_path).submit(asks(4, "Another "))
    client = BatchClient(session.engine)
    while not client.poll(batch_id).ended:
        pass
    client.close()
    del endpoint.batches.files[endpoint.batches.batches[batch_id]["output_file_id"]]
    assert all(answer.text for answer in Session(endpoint, tmp_path).ask(asks(4, "Another ")))


def test_a_wrong_key_does_not_forget_a_batch(endpoint: Endpoint, tmp_path: Path) -> None:
    ids = Session(endpoint, tmp_path).submit(asks(4))
    endpoint.key = "another"
    session = Session(endpoint, tmp_path)
    with pytest.raises(GeckoError, match="401"):
        session.ask(asks(4))
    assert session.ledger.noted(PENDING) == ids
    endpoint.key = ""
    assert all(answer.text for answer in Session(endpoint, tmp_path).ask(asks(4)))
    assert lines(endpoint) == 4


def test_lines_that_failed_are_tried_again_in_this_session_and_in_the_next(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.batches.failing = 1
    answers = Session(endpoint, tmp_path).ask(asks(4))
    assert {answer.error for answer in answers} == {"HTTP 500"}
    assert all(answer.transient for answer in answers)
    assert len(endpoint.batches.batches) == 2
    endpoint.batches.failing = 0
    assert all(answer.text for answer in Session(endpoint, tmp_path).ask(asks(4)))
    assert len(endpoint.batches.batches) == 3


def test_what_fails_in_a_second_session_too_is_set_aside(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.batches.failing = 1
    assert all(answer.transient for answer in Session(endpoint, tmp_path).ask(asks(2)))
    assert not any(answer.transient for answer in Session(endpoint, tmp_path).ask(asks(2)))


def test_a_pending_batchs_failed_lines_are_submitted_once(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.batches.failing = 2
    Session(endpoint, tmp_path).submit(asks(4))
    session = Session(endpoint, tmp_path)
    client = BatchClient(session.engine)
    while not client.poll("batch_0").ended:
        pass
    client.close()
    endpoint.batches.failing = 0
    assert all(answer.text for answer in session.ask(asks(4)))
    assert lines(endpoint) == 4 + 2


def test_answers_nobody_asks_for_any_more_count_against_the_cap(endpoint: Endpoint, tmp_path: Path) -> None:
    price = Price(1e4, 1e4)
    session = Session(endpoint, tmp_path / "alone", Budget(price))
    session.ask(asks(20))
    cost = session.caller.budget.usd
    Session(endpoint, tmp_path / "capped").submit(asks(20, "Another "))
    capped = Session(endpoint, tmp_path / "capped", Budget(price, max_usd=1.5 * cost))
    with pytest.raises(GeckoError, match="pass the cap"):
        capped.ask(asks(20))
    with Ledger(tmp_path / "capped" / "ledger.sqlite") as ledger:
        assert 0.9 * cost < ledger.stats()["usd"] <= 1.5 * cost


def test_each_batch_is_noted_before_the_next_file_is_submitted(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gecko.teacher.batched.BatchClient", lambda engine: BatchClient(engine, most_requests=2))
    answer, created = endpoint.batches.answer, []

    def refusing(method: str, path: str, body: Any) -> Any:
        if method == "POST" and path.endswith("/batches"):
            created.append(path)
            if len(created) == 2:
                raise Refused(400, "Enqueued token limit reached", "token_limit_exceeded")
        return answer(method, path, body)

    endpoint.batches.answer = refusing  # type: ignore[method-assign]
    session = Session(endpoint, tmp_path)
    with pytest.raises(GeckoError, match="token_limit_exceeded"):
        session.ask(asks(4))
    assert session.ledger.noted(PENDING) == ["batch_0"]
    # Another number of rows makes other files; what was submitted is brought in all the same.
    order = [session.by_key(asks(4))[key] for key in sorted(session.by_key(asks(4)))]
    assert all(answer.text for answer in Session(endpoint, tmp_path).ask(order[1:]))
    assert lines(endpoint) == 4


@pytest.mark.parametrize("odd", [["proxy"], {"object": "batch"}, {"id": 3, "status": {}}, "<html>", 7, None])
def test_a_poll_of_another_form_ends_the_run_in_a_line(endpoint: Endpoint, tmp_path: Path, odd: Any) -> None:
    answer = endpoint.batches.answer

    def strange(method: str, path: str, body: Any) -> Any:
        return odd if method == "GET" and path.count("/") == 3 else answer(method, path, body)

    endpoint.batches.answer = strange  # type: ignore[method-assign]
    with pytest.raises(GeckoError):
        Session(endpoint, tmp_path).ask(asks(2))


def test_a_fault_in_a_round_ends_the_run_in_a_line(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: BatchClient, batch_id: str) -> Any:
        raise KeyError("a bug")

    monkeypatch.setattr(BatchClient, "poll", broken)
    with pytest.raises(GeckoError, match="KeyError"):
        Session(endpoint, tmp_path).ask(asks(2))


def test_a_batch_is_asked_only_for_what_a_chat_call_answers(endpoint: Endpoint, tmp_path: Path) -> None:
    every = Capabilities(
        generate=True, prompt_logprobs=True, label_logprobs_exact=True, label_logprobs_topk=20, batch_async=True
    )
    session = Session(endpoint, tmp_path)
    able = session.caller.able(every)
    assert (able.prompt_logprobs, able.label_logprobs_exact, able.label_logprobs_topk) == (False, False, 20)
    session.engine.set_dialect({**DIALECT, "labels": "completions"})
    assert session.caller.able(every).label_logprobs_topk == 0
    session.caller.close()


def test_a_teacher_stands_on_a_rung_that_a_batch_can_ask_for(endpoint: Endpoint, tmp_path: Path) -> None:
    def teacher(capabilities: Capabilities) -> LLMTeacher:
        session = Session(endpoint, tmp_path / str(capabilities.batch_async))

        async def found() -> Capabilities:
            return capabilities

        session.engine.capabilities = found  # type: ignore[method-assign]
        return LLMTeacher(session.engine, session.caller, session.ledger, prompts=PromptOptions())

    batching = teacher(Capabilities(generate=True, prompt_logprobs=True, label_logprobs_topk=20, batch_async=True))
    batching.probe()
    assert batching.rung == "rc+listwise" == batching.likely_rung()[0]
    with pytest.raises(UsageError, match="takes no batches"):
        teacher(Capabilities(generate=True)).probe()
