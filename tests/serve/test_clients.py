"""Clients that know nothing of gecko: OpenAI's own, LangChain, curl, and those that speak no proper HTTP."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess

import numpy as np
import openai
import pytest

pytest.importorskip("fastapi")

from serve_parts import until, vectors

TEXTS = ["rotate the keys", "read the logs", "größer 😀"]


def test_openais_client_gets_what_the_model_makes(start, encoder):
    server = start(encoder)
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    made = client.embeddings.create(model="words", input=TEXTS)  # base64, as the client asks by default
    assert [item.index for item in made.data] == [0, 1, 2]
    np.testing.assert_array_equal(np.array([item.embedding for item in made.data], np.float32), encoder.encode(TEXTS))
    assert (made.model, made.usage.prompt_tokens) == ("words", 5 + 5 + 4)
    floats = client.embeddings.create(model="words", input=TEXTS[0], encoding_format="float", dimensions=16)
    assert len(floats.data[0].embedding) == 16
    typed = client.embeddings.create(model="words", input="x", extra_body={"input_type": "query"})
    np.testing.assert_array_equal(np.array([typed.data[0].embedding], np.float32), encoder.encode_queries(["x"]))
    assert [model.id for model in client.models.list()] == ["words"]
    assert client.models.retrieve("words").id == "words"
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="gpt", input="x")
    assert caught.value.code == "model_not_found" and caught.value.param == "model"
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="words", input="x", dimensions=65)
    assert caught.value.param == "dimensions" and "64 dimensions, not 65" in caught.value.message


def test_openais_client_waits_where_the_queue_is_full(start, encoder):
    """It heeds Retry-After by itself: of many at once all are answered in the end."""
    server = start(encoder, batch=1, room=1)
    encoder.gate.clear()

    async def all_at_once():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=5) as client:
            asked = [asyncio.create_task(client.embeddings.create(model="words", input=f"text {n}")) for n in range(12)]
            while 'status="429"' not in (await asyncio.to_thread(server.get, "/metrics")).text:
                await asyncio.sleep(0.05)
            encoder.gate.set()
            return await asyncio.gather(*asked)

    answers = asyncio.run(all_at_once())
    assert [len(answer.data) for answer in answers] == [1] * 12


def test_langchain_works_unmodified(start, encoder):
    langchain_openai = pytest.importorskip("langchain_openai", reason="make test-serve installs LangChain")
    server = start(encoder)
    model = langchain_openai.OpenAIEmbeddings(
        base_url=f"{server.url}/v1", api_key="none", model="words", dimensions=32, check_embedding_ctx_length=False
    )
    made = np.array(model.embed_documents(TEXTS), np.float32)
    expected = vectors(server.post("/v1/embeddings", {"input": TEXTS, "dimensions": 32}))
    np.testing.assert_allclose(made, expected, atol=1e-6)
    np.testing.assert_allclose(np.array(model.embed_query(TEXTS[0]), np.float32), expected[0], atol=1e-6)


def test_curl_is_answered_and_told_of_a_missing_header(start, encoder):
    if not shutil.which("curl"):
        pytest.skip("no curl here")
    url = f"{start(encoder).url}/v1/embeddings"

    def curl(*options):
        done = subprocess.run(["curl", "-s", url, *options], capture_output=True, check=True, timeout=60)
        return json.loads(done.stdout)

    made = curl("-H", "Content-Type: application/json", "-d", json.dumps({"input": TEXTS[0]}))
    np.testing.assert_allclose(made["data"][0]["embedding"], encoder.encode(TEXTS[:1])[0], atol=1e-7)
    assert "Content-Type: application/json" in curl("-d", json.dumps({"input": "x"}))["error"]["message"]


def raw(port: int, sent: bytes, *, wait: bool = True) -> bytes:
    """Send bytes and leave, or read what comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(sent)
        got = b""
        while wait and (part := connection.recv(65536)):
            got += part
        return got


HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),  # a TLS greeting
        (b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET /%ff%fe%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"404"),
        (b"GET /v1/models/%ff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"404"),
        (HEAD + b"Content-Length: many\r\n\r\n", b"400"),
        (HEAD + b"Content-Length: 99999999999\r\n\r\n", b"413"),  # of which nothing is waited for
        (HEAD + b"Content-Length: 15\r\n\r\n" + b'{"input": "\xff\xfe"}', b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (HEAD + b"Authorization: Bearer \xe9\xff\r\nContent-Length: 14\r\n\r\n" + b'{"input": "a"}', b"200"),
    ],
)
def test_what_is_no_request_is_refused_and_the_server_lives(start, encoder, sent, status):
    server = start(encoder)
    assert raw(server.port, sent).split(b" ", 2)[1] == status
    assert server.get("/health").status_code == 200


def test_a_huge_request_is_told_though_it_is_still_being_sent(start, encoder):
    server = start(encoder, most_bytes=100_000)
    body = json.dumps({"input": "a" * 8_000_000})
    for key in (None, "Bearer x"):
        answer = server.post("/v1/embeddings", content=body, headers={"Authorization": key} if key else {})
        assert answer.status_code == 413 and answer.json()["error"]["type"] == "invalid_request_error"
    assert server.post("/v1/embeddings", {"input": "still here"}).status_code == 200


def test_clients_that_leave_in_the_middle_leave_nothing_behind(start, encoder):
    server = start(encoder, batch=1)
    encoder.gate.clear()
    for cut in (0, 10, len(HEAD), len(HEAD) + 20):  # before a word, in the head, and in the body
        raw(server.port, (HEAD + b"Content-Length: 14\r\n\r\n" + b'{"inp')[:cut], wait=False)
    for _ in range(20):
        raw(server.port, HEAD + b"Content-Length: 14\r\n\r\n" + b'{"input": "a"}', wait=False)
    until(lambda: 'path="/v1/embeddings",status="499"} 20.0' in server.get("/metrics").text)
    encoder.gate.set()
    until(lambda: "gecko_requests_open 1.0" in server.get("/metrics").text)  # the one that asks
    assert len(encoder.seen) <= 1
    assert len(vectors(server.post("/v1/embeddings", {"input": ["a", "b"]}))) == 2
