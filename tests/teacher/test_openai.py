from __future__ import annotations

import asyncio
import json
import math
import time
from collections import deque
from email.utils import formatdate

import pytest
from endpoint import Endpoint
from endpoint_model import DIALECTS, Refused, Traits

from gecko.errors import GeckoError
from gecko.teacher.ask import Answer, Ask, EngineError, Labels, Likelihood, Prompt, Write
from gecko.teacher.openai import OpenAIEngine
from gecko.teacher.openai_errors import clean, refusal, wait_seconds
from gecko.teacher.openai_read import read, top_tokens
from gecko.teacher.openai_tokens import Scored, Unspelled, match_labels, sum_by_label, tail
from gecko.teacher.openai_wire import Dialect, request

SECRET = "sk-proj-abcDEF0123456789abcDEF"
PROMPT = Prompt("Write a query for this passage.\n", "The cat sat on the mat, and the dog did not.")
CONTINUATION = " where did the cat sit?"
LABELS = ("0", "1", "2", "3")
SCHEMA = {
    "type": "object",
    "properties": {"query": {"type": "string"}, "grade": {"enum": [1, 2]}},
    "required": ["query", "grade"],
    "additionalProperties": False,
}
EXACT = {"vllm", "sglang"}
QUIETED = {
    "openai-thinking": {"reasoning_effort": "minimal"},
    "vllm-thinking": {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}},
}
SCORING = {"vllm": "vllm", "vllm-base": "vllm", "sglang": "sglang", "llama-cpp-python": "echo"}


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "GECKO_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def run(endpoint: Endpoint, *asks: Ask, probe: bool = True, dialect: dict | None = None, **options) -> list[Answer]:
    """Ask one after the other, in one event loop."""

    async def go() -> list[Answer]:
        engine = OpenAIEngine("toy", base_url=endpoint.url, **options)
        try:
            engine.set_dialect(dialect or {})
            if probe and not dialect:
                await engine.capabilities()
            endpoint.log.clear()
            return [(await engine.answer([ask]))[0] for ask in asks]
        finally:
            await engine.close()

    return asyncio.run(go())


def fails(endpoint: Endpoint, ask: Ask | None = None, **options) -> EngineError:
    with pytest.raises(EngineError) as caught:
        run(endpoint, ask or Write(PROMPT, 20), probe=False, **options)
    return caught.value


def flags(error: EngineError) -> set[str]:
    return {name for name in ("retry", "crowded", "timeout", "unreachable", "fatal") if getattr(error, name)}


def oracle(endpoint: Endpoint, ask: Likelihood) -> list[float]:
    """The continuation's log-probabilities, from the model itself."""
    brain = endpoint.brain
    tokens = brain.tokens(ask.prompt.shared + ask.prompt.own + ask.continuation)
    first = len(tokens) - len(brain.tokens(ask.continuation))
    return [brain.logprob(tokens[:at], tokens[at]) for at in range(first, len(tokens))]


def oracle_labels(endpoint: Endpoint, text: str, exact: bool) -> dict[str, float]:
    """The labels' log-probabilities, from the model itself; a top-k server tells of its twenty likeliest tokens."""
    brain = endpoint.brain
    prefix = brain.tokens(text)
    told = dict(brain.top(prefix, 999 if exact else 20))
    forms = {label: [told[form] for form in (label, f" {label}") if form in told] for label in LABELS}
    return {
        label: math.log(sum(map(math.exp, found))) if found else min(told.values()) for label, found in forms.items()
    }


@pytest.mark.parametrize("name", DIALECTS)
def test_each_server_is_asked_in_its_dialect(name):
    with Endpoint(name) as endpoint:

        async def go():
            engine = OpenAIEngine("toy", base_url=endpoint.url)
            try:
                capabilities = await engine.capabilities()
                probes = len(endpoint.log)
                assert await engine.capabilities() == capabilities
                assert len(endpoint.log) == probes < 30
                return capabilities, engine.dialect()
            finally:
                await engine.close()

        can, dialect = asyncio.run(go())
        assert can.generate and can.listwise
        assert can.prompt_logprobs == (name in SCORING) and dialect["likelihood"] == SCORING.get(name, "")
        assert can.prefix_cache_with_prompt_logprobs == (name == "sglang")
        assert can.label_logprobs_exact == (name in EXACT)
        topless = {"openai-reasoning", "openai-thinking", "anthropic", "bare"} | EXACT
        assert dialect["extra"] == QUIETED.get(name, {}) and not dialect["thoughts"]
        assert (dialect["probe_input"] > 0) == DIALECTS[name].usage
        assert can.label_logprobs_topk == (0 if name in topless else 20)
        assert can.constrained_choice == (DIALECTS[name].schema.endswith("schema") and DIALECTS[name].chat)
        assert can.batch_async == name.startswith("openai")
        assert can.token_id_prompts == (DIALECTS[name].tokenize in ("vllm", "llama.cpp"))

        asks: list[Ask] = [Write(PROMPT, 30)]
        if can.prompt_logprobs:
            asks.append(Likelihood(PROMPT, CONTINUATION))
        if can.label_logprobs_exact or can.label_logprobs_topk:
            asks.append(Labels(PROMPT, LABELS))
        answers = run(endpoint, *asks, dialect=dialect)
        assert answers[0].text.startswith("a reply that says") and answers[0].input_tokens and answers[0].output_tokens
        for ask, answer in zip(asks[1:], answers[1:], strict=True):
            if isinstance(ask, Likelihood):
                assert list(answer.logprobs) == pytest.approx(oracle(endpoint, ask))
            else:
                joint = "\n" if dialect["labels"] == "chat" else ""
                text = PROMPT.shared + joint + PROMPT.own + (" " if dialect["space"] else "")
                assert answer.labels == pytest.approx(oracle_labels(endpoint, text, can.label_logprobs_exact))


