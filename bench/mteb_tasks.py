"""Real tasks of MTEB, offline: base and tuned by mteb itself, and how far gecko's own figure for the base is from it.

    python bench/mteb_tasks.py [MODEL] --data DATA [--tasks STS13,SciFact] [--out docs/results/mteb.md]

The base is the packaged all-MiniLM-L6-v2, float32. A task that is in ``runs/bench/mteb/done.jsonl`` for these weights,
this data and this version of mteb is not run again, so a bench that was stopped goes on after the last task it
finished; the page holds all of them. Fails where mteb's figure for the base and gecko's differ by more than 0.1 point
although both score the same thing the same way (the table says where they do not).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from quality import BASE, ROOT, note_done, read_done

from gecko.embedder.embedder import Embedder
from gecko.errors import GeckoError
from gecko.evaluate.evaluate import evaluate_models
from gecko.evaluate.mteb.chosen import Chosen, open_mteb
from gecko.evaluate.mteb.places import find_beir, find_file, find_place, split_names
from gecko.evaluate.mteb.run import evaluate_mteb
from gecko.evaluate.once import EncodedOnce
from gecko.evaluate.table import mteb_notes, table_lines
from gecko.evaluate.tasks import Sets, TaskOptions, evaluate_tasks, open_sets

RECORD = ROOT / "runs" / "bench" / "mteb" / "done.jsonl"
# By what they cost, which is how many texts they have and how long these are; a fault shows early.
TASKS = (
    "PoemSentimentClassification STSBenchmark STS16 STS13 "
    "SummEvalSummarization.v2 SummEval STS12 STS15 STS14 BIRCO-WTB BIRCO-Relic XQuADRetrieval BIRCO-ArguAna "
    "Banking77Classification MLQuestions EmotionClassification STSBenchmarkMultilingualSTS SciFact "
    "FeedbackQARetrieval Tatoeba"
).split()
ALLOWED = 0.1  # points
# Where the two are meant to differ, and why.
DIFFERENT = {
    "SummEval": "mteb's first version has an error in its score, which it keeps; v2 is as ours",
    "FeedbackQARetrieval": "mteb's main score is precision at 1, gecko has nDCG@10",
}
METRICS = {"ndcg_at_10", "cosine_spearman", "accuracy", "f1"}


class Once(EncodedOnce):
    """The base: encodes each text of a task once, for mteb and for gecko's own evaluation."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._model, name)


def own_figure(base: Any, task: Chosen, row: dict[str, Any], subsets: list[str]) -> float | None:  # noqa: ANN401
    """Gecko's figure for the base on the same folder, the mean over the subsets; None where it has no such metric."""
    if row["metric"] not in METRICS:
        return None
    made = task.make()
    splits = split_names(task.split, len(made.metadata.eval_splits) == 1)
    values = []
    for subset in subsets:
        folders = [task.place / subset, task.place, task.place / "en"]
        if row["task_type"] == "retrieval":
            found = find_beir(folders, splits)
            assert found, task.name
            report = evaluate_models(base, None, [found[0]], split=found[1])
        else:
            path = find_file(folders, task.name, splits)
            assert path, task.name
            options = TaskOptions(samples_per_label=getattr(made, "samples_per_label", 8))
            report = evaluate_tasks(base, None, as_sets(path, options))
        figure = next(r for r in report["results"] if r["metric"] == row["metric"])
        if figure.get("subsets"):  # one file with all of them
            return float(figure["tuned"])
        values.append(float(figure["tuned"]))
    return sum(values) / len(values)


def as_sets(path: Path, options: TaskOptions) -> Sets:
    """A file as a set of its own split."""
    return open_sets([path], replace(options, split=path.stem))


def measure(task: Chosen, base: Embedder, tuned: Embedder) -> dict[str, Any]:
    """Run a task: mteb's report on base and tuned, gecko's figure for the base, and the seconds all took."""
    started = time.monotonic()
    once: Any = Once(base)
    with tempfile.TemporaryDirectory() as out:
        report = evaluate_mteb(tuned, once, [task], Path(out))
    own = own_figure(once, task, report["results"][0], report["sets"][0]["subsets"])
    return {"report": report, "own": own, "seconds": round(time.monotonic() - started, 1)}


