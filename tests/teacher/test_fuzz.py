"""Whatever an endpoint sends, an ask gets an answer or a reason, or the run ends in a line; the ledger stays whole."""

from __future__ import annotations

import json
import math
import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint
from endpoint_model import Refused

from gecko.errors import GeckoError
from gecko.teacher.ask import Answer, Ask, Labels, Likelihood, Prompt, Write
from gecko.teacher.batched import BatchCaller
from gecko.teacher.budget import Budget, Price
from gecko.teacher.caller import Caller
from gecko.teacher.ledger import Ledger
from gecko.teacher.openai import OpenAIEngine
from gecko.teacher.traffic import Patience

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, -50, 10**9, 10**30, 10**400, 1.5, -0.0, math.nan, math.inf, -math.inf, "", "\ud83d",
    "x" * 5000, "\x00", "length", [], [None], [[]], {}, {"": None}, {"error": "x"}, [1, "a", {}], "NaN",
)  # fmt: skip
BODIES: tuple[Any, ...] = (
    b"", b"<html>Bad Gateway</html>", b"\xff\xfe\x00", b"[" * 3000, b'{"error": ', b"null", b"7", b'"\\ud83d"',
    {"error": {"message": "too long \ud83d", "code": 10**30, "type": []}}, {"error": None}, {"error": []},
    {"detail": 5}, {"error": {"message": {"a": 1}, "param": []}}, ["error"], {"error": {"message": "x" * 9000}},
)  # fmt: skip
STATUSES = (200, 400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 501, 502, 503, 504, 529, 599)
QUICK = Patience(attempts=2, backoff_seconds=1e-4, longest_backoff_seconds=1e-3, refusals=10**6)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inner:
        yield from places(item, (*path, name))


def spoilt(value: Any, draw: random.Random) -> Any:
    """A JSON value with one of its places taken by something odd, or taken away."""
    value = json.loads(json.dumps(value))
    every = list(places(value))
    counts = [path for path in every if "tokens" in str(path[-1:])]
    path = draw.choice(counts if counts and draw.random() < 0.4 else every)
    if not path:
        return draw.choice(ODD)
    parent = value
    for name in path[:-1]:
        parent = parent[name]
    if draw.random() < 0.2:
        del parent[path[-1]]
    else:
        parent[path[-1]] = draw.choice(ODD)
    return value


def as_bytes(value: Any, draw: random.Random) -> bytes:
    """A value as it is sent; some of the time with a byte changed, or cut short."""
    data = bytearray(value if isinstance(value, bytes) else json.dumps(value).encode())
    if data and draw.random() < 0.1:
        data[draw.randrange(len(data))] = draw.randrange(256)
    if draw.random() < 0.05:
        del data[draw.randrange(len(data) + 1) :]
    return bytes(data)