def test_write_sends_what_is_asked_and_reads_what_is_used():
    ask = Write(PROMPT, 7, temperature=0.5, seed=3, schema=SCHEMA)
    with Endpoint("openai") as endpoint:
        answer = run(endpoint, ask)[0]
        (body,) = endpoint.bodies("/chat/completions")
    assert body["messages"] == [
        {"role": "system", "content": PROMPT.shared},
        {"role": "user", "content": PROMPT.own},
    ]
    assert (body["max_tokens"], body["temperature"], body["seed"]) == (7, 0.5, 3)
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert body["response_format"]["json_schema"]["strict"] is True
    assert answer.finish == "length" and answer.output_tokens == 7
    assert answer.cached_tokens == answer.input_tokens // 2 > 0


def test_a_reply_by_schema_obeys_it_and_an_open_schema_is_not_strict():
    loose = {"type": "object", "properties": {"query": {"type": "string"}}}
    with Endpoint("vllm") as endpoint:
        obeyed, _ = run(endpoint, Write(PROMPT, 99, schema=SCHEMA), Write(PROMPT, 99, schema=loose))
        assert endpoint.bodies("/chat/completions")[1]["response_format"]["json_schema"]["strict"] is False
    assert set(json.loads(obeyed.text)) == {"query", "grade"} and obeyed.finish == "stop"


def test_a_prompt_of_one_part_has_no_system_message():
    _, body = request("m", Dialect(), Write(Prompt("", "all of it"), 5))
    assert [message["role"] for message in body["messages"]] == ["user"]


def test_a_model_without_a_chat_template_gets_the_prompt_as_it_stands():
    with Endpoint("vllm-base") as endpoint:
        run(endpoint, Write(PROMPT, 9))
        (body,) = endpoint.bodies("/completions")
    assert body["prompt"] == PROMPT.shared + PROMPT.own and body["max_tokens"] == 9


def test_refused_parameters_are_left_out_from_then_on():
    with Endpoint("openai-reasoning") as endpoint:
        run(endpoint, Write(PROMPT, 9), Write(PROMPT, 9, seed=1), probe=False)
        bodies = endpoint.bodies("/chat/completions")
        # The first ask is refused twice, for max_tokens and for temperature; the second goes through at once.
        assert len(bodies) == 4
        assert "max_tokens" not in bodies[-1] and bodies[-1]["max_completion_tokens"] == 9
        assert "temperature" not in bodies[-1] and bodies[-1]["seed"] == 1


def test_many_asks_at_once_learn_the_same_refusal():
    with Endpoint("openai-reasoning", latency=0.02) as endpoint:

        async def go():
            engine = OpenAIEngine("toy", base_url=endpoint.url)
            try:
                return await asyncio.gather(*(engine.answer([Write(PROMPT, 9, seed=seed)]) for seed in range(20)))
            finally:
                await engine.close()

        assert all(answers[0].text for answers in asyncio.run(go()))


def test_without_usage_tokens_are_estimated():
    with Endpoint("bare") as endpoint:
        answer = run(endpoint, Write(PROMPT, 30))[0]
    assert answer.input_tokens == math.ceil(len(PROMPT.shared + PROMPT.own) / 4)
    assert answer.output_tokens == math.ceil(len(answer.text) / 4)


def test_a_dialect_is_stored_and_restored_without_asking_again():
    with Endpoint("vllm") as endpoint:

        async def go():
            first = OpenAIEngine("toy", base_url=endpoint.url)
            before = first.fingerprint
            can = await first.capabilities()
            kept = json.loads(json.dumps(first.dialect()))
            await first.close()
            endpoint.log.clear()
            second = OpenAIEngine("toy", base_url=endpoint.url)
            assert second.dialect() == {}
            second.set_dialect({**kept, "from_a_later_version": 1})
            assert await second.capabilities() == can and not endpoint.log
            assert second.fingerprint == first.fingerprint != before
            await second.close()

        asyncio.run(go())


