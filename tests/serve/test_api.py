"""What the server answers, and what it answers to what should not have been sent."""

from __future__ import annotations

import base64
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
from pydantic import ValidationError

pytest.importorskip("fastapi")

from serve_parts import until, vectors

from gecko.embedder.embedder import cut
from gecko.serve.wire import EmbeddingRequest


def test_base64_is_the_floats(start, encoder):
    server = start(encoder)
    body = {"input": ["one two", "three"], "dimensions": 40}
    floats = vectors(server.post("/v1/embeddings", body))
    coded = server.post("/v1/embeddings", {**body, "encoding_format": "base64"}).json()["data"]
    raw = np.array([np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in coded])
    np.testing.assert_array_equal(raw, floats)


def test_fewer_dimensions_are_the_first_made_unit_length(start, encoder):
    server = start(encoder)
    whole = encoder.encode(["alpha beta gamma delta epsilon"])
    found = vectors(server.post("/v1/embeddings", {"input": "alpha beta gamma delta epsilon", "dimensions": 24}))
    np.testing.assert_allclose(found, cut(whole, 24), atol=1e-6)
    assert np.linalg.norm(found) == pytest.approx(1)
    written = b'{"input": "alpha beta gamma delta epsilon", "dimensions": 24.0}'
    answer = server.post("/v1/embeddings", content=written, headers={"Content-Type": "application/json"})
    np.testing.assert_array_equal(vectors(answer), found)


def test_each_text_gets_the_prompt_of_its_type(start, encoder):
    server = start(encoder)
    for extra, expected in (
        ({}, encoder.encode(["x"])),
        ({"input_type": "query"}, encoder.encode_queries(["x"])),
        ({"input_type": "search_query", "task": "find code"}, encoder.encode_queries(["x"], "find code")),
        ({"input_type": "passage"}, encoder.encode_passages([("", "x")])),
        ({"task": "same topic"}, encoder.encode_queries(["x"], "same topic")),
    ):
        np.testing.assert_array_equal(vectors(server.post("/v1/embeddings", {"input": "x", **extra})), expected)


def test_token_ids_are_the_models_own(start, encoder):
    server = start(encoder)
    one = vectors(server.post("/v1/embeddings", {"input": [0, 1, 2]}))
    many = vectors(server.post("/v1/embeddings", {"input": [[0, 1, 2], [25]]}))
    np.testing.assert_array_equal(one, encoder.encode(["a b c"]))
    np.testing.assert_array_equal(many, encoder.encode(["a b c", "z"]))
    refused = server.post("/v1/embeddings", {"input": [[1], [99_999]]})
    assert refused.status_code == 400 and "99999" in refused.json()["error"]["message"]


def test_a_cut_text_is_counted_or_refused(start, encoder):
    server = start(encoder)
    long = " ".join(["word"] * 30)
    assert server.post("/v1/embeddings", {"input": ["a", long]}).json()["usage"]["prompt_tokens"] == 3 + 8
    refused = server.post("/v1/embeddings", {"input": ["a", long], "truncate": False})
    assert refused.status_code == 400 and "input 1 has 32 tokens, the model reads 8" in refused.text
    fits = {"input": "a b c d e", "truncate": False}  # with the prompt's word it does not
    assert server.post("/v1/embeddings", fits).json()["usage"]["prompt_tokens"] == 7
    assert server.post("/v1/embeddings", {**fits, "input_type": "query"}).status_code == 200
    refused = server.post("/v1/embeddings", {**fits, "input_type": "query", "task": "t"})
    assert refused.status_code == 400 and "has 9 tokens" in refused.text
    assert "gecko_texts_cut_total 1.0" in server.get("/metrics").text


BAD = [
    b"",
    b"{",
    b"[]",
    b'"text"',
    b"\xff\xfe",
    b'{"input": "\xff"}',
    b"{}",
    b'{"input": null}',
    b'{"input": ""}',
    b'{"input": []}',
    b'{"input": [""]}',
    b'{"input": ["a", 1]}',
    b'{"input": [true]}',
    b'{"input": [-1]}',
    b'{"input": [[]]}',
    b'{"input": {"a": 1}}',
    b'{"input": "\\u0000"}',
    b'{"input": "\\ud800"}',
    b'{"input": "a", "dimensions": 0}',
    b'{"input": "a", "dimensions": 65}',
    b'{"input": "a", "dimensions": "8"}',
    b'{"input": "a", "dimensions": 8.5}',
    b'{"input": "a", "dimensions": true}',
    b'{"input": "a", "dimensions": NaN}',
    b'{"input": "a", "dimensions": 1e999}',
    b'{"input": "a", "encoding_format": "hex"}',
    b'{"input": "a", "input_type": "poem"}',
    b'{"input": "a", "input_type": "document", "task": "t"}',
    b'{"input": "a", "dimension": 8}',
    b'{"input": "a", "model": 3}',
    b'{"input": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    json.dumps({"input": ["a"] * 2049}).encode(),
    json.dumps({"input": "a" * 100_001}).encode(),
]


