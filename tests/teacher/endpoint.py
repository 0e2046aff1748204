"""A loopback OpenAI-compatible endpoint for tests and benches, with seeded faults and a log of every request.

``with Endpoint("vllm", latency=0.01) as endpoint: OpenAIEngine("toy", base_url=endpoint.url)``; or by itself:
``python endpoint.py --port 8000 --dialect vllm --latency 0.2 --fault 429=0.02 --fault drop=0.01``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self
from zlib import crc32

from endpoint_batch import Batches
from endpoint_model import DIALECTS, Model, Refused, Traits

FAULTS = ("429", "500", "503", "hang", "truncated", "schema", "drip", "drop", "drop_late", "garbage", "chunk")


@dataclass(slots=True)
class Seen:
    """A request as it came in; ``whole`` once its full, undamaged reply has been handed to a live connection."""

    method: str
    path: str
    body: Any
    at: float
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 0
    fault: str = ""
    whole: bool = False


@dataclass
class Endpoint:
    """The server; one thread of its own between :meth:`start` and :meth:`stop`.

    Attributes:
        dialect: Which server it imitates: a key of DIALECTS, or Traits.
        latency: Seconds before every reply.
        faults: Share of requests that meet a fault, by its name in FAULTS; which ones is the hash of ``seed``, the
            body and how often that body came before, so it does not depend on the order.
        script: Faults of the next requests, in order; "" for none. It goes before ``faults``.
        retry_after: What a 429 and a 503 send as Retry-After; "" for nothing.
        drip: Seconds a dripped reply takes.
        key: What a client must send as its bearer token; "" for anything.
        most: Requests served at once; the others get a 429. 0 for no limit.
        reply: Writes the text of a chat reply from the request's body.
    """

    dialect: str | Traits = "openai"
    model: str = "toy"
    latency: float = 0.0
    faults: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    script: deque[str] = field(default_factory=deque)
    retry_after: str = "0"
    drip: float = 2.0
    key: str = ""
    most: int = 0
    port: int = 0
    reply: Callable[[dict[str, Any]], str] | None = None
    keep: bool = True

    def __post_init__(self) -> None:
        traits = DIALECTS[self.dialect] if isinstance(self.dialect, str) else self.dialect
        self.brain = Model(self.model, traits, self.reply)
        self.batches = Batches(self.brain)
        self.log: list[Seen] = []
        self.served = 0
        self.under_way = 0
        self.most_under_way = 0
        self._times: dict[int, int] = {}
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def bodies(self, path: str = "") -> list[Any]:
        """Bodies of the requests whose path ends so."""
        return [seen.body for seen in self.log if seen.path.endswith(path)]

    def start(self) -> Self:
        ready = threading.Event()

        def serve() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._listen())
            ready.set()
            self._loop.run_forever()

        self._thread = threading.Thread(target=serve, daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def stop(self) -> None:
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._server.close()
        self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _listen(self) -> None:
        self._server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    def fault(self, raw: bytes) -> str:
        if self.script:
            return self.script.popleft()
        if not self.faults:
            return ""
        mark = crc32(raw)
        times = self._times[mark] = self._times.get(mark, 0) + 1
        draw = crc32(f"{self.seed}:{mark}:{times}".encode()) / 2**32
        for name, share in self.faults.items():
            if draw < share:
                return name
            draw -= share
        return ""

    def answer(self, method: str, path: str, body: Any) -> Any:
        """The payload of a reply: a JSON value, or bytes.

        Raises:
            Refused: Another status than 200.
        """
        path, _, _ = path.partition("?")
        if isinstance(body, dict) and body.get("model", self.model) not in (self.model, "default"):
            raise Refused(404, f"The model `{body['model']}` does not exist", "model_not_found")
        routes = {
            "/v1/chat/completions": self.brain.chat,
            "/v1/completions": self.brain.completion,
            "/generate": self.brain.generate,
            "/tokenize": self.brain.tokenize,
            "/extras/tokenize/count": self.brain.count,
        }
        if method == "POST" and path in routes:
            return routes[path](body)
        if path == "/v1/models":
            return {"object": "list", "data": [{"id": self.model, "object": "model"}]}
        if self.brain.traits.batches and path.startswith(("/v1/files", "/v1/batches")):
            return self.batches.answer(method, path, body)
        raise Refused(404, f"Invalid URL ({method} {path})")


class _Connection(asyncio.Protocol):
    """One connection; requests on it are answered in order."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._buffer = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            length = int(headers.get("content-length", 0))
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            method, path, _ = lines[0].split(" ", 2)
            self._request(method, path, headers, rest[:length])

    def _request(self, method: str, path: str, headers: dict[str, str], raw: bytes) -> None:
        endpoint = self._endpoint
        is_json = headers.get("content-type", "").startswith("application/json")
        seen = Seen(method, path, json.loads(raw) if is_json and raw else raw, time.monotonic(), headers)
        seen.fault = endpoint.fault(raw) if method == "POST" else ""
        endpoint.served += 1
        if endpoint.keep:
            endpoint.log.append(seen)
        endpoint.under_way += 1
        endpoint.most_under_way = max(endpoint.most_under_way, endpoint.under_way)
        if endpoint.most and endpoint.under_way > endpoint.most:
            seen.fault = "429"
        try:
            if endpoint.key and headers.get("authorization") != f"Bearer {endpoint.key}":
                sent = headers.get("authorization", "").removeprefix("Bearer ")
                raise Refused(401, f"Incorrect API key provided: {sent}", "invalid_api_key")
            if seen.fault in ("429", "500", "503"):
                raise Refused(int(seen.fault), f"fault {seen.fault}")
            payload = endpoint.answer(method, path, seen.body)
            seen.status = 200
            if seen.fault == "schema":
                payload = {"object": "surprise", "choices": [{"index": 0}]}
        except Refused as refused:
            payload, seen.status = refused.body, refused.status
        delay = 0.0 if seen.status in (429, 503) else endpoint.latency
        if delay:
            endpoint._loop.call_later(delay, self._send, seen, payload)
        else:
            self._send(seen, payload)

    def _send(self, seen: Seen, payload: Any) -> None:
        endpoint, transport = self._endpoint, self._transport
        endpoint.under_way -= 1
        if seen.fault == "hang":
            return
        if seen.fault == "drop":
            transport.abort()
            return
        if seen.fault in ("garbage", "chunk"):
            head = b"" if seen.fault == "garbage" else b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            transport.write(head + b"\x15\x03\x01 surely no HTTP\r\n\r\n")
            transport.close()
            return
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        if seen.fault == "truncated":
            data = data[: len(data) // 2]
        wait = endpoint.retry_after if seen.status in (429, 503) else ""
        head = (
            f"HTTP/1.1 {seen.status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
            + (f"Retry-After: {wait}\r\n" if wait else "")
            + "\r\n"
        ).encode()
        if seen.fault == "drop_late":
            transport.write(head + data[: len(data) // 2])
            transport.close()
        elif seen.fault == "drip":
            self._drip(seen, head + data, 0)
        else:
            seen.whole = seen.status == 200 and not seen.fault and not transport.is_closing()
            transport.write(head + data)

    def _drip(self, seen: Seen, data: bytes, at: int) -> None:
        if self._transport.is_closing():
            return
        step = max(1, len(data) // 20)
        self._transport.write(data[at : at + step])
        if at + step < len(data):
            self._endpoint._loop.call_later(self._endpoint.drip / 20, self._drip, seen, data, at + step)
        else:
            seen.whole = True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--dialect", choices=sorted(DIALECTS), default="openai")
    parser.add_argument("--model", default="toy")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--fault", action="append", default=[], metavar="NAME=SHARE", help=", ".join(FAULTS))
    parser.add_argument("--retry-after", default="0")
    parser.add_argument("--most", type=int, default=0, help="requests at once before a 429")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    shares = {name: float(share) for name, _, share in (part.partition("=") for part in chosen.fault)}
    options = {name: getattr(chosen, name) for name in ("model", "latency", "retry_after", "most", "port", "seed")}
    # The log of a long bench would not fit: only the count is kept.
    endpoint = replace(Endpoint(chosen.dialect), faults=shares, keep=False, **options).start()
    print(endpoint.url, flush=True)  # noqa: T201
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print(f"{endpoint.served} requests", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