def test_likelihood_from_sglang_keeps_the_cached_prefix():
    shared = "Passage and query follow, one after the other, and the query fits the passage. " * 3
    asks = [Likelihood(Prompt(shared, f"Passage {n} is about cats."), CONTINUATION) for n in range(3)]
    with Endpoint("sglang") as endpoint:
        answers = run(endpoint, *asks)
        starts = [body["logprob_start_len"] for body in endpoint.bodies("/generate")]
        assert len(endpoint.bodies("/tokenize")) == 1
        assert starts == [len(endpoint.brain.tokens(shared)) - 4] * 3
        assert [answer.cached_tokens for answer in answers] == starts
        for ask, answer in zip(asks, answers, strict=True):
            assert list(answer.logprobs) == pytest.approx(oracle(endpoint, ask))


def test_characters_that_tokens_split_are_found_by_count():
    ask = Likelihood(PROMPT, " wo saß die Katze?")
    with Endpoint("vllm") as endpoint:
        plain = endpoint.brain._prompt_logprobs

        def broken(tokens, lead):
            rows = plain(tokens, lead)
            for row in rows:
                for entry in (row or {}).values():
                    entry["decoded_token"] = entry["decoded_token"].replace("ß", "\ufffd")
            return rows

        endpoint.brain._prompt_logprobs = broken
        assert list(run(endpoint, ask)[0].logprobs) == pytest.approx(oracle(endpoint, ask))
        assert len(endpoint.bodies("/tokenize")) == 2


def test_a_server_that_shifts_its_values_by_one_token_does_not_count_as_scoring():
    with Endpoint("llama-cpp-python") as endpoint:
        plain = endpoint.brain._completion_logprobs

        def shifted(prompt, lead, made, body, echo):
            found = plain(prompt, lead, made, body, echo)
            if echo:
                found["token_logprobs"] = [None, *found["token_logprobs"][2:], -0.5]
            return found

        endpoint.brain._completion_logprobs = shifted
        with pytest.raises(EngineError, match="no log-probabilities of given text"):
            run(endpoint, Likelihood(PROMPT, CONTINUATION))


def test_a_server_that_ignores_what_it_does_not_know_has_no_capability():
    with Endpoint("ollama") as endpoint:
        with pytest.raises(EngineError) as caught:
            run(endpoint, Likelihood(PROMPT, CONTINUATION))
        assert not flags(caught.value) and not endpoint.log
    with Endpoint(Traits(completion_top=20)) as endpoint:
        assert not probed(endpoint)[0].prompt_logprobs
        taken = [seen for seen in endpoint.log if isinstance(seen.body, dict) and "prompt_logprobs" in seen.body]
        assert taken and all(seen.status == 200 for seen in taken)
    with Endpoint("anthropic") as endpoint, pytest.raises(EngineError, match="labels"):
        run(endpoint, Labels(PROMPT, LABELS))


def test_labels_below_the_top_k_get_the_lowest_value_and_are_named():
    # Five of the twenty forms of ten digits are reported, and the chosen token.
    labels = tuple("0123456789")
    with Endpoint(Traits(completion_top=5)) as endpoint:
        answer = run(endpoint, Labels(PROMPT, labels), dialect={"labels": "completions", "top": 5})[0]
        top = endpoint.brain.top(endpoint.brain.tokens(PROMPT.shared + PROMPT.own), 5)
    told = {token.strip() for token, _ in top}
    assert set(answer.floored) == set(labels) - told and answer.floored
    assert {answer.labels[label] for label in answer.floored} == {top[-1][1]}
    assert min(answer.labels.values()) == top[-1][1]


def test_a_tokenizer_that_parts_digits_from_spaces_is_asked_after_the_space():
    with Endpoint(Traits(completion_top=20)) as endpoint:
        digits = [("1", -0.2), ("0", -2.0), ("2", -3.0), ("3", -4.0), (" the", -5.0)]
        endpoint.brain.top = lambda prefix, count: digits if prefix[-1] == " " else [(" ", -0.01), ("1", -6.0)]
        answer = run(endpoint, Labels(PROMPT, LABELS))[0]
        (body,) = endpoint.bodies("/completions")
    assert body["prompt"] == PROMPT.shared + PROMPT.own + " "
    assert answer.labels == {"1": -0.2, "0": -2.0, "2": -3.0, "3": -4.0} and not answer.floored


def test_a_refused_form_of_a_reply_gives_way_to_a_weaker_one():
    ask, forms = Write(PROMPT, 99, schema=SCHEMA), []
    dialect = Dialect(schema="json_schema")
    for _ in range(4):
        _, body = request("m", dialect, ask)
        forms.append(body.get("response_format", {}))
        dialect.adapt("unsupported", "response_format", body)
    assert [sorted(form) for form in forms] == [["json_schema", "type"], ["schema", "type"], ["type"], []]
    # A call that was under way before the last one was refused teaches nothing new.
    dialect = Dialect(schema="json_object")
    dialect.adapt("unsupported", "response_format", {"response_format": forms[0]})
    assert dialect.schema == "json_object"