def test_what_cannot_be_is_told_in_openais_shape(start, encoder):
    server = start(encoder)
    for body in BAD:
        answer = server.post("/v1/embeddings", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, body[:60]
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error" and set(error) == {"message", "type", "param", "code"}
        assert error["message"] and "\n" not in error["message"] and "Traceback" not in error["message"]
    assert encoder.seen == []  # none of it came to the model
    for path, method, status in (("/v1/nothing", "GET", 404), ("/v1/embeddings", "GET", 405), ("/search", "POST", 404)):
        answer = server.client.request(method, path)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")
    assert vectors(server.post("/v1/embeddings", {"input": "still here"})).shape == (1, 64)


def test_a_request_that_is_too_large_is_not_read(start, encoder):
    server = start(encoder, most_bytes=1000)
    body = json.dumps({"input": "a" * 2000}).encode()
    head = {"Content-Type": "application/json"}
    assert server.post("/v1/embeddings", content=body, headers=head).status_code == 413
    chunks = (body[i : i + 100] for i in range(0, len(body), 100))  # no Content-Length
    answer = server.post("/v1/embeddings", content=chunks, headers=head)
    assert answer.status_code == 413 and "larger than" in answer.json()["error"]["message"]


def test_a_key_is_asked_for(start, encoder):
    server = start(encoder, key="sésame")
    body = {"input": "a"}
    for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s"}, {"Authorization": "Bearer"}):
        answer = server.post("/v1/embeddings", body, headers=header)
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        assert "sésame" not in answer.text
    for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
        assert server.get(path).status_code == 401, path
    assert server.get("/health").json() == {"status": "ok"}
    right = {b"Authorization": "Bearer sésame".encode()}
    assert server.post("/v1/embeddings", body, headers=right).status_code == 200
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong").embeddings.create(model="words", input="a")


def test_other_sites_in_the_browser_are_refused(start, encoder):
    server = start(encoder, hosts=frozenset({"127.0.0.1", "localhost"}))
    for header in (
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": "http://[::1"},
        {"Host": "[", "Origin": "http://127.0.0.1"},
    ):
        assert server.post("/v1/embeddings", {"input": "a"}, headers=header).status_code == 403
    for header in ({}, {"Origin": "http://localhost:1"}, {"Host": "localhost:99"}):
        assert server.post("/v1/embeddings", {"input": "a"}, headers=header).status_code == 200


def test_requests_share_batches_and_each_gets_its_own(start, encoder):
    server = start(encoder, batch=16)
    encoder.gate.clear()
    texts = [[f"text {n} {i}" for i in range(1 + n % 5)] for n in range(40)]
    with ThreadPoolExecutor(40) as pool:
        answers = [pool.submit(server.post, "/v1/embeddings", {"input": each}) for each in texts]
        total = sum(map(len, texts))
        until(lambda: server.engine.batcher.waiting >= total - 16)
        encoder.gate.set()
        found = [vectors(answer.result()) for answer in answers]
    seen = list(encoder.seen)
    assert max(map(len, seen)) <= 16 and len(seen) < total / 8
    for each, got in zip(texts, found, strict=True):
        np.testing.assert_array_equal(got, encoder.encode(each))


def test_a_large_request_does_not_hold_up_a_small_one(start, encoder):
    server = start(encoder, batch=8)
    encoder.gate.clear()
    done = []
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(server.post, "/v1/embeddings", {"input": [f"large {i}" for i in range(200)]})
        large.add_done_callback(lambda _: done.append("large"))
        until(lambda: server.engine.batcher.waiting == 192)
        small = pool.submit(server.post, "/v1/embeddings", {"input": "small"})
        until(lambda: server.engine.batcher.waiting == 193)
        encoder.gate.set()
        small.result(), large.result()
    place = next(i for i, texts in enumerate(encoder.seen) if "small" in texts)
    assert place == 1  # in the next batch, not after the 24 that were asked for before


def test_a_full_queue_answers_429_and_recovers(start, encoder):
    server = start(encoder, batch=4, room=10)
    encoder.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(server.post, "/v1/embeddings", {"input": ["a"] * 4})
        until(lambda: server.engine.batcher.waiting == 0 and server.engine.batcher._worker is not None)
        second = pool.submit(server.post, "/v1/embeddings", {"input": ["b"] * 9})
        until(lambda: server.engine.batcher.waiting == 9)
        full = server.post("/v1/embeddings", {"input": ["c"] * 2})
        assert full.status_code == 429 and full.headers["Retry-After"] == "1"
        assert full.json()["error"]["code"] == "rate_limit_exceeded"
        assert "gecko_queue_texts 9.0" in server.get("/metrics").text
        encoder.gate.set()
        assert len(vectors(first.result())) == 4 and len(vectors(second.result())) == 9
    assert server.post("/v1/embeddings", {"input": ["c"] * 2}).status_code == 200
    text = server.get("/metrics").text
    assert 'gecko_requests_total{path="/v1/embeddings",status="429"} 1.0' in text
    assert "gecko_texts_total 15.0" in text and "gecko_queue_texts 0.0" in text


def test_a_long_text_counts_as_several_of_the_queue(start, encoder):
    server = start(encoder, batch=1, room=10)
    encoder.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        held = pool.submit(server.post, "/v1/embeddings", {"input": "held"})
        until(lambda: server.engine.batcher.waiting == 0 and server.engine.batcher._worker is not None)
        long = pool.submit(server.post, "/v1/embeddings", {"input": "a " * 10_000})
        until(lambda: server.engine.batcher.waiting == 6)  # 20,000 characters
        assert server.post("/v1/embeddings", {"input": "b " * 10_000}).status_code == 429
        short = pool.submit(server.post, "/v1/embeddings", {"input": "short"})
        until(lambda: server.engine.batcher.waiting == 7)
        encoder.gate.set()
        assert held.result().status_code == long.result().status_code == short.result().status_code == 200
    assert server.engine.batcher.waiting == 0


def test_of_many_wrong_ids_one_is_told():
    """A request holds millions: a list of all their errors would be gigabytes."""
    for wrong in ([["x"] * 1000] * 1000, ["a", *[1] * 2000], [True] * 30_000):
        with pytest.raises(ValidationError) as caught:
            EmbeddingRequest.model_validate({"input": wrong})
        assert caught.value.error_count() < 10


def test_texts_of_a_client_that_left_are_not_encoded(start, encoder):
    server = start(encoder, batch=1)
    encoder.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.post, "/v1/embeddings", {"input": "first"})
        until(lambda: server.engine.batcher._worker is not None and server.engine.batcher.waiting == 0)
        with pytest.raises(Exception, match="timed out"):
            server.post("/v1/embeddings", {"input": ["gone"] * 5}, timeout=0.5)
        until(lambda: server.engine.batcher.waiting == 0)
        encoder.gate.set()
        assert first.result().status_code == 200
    assert encoder.seen == [["first"]]
    assert 'status="499"' in server.get("/metrics").text


