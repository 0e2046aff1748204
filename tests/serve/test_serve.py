"""``gecko serve`` as a process: how it starts, what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx2
import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("fastapi")

from serve_parts import CORPUS

import gecko.embedder.embedder
from gecko.cli import app
from gecko.embedder.embedder import Embedder
from gecko.serve.engine import Engine
from gecko.serve.index import build_index
from gecko.serve.precision import Precision
from gecko.serve.requests import texts_of
from gecko.serve.server import ServeOptions, _bound, serve, short_name
from gecko.serve.wire import EmbeddingRequest

run = CliRunner().invoke


@pytest.fixture
def never_loaded(monkeypatch):
    def load(*_args, **_options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(gecko.embedder.embedder, "Embedder", load)


def told(result, exit_code, *parts):
    assert result.exit_code == exit_code, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 2 and lines[0].startswith("gecko: ") and lines[1].startswith("hint: "), lines
    for part in parts:
        assert part in result.stderr


def test_a_taken_port_is_told_before_a_model_is_loaded(never_loaded):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told(
            run(app, ["serve", "m", "--port", str(port)]),
            2,
            f"cannot listen at 127.0.0.1, port {port}: Address already in use",
            "--port",
        )
    told(run(app, ["serve", "m", "--host", "no.such.host.invalid", "--port", "0"]), 2, "--host no.such.host.invalid")
    told(run(app, ["serve", "m", "--host", "a" * 70, "--port", "0"]), 2, "no such address")
    told(run(app, ["serve", "m", "--host", "192.0.2.1", "--port", "0"]), 2, "cannot listen at 192.0.2.1", "--host")


def test_answers_are_sent_at_once():
    """asyncio turns TCP_NODELAY on only where it sees that a socket speaks TCP; without, an answer waits 40 ms."""
    with _bound("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_options_and_indexes_that_cannot_be_are_told(never_loaded, indexes, tmp_path):
    none = ["serve", "m", "--port", "0"]
    told(run(app, [*none, "--base", str(indexes[1])]), 2, "--base is of the search page")
    told(run(app, [*none, "--index", str(tmp_path)]), 1, "no index in", "gecko index MODEL")
    told(run(app, [*none, "--index", str(indexes[0]), "--base", str(tmp_path)]), 1, "no index in")
    half = tmp_path / "half"
    half.mkdir()
    for name in ("index.json", "passages.lance"):
        (half / name).symlink_to(indexes[0] / name)
    facts = json.loads((half / "index.json").read_text())
    (half / "index.json").unlink()
    (half / "index.json").write_text(json.dumps({**facts, "complete": False}))
    told(run(app, [*none, "--index", str(half)]), 1, "is not finished", "gecko index again")


def test_an_index_of_another_model_is_refused(tiny_model, indexes):
    result = run(app, ["serve", tiny_model, "--port", "0", "--precision", "float32", "--index", str(indexes[0])])
    told(result, 1, "is not the model that made", "gecko index")


def test_a_model_that_is_not_there_is_told():
    told(run(app, ["serve", "./nowhere", "--port", "0"]), 1, "no model directory at ./nowhere")


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("runs/docs/model", "docs"),
        ("/x/my-model/", "my-model"),
        ("BAAI/bge-small", "bge-small"),
        ("model", "model"),
    ],
)
def test_a_model_is_called_by_its_folder_or_its_run(spec, name):
    assert short_name(spec) == name


def test_token_ids_of_a_real_tokenizer_are_the_text(tiny_model):
    embedder = Embedder(tiny_model)
    engine = Engine(embedder, "tiny")
    ids = embedder.model.tokenizer("the big red fox : a dog")["input_ids"]
    (text,) = texts_of(EmbeddingRequest(input=ids), engine)
    np.testing.assert_allclose(
        engine._run([text])[0].vector, embedder.encode(["the big red fox : a dog"])[0], atol=1e-6
    )
    assert engine._run([text])[0].tokens == len(ids)
    engine.batcher.close()


def test_a_process_serves_and_ends_when_it_is_told(tiny_model, tmp_path):
    """SIGTERM while a request is open: it is answered, and the process ends as one that did its work."""
    embedder = Embedder(tiny_model, bf16=False)
    build_index(embedder, CORPUS, tmp_path / "index")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "gecko.cli", "serve", tiny_model, "--port", "0", "--batch", "8"]
    process = subprocess.Popen(
        [*command, "--precision", "float32", "--index", str(tmp_path / "index"), "--judged", str(tmp_path / "mine")],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    try:
        line = process.stderr.readline()
        assert line.startswith("serving "), line + process.stderr.read()
        url = line.split()[3].removesuffix("/v1")
        assert process.stderr.readline().strip() == f"search page: {url}/"
        texts = [f"the big red fox {n}" for n in range(600)]
        answers = []

        def ask():
            answers.append(httpx2.post(f"{url}/v1/embeddings", json={"input": texts}, timeout=120))

        with httpx2.Client(base_url=url, timeout=60) as client:
            assert client.get("/health").status_code == 200
            found = client.post("/search", json={"query": "big fox", "k": 2}).json()["hits"]
            assert len(found) == 2 and (tmp_path / "mine/corpus.jsonl").is_file()
            asking = threading.Thread(target=ask)
            asking.start()
            while "gecko_requests_open 2.0" not in client.get("/metrics").text:
                assert asking.is_alive()
            process.send_signal(signal.SIGTERM)
        asking.join(120)
        assert answers[0].status_code == 200
        vectors = np.array([item["embedding"] for item in answers[0].json()["data"]], np.float32)
        np.testing.assert_allclose(vectors[::100], embedder.encode(texts[::100]), atol=1e-5)
        assert process.wait(60) == 0
        assert process.stderr.read().strip() == "stopped"
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture
def serving(tiny_model):
    """Serve in this process and thread; ``ready`` is told the address."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    late = []
    watch = threading.Timer(120, lambda: late.append(os.kill(os.getpid(), signal.SIGTERM)))
    watch.start()

    def run_it(ready, **options):
        lines = []

        def tell(line):
            lines.append(line)
            if line.startswith("serving "):
                ready(line.split()[3].removesuffix("/v1"))

        serve(ServeOptions(tiny_model, port=0, precision=Precision.float32, **options), tell)
        return lines

    yield run_it
    watch.cancel()
    assert not late, "it did not stop by itself"
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_is_told_to_stop_before_it_runs_stops(serving, number):
    assert serving(lambda _: signal.raise_signal(number))[-1] == "stopped"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_every_loopback_name_reaches_it_and_no_other(serving, host):
    found = []

    def ask(url):
        with httpx2.Client(base_url=url, timeout=60) as client:
            found.append(client.get("/health").status_code)
            found.append(client.get("/health", headers={"Host": "evil.example"}).status_code)
        os.kill(os.getpid(), signal.SIGTERM)

    lines = serving(lambda url: threading.Thread(target=ask, args=(url,)).start(), host=host)
    assert found == [200, 403] and len(lines) == 2