FAULTS = {
    "429": {"retry", "crowded"},
    "503": {"retry", "crowded"},
    "500": {"retry"},
    "hang": {"retry", "crowded", "timeout"},
    "drip": {"retry", "crowded", "timeout"},
    "truncated": {"retry"},
    "schema": {"retry"},
    "drop": {"retry"},
    "drop_late": {"retry"},
    "garbage": {"retry"},
    "chunk": {"retry"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_flags(fault):
    with Endpoint("openai", script=deque([fault, ""]), retry_after="2") as endpoint:

        async def go():
            engine = OpenAIEngine("toy", base_url=endpoint.url, timeout=0.25)
            try:
                started = time.monotonic()
                with pytest.raises(EngineError) as caught:
                    await engine.answer([Write(PROMPT, 20)])
                assert time.monotonic() - started < 1.5
                # One attempt only, and the engine is as good as new after it.
                assert len(endpoint.log) == 1
                assert (await engine.answer([Write(PROMPT, 20)]))[0].text
                return caught.value
            finally:
                await engine.close()

        error = asyncio.run(go())
        assert flags(error) == FAULTS[fault]
        assert error.wait == (2.0 if fault in ("429", "503") else None)
        assert [seen.whole for seen in endpoint.log] == [False, True]
        if fault in ("truncated", "schema"):
            assert error.input_tokens > 0


def test_nobody_at_the_address():
    with Endpoint() as endpoint:
        url = endpoint.url
    endpoint.port = int(url.rsplit(":", 1)[1].split("/")[0])
    assert flags(fails(endpoint)) == {"retry", "unreachable"}


@pytest.mark.parametrize("key", ["sk-a\nb", "sk-a\rb", "sk-a\0b", "sk-\u00e4"])
def test_a_key_that_no_header_can_hold_is_not_tried_again(key):
    with Endpoint("openai") as endpoint:
        error = fails(endpoint, api_key=key)
        assert (flags(error), len(endpoint.log)) == ({"fatal"}, 0)
    assert "is the key whole?" in str(error)


def test_an_address_that_speaks_no_https_is_said():
    async def go():
        async def refuse(reader, writer):
            await reader.read(100)
            writer.write(b"HTTP/1.1 400 X\r\nContent-Length: 0\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        engine = OpenAIEngine("toy", base_url=f"https://127.0.0.1:{port}/v1", timeout=2)
        try:
            await engine.answer([Write(PROMPT, 20)])
        finally:
            await engine.close()
            server.close()

    with pytest.raises(EngineError, match="no secure connection") as caught:
        asyncio.run(go())
    assert flags(caught.value) == {"fatal"} and caught.value.perhaps


def test_a_proxy_that_cannot_be_used_is_an_error_of_the_call(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "foo://127.0.0.1:1")
    with Endpoint("openai") as endpoint:
        assert flags(fails(endpoint)) == {"fatal"}


def test_a_failing_probe_says_so_and_a_passing_failure_costs_no_capability():
    with Endpoint("vllm", faults={"503": 1.0}) as endpoint, pytest.raises(EngineError) as caught:
        run(endpoint)
    assert flags(caught.value) == {"retry", "crowded"} and len(endpoint.log) == 6
    with Endpoint("vllm", script=deque(["", "500", "500", "", "truncated"])) as endpoint:
        assert run(endpoint, Likelihood(PROMPT, CONTINUATION))[0].logprobs


def probed(endpoint: Endpoint):
    """What probing finds out, and its dialect."""

    async def go():
        engine = OpenAIEngine("toy", base_url=endpoint.url)
        try:
            return await engine.capabilities(), engine.dialect()
        finally:
            await engine.close()

    return asyncio.run(go())


def test_a_crowded_server_is_waited_for_while_it_is_probed():
    with Endpoint("openai") as endpoint:
        can, _ = probed(endpoint)
    with Endpoint("openai", script=deque(["429", "", "503", "", "429", "429"])) as endpoint:
        assert probed(endpoint)[0] == can
        assert sum(seen.status in (429, 503) for seen in endpoint.log) == 4


@pytest.mark.parametrize("thinks", [400, 5000])
def test_a_model_that_cannot_be_kept_from_thinking_is_known_to_think(thinks):
    with Endpoint(Traits(completions=False, thinks=thinks)) as endpoint:
        can, dialect = probed(endpoint)
    assert can.generate and dialect["extra"] == {} and dialect["thoughts"] == min(thinks, 1024)


def test_a_model_that_thinks_until_its_room_is_full_answers_all_the_same():
    with Endpoint("openai-reasoning") as endpoint:
        plain = endpoint.brain.chat

        def chat(body):
            if body.get("max_completion_tokens", 9999) < 2000:
                raise Refused(400, "Could not finish the message because max_tokens or model output limit was reached.")
            return plain(body)

        endpoint.brain.chat = chat
        can, dialect = probed(endpoint)
        assert can.generate and dialect["thoughts"] == 1024
        cut = run(endpoint, Write(PROMPT, 300), dialect=dialect)[0]
        assert (cut.text, cut.finish, cut.output_tokens, cut.error) == ("", "length", 300, "")
        assert run(endpoint, Write(PROMPT, 3000), dialect=dialect)[0].text


@pytest.mark.parametrize("status", [400, 500])
def test_a_context_too_short_for_thoughts_is_no_failure(status):
    with Endpoint("ollama") as endpoint:
        plain = endpoint.brain.chat

        def chat(body):
            if body["max_tokens"] > 300:
                raise Refused(status, "the context is full")
            return plain(body)

        endpoint.brain.chat = chat
        can, dialect = probed(endpoint)
        assert can.generate and dialect["write"] == "chat"


def test_what_keeps_a_model_from_thinking_is_sent_and_dropped_where_it_is_refused():
    dialect = Dialect(extra={"reasoning_effort": "low"})
    _, body = request("m", dialect, Write(PROMPT, 9))
    assert body["reasoning_effort"] == "low"
    dialect.adapt("Unrecognized request argument supplied: reasoning_effort", "", body)
    assert "reasoning_effort" not in request("m", dialect, Write(PROMPT, 9))[1]
    assert Dialect().mark() != Dialect(extra={"reasoning_effort": "low"}).mark()


@pytest.mark.parametrize(
    ("top", "believed"),
    [
        # About to think: digits are among the twenty, and mean nothing.
        ([("<think>", -1e-6), ("Okay", -15.0), ("1", -19.0), ("0", -19.5), ("The", -20.0)], False),
        ([("0", -0.2), ("1", -2.0), ("the", -4.0), ("a", -5.0)], False),
        ([("1", -0.2), ("0", -2.0), ("the", -4.0), ("a", -5.0)], True),
    ],
)
def test_labels_are_believed_where_the_model_answers_with_the_right_one(top, believed):
    with Endpoint("openai") as endpoint:
        endpoint.brain.top = lambda prefix, count: top
        assert bool(probed(endpoint)[0].label_logprobs_topk) == believed


def test_likelihoods_that_nothing_can_be_compared_with_are_not_believed():
    with Endpoint(Traits(prompt_logprobs=True)) as endpoint:
        assert not probed(endpoint)[0].prompt_logprobs


@pytest.mark.parametrize("address", ["http://h:80a/v1", "http://[::1/v1", "ftp://h/v1", "h:80/v1"])
def test_an_address_that_is_none_is_told_in_a_line(address):
    with pytest.raises(GeckoError, match="not a URL"):
        OpenAIEngine("toy", base_url=address)


def test_a_wrong_key_and_an_unknown_model_are_fatal_and_say_nothing_secret():
    with Endpoint("openai", key="right") as endpoint:
        for probe in (False, True):
            with pytest.raises(EngineError) as caught:
                run(endpoint, Write(PROMPT, 9), probe=probe, api_key=SECRET)
            assert flags(caught.value) == {"fatal"}
            assert SECRET not in str(caught.value) and "abcDEF" not in repr(caught.value)
            assert caught.value.__cause__ is None and caught.value.__suppress_context__
        assert run(endpoint, Write(PROMPT, 9), api_key="right")[0].text
    with Endpoint("vllm", model="other") as endpoint, pytest.raises(EngineError) as caught:
        run(endpoint)
    assert flags(caught.value) == {"fatal"} and "does not exist" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            400,
            {"error": {"message": "maximum context length is 2048 tokens", "code": "context_length_exceeded"}},
            set(),
        ),
        (400, {"error": {"message": "filtered", "code": "content_filter"}}, set()),
        (400, {"error": {"message": "API key not valid. Please pass a valid API key."}}, {"fatal"}),
        (400, {"error": {"message": "xyz is not a valid model ID"}}, {"fatal"}),
        (401, {"error": {"message": "no"}}, {"fatal"}),
        (402, {"error": {"message": "Insufficient Balance"}}, {"fatal"}),
        (403, {"detail": "Forbidden"}, {"fatal"}),
        (403, {"error": {"message": "your input was flagged by moderation"}}, set()),
        (404, {"detail": "Not Found"}, {"fatal"}),
        (408, "timeout", {"retry", "crowded", "timeout"}),
        (413, "too large", set()),
        (429, {"error": {"message": "You exceeded your current quota", "type": "insufficient_quota"}}, {"fatal"}),
        (429, {"error": {"message": "Rate limit reached", "type": "requests"}}, {"retry", "crowded"}),
        (429, {"error": {"message": "Request too large for x: Limit 30000, Requested 38211."}}, set()),
        (500, "<html>oops</html>", {"retry"}),
        (501, {"error": {"message": "not supported"}}, set()),
        (502, None, {"retry"}),
        (504, "", {"retry"}),
        (529, {"error": {"type": "overloaded_error"}}, {"retry", "crowded"}),
    ],
)
def test_each_status_has_its_flags(status, body, expected):
    assert flags(refusal(status, body, {})) == expected


