"""How near is the server to the bare encoder under many clients, and does it stay whole when there are too many?

    python bench/serve_load.py [MODEL]                  # writes docs/results/serve.md, which says what is measured
    python bench/serve_load.py [MODEL] --requests 5000  # a shorter look at the memory
    python bench/serve_load.py [MODEL] --small          # the same with few requests, to see it work; prints only

Everything is on loopback: the clients take their share of the same processors.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import numpy as np
from quality import BASE, write_page

from gecko.corpus.build import CorpusOptions, build_passages
from gecko.embedder.embedder import Embedder
from gecko.records import Passage
from gecko.serve.engine import open_encoder
from gecko.serve.index import build_index
from gecko.serve.precision import Precision

CLIENTS, BATCHES = 64, (64, 16)
STEPS = 5  # the memory is read after each of so many parts of the flood


@dataclass(frozen=True, slots=True)
class Size:
    """How much is asked.

    Attributes:
        texts: Passages that are encoded, by the bare encoder and by the server.
        flood: Requests of four words, for the memory.
        overload: Requests of eight passages at a server whose queue is short.
        indexed: Passages that ``gecko search`` searches.
        starts: Times that a start is measured; the median counts.
    """

    texts: int
    flood: int
    overload: int
    indexed: int
    starts: int


WHOLE, SMALL = Size(2_000, 50_000, 2_000, 500, 3), Size(128, 500, 200, 50, 1)


@dataclass(slots=True)
class Seen:
    """What the clients saw."""

    seconds: float
    statuses: Counter[int]
    latencies: list[float]

    @property
    def failed(self) -> int:
        """Requests that were not answered with vectors."""
        return sum(count for status, count in self.statuses.items() if status != 200)

    def at(self, share: float) -> float:
        """A quantile of the latencies, in milliseconds."""
        return 1000 * float(np.quantile(self.latencies, share)) if self.latencies else float("nan")


def passages(count: int) -> list[Passage]:
    """Passages of 100 to 250 tokens."""
    tokenizer = Embedder(BASE).model.tokenizer
    rows = build_passages(CorpusOptions(sources=["stdlib:"]))
    fitting = (
        row
        for row in rows
        if isinstance(row, Passage) and 100 <= len(tokenizer(text_of(row), verbose=False)["input_ids"]) <= 250
    )
    return list(itertools.islice(fitting, count))


def text_of(passage: Passage) -> str:
    """Title and text, as one string."""
    return f"{passage.title} {passage.text}"


def bare(model: str, texts: Sequence[str], batches: Sequence[int] = BATCHES) -> dict[int, float]:
    """Texts a second of the encoder alone, by the size of its batches."""
    rates = {}
    for batch in batches:
        encoder = open_encoder(model, batch=batch, precision=Precision.auto, tell=print)
        encoder.encode(texts[:batch])
        begun = time.perf_counter()
        encoder.encode(texts)
        rates[batch] = len(texts) / (time.perf_counter() - begun)
    return rates


@contextmanager
def server(model: str, *options: str) -> Iterator[tuple[str, float]]:
    """Run gecko serve; gives its address, and the seconds from its start to its first vector."""
    command = [sys.executable, "-m", "gecko.cli", "serve", model, "--port", "0", *options]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if line.startswith("serving "))
        url = line.split()[3].removesuffix("/v1")
        assert ask(url, [["first"]], 1).statuses == {200: 1}
        yield url, time.perf_counter() - begun
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    finally:
        process.kill()


async def load(url: str, requests: Sequence[Sequence[str]], clients: int) -> Seen:
    """Send the requests, each client its next one when the last was answered."""
    seen = Seen(0.0, Counter(), [])
    waiting = iter(requests)
    limits = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=limits, timeout=aiohttp.ClientTimeout(600)) as session:

        async def client() -> None:
            for texts in waiting:
                body = {"input": list(texts), "encoding_format": "base64"}
                begun = time.perf_counter()
                try:
                    async with session.post(f"{url}/v1/embeddings", json=body) as answer:
                        await answer.read()
                        seen.statuses[answer.status] += 1
                        if answer.status == 200:
                            seen.latencies.append(time.perf_counter() - begun)
                except aiohttp.ClientError:
                    seen.statuses[0] += 1

        begun = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        seen.seconds = time.perf_counter() - begun
    return seen


def ask(url: str, requests: Sequence[Sequence[str]], clients: int = CLIENTS) -> Seen:
    """Load from a loop of its own."""
    return asyncio.run(load(url, requests, clients))


def memory(url: str) -> float:
    """Megabytes that the server holds, as it counts them itself."""

    async def read() -> str:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
            return await answer.text()

    found = re.search(r"^process_resident_memory_bytes (\S+)", asyncio.run(read()), re.MULTILINE)
    assert found is not None
    return float(found[1]) / 1e6


def search_seconds(model: str, rows: Sequence[Passage], starts: int) -> dict[str, float]:
    """From the start of gecko search on an index to its end, by its mode."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        build_index(Embedder(model), rows, Path(folder))
        for mode in ("dense", "text"):
            command = [sys.executable, "-m", "gecko.cli", "search", folder, "how do I copy a list", "--mode", mode]
            times = []
            for _ in range(starts):
                begun = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                times.append(time.perf_counter() - begun)
            seconds[mode] = statistics.median(times)
    return seconds


