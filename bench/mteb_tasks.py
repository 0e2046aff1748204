"""Real tasks of MTEB, offline: base and tuned by mteb itself, and how far gecko's own figure for the base is from it.

    python bench/mteb_tasks.py [MODEL] --data DATA [--tasks STS13,SciFact] [--out docs/results/mteb.md]

The base is the packaged all-MiniLM-L6-v2, float32. Fails where mteb's figure for the base and gecko's differ by more
than 0.1 point although both score the same thing the same way (the table says where they do not).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from gecko.embedder.embedder import PACKAGED_MODEL, Embedder
from gecko.evaluate.evaluate import evaluate_models
from gecko.evaluate.mteb.chosen import Chosen, open_mteb
from gecko.evaluate.mteb.places import find_beir, find_file, find_place, split_names
from gecko.evaluate.mteb.run import evaluate_mteb
from gecko.evaluate.table import mteb_notes, table_lines
from gecko.evaluate.tasks import Sets, TaskOptions, evaluate_tasks, open_sets

# The smallest of each type first, so that a fault shows early.
TASKS = (
    "PoemSentimentClassification STSBenchmark STS16 SummEvalSummarization.v2 SummEval BIRCO-WTB BIRCO-ArguAna "
    "BIRCO-Relic STS12 STS13 STS15 STS14 Banking77Classification EmotionClassification STSBenchmarkMultilingualSTS "
    "XQuADRetrieval SciFact FeedbackQARetrieval MLQuestions Tatoeba"
).split()
ALLOWED = 0.1  # points
# Where the two are meant to differ, and why.
DIFFERENT = {
    "SummEval": "mteb's first version has an error in its score, which it keeps; v2 is as ours",
    "FeedbackQARetrieval": "mteb's main score is precision at 1, gecko has nDCG@10",
}
METRICS = {"ndcg_at_10", "cosine_spearman", "accuracy", "f1"}


def own_figure(base: Embedder, task: Chosen, row: dict[str, Any], subsets: list[str]) -> float | None:
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="runs/demo/model")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--out", type=Path, default=Path("docs/results/mteb.md"))
    asked = parser.parse_args()
    names = [name for name in asked.tasks.split(",") if find_place(asked.data, name)]
    for name in set(asked.tasks.split(",")) - set(names):
        print(f"{name}: no folder in {asked.data} supplies it; left out", file=sys.stderr)
    tasks = open_mteb(names, asked.data)
    base, tuned = Embedder(PACKAGED_MODEL, bf16=False), Embedder(asked.model, bf16=False)
    rows, wrong, reports = [], [], []
    for task in tasks:
        with tempfile.TemporaryDirectory() as out:
            report = evaluate_mteb(tuned, base, [task], Path(out))
        reports.append(report)
        row = report["results"][0]
        own = own_figure(base, task, row, report["sets"][0]["subsets"])
        apart = None if own is None else 100 * (row["base"] - own)
        if apart is not None and abs(apart) > ALLOWED and task.name not in DIFFERENT:
            wrong.append(task.name)
        said = "-" if apart is None else f"{apart:+.2f}"
        figures = [f"{100 * row[side]:.2f}" for side in ("base", "tuned")]
        ours = "-" if own is None else f"{100 * own:.2f}"
        gain = f"{100 * row['delta']:+.2f}"
        rows.append((row["task_type"], task.name, row["metric"], *figures, gain, ours, said, str(row["n"])))
        print(" | ".join(rows[-1]), flush=True)
    heads = ("type", "task", "main score", "base", "tuned", "gain", "gecko's for base", "difference", "items")
    types = {row[0] for row in rows}
    notes = list(dict.fromkeys(note for report in reports for note in mteb_notes(report)))
    notes = [note for note in notes if not note.startswith("MTEB's own files")]
    notes += [f"{name}: {why}." for name, why in DIFFERENT.items() if name in names]
    lines = [
        "# MTEB's own tasks, offline",
        "",
        f"`make bench-mteb`: {len(rows)} tasks of {len(types)} types, mteb {reports[0]['version']}, at full width, "
        "float32, x 100. Base is all-MiniLM-L6-v2; difference is mteb's figure for it less gecko's own.",
        "",
        *table_lines(heads, rows, 3),
        "",
        *(f"- {note}" for note in notes),
    ]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{asked.out}: {len(rows)} tasks of {len(types)} types")
    if wrong:
        print(f"more than {ALLOWED} point apart: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