@pytest.mark.parametrize(
    ("status", "message", "perhaps"),
    [(403, "no", True), (404, "no", True), (401, "no", False), (404, "model not found", False), (402, "", False)],
)
def test_some_refusals_may_be_meant_for_one_ask(status, message, perhaps):
    error = refusal(status, {"error": {"message": message}}, {})
    assert (error.fatal, error.perhaps) == (True, perhaps)


def test_half_characters_in_a_message_are_dropped():
    assert (
        str(refusal(400, {"error": {"message": "too \ud83d long", "code": "a\ud83d"}}, {})) == "HTTP 400 (a) too long"
    )


def test_an_error_in_a_reply_of_status_200_is_an_error():
    with Endpoint("openai") as endpoint:
        endpoint.brain.chat = lambda body: {"error": {"code": 429, "message": "upstream is busy"}}
        assert flags(fails(endpoint)) == {"retry", "crowded"}
        endpoint.brain.chat = lambda body: {"error": {"message": "provider returned error"}}
        assert flags(fails(endpoint)) == {"retry"}
        endpoint.brain.chat = lambda body: {"choices": []}
        assert flags(fails(endpoint)) == {"retry"}
        endpoint.brain.chat = lambda body: ["no", "object"]
        assert flags(fails(endpoint)) == {"retry"}


