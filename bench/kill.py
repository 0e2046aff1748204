"""Kill -9 a run at random moments: does it end as an uninterrupted one, and is any finished teacher call made again?

    python bench/kill.py [KILLS]

Each round starts a run in a fresh folder, kills it at a random moment, starts it again to the end, and compares FRet
rows, gate figures and evaluation with the uninterrupted run's. Calls: those the ledger held at the kill plus those the
second process made must be all there are.
"""

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

SETTINGS = [
    "corpus.limit=400",
    "fret.limit=200",
    "fret.neighbours=8",
    "fret.min_positive_rc=0",
    "train.epochs=1",
    "train.batch_size=16",
    "train.max_length=32",
    "gate.probe=false",
    "gate.alphas=[1.0]",
    "evaluation.dims=[384]",
]


def command(out: Path, test: Path) -> list[str]:
    settings = [*SETTINGS, f"evaluation.beir=[{json.dumps(str(test))}]"]
    overrides = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "gecko.cli", "run", "recipes/demo.yaml", *overrides, "--out", str(out), "--json"]


def make_test(folder: Path) -> None:
    """A tiny BEIR set, so that the evaluation stage has something to be interrupted in."""
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "title": "", "text": f"entry {i} about topic {i % 7}"} for i in range(60)]
    queries = [{"_id": f"q{i}", "text": f"what is entry {i}"} for i in range(20)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(20))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines))


def outcome(run: Path) -> tuple:
    rows = pq.read_table(run / "fret" / "part-00000.parquet").to_pylist()
    gate = json.loads((run / "gate" / "gate.json").read_text())
    return rows, gate, json.loads((run / "evaluation.json").read_text())["results"]


def calls(run: Path) -> int:
    if not (run / "ledger.sqlite").exists():
        return 0
    with sqlite3.connect(run / "ledger.sqlite") as database:
        try:
            return database.execute("SELECT COUNT(*) FROM teacher_calls").fetchone()[0]
        except sqlite3.OperationalError:
            return 0


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    root = Path(tempfile.mkdtemp())
    make_test(root / "test")
    started = time.monotonic()
    subprocess.run(command(root / "whole", root / "test"), check=True, capture_output=True)
    length = time.monotonic() - started
    rows, gate, figures = outcome(root / "whole")
    whole_calls = calls(root / "whole")
    print(f"uninterrupted: {length:.1f} s, {len(rows)} FRet rows, {whole_calls} teacher calls")
    draw = random.Random(0)
    failures = 0
    for number in range(kills):
        out = root / f"run{number}"
        moment = draw.uniform(0.2, length)
        process = subprocess.Popen(command(out, root / "test"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        finished_stages = sorted(path.parent.name for path in out.glob("*/_stage.json"))
        at_kill = calls(out)
        kept = {name: (out / name / "_stage.json").read_text() for name in finished_stages}
        subprocess.run(command(out, root / "test"), check=True, capture_output=True)
        same = outcome(out) == (rows, gate, figures)
        redone = [name for name in finished_stages if (out / name / "_stage.json").read_text() != kept[name]]
        # A stage that was finished before the kill made its calls in the first process.
        second = sum(
            json.loads((out / name / "_stage.json").read_text())["calls_made"]
            for name in ("queries", "fret")
            if name not in finished_stages
        )
        repeated = at_kill + second - calls(out)
        good = same and not redone and repeated == 0 and calls(out) == whole_calls
        failures += not good
        done = ",".join(finished_stages) or "none"
        print(
            f"kill {number:2} at {moment:5.1f} s after {done}: same {same}, repeated calls {repeated}, redone {redone}"
        )
        shutil.rmtree(out)
    print(f"{kills - failures} of {kills} rounds end as the uninterrupted run, no finished call repeated")
    shutil.rmtree(root)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