@contextmanager
def seconds(limit: int) -> Iterator[None]:
    """Fail instead of hanging."""

    def ring(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(limit)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def believable(answer: Answer) -> bool:
    numbers = (answer.input_tokens, answer.cached_tokens, answer.output_tokens)
    values = [*answer.logprobs, *answer.labels.values()]
    (answer.text + answer.error + answer.finish).encode()
    return all(type(n) is int and 0 <= n < 10**9 for n in numbers) and all(
        math.isfinite(value) and value <= 0 for value in values
    )


def asks(kinds: Sequence[str], count: int) -> list[Ask]:
    made: list[Ask] = []
    for number in range(count):
        own = f"Passage {number} is on cats.\nGrade:"
        made += [Write(Prompt("Shared.\n", own), 30)] if "write" in kinds else []
        made += [Labels(Prompt("Shared.\n", own), ("0", "1", "2", "3"))] if "labels" in kinds else []
        made += [Likelihood(Prompt("Shared.\n", own), " where do cats sit")] if "likelihood" in kinds else []
    return made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gecko.teacher.batched._QUIET_SECONDS", 0.001)
    for name in ("OPENAI_API_KEY", "GECKO_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def whole(ledger: Path) -> None:
    """The ledger can be read, written to, and holds no impossible number."""
    with Ledger(ledger) as kept:
        for call in kept.calls():
            assert 0 <= call["input_tokens"] < 10**9, call
            assert 0 <= call["output_tokens"] < 10**9, call
        kept.put("free", "write", {}, {})


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("dialect", "kinds"),
    [
        ("openai", ("write", "labels")),
        ("vllm", ("write", "labels", "likelihood")),
        ("sglang", ("labels", "likelihood")),
        ("llama-cpp-python", ("labels", "likelihood")),
    ],
)
def test_any_reply_over_http(tmp_path: Path, dialect: str, kinds: tuple[str, ...], seed: int) -> None:
    draw = random.Random(f"{dialect} {seed}")
    with Endpoint(dialect) as endpoint:
        healthy = endpoint.answer

        def opened() -> Caller:
            engine = OpenAIEngine("toy", base_url=endpoint.url, in_flight=4, timeout=60)
            budget = Budget(Price(1, 1), max_tokens=10**12)
            caller = Caller(engine, Ledger(tmp_path / "ledger.sqlite"), budget, patience=QUICK)
            engine.set_dialect(known)
            return caller

        known: dict[str, Any] = {}
        with closing(opened()) as probing:
            probing.run(probing._engine.capabilities)
            known = probing._engine.dialect()

        def strange(method: str, path: str, body: Any) -> Any:
            kind = draw.random() if path != "/tokenize" else 1.0  # a wrong token id is no less an id
            if kind < 0.6:
                return as_bytes(spoilt(healthy(method, path, body), draw), draw)
            if kind < 0.9:
                refused = Refused(draw.choice(STATUSES), "x")
                refused.body = as_bytes(draw.choice(BODIES), draw)
                raise refused
            return healthy(method, path, body)

        endpoint.answer = strange  # type: ignore[method-assign]
        wanted = asks(kinds, 24)
        with seconds(120):
            for start in range(0, len(wanted), 12):  # a refused key ends a run: the next asks get another one
                with closing(opened()) as caller:
                    try:
                        answers = caller.map(caller.ask, wanted[start : start + 12])
                    except GeckoError as error:
                        assert "failed:" not in error.message, error.message  # no fault of ours
                        continue
                assert all(believable(answer) for answer in answers)
        whole(tmp_path / "ledger.sqlite")
        endpoint.answer = healthy  # type: ignore[method-assign]
        with seconds(60), closing(opened()) as caller:
            assert not any(answer.error for answer in caller.map(caller.ask, wanted))


@pytest.mark.parametrize("seed", range(4))
def test_any_line_of_a_batch(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    dialect = {"write": "chat", "schema": "json_schema", "labels": "chat", "top": 20, "batch": True, "probed": True}
    with Endpoint("openai") as endpoint:
        endpoint.batches.polls = 0
        healthy = endpoint.batches.answer

        def opened() -> Caller:
            engine = OpenAIEngine("toy", base_url=endpoint.url)
            engine.set_dialect(dialect)
            budget = Budget(Price(1, 1), max_tokens=10**12)
            return BatchCaller(engine, Ledger(tmp_path / "ledger.sqlite"), budget, poll_seconds=0.001)

        def strange(method: str, path: str, body: Any) -> Any:
            reply = healthy(method, path, body)
            if path.endswith("/content"):
                lines = [json.loads(line) for line in reply.splitlines()]
                return b"\n".join(as_bytes(spoilt(line, draw) if draw.random() < 0.6 else line, draw) for line in lines)
            return spoilt(reply, draw) if draw.random() < 0.1 else reply

        endpoint.batches.answer = strange  # type: ignore[method-assign]
        wanted = asks(("write", "labels"), 8)
        with seconds(120):
            for _ in range(3):
                with closing(opened()) as caller:
                    try:
                        answers = caller.map(caller.ask, wanted)
                    except GeckoError as error:
                        assert "failed:" not in error.message, error.message
                        continue
                assert all(believable(answer) for answer in answers)
        whole(tmp_path / "ledger.sqlite")
        endpoint.batches.answer = healthy  # type: ignore[method-assign]
        with seconds(60), closing(opened()) as caller:
            assert not any(answer.error for answer in caller.map(caller.ask, wanted))