def test_retry_after_in_each_form():
    now = 1_800_000_000.0
    assert wait_seconds({"retry-after": "7"}) == 7
    assert wait_seconds({"retry-after-ms": "250", "retry-after": "7"}) == 0.25
    assert wait_seconds({"retry-after": formatdate(now + 12, usegmt=True)}, now) == 12
    assert wait_seconds({"retry-after": formatdate(now - 12, usegmt=True)}, now) == 0
    assert wait_seconds({"retry-after": "soon"}) is None and wait_seconds({"retry-after": "nan"}) is None
    assert wait_seconds({}) is None


@pytest.mark.parametrize(
    "text",
    [
        f"Incorrect API key provided: {SECRET}.",
        f"Authorization: Bearer {SECRET}",
        "bad header 'authorization: Basic dXNlcjpwYXNz'",
        f"api_key={SECRET}&x=1",
        "token hf_abcDEF0123456789 is expired",
        "key AIzaSyabcDEF0123456789 is not valid",
        "see http://user:abcDEF@internal.host:8000/v1",
        "the value is mykey-abcDEF",
    ],
)
def test_messages_hold_no_key(text):
    line = clean(text, "mykey-abcDEF")
    assert "abcDEF" not in line and "dXNlcjpwYXNz" not in line


def test_messages_hold_no_passage_and_are_one_short_line():
    quoted = f"cannot parse\n{PROMPT.own}"
    assert "cat" not in clean(quoted, "", (PROMPT.own,))
    assert clean("model\n `toy`\tis  down") == "model `toy` is down"
    assert len(clean("very long " * 99)) == 200
    with Endpoint("openai") as endpoint:

        def refuse(body):
            raise Refused(400, f"bad input: {PROMPT.own}")

        endpoint.brain.chat = refuse
        error = fails(endpoint)
    assert "cat" not in str(error) and "HTTP 400" in str(error) and not flags(error)