def test_columns_of_two_corpora_and_an_open_server_are_said(serving, tiny_model, tmp_path, caplog):
    embedder = Embedder(tiny_model)
    build_index(embedder, CORPUS, tmp_path / "index")
    build_index(embedder, CORPUS[:3], tmp_path / "base")
    found = []

    def ask(url):
        found.append(httpx2.get(f"http://127.0.0.1:{url.rpartition(':')[2]}/v1/models").json()["data"])
        os.kill(os.getpid(), signal.SIGTERM)

    lines = serving(
        lambda url: threading.Thread(target=ask, args=(url,)).start(),
        host="0.0.0.0",
        index=tmp_path / "index",
        base=tmp_path / "base",
    )
    assert "is not of one corpus" in caplog.text
    assert "anybody who reaches this machine" in lines[2] and "GECKO_API_KEY" in lines[2]
    names = [model["id"] for model in found[0]]
    assert len(names) == len(set(names)) == 2 and names[1] == f"{names[0]} (base)"


def test_an_object_store_is_no_folder(never_loaded):
    refused = run(app, ["corpus", "passages", "--out", "s3://bucket/passages"])
    assert refused.exit_code == 2 and "no folder of this machine" in refused.stderr


def test_without_the_extra_its_name_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(gecko.errors.GeckoError, match="uvicorn is not installed") as caught:
        serve(ServeOptions("m", port=0), print)
    assert "gecko-embed[serve]" in caught.value.hint
