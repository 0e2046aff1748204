"""What does a run cost as the corpus grows, stage by stage: seconds, memory, and the slope of both?

    python bench/scale.py [SIZE ...] [--miner MODEL] [--limit 2000] [--grow SIZE] [--rows 100000]
    python bench/scale.py --small [--miner MODEL]  # 2,000 and 10,000; prints only

Corpora are real text (``scale_texts.py``). Every size is a process of its own that runs the stages up to ``fret`` with
the offline teacher, one after the other, as ``gecko run`` does; the peak of each is read from the kernel, which is told
to forget the one before (``/proc/self/clear_refs``). MODEL mines: by default the static export that
``make bench-export`` leaves, since two processors encode a hundred texts a second with a transformer and a million
would take hours. ``--grow`` then runs one size again with a hundredth more passages. ``--rows`` asks what is neither
teacher nor encoder of a run as it is without such haste: the default miner, a query for each passage (most of an hour
for 100,000). Finished sizes are in ``runs/bench/scale/done.jsonl`` and are not made again; the page is
``docs/results/scale.md``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "runs" / "bench" / "scale"
STATIC = ROOT / "runs" / "bench" / "export" / "static"
STAGES = ("passages", "miner", "queries", "fret")
SLOPES = {
    "passages": "1: every passage is read, cut and compared once; looking up its twins takes log n",
    "miner": "1: every passage is encoded once",
    "queries": "0 to 1: the teacher writes for 2,000 seeds, and counts the corpus (at most 200,000 passages of it)",
    "fret": "0 to 1: the teacher ranks for 2,000 queries; the exact search of each goes over all vectors",
}
WARM = 64  # passages of a run before the one that is measured
TARGET = 6.0  # GB, the peak of a run of a million passages
USUAL = "all-MiniLM-L6-v2"  # the miner of a run that names none


class Clock:
    """Seconds spent in the teacher, the encoder and the search, calls inside of calls counted once."""

    def __init__(self) -> None:
        self.seconds = {"teacher": 0.0, "encoder": 0.0, "search": 0.0}
        self._inside = False

    def watch(self, owner: type, names: tuple[str, ...], kind: str) -> None:
        """Time some methods of a class from now on."""
        for name in names:
            setattr(owner, name, self._timed(getattr(owner, name), kind))

    def _timed(self, method: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            if self._inside:
                return method(*args, **kwargs)
            self._inside, started = True, time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self._inside = False
                self.seconds[kind] += time.perf_counter() - started

        return timed


class Memory:
    """Peak memory since :meth:`forget`: all of it by the kernel, and what is not mapped files by a look every 50 ms."""

    def __init__(self) -> None:
        self.own = 0.0
        threading.Thread(target=self._look, daemon=True).start()

    def forget(self) -> None:
        """Begin anew."""
        Path("/proc/self/clear_refs").write_text("5")
        self.own = 0.0

    def peak(self) -> dict[str, float]:
        """The peaks since then, in GB."""
        return {"gigabytes": _status("VmHWM"), "own_gigabytes": max(self.own, _status("RssAnon"))}

    def _look(self) -> None:
        while True:
            self.own = max(self.own, _status("RssAnon"))
            time.sleep(0.05)


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 2**20


def one(size: int, limit: int, miner: str, corpus: Path, out: Path) -> dict[str, Any]:
    """Run the stages for one size in this process."""
    from gecko.embedder.embedder import Embedder
    from gecko.miner.search import ExactSearch
    from gecko.recipe import load_recipe
    from gecko.run import opened_run, run_stage
    from gecko.stages import stages_for
    from gecko.teacher.offline.teacher import OfflineTeacher

    if size > WARM:  # what is loaded once, libraries and models, is no cost of a size
        one(WARM, WARM // 2, miner, corpus, out / ".warm")
        shutil.rmtree(out / ".warm")
    clock, memory = Clock(), Memory()
    clock.watch(OfflineTeacher, ("prepare", "write", "rank"), "teacher")
    clock.watch(Embedder, ("encode_passages", "encode_queries"), "encoder")
    clock.watch(ExactSearch, ("find",), "search")
    values = [f"corpus.sources=[{json.dumps(str(corpus))}]", f"corpus.limit={size}", "teacher.spec=offline"]
    values += [f"fret.limit={limit}", f"fret.miner={json.dumps(miner)}"]
    recipe = load_recipe(ROOT / "recipes" / "domain.yaml", values)
    stages = stages_for(recipe, "fret")
    found = []
    with opened_run(recipe, out, stages, tell=lambda line: print(line, file=sys.stderr)) as context:
        for stage in stages:
            memory.forget()
            before, started = dict(clock.seconds), time.perf_counter()
            result = run_stage(stage, context, lambda line: print(line, file=sys.stderr, flush=True))
            spent = {"name": stage.name, "rows": result.rows, "seconds": time.perf_counter() - started}
            spent |= {kind: clock.seconds[kind] - before[kind] for kind in before}
            found.append(spent | memory.peak() | {"calls": context.facts(stage.name).get("calls_made", 0)})
    return {"size": size, "limit": limit, "stages": found}


def measure(size: int, limit: int, miner: str, out: Path, corpus: Path) -> dict[str, Any]:
    """Run one size in a process of its own."""
    command = [sys.executable, __file__, "--one", str(size), "--limit", str(limit), "--miner", miner]
    command += ["--corpus", str(corpus), "--out", str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def page(
    done: list[dict[str, Any]],
    grown: dict[str, Any] | None,
    usual: dict[str, Any] | None,
    said: dict[str, Any],
    miner: str,
) -> list[str]:
    """The page's lines."""
    sizes = [entry["size"] for entry in done]
    texts = ", ".join(f"{name} {count:,}" for name, count in said["texts"].items())
    lines = ["# Cost by the size of the corpus", ""]
    lines += [
        f"`make bench-scale`, two CPU cores, offline teacher, `fret.limit={done[0]['limit']}`, miner `{miner}`. The "
        "search alone: scale-mining.md; engines: scale-ray.md.",
        "",
    ]
    lines += [
        f"The corpus is real text, cut into passages of 60 words ({texts}). {cuts_line(said)} A smaller corpus is the "
        "first part of a larger one, whose order is that of a hash.",
        "",
        "GB is the peak of the process during the stage; in brackets what is not memory-mapped files. Libraries and "
        "models are loaded before.",
        "",
        f"| stage | {' | '.join(f'{size:,}' for size in sizes)} | slope of seconds | expected |",
        f"|:--|{'--:|' * (len(sizes) + 1)}:--|",
    ]
    for name in STAGES:
        own = [next(stage for stage in entry["stages"] if stage["name"] == name) for entry in done]
        cells = (
            f"{stage['seconds']:.1f} s, {stage['gigabytes']:.2f} GB ({stage['own_gigabytes']:.2f})" for stage in own
        )
        fitted = slope(sizes, [stage["seconds"] for stage in own])
        lines.append(f"| {name} | {' | '.join(cells)} | {fitted} | {SLOPES[name]} |")
    lines += ["", *shares(done), ""]
    lines += [
        "A statistical teacher and a table of token vectors are the fastest there are: with a language model's calls "
        "and a transformer's encoding, everything else takes as long as here and is a small part of a long wall.",
        "",
    ]
    if usual is not None:
        rest = ", ".join(
            f"{stage['name']} {stage['seconds'] - stage['teacher'] - stage['encoder']:.1f} s"
            for stage in usual["stages"]
        )
        lines += [f"With `{USUAL}` as the miner, and a query for each passage (target of the share: 5 %):", ""]
        search = sum(stage["search"] for stage in usual["stages"])
        lines += [
            *shares([usual]),
            "",
            f"Everything else by stage: {rest} (the exact search {search:.1f} s of it).",
            "",
        ]
    if grown is not None:
        lines += grown_lines(next(entry for entry in done if entry["size"] == grown["before"]), grown)
    return [*lines, *plan_lines(done[-1])]


