"""How near is the server to the bare encoder under many clients, and does it stay whole when there are too many?

    python bench/serve_load.py [MODEL]            # writes docs/results/serve.md, which says what is measured and how
    python bench/serve_load.py [MODEL] --small    # the same with few requests, to see it work; prints only

Everything is on loopback: the clients take their share of the same processors.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
from quality import BASE, write_page

from gecko.corpus.build import CorpusOptions, build_passages
from gecko.embedder.embedder import Embedder
from gecko.records import Passage
from gecko.serve.index import build_index

CLIENTS, BATCHES = 64, (64, 16)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is asked; ``flood`` requests are of four words, for memory; ``indexed`` passages are searched."""

    texts: int
    flood: int
    overload: int
    indexed: int


WHOLE, SMALL = Size(5_000, 50_000, 2_000, 500), Size(128, 500, 200, 50)


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
        """A quantile of the latencies."""
        return float(np.quantile(self.latencies, share)) if self.latencies else float("nan")


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
        encoder = Embedder(model, batch_size=batch)
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
        url = process.stderr.readline().split()[3].removesuffix("/v1")
        assert asyncio.run(load(url, [["first"]], 1)).statuses == {200: 1}
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


def memory(url: str) -> float:
    """Megabytes that the server holds, as it counts them itself."""

    async def ask() -> str:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
            return await answer.text()

    found = re.search(r"^process_resident_memory_bytes (\S+)", asyncio.run(ask()), re.MULTILINE)
    assert found is not None
    return float(found[1]) / 1e6


def ask(url: str, requests: Sequence[Sequence[str]], clients: int = CLIENTS) -> Seen:
    """Load from a loop of its own."""
    return asyncio.run(load(url, requests, clients))


def search_seconds(model: str, rows: Sequence[Passage]) -> float:
    """From the start of gecko search on an index to its end."""
    with tempfile.TemporaryDirectory() as folder:
        build_index(Embedder(model), rows, Path(folder))
        begun = time.perf_counter()
        command = [sys.executable, "-m", "gecko.cli", "search", folder, "how do I copy a list"]
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - begun


def measure(model: str, size: Size) -> list[str]:
    """Measure everything; gives the page."""
    rows = passages(size.texts)
    texts = [text_of(row) for row in rows]
    found = search_seconds(model, rows[: size.indexed])
    rates = bare(model, texts)
    loads: list[tuple[int, Seen]] = []
    with server(model) as (url, first):
        for each in (1, 8):
            loads.append((each, ask(url, [texts[i : i + each] for i in range(0, len(texts), each)])))
        held = [memory(url)]
        for _ in range(5):
            flood = ask(url, [[f"how to do {n}"] for n in range(size.flood // 5)])
            held.append(memory(url))
            assert set(flood.statuses) == {200}, flood.statuses
    batch = max(rates, key=lambda one: rates[one])
    encoder = max(rates[batch], bare(model, texts, (batch,))[batch])
    with server(model, "--queue", "64") as (url, _):
        requests = [[texts[(i + j) % len(texts)] for j in range(8)] for i in range(size.overload)]
        over = ask(url, requests, 4 * CLIENTS)
        after = ask(url, [texts[:1]] * 20, 1)
    assert set(over.statuses) <= {200, 429} and over.statuses[429] and set(after.statuses) == {200}
    table = [
        f"| {CLIENTS} clients, {each} text{'s' * (each > 1)} a request | {len(texts) / seen.seconds:.1f} "
        f"| {len(texts) / seen.seconds / encoder:.2f} | {seen.at(0.5):.2f} | {seen.at(0.99):.2f} | {seen.failed} |"
        for each, seen in loads
    ]
    least = min(len(texts) / seen.seconds / encoder for _, seen in loads)
    return [
        "# The server under load",
        "",
        f"`make bench-serve` (`python bench/serve_load.py {model}`), on CPUs. `gecko serve` as a process of its own;",
        f"the clients ask over loopback, on the same processors. {len(texts):,} passages of Python's documentation of",
        "100 to 250 tokens. *bare* is `Embedder.encode` of them all in the bench's process, the server not running: in",
        f"batches of {' and of '.join(map(str, BATCHES))} before, in the faster of these again after; the best counts.",
        "Latencies are from a client's request to its last byte, in seconds.",
        "",
        f"- times bare: {least:.2f} or more (aim: 0.90 or more); failed requests: {sum(s.failed for _, s in loads)}",
        f"- from start to first vector: {first:.1f} s (aim: 5 or less)",
        f"- `gecko search` on an index, whole: {found:.1f} s (aim: 2 or less)",
        f"- memory before and after each fifth of {size.flood:,} small requests: "
        f"{', '.join(f'{step:.0f}' for step in held)} MB",
        f"- overload ({4 * CLIENTS} clients of 8 texts, a queue of 64): {over.statuses[200]:,} answered, "
        f"{over.statuses[429]:,} told 429, nothing else; then {after.statuses[200]} of 20 single requests answered, "
        f"p99 {after.at(0.99):.2f} s",
        "",
        "| what | texts/s | times bare | p50 | p99 | failed |",
        "|:--|--:|--:|--:|--:|--:|",
        f"| bare | {encoder:.1f} | 1.00 | | | |",
        *table,
    ]


def main() -> None:
    words = [word for word in sys.argv[1:] if word != "--small"]
    model = words[0] if words else BASE
    if len(words) < len(sys.argv) - 1:
        print("\n".join(measure(model, SMALL)))
    else:
        write_page("serve", measure(model, WHOLE))


if __name__ == "__main__":
    main()
