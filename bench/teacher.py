"""The asking of a language model over HTTP: throughput beside the plain SDK, and whether kills lose or repeat calls.

    python bench/teacher.py [CALLS] [KILLS]

Throughput: 5,000 chat calls to a loopback endpoint that answers each after 200 ms, 64 in flight; the ideal is
5,000 / 64 x 0.2 s. The same calls are made by the official SDK in a plain loop, which keeps nothing. Kills: a run of
2,000 calls against an endpoint with faults is killed (SIGKILL) at random moments and started again until it is done.
Both write to docs/results/teacher.md.
"""

import json
import random
import resource
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "teacher"))
LATENCY, IN_FLIGHT = 0.2, 64
FAULTS = {"429": 0.03, "500": 0.03, "503": 0.02, "truncated": 0.02, "schema": 0.01, "drop": 0.02, "drop_late": 0.01}
KILL_CALLS = 2000


def asks(count: int) -> list:
    """Asks that differ in their last words, with a constant part as long as a real prompt."""
    from gecko.teacher.ask import Prompt, Write

    shared = "You read one passage and write the search that it should satisfy. " * 40
    return [
        Write(Prompt(shared, f"<passage>\nPassage number {number} of many.\n</passage>\nJSON:"), 50)
        for number in range(count)
    ]


def ours(url: str, ledger: Path, count: int, in_flight: int = IN_FLIGHT) -> list[str]:
    """Through the caller: ledger, caps, retries."""
    from gecko.teacher.budget import Budget
    from gecko.teacher.caller import Caller
    from gecko.teacher.ledger import Ledger
    from gecko.teacher.openai import OpenAIEngine
    from gecko.teacher.traffic import Patience

    engine = OpenAIEngine("toy", base_url=url, api_key="none", in_flight=in_flight, timeout=10)
    caller = Caller(
        engine, Ledger(ledger), Budget(None), patience=Patience(backoff_seconds=0.01, attempts=12), tell=print
    )
    with closing(caller):
        return [answer.text or f"failed: {answer.error}" for answer in caller.map(caller.ask, asks(count))]


def plain(url: str, count: int) -> list[str]:
    """The official SDK in a plain loop."""
    import asyncio

    from openai import AsyncOpenAI

    async def whole() -> list[str]:
        client, room = AsyncOpenAI(base_url=url, api_key="none"), asyncio.Semaphore(IN_FLIGHT)

        async def one(ask: object) -> str:
            async with room:
                messages = [
                    {"role": "system", "content": ask.prompt.shared},
                    {"role": "user", "content": ask.prompt.own},
                ]
                reply = await client.chat.completions.create(
                    model="toy", messages=messages, max_tokens=50, temperature=0
                )
                return reply.choices[0].message.content or ""

        return list(await asyncio.gather(*(one(ask) for ask in asks(count))))

    return asyncio.run(whole())