def shares(done: list[dict[str, Any]]) -> list[str]:
    """What the teacher, the encoder and everything else take of the wall."""
    lines = ["| passages | rows | wall | teacher | encoder | everything else | share |", f"|{'--:|' * 7}"]
    for entry in done:
        wall, teacher, encoder = (
            sum(stage[kind] for stage in entry["stages"]) for kind in ("seconds", "teacher", "encoder")
        )
        rest = wall - teacher - encoder
        lines.append(
            f"| {entry['size']:,} | {entry['stages'][-1]['rows']:,} | {wall:.0f} s | {teacher:.0f} s | {encoder:.0f} s "
            f"| {rest:.0f} s | {rest / wall:.1%} |"
        )
    return lines


def cuts_line(said: dict[str, Any]) -> str:
    """Say whether texts had to be cut more than once."""
    if said["cuts"] == 1:
        return ""
    return (
        f"These are not enough: the same texts were cut {said['cuts']} times, at other places and into shorter "
        "passages, so that no passage is another one, though many share words."
    )


def slope(sizes: list[int], values: list[float]) -> str:
    """Slope of the logarithms, by least squares, and of the last step alone."""
    if len(sizes) < 2:
        return ""
    x, y = np.log(sizes), np.log(np.maximum(values, 1e-3))
    return f"{np.polyfit(x, y, 1)[0]:.2f} (last step {(y[-1] - y[-2]) / (x[-1] - x[-2]):.2f})"