def test_a_request_that_breaks_the_model_fails_alone(start, encoder):
    server = start(encoder)
    encoder.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        held = pool.submit(server.post, "/v1/embeddings", {"input": "held"})
        until(lambda: server.engine.batcher._worker is not None and server.engine.batcher.waiting == 0)
        bad = pool.submit(server.post, "/v1/embeddings", {"input": "poison"})
        good = pool.submit(server.post, "/v1/embeddings", {"input": "good"})
        until(lambda: server.engine.batcher.waiting == 2)
        encoder.gate.set()
        assert held.result().status_code == good.result().status_code == 200
        assert bad.result().status_code == 500
    assert bad.result().json()["error"]["type"] == "server_error" and "poison" not in bad.result().text
    assert server.post("/v1/embeddings", {"input": "good"}).status_code == 200


def test_what_was_accepted_is_answered_before_the_end(start, encoder):
    server = start(encoder, batch=1)
    encoder.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.post, "/v1/embeddings", {"input": ["a", "b", "c"]})
        until(lambda: server.engine.batcher.waiting == 2)
        server.server.should_exit = True
        time.sleep(0.3)
        assert not asked.done()
        encoder.gate.set()
        assert len(vectors(asked.result())) == 3
    server.thread.join(20)
    assert not server.thread.is_alive()
    assert not any(thread.name.startswith("encode") for thread in threading.enumerate())


def test_vectors_that_are_no_numbers_are_a_fault_of_the_model(start, encoder, monkeypatch):
    server = start(encoder)
    monkeypatch.setattr(encoder, "encode", lambda texts: np.full((len(texts), 64), np.nan, np.float32))
    answer = server.post("/v1/embeddings", {"input": "a"})
    assert answer.status_code == 503 and "not finite" in answer.json()["error"]["message"]
