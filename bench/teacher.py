"""The asking of a language model over HTTP: throughput beside the plain SDK, and whether kills lose or repeat calls.

    python bench/teacher.py [CALLS] [KILLS]
    python bench/teacher.py kills KILLS CALLS    # only the kills, and nothing written

Throughput: 5,000 chat calls to a loopback endpoint that answers each after 200 ms, 64 in flight; the ideal is
5,000 / 64 x 0.2 s. The same calls are made by the official SDK in a plain loop, which keeps nothing. Kills: a run of
2,000 calls against an endpoint with faults is killed (SIGKILL) at random moments and started again until it is done,
without a cap and with one; what it kept is compared with what the endpoint sent. Both write to docs/results/teacher.md.
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
KILL_CALLS, KILL_IN_FLIGHT = 2000, 8
AT_THE_CAP = 3


def asks(count: int) -> list:
    """Asks that differ in their last words, with a constant part as long as a real prompt."""
    from gecko.teacher.ask import Prompt, Write

    shared = "You read one passage and write the search that it should satisfy. " * 40
    return [
        Write(Prompt(shared, f"<passage>\nPassage number {number} of many.\n</passage>\nJSON:"), 50)
        for number in range(count)
    ]


def ours(url: str, ledger: Path, count: int, in_flight: int = IN_FLIGHT, cap: int | None = None) -> list[str]:
    """Through the caller: ledger, caps, retries."""
    from gecko.teacher.budget import Budget
    from gecko.teacher.caller import Caller
    from gecko.teacher.ledger import Ledger
    from gecko.teacher.openai import OpenAIEngine
    from gecko.teacher.traffic import Patience

    engine = OpenAIEngine("toy", base_url=url, api_key="none", in_flight=in_flight, timeout=10)
    patience, budget = Patience(backoff_seconds=0.01, attempts=12), Budget(None, max_tokens=cap)
    caller = Caller(engine, Ledger(ledger), budget, patience=patience, tell=print)
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


def work(url: str, ledger: Path, count: int, cap: int | None) -> None:
    from gecko.teacher.budget import CapReached

    try:
        print(json.dumps(ours(url, ledger, count, in_flight=KILL_IN_FLIGHT, cap=cap)))
    except CapReached:
        sys.exit(AT_THE_CAP)


def throughput(count: int) -> tuple[list[str], list[str]]:
    """The table of both ways of asking, and which of our aims were missed."""
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
    missed = []
    for kind, name in (("ours", "gecko's caller (ledger, caps, retries)"), ("plain", "plain SDK loop")):
        wall, cpu, grown = (statistics.median(run[key] for run in runs[kind]) for key in ("wall", "cpu", "grown_mb"))
        lines.append(f"| {name} | {wall:.1f} | {ideal / wall:.1%} | {cpu:.1f} | {cpu / wall:.2f} | {grown:.0f} |")
        if kind == "ours":
            aims = {"95 % of the ideal throughput": wall <= ideal / 0.95, "one core at most": cpu <= wall}
            missed = [aim for aim, met in aims.items() if not met]
    return lines, missed


def finished(ledger: Path) -> tuple[dict[str, str], int]:
    """Own part of the prompt -> key of every finished call, and the tokens of all calls; nothing without a ledger."""
    if not ledger.exists():
        return {}, 0
    with closing(sqlite3.connect(ledger, timeout=30)) as database:
        try:
            rows = database.execute(
                "SELECT json_extract(request, '$.prompt.own'), key FROM teacher_calls WHERE error = ''"
            ).fetchall()
            (tokens,) = database.execute("SELECT SUM(input_tokens + output_tokens) FROM teacher_calls").fetchone()
        except sqlite3.OperationalError:
            return {}, 0
    return dict(rows), tokens or 0


def kills(most: int, count: int, *, capped: bool = False) -> list[str]:
    """Kill a run again and again; with a cap, of a third of the tokens, that is raised whenever it is reached."""
    from endpoint import Endpoint

    with tempfile.TemporaryDirectory() as folder, Endpoint() as endpoint:
        undisturbed = ours(endpoint.url, Path(folder) / "ledger.sqlite", count)
        third = finished(Path(folder) / "ledger.sqlite")[1] // 3
    draw = random.Random(0)
    killed = sessions = caps = under_way = again = 0
    cap = third if capped else None
    with tempfile.TemporaryDirectory() as folder, Endpoint(latency=0.02, faults=FAULTS, retry_after="0.05") as endpoint:
        ledger = Path(folder) / "ledger.sqlite"
        known: dict[str, str] = {}
        while True:
            sessions += 1
            first = len(endpoint.log)
            worker = subprocess.Popen(
                [sys.executable, __file__, "work", endpoint.url, str(ledger), str(count), str(cap or 0)],
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
            answer = worker.communicate()[0]
            killed += worker.returncode == -signal.SIGKILL
            before, (known, tokens) = known, finished(ledger)
            assert set(before.items()) <= set(known.items()), "a finished call is gone from the ledger"
            assert cap is None or tokens <= cap, f"{tokens} tokens with a cap of {cap}"
            # What the endpoint saw, and what of it went out whole: by its own record, not the ledger's.
            seen = [(s.body["messages"][-1]["content"], s.whole) for s in endpoint.log[first:] if "messages" in s.body]
            again += sum(own in before for own, _ in seen)
            unkept = sum(whole and own not in known for own, whole in seen)
            assert unkept <= (KILL_IN_FLIGHT if worker.returncode else 0), (
                f"{unkept} answers that were sent are not kept"
            )
            under_way += unkept
            if worker.returncode == 0:
                break
            if worker.returncode == AT_THE_CAP and cap is not None:
                caps, cap = caps + 1, cap + third
            else:
                assert worker.returncode == -signal.SIGKILL, worker.returncode
        served = sum(seen.whole for seen in endpoint.log)
        rows = json.loads(answer.splitlines()[-1])
    assert rows == undisturbed, "the rows differ from those of the run that was not killed"
    assert not again, again
    assert served == count + under_way, (served, count, under_way)
    assert not capped or caps >= 2, caps
    faults = ", ".join(f"{name} {share:.0%}" for name, share in FAULTS.items())
    return [
        f"{count:,} calls against an endpoint with faults ({faults})"
        + (", with a cap on the tokens:" if capped else ":"),
        f"{killed} kills (SIGKILL) in {sessions} sessions. Finished calls lost: 0; made again: {again}.",
        f"By the endpoint's own record it sent {served:,} whole answers: one a call, and {under_way} that were on "
        f"their way when the process was killed ({KILL_IN_FLIGHT} at once, at most).",
        *([f"The cap was reached {caps} times and never passed."] if capped else []),
        "Rows: equal to those of a run without kills and without faults.",
    ]


def main() -> None:
    if sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]))
        return
    if sys.argv[1:2] == ["work"]:
        work(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]) or None)
        return
    if sys.argv[1:2] == ["kills"]:
        most, count = int(sys.argv[2]), int(sys.argv[3])
        print("\n".join([*kills(most, count), "", *kills(most, count, capped=True)]))
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    most = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    lines = ["# Asking a language model over HTTP", "", "`make bench-teacher`, two CPU cores, loopback endpoint.", ""]
    table, missed = throughput(count)
    lines += [*table, "", *kills(most, KILL_CALLS), "", *kills(most // 2, KILL_CALLS, capped=True)]
    (ROOT / "docs" / "results" / "teacher.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    if missed:
        raise SystemExit(f"not met: {', '.join(missed)}")


if __name__ == "__main__":
    main()