def grown_lines(before: dict[str, Any], grown: dict[str, Any]) -> list[str]:
    """What one hundredth more passages cost a finished run."""
    lines = [f"A run of {before['size']:,} passages made again with {grown['size'] - before['size']:,} more:", ""]
    lines += ["| stage | first | again | teacher calls, first | again |", "|:--|--:|--:|--:|--:|"]
    for first, again in zip(before["stages"], grown["stages"], strict=True):
        lines.append(
            f"| {first['name']} | {first['seconds']:.1f} s | {again['seconds']:.1f} s | {first['calls']:,} "
            f"| {again['calls']:,} |"
        )
    return [*lines, ""]


def plan_lines(last: dict[str, Any]) -> list[str]:
    """Rates at the largest size, and the hours of FRet's own size at them: 10^8 passages, 6.6 x 10^6 queries."""
    lines = [f"Rates at {last['size']:,} passages, and hours of one such process (docs/scale.md):", ""]
    lines += ["| stage | of | a second | hours for 10⁸ passages, 6.6 × 10⁶ queries |", "|:--|:--|--:|--:|"]
    for stage in last["stages"]:
        unit, done, wanted = ("passages", last["size"], 1e8)
        if stage["name"] in {"queries", "fret"}:
            unit, done, wanted = ("queries", last["limit"], 6.6e6)
        rest = stage["seconds"] - stage["teacher"] - stage["encoder"]
        for part, seconds in (("", rest), (", encoder", stage["encoder"]), (", teacher", stage["teacher"])):
            if seconds >= 0.01 * stage["seconds"]:
                hours = wanted / done * seconds / 3600
                lines.append(f"| {stage['name']}{part} | {unit} | {done / seconds:,.0f} | {hours:,.1f} |")
    return [*lines, "", "The exact search within `fret` also grows with the corpus: its own row is in docs/scale.md."]


def main() -> None:
    """Measure the sizes that are missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--miner", default=str(STATIC))
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--grow", type=int, default=100_000, help="0 = none")
    parser.add_argument("--rows", type=int, default=100_000, help="0 = none")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(asked.one, asked.limit, asked.miner, asked.corpus, asked.out)))
        return
    from quality import note_done, read_done, write_page
    from scale_texts import make_corpus

    out = OUT / "small" if asked.small else OUT
    sizes, grow, rows = ([2_000, 10_000], 2_000, 0) if asked.small else (sorted(asked.sizes), asked.grow, asked.rows)
    limit = 200 if asked.small else asked.limit
    said = make_corpus(out / "corpus", round(1.2 * max(sizes)), everything=not asked.small)
    record = out / "done.jsonl"
    if asked.small:
        shutil.rmtree(out / "runs", ignore_errors=True)
        record.unlink(missing_ok=True)
    done = {(entry["size"], entry.get("before")): entry for entry in read_done(record)}
    for size in sizes:
        steps = [(size, None), (round(1.01 * size), size)] if size == grow else [(size, None)]
        for step in steps:
            if step not in done:
                if step[1] is None:
                    shutil.rmtree(out / "runs" / str(size), ignore_errors=True)
                done[step] = measure(step[0], limit, asked.miner, out / "runs" / str(size), out / "corpus")
                done[step]["before"] = step[1]
                note_done(record, done[step])
    if rows and (rows, USUAL) not in done:
        usual = measure(rows, rows, USUAL, out / "runs" / USUAL, out / "corpus")
        done[rows, USUAL] = usual | {"before": USUAL}
        note_done(record, done[rows, USUAL])
    whole = [done[size, None] for size in sizes]
    lines = page(whole, done.get((round(1.01 * grow), grow)), done.get((rows, USUAL)), said, Path(asked.miner).name)
    if asked.small:
        print("\n".join(lines))
    else:
        write_page("scale", lines)
    most = max(stage["gigabytes"] for entry in whole for stage in entry["stages"])
    if most > TARGET:
        raise SystemExit(f"a stage took {most:.2f} GB, more than {TARGET} GB")


if __name__ == "__main__":
    main()