def start_seconds(model: str, starts: int) -> float:
    """From the start of gecko serve to its first vector."""
    times = []
    for _ in range(starts):
        with server(model) as (_, first):
            times.append(first)
    return statistics.median(times)


def flooded(url: str, requests: int) -> tuple[list[float], float]:
    """The memory before many small requests and after each part of them; and how many were answered a second."""
    held, seconds = [memory(url)], 0.0
    for _ in range(STEPS):
        seen = ask(url, [[f"how to do {n}"] for n in range(requests // STEPS)])
        assert set(seen.statuses) == {200}, seen.statuses
        seconds += seen.seconds
        held.append(memory(url))
    return held, requests // STEPS * STEPS / seconds


def overload(model: str, texts: Sequence[str], requests: int) -> tuple[Seen, Seen]:
    """More than a short queue takes, and single requests right after."""
    with server(model, "--queue", "64") as (url, _):
        many = [[texts[(i + j) % len(texts)] for j in range(8)] for i in range(requests)]
        over = ask(url, many, 4 * CLIENTS)
        after = ask(url, [texts[:1]] * 20, 1)
    assert set(over.statuses) <= {200, 429} and over.statuses[429], over.statuses
    return over, after


def measure(model: str, size: Size) -> list[str]:
    """Measure everything; gives the page."""
    rows = passages(size.texts)
    texts = [text_of(row) for row in rows]
    found = search_seconds(model, rows[: size.indexed], size.starts)
    first = start_seconds(model, size.starts)
    rates = bare(model, texts)
    loads: list[tuple[int, Seen]] = []
    with server(model) as (url, _):
        for each in (1, 8):
            loads.append((each, ask(url, [texts[i : i + each] for i in range(0, len(texts), each)])))
        alone = ask(url, [["how do I copy a list"]] * 100, 1)
        held, small = flooded(url, size.flood)
    batch = max(rates, key=lambda one: rates[one])
    encoder = max(rates[batch], bare(model, texts, (batch,))[batch])
    over, after = overload(model, texts, size.overload)
    table = [
        f"| {CLIENTS} clients, {each} text{'s' * (each > 1)} a request | {len(texts) / seen.seconds:.1f} "
        f"| {len(texts) / seen.seconds / encoder:.2f} | {seen.at(0.5):.0f} | {seen.at(0.99):.0f} | {seen.failed} |"
        for each, seen in loads
    ]
    least = min(len(texts) / seen.seconds / encoder for _, seen in loads)
    return [
        "# The server under load",
        "",
        f"`make bench-serve` (`python bench/serve_load.py {model}`), on CPUs. `gecko serve` as a process of its own;",
        f"the clients ask over loopback, on the same processors. {len(texts):,} passages of Python's documentation of",
        "100 to 250 tokens. *bare* is the same encoder with all of them at once in the bench's process, the server not",
        f"running: in batches of {' and of '.join(map(str, BATCHES))} before, in the faster of these again after; the",
        "best counts. Latencies are from a client's request to its last byte, in milliseconds.",
        "",
        f"- times bare: {least:.2f} or more (aim: 0.90 or more); failed requests: {sum(s.failed for _, s in loads)}",
        f"- from start to first answer, median of {size.starts}: `gecko serve` {first:.1f} s (aim: 5 or less); "
        f"`gecko search` on an index {found['dense']:.1f} s by meaning (aim: 2 or less), {found['text']:.1f} by words",
        f"- one client, one short text: p50 {alone.at(0.5):.0f} ms, p99 {alone.at(0.99):.0f} ms",
        f"- {size.flood:,} small requests of {CLIENTS} clients: {small:.0f} a second, none failed; memory before and "
        f"after each fifth: {', '.join(f'{step:.0f}' for step in held)} MB",
        f"- overload ({4 * CLIENTS} clients of 8 texts, a queue of 64): {over.statuses[200]:,} answered, "
        f"{over.statuses[429]:,} told 429, nothing else; then {after.statuses[200]} of 20 single requests answered, "
        f"p99 {after.at(0.99):.0f} ms",
        "",
        "| what | texts/s | times bare | p50 | p99 | failed |",
        "|:--|--:|--:|--:|--:|--:|",
        f"| bare | {encoder:.1f} | 1.00 | | | |",
        *table,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures gecko serve.")
    parser.add_argument("model", nargs="?", default=BASE)
    parser.add_argument("--requests", type=int, default=WHOLE.flood, help="small requests, for the memory")
    parser.add_argument("--small", action="store_true", help="few of everything; prints only")
    asked = parser.parse_args()
    if asked.small:
        print("\n".join(measure(asked.model, SMALL)))
    else:
        write_page("serve", measure(asked.model, replace(WHOLE, flood=asked.requests)))


if __name__ == "__main__":
    main()
