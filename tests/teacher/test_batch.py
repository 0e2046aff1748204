from __future__ import annotations

import asyncio
import json

import pytest
from endpoint import Endpoint

from gecko.teacher.ask import EngineError, Labels, Likelihood, Prompt, Write
from gecko.teacher.batch import BatchClient
from gecko.teacher.openai import OpenAIEngine

SECRET = "sk-proj-abcDEF0123456789abcDEF"
SHARED = "Write a query for this passage.\n"
SCHEMA = {
    "type": "object",
    "properties": {"query": {"type": "string"}},
    "required": ["query"],
    "additionalProperties": False,
}
DIALECT = {"write": "chat", "schema": "json_schema", "labels": "chat", "top": 20, "batch": True, "probed": True}


def writes(count: int) -> dict[str, Write]:
    return {f"w{n:03d}": Write(Prompt(SHARED, f"Passage {n} is on cats."), 60, schema=SCHEMA) for n in range(count)}


def grades(count: int) -> dict[str, Labels]:
    return {
        f"g{n:03d}": Labels(Prompt("Grade it.\n", f"Passage {n}.\nGrade:"), ("0", "1", "2", "3")) for n in range(count)
    }


@pytest.fixture
def endpoint(monkeypatch):
    for name in ("OPENAI_API_KEY", "GECKO_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with Endpoint("openai") as running:
        yield running


def client(endpoint: Endpoint, dialect: dict = DIALECT, **limits) -> BatchClient:
    engine = OpenAIEngine("toy", base_url=endpoint.url, api_key=SECRET)
    engine.set_dialect(dialect)
    return BatchClient(engine, **limits)


def ended(batches: BatchClient, batch_id: str):
    for _ in range(5):
        state = batches.poll(batch_id)
        if state.ended:
            return state
    raise AssertionError(state)


def live(endpoint: Endpoint, ask):
    """The answer of an ordinary call."""

    async def go():
        engine = OpenAIEngine("toy", base_url=endpoint.url)
        engine.set_dialect(DIALECT)
        try:
            return (await engine.answer([ask]))[0]
        finally:
            await engine.close()

    return asyncio.run(go())


def test_a_batch_answers_as_calls_do(endpoint):
    asks = {**writes(4), **grades(3)}
    batches = client(endpoint)
    ids = batches.submit(asks)
    assert len(ids) == 2  # texts and labels go apart
    assert batches.poll(ids[0]).status == "in_progress"
    answers = {}
    for batch_id in ids:
        state = ended(batches, batch_id)
        assert (state.status, state.completed, state.failed, state.message) == ("completed", state.total, 0, "")
        answers |= dict(batches.collect(batch_id))
    assert answers == {key: live(endpoint, ask) for key, ask in asks.items()}
    assert "query" in json.loads(answers["w000"].text) and set(answers["g000"].labels) == {"0", "1", "2", "3"}
    batches.close()


def test_another_process_goes_on_with_the_ids_alone(endpoint):
    ids = client(endpoint).submit(grades(3))
    later = client(endpoint)
    ended(later, ids[0])
    answers = dict(later.collect(ids[0]))
    assert set(answers) == set(grades(3)) and all(answer.labels for answer in answers.values())


def test_the_same_file_is_not_submitted_twice(endpoint):
    asks = writes(3)
    first = client(endpoint).submit(asks)
    assert client(endpoint).submit(dict(reversed(asks.items()))) == first
    assert client(endpoint).submit(writes(4)) != first
    assert len(endpoint.batches.batches) == 2 == len(endpoint.batches.files)


def test_files_are_split_at_the_number_of_calls(endpoint):
    assert len(client(endpoint, most_requests=4).submit(writes(10))) == 3
    sizes = [data.count(b"\n") for data in endpoint.batches.files.values()]
    assert sizes == [4, 4, 2]


def test_files_are_split_at_the_bytes(endpoint):
    limit = 1500
    batches = client(endpoint, most_bytes=limit)
    ids = batches.submit(writes(11))
    files = list(endpoint.batches.files.values())
    assert len(ids) == len(files) > 3 and all(len(data) <= limit for data in files)
    lines = [json.loads(line) for data in files for line in data.splitlines()]
    assert [line["custom_id"] for line in lines] == list(writes(11))
    assert all(line["url"] == "/v1/chat/completions" and line["method"] == "POST" for line in lines)


def test_lines_that_fail_say_why_and_the_others_stand(endpoint):
    endpoint.batches.failing = 3
    batches = client(endpoint)
    (batch_id,) = batches.submit(writes(6))
    state = ended(batches, batch_id)
    assert (state.completed, state.failed) == (4, 2)
    answers = dict(batches.collect(batch_id))
    assert sorted(answers) == sorted(writes(6))
    assert {key for key, answer in answers.items() if answer.error} == {"w000", "w003"}
    assert answers["w000"].error == "HTTP 500" and answers["w001"].text


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_a_batch_cut_short_keeps_what_it_has(endpoint, end):
    endpoint.batches.end = end
    batches = client(endpoint)
    (batch_id,) = batches.submit(writes(6))
    state = ended(batches, batch_id)
    assert state.status == end and "3 of 6 calls are answered" in state.message
    answers = dict(batches.collect(batch_id))
    assert [bool(answers[key].text) for key in writes(6)] == [True] * 3 + [False] * 3
    assert answers["w005"].error == f"not answered (batch_{end})"
    # It is no batch to wait for any more: the same asks are submitted again.
    assert batches.submit(writes(6)) != [batch_id]


def test_a_failed_batch_says_why(endpoint):
    endpoint.batches.end = "failed"
    batches = client(endpoint)
    (batch_id,) = batches.submit(writes(2))
    state = ended(batches, batch_id)
    assert state.status == "failed" and "invalid_json_line at line 1" in state.message
    with pytest.raises(EngineError, match="invalid_json_line"):
        list(batches.collect(batch_id))


def test_a_batch_that_goes_on_has_nothing_to_collect(endpoint):
    batches = client(endpoint)
    (batch_id,) = batches.submit(writes(2))
    with pytest.raises(EngineError) as caught:
        list(batches.collect(batch_id))
    assert caught.value.retry
    with pytest.raises(EngineError) as caught:
        batches.poll("batch_99")
    assert caught.value.fatal


def test_a_damaged_line_is_left_out_and_the_others_stand(endpoint):
    batches = client(endpoint)
    (batch_id,) = batches.submit(writes(3))
    ended(batches, batch_id)
    output = endpoint.batches.batches[batch_id]["output_file_id"]
    endpoint.batches.files[output] = endpoint.batches.files[output][:-20]
    assert len(dict(batches.collect(batch_id))) == 2
    body = endpoint.batches.files[output].split(b"\n")[0]
    endpoint.batches.files[output] = body.replace(b'"choices"', b'"nothing"')
    ((_, answer),) = batches.collect(batch_id)
    assert answer.error.startswith("damaged reply") and answer.input_tokens > 0


def test_asks_that_a_batch_cannot_answer(endpoint):
    with pytest.raises(EngineError, match="given text"):
        client(endpoint).submit({"a": Likelihood(Prompt("a", "b"), " c")})
    with pytest.raises(EngineError, match="labels"):
        client(endpoint, {**DIALECT, "labels": "completions"}).submit(grades(1))
    assert not endpoint.batches.files


def test_errors_of_the_service_have_flags_and_no_key(endpoint):
    endpoint.script.append("503")
    with pytest.raises(EngineError) as caught:
        client(endpoint).submit(writes(1))
    assert caught.value.crowded and caught.value.retry
    endpoint.key = "right"
    with pytest.raises(EngineError) as caught:
        client(endpoint).submit(writes(1))
    assert caught.value.fatal and SECRET not in str(caught.value)