def measured(kind: str, url: str, folder: Path, count: int) -> dict:
    """One way of asking, in a process of its own: wall and CPU seconds, and how far memory grew after a tenth."""
    command = [sys.executable, __file__, "measure", kind, url, str(folder), str(count)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def measure(kind: str, url: str, folder: Path, count: int) -> None:
    def work(number: int) -> None:
        ours(url, folder / f"{number}.sqlite", number) if kind == "ours" else plain(url, number)

    work(count // 10)  # imports and first connections are paid here, as in any long run
    before, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    work(count)
    wall, cpu = time.monotonic() - started, time.process_time() - before
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    print(json.dumps({"wall": wall, "cpu": cpu, "grown_mb": grown}))


def throughput(count: int) -> list[str]:
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "teacher" / "endpoint.py"), "--port", "8765", "--latency", str(LATENCY)],
        stdout=subprocess.DEVNULL,
    )
    time.sleep(2)
    ideal = count / IN_FLIGHT * LATENCY
    runs: dict[str, list[dict]] = {"ours": [], "plain": []}
    try:
        for _ in range(3):
            for kind in runs:
                with tempfile.TemporaryDirectory() as folder:
                    runs[kind].append(measured(kind, "http://127.0.0.1:8765/v1", Path(folder), count))
    finally:
        server.terminate()
    lines = [
        f"{count:,} calls of {LATENCY:g} s, {IN_FLIGHT} in flight; the ideal is {ideal:.1f} s. Medians of 3, in turns.",
        "",
        "| | wall s | of the ideal | CPU s | cores | memory grown, MB |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    for kind, name in (("ours", "gecko's caller (ledger, caps, retries)"), ("plain", "plain SDK loop")):
        wall, cpu, grown = (statistics.median(run[key] for run in runs[kind]) for key in ("wall", "cpu", "grown_mb"))
        lines.append(f"| {name} | {wall:.1f} | {ideal / wall:.1%} | {cpu:.1f} | {cpu / wall:.2f} | {grown:.0f} |")
    return lines


def finished(ledger: Path) -> dict[str, str]:
    """Own part of the prompt -> key of every finished call; empty where there is no ledger yet."""
    if not ledger.exists():
        return {}
    with sqlite3.connect(ledger, timeout=30) as database:
        try:
            rows = database.execute(
                "SELECT json_extract(request, '$.prompt.own'), key FROM teacher_calls WHERE error = ''"
            )
            return dict(rows.fetchall())
        except sqlite3.OperationalError:
            return {}


def kills(most: int) -> list[str]:
    from endpoint import Endpoint

    draw = random.Random(0)
    lost = repeated = killed = sessions = 0
    with tempfile.TemporaryDirectory() as folder, Endpoint(latency=0.02, faults=FAULTS, retry_after="0.05") as endpoint:
        ledger = Path(folder) / "ledger.sqlite"
        known: dict[str, str] = {}
        while True:
            sessions += 1
            first = len(endpoint.log)
            worker = subprocess.Popen(
                [sys.executable, __file__, "work", endpoint.url, str(ledger), str(KILL_CALLS)],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert worker.stdout is not None
            if killed < most:
                while len(endpoint.log) == first and worker.poll() is None:
                    time.sleep(0.005)
                time.sleep(draw.uniform(0.0, 0.12))
                if worker.poll() is None:
                    worker.send_signal(signal.SIGKILL)
                    killed += 1
            answer = worker.communicate()[0]
            now = finished(ledger)
            lost += len(set(known.items()) - set(now.items()))
            bodies = [request.body for request in list(endpoint.log)[first:] if request.path.endswith("completions")]
            repeated += sum(body["messages"][-1]["content"] in known for body in bodies if "messages" in body)
            known = now
            if worker.returncode == 0:
                break
        rows = json.loads(answer.splitlines()[-1])
    with tempfile.TemporaryDirectory() as folder, Endpoint() as endpoint:
        whole = ours(endpoint.url, Path(folder) / "ledger.sqlite", KILL_CALLS)
    assert len(rows) == KILL_CALLS, len(rows)
    assert rows == whole, "the rows differ from those of the run that was not killed"
    assert not lost, lost
    assert not repeated, repeated
    faults = ", ".join(f"{name} {share:.0%}" for name, share in FAULTS.items())
    return [
        f"{KILL_CALLS:,} calls against an endpoint with faults ({faults}):",
        f"{killed} kills (SIGKILL) in {sessions} sessions. Finished calls lost: {lost}; made again: {repeated}.",
        "Rows: equal to those of a run without kills and without faults.",
    ]


def main() -> None:
    if sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]))
        return
    if sys.argv[1:2] == ["work"]:
        print(json.dumps(ours(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), in_flight=8)))
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    most = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    lines = ["# Asking a language model over HTTP", "", "`make bench-teacher`, two CPU cores, loopback endpoint.", ""]
    lines += [*throughput(count), "", *kills(most)]
    (ROOT / "docs" / "results" / "teacher.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