def apart(entry: dict[str, Any]) -> float | None:
    """How many points mteb's figure for the base is above gecko's."""
    return None if entry["own"] is None else 100 * (entry["report"]["results"][0]["base"] - entry["own"])


def cells(entry: dict[str, Any]) -> tuple[str, ...]:
    """A task's line of the table."""
    row, difference = entry["report"]["results"][0], apart(entry)
    return (
        row["task_type"],
        row["dataset"],
        row["metric"],
        *(f"{100 * row[side]:.2f}" for side in ("base", "tuned")),
        f"{100 * row['delta']:+.2f}",
        "-" if difference is None else f"{100 * entry['own']:.2f}",
        "-" if difference is None else f"{difference:+.2f}",
        str(row["n"]),
    )


def page(done: Sequence[dict[str, Any]]) -> list[str]:
    """The table of the tasks that are done, and what belongs beside it."""
    rows = [cells(entry) for entry in done]
    heads = ("type", "task", "main score", "base", "tuned", "gain", "gecko's for base", "difference", "items")
    types = len({row[0] for row in rows})
    notes = list(dict.fromkeys(note for entry in done for note in mteb_notes(entry["report"])))
    notes = [note for note in notes if not note.startswith("MTEB's own files")]
    notes += [f"{name}: {why}." for name, why in DIFFERENT.items() if any(row[1] == name for row in rows)]
    return [
        "# MTEB's own tasks, offline",
        "",
        f"`make bench-mteb`: {len(rows)} tasks of {types} types, mteb {done[0]['mteb']}, at full width, float32, "
        f"x 100. Base is {BASE}; difference is mteb's figure for it less gecko's own.",
        "",
        *table_lines(heads, rows, 3),
        "",
        *(f"- {note}" for note in notes),
    ]


def write(path: Path, done: dict[str, dict[str, Any]]) -> None:
    """Write the page of what is done, in the order of the tasks, with others after them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    order = [*TASKS, *done]
    path.write_text("\n".join(page(sorted(done.values(), key=lambda one: order.index(one["task"])))) + "\n", "utf-8")


def main() -> int:
    """Run the tasks that are missing, the cheap ones first, and write the page after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="runs/demo/model", help="the tuned model")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="as --mteb-data takes it")
    parser.add_argument("--tasks", default=",".join(TASKS), help="MTEB's names, comma separated; run as listed")
    parser.add_argument("--out", type=Path, default=Path("docs/results/mteb.md"))
    asked = parser.parse_args()
    names = [name for name in asked.tasks.split(",") if find_place(asked.data, name)]
    for name in asked.tasks.split(","):
        if name not in names:
            print(f"{name}: no folder in {asked.data} supplies it; left out", file=sys.stderr)
    base, tuned = Embedder(BASE, bf16=False), Embedder(asked.model, bf16=False)
    key = {"model": tuned.fingerprint, "mteb": version("mteb"), "data": str(asked.data.resolve())}
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    done = {one["task"]: one for one in read_done(RECORD) if key.items() <= one.items()}
    missing = [name for name in names if name not in done]
    print(f"{len(missing)} of {len(names)} tasks to run", flush=True)
    for place, task in enumerate(open_mteb(missing, asked.data), 1):
        entry = {**key, "task": task.name, **measure(task, base, tuned)}
        done[task.name] = entry
        note_done(RECORD, entry)
        write(asked.out, done)
        print(f"[{place}/{len(missing)}] {' | '.join(cells(entry))} | {entry['seconds']:.0f} s", flush=True)
    if not done:
        raise SystemExit(f"no folder in {asked.data} supplies any of the tasks")
    write(asked.out, done)
    seconds = sum(entry["seconds"] for entry in done.values())
    print(f"{asked.out}: {len(done)} tasks, {seconds / 60:.0f} minutes in all")
    wrong = [name for name, entry in done.items() if name not in DIFFERENT and abs(apart(entry) or 0) > ALLOWED]
    if wrong:
        print(f"more than {ALLOWED} point apart: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GeckoError as error:
        sys.exit(f"{error.message}\n{error.hint}")