def test_names_and_marks_hold_no_key_and_no_address(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    engine = OpenAIEngine("toy", base_url="http://user:pass@internal.host:8000/v1")
    assert engine.name == "openai:toy"
    for text in (engine.name, repr(engine), engine.fingerprint, json.dumps(engine.dialect())):
        assert SECRET not in text and "internal" not in text and "pass" not in text
    other = OpenAIEngine("toy", base_url="http://internal.host:8001/v1")
    same = OpenAIEngine("toy", base_url="http://internal.host:8000/v1/", api_key="another")
    assert engine.fingerprint == same.fingerprint != other.fingerprint
    assert OpenAIEngine("toy").fingerprint != OpenAIEngine("toy2").fingerprint


def test_key_and_address_come_from_the_environment(monkeypatch):
    with pytest.raises(GeckoError, match="no key"):
        OpenAIEngine("toy")
    with pytest.raises(GeckoError, match="not a URL"):
        OpenAIEngine("toy", base_url="127.0.0.1:8000")
    with Endpoint("openai", key=SECRET) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        monkeypatch.setenv("OPENAI_API_KEY", "wrong")
        monkeypatch.setenv("GECKO_API_KEY", SECRET)

        async def go():
            engine = OpenAIEngine("toy")
            try:
                return (await engine.answer([Write(PROMPT, 9)]))[0].text
            finally:
                await engine.close()

        assert asyncio.run(go())


def test_tokens_are_counted_where_the_server_counts():
    for name, expected in (("vllm", 4), ("llama.cpp", 4), ("openai", None)):
        with Endpoint(name) as endpoint:

            async def go(endpoint=endpoint):
                engine = OpenAIEngine("toy", base_url=endpoint.url)
                try:
                    await engine.capabilities()
                    return await engine.count_tokens("the cat sat.")
                finally:
                    await engine.close()

            assert asyncio.run(go()) == expected


ASK = Likelihood(Prompt("shared ", "own."), " two words")


@pytest.mark.parametrize(
    ("scored", "expected"),
    [
        (Scored(["shared", " own", ".", " two", " words"], [None, -1, -2, -3, -4]), (-3, -4)),
        # A token that begins in the prompt and ends in the continuation counts to the continuation.
        (Scored(["shared", " own", ". two", " words"], [None, -1, -2, -3]), (-2, -3)),
        # Spaces lost, or shown as byte markers.
        (Scored(["<s>", "shared", "own", ".", "two", "words"], [None, -1, -2, -3, -4, -5]), (-4, -5)),
        (Scored(["sharedĠ", "own.", "Ġtwo", "▁words"], [None, -1, -2, -3]), (-2, -3)),
        # A space of its own belongs to the continuation, which starts with it.
        (Scored(["shared own.", " ", "two", " words"], [None, -1, -2, -3]), (-1, -2, -3)),
        # Offsets, with a generated token after the text.
        (Scored(["shared", " own.", " two", " words", "!"], [None, -1, -2, -3, -9], (0, 6, 11, 15, 21), 1), (-2, -3)),
        # Offsets that count a marker of the text's start are not believed.
        (
            Scored(["<s>", "shared own.", " two", " words", "!"], [None, -1, -2, -3, -9], (0, 3, 14, 18, 24), 1),
            (-2, -3),
        ),
        (Scored(["shared own.", " two", " words", "!"], [None, -2, -3, -9], (), None), (-2, -3)),
        # Offsets known to be right are believed although a token's text is broken.
        (
            Scored(["shared own.", " t\ufffd", "\ufffd", " words"], [None, -1, -2, -3], (0, 11, 13, 15), 0, True),
            (-1, -2, -3),
        ),
        # Rounding above certainty.
        (Scored(["shared own.", " two", " words"], [None, 1e-6, -3]), (0, -3)),
    ],
)
def test_the_continuation_is_found(scored, expected):
    assert tail(scored, ASK) == pytest.approx(expected)


def test_a_continuation_that_is_not_there_is_no_answer():
    with pytest.raises(Unspelled):
        tail(Scored(["shared", " own.", " two", " w\ufffd"], [None, -1, -2, -3]), ASK)
    with pytest.raises(Unspelled):
        tail(Scored(["shared", " own.", " two", " birds"], [None, -1, -2, -3]), ASK)
    assert tail(Scored(["?", "?", "?"], [None, -2, -3]), ASK, 2) == (-2, -3)
    with pytest.raises(EngineError, match="damaged") as caught:
        tail(Scored(["?"], [-3]), ASK, 2)
    assert caught.value.retry


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf, 0.5, "x", True])
def test_damaged_log_probabilities_are_no_answer(bad):
    rows = [None] + [
        {"7": {"logprob": value, "decoded_token": token}} for value, token in ((-1, " two"), (bad, " words"))
    ]
    reply = {"choices": [{"text": "", "prompt_logprobs": rows}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
    with pytest.raises(EngineError, match="damaged reply") as caught:
        read(Dialect(likelihood="vllm"), ASK, reply)
    assert flags(caught.value) == {"retry"} and (caught.value.input_tokens, caught.value.output_tokens) == (3, 1)
    legacy = {"choices": [{"logprobs": {"top_logprobs": [{"1": bad}]}}]}
    with pytest.raises(EngineError, match="damaged reply"):
        read(Dialect(labels="completions", top=5), Labels(PROMPT, LABELS), legacy)


def used(usage: object) -> tuple[int, int, int]:
    reply = {"choices": [{"message": {"content": "four"}, "finish_reason": "stop"}], "usage": usage}
    answer = read(Dialect(), Write(PROMPT, 9), reply)
    return answer.input_tokens, answer.cached_tokens, answer.output_tokens


def test_thoughts_that_are_in_the_total_only_are_counted():
    assert used({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 315}) == (10, 0, 305)
    assert used({"prompt_tokens": 10, "completion_tokens": 305, "total_tokens": 315}) == (10, 0, 305)
    assert used({"prompt_tokens": 10, "completion_tokens": 5}) == (10, 0, 5)


@pytest.mark.parametrize("bad", [-50, 10**30, True, "7", 7.5, None, [], {}])
def test_numbers_of_tokens_that_can_be_none_are_not_believed(bad):
    estimated = used(None)
    usage = {"prompt_tokens": bad, "completion_tokens": bad, "total_tokens": bad, "cached_tokens": bad}
    assert used(usage) == estimated
    assert estimated[0] > 0


def test_tokens_that_do_not_spell_the_text_were_paid_for():
    rows = [None, {"7": {"logprob": -1, "decoded_token": "x"}}]
    reply = {"choices": [{"prompt_logprobs": rows}], "usage": {"prompt_tokens": 2, "completion_tokens": 1}}
    with pytest.raises(Unspelled) as caught:
        read(Dialect(likelihood="vllm"), ASK, reply)
    assert (caught.value.input_tokens, caught.value.output_tokens) == (2, 1)


def test_half_characters_in_a_reply_are_dropped():
    reply = {"choices": [{"message": {"content": "a \ud83d b"}, "finish_reason": "stop"}]}
    assert read(Dialect(), Write(PROMPT, 9), reply).text == "a  b"


def test_short_lists_are_damaged():
    reply = {"choices": [{"prompt_logprobs": [None, {"7": {"logprob": -1, "decoded_token": "x"}}]}]}
    reply["usage"] = {"prompt_tokens": 3}
    with pytest.raises(EngineError, match="damaged reply"):
        read(Dialect(likelihood="vllm"), ASK, reply)
    echo = {"choices": [{"logprobs": {"tokens": ["a", "b"], "token_logprobs": [-1], "text_offset": [0, 1]}}]}
    with pytest.raises(EngineError, match="damaged reply"):
        read(Dialect(likelihood="echo"), ASK, echo)
    sglang = {"meta_info": {"output_token_ids_logprobs": [[[-1.0, 5, None]]]}}
    with pytest.raises(EngineError, match="damaged reply"):
        read(Dialect(labels="sglang", label_ids={"0": [5], "1": [6]}), Labels(PROMPT, ("0", "1")), sglang)


def test_labels_with_and_without_a_space_are_one_outcome():
    top = [("1", math.log(0.5)), ("Ġ1", math.log(0.2)), ("▁2", math.log(0.1)), (" the", math.log(0.05))]
    labels, floored = match_labels(top, ("0", "1", "2"))
    assert labels == pytest.approx({"0": math.log(0.05), "1": math.log(0.7), "2": math.log(0.1)})
    assert floored == ("0",)
    found = sum_by_label({5: math.log(0.5), 6: math.log(0.2)}, {"1": [5, 6]})
    assert found == pytest.approx({"1": math.log(0.7)})


def test_top_tokens_in_both_shapes_hold_the_chosen_token():
    rows = [{"token": " 1", "logprob": -0.5}]
    content = {"choices": [{"logprobs": {"content": [{"token": " 2", "logprob": -3, "top_logprobs": rows}]}}]}
    assert top_tokens(content) == [(" 1", -0.5), (" 2", -3.0)]
    assert top_tokens({"choices": [{"logprobs": {"top_logprobs": [{" 1": -0.5}]}}]}) == [(" 1", -0.5)]
    assert top_tokens({"choices": [{"logprobs": None}]}) == [] == top_tokens({"choices": [{}]})


def test_replies_in_parts_and_refusals():
    write = Write(PROMPT, 9)
    parts = {"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}}]}
    assert read(Dialect(), write, parts).text == "ab"
    refused = {"choices": [{"message": {"content": None, "refusal": "I can't"}, "finish_reason": "stop"}]}
    assert read(Dialect(), write, refused).finish == "content_filter"
    thought = {"choices": [{"message": {"content": None, "reasoning_content": "hm"}, "finish_reason": "length"}]}
    assert read(Dialect(), write, thought).finish == "length"
    with pytest.raises(EngineError, match="damaged"):
        read(Dialect(), write, {"choices": [{"message": {}}]})


def test_one_ask_a_call():
    engine = OpenAIEngine("toy", base_url="http://127.0.0.1:1/v1")
    with pytest.raises(ValueError, match="one ask"):
        asyncio.run(engine.answer([Write(PROMPT, 1), Write(PROMPT, 1)]))


def test_the_endpoint_meets_faults_by_seed_and_keeps_its_log():
    shares = {"500": 0.3, "truncated": 0.2}

    def outcomes(seed: int) -> list[str]:
        with Endpoint("openai", faults=shares, seed=seed) as endpoint:

            async def go():
                engine = OpenAIEngine("toy", base_url=endpoint.url)
                try:
                    asks = [Write(PROMPT, 9, seed=number) for number in range(40)]
                    await asyncio.gather(*(engine.answer([ask]) for ask in asks), return_exceptions=True)
                finally:
                    await engine.close()

            asyncio.run(go())
            assert all(seen.whole == (not seen.fault) for seen in endpoint.log)
            return [seen.fault for seen in sorted(endpoint.log, key=lambda seen: seen.body["seed"])]

    first = outcomes(1)
    assert first == outcomes(1) != outcomes(2)
    assert 8 < sum(map(bool, first)) < 32
