"""Quality on human judgements: whole runs on labelled corpora, three seeds, each against its base.

    python bench/quality.py recorded    # powershell_docs with the recorded replies of a language model
    python bench/quality.py four-way    # the same, seed or p1 as positive, none or the last rank as negative
    python bench/quality.py offline     # six corpora with the offline teacher: the gate at work

Every run is ``gecko run recipes/domain.yaml`` in a process of its own. Runs that are in ``runs/bench/NAME/done.jsonl``
are not made again, so a bench that was stopped goes on. The table goes to ``docs/results/NAME.md``.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gecko.embedder.embedder import Embedder
from gecko.evaluate.labels import Clustering
from gecko.evaluate.retrieval import cut
from gecko.mixture.tasks import task_word

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
DIMS = (384, 256, 128, 64)
GENERAL = ("stsb/en", "sts12_16", "banking77", "clinc150", "emotion", "poem_sentiment", "msrp", "rqe")
GENERAL += ("searchsnippets_clustering", "stackoverflow_clustering")
CLUSTERS = tuple(name for name in GENERAL if name.endswith("clustering"))
EXPERIMENTS = 100  # of a clustering, ten times as many as the evaluation has: k-means ends where its start leads
SEEDS = (0, 1, 2)
BASE = "all-MiniLM-L6-v2"
SHIP_TUNED = ("gate.alphas=[1.0]", "gate.max_probe_loss=1")

Config = tuple[str, str, str, tuple[str, ...]]  # label, corpus, teacher, settings


def configs(name: str) -> list[Config]:
    """The runs of a bench, without their seeds."""
    recorded = f"recorded:{SHARED / 'recorded' / 'powershell_docs'}"
    if name == "recorded":
        general = json.dumps([str(SHARED / "data" / folder) for folder in GENERAL])
        settings = (f"evaluation.tasks={general}", "evaluation.tasks_limit=3000")
        return [("recorded", "powershell_docs", recorded, settings)]
    if name == "four-way":
        return [
            (
                f"{positive} / {negative}",
                "powershell_docs",
                recorded,
                (f"fret.positive={positive}", f"fret.negative={negative}", *SHIP_TUNED),
            )
            for positive in ("seed", "p1")
            for negative in ("none", "last")
        ]
    corpora = ("powershell_docs", "mlquestions", "scifact", "cisi", "npl", "feedbackqa")
    return [(corpus, corpus, "offline", ()) for corpus in corpora]


def train_run(
    corpus: Path, out: Path, values: Sequence[str], recipe: str = "domain", cwd: Path = ROOT
) -> tuple[dict, dict]:
    """One whole ``gecko run`` of a recipe: its summary, and its wall seconds and peak gigabytes."""
    path = ROOT / "recipes" / f"{recipe}.yaml"
    command = [sys.executable, "-m", "gecko.cli", "run", str(path), "--corpus", str(corpus), "--json"]
    command += ["--out", str(out), *(part for value in values for part in ("--set", value))]
    started = time.monotonic()
    log = out.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as progress:
        process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=progress, text=True)
        assert process.stdout is not None
        answer = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the run failed ({log} says why): {' '.join(command)}")
    spent = {"seconds": round(time.monotonic() - started), "gigabytes": round(usage.ru_maxrss / 2**20, 2)}
    return json.loads(answer), spent


def read_done(record: Path) -> list[dict]:
    """The runs of a bench that are made already."""
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def note_done(record: Path, entry: dict) -> None:
    """Keep a finished run, so that a bench that is stopped goes on after it."""
    with record.open("a") as handle:
        handle.write(json.dumps(entry) + "\n")


def write_page(name: str, lines: Sequence[str]) -> None:
    """Write a bench's results, and print them."""
    path = ROOT / "docs" / "results" / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def run(config: Config, seed: int, out: Path) -> dict:
    """One run of a bench; its evaluation, wall time and peak memory."""
    label, corpus, teacher, settings = config
    folder = SHARED / "data" / corpus
    values = [f"teacher.spec={teacher}", f"seed={seed}", f"evaluation.beir=[{json.dumps(str(folder))}]"]
    values += [f"evaluation.dims={list(DIMS)}", *settings]
    summary, spent = train_run(folder, out / corpus, values)
    gate = json.loads((out / corpus / "gate" / "gate.json").read_text())
    clusters = steady_clusters(out / corpus / "model") if summary["evaluation"].get("tasks") else []
    results = [row for row in summary["evaluation"]["results"] if row["metric"] == "ndcg_at_10"]
    return {
        "label": label,
        "seed": seed,
        **spent,
        "skipped": [stage["name"] for stage in summary["stages"] if stage["skipped"]],
        "chosen": gate["chosen"],
        "alpha": gate["alpha"],
        "results": results,
        "tasks": summary["evaluation"].get("tasks", {}).get("results", []),
        "clusters": clusters,
    }


def steady_clusters(model: Path, dims: Sequence[int] = DIMS[:2]) -> list[dict]:
    """V-measure of all texts, the mean of many k-means, with the standard error of the change from the base's."""
    tuned, base = Embedder(str(model)), Embedder(BASE)
    found = []
    for name in CLUSTERS:
        task = replace(Clustering.read(SHARED / "data" / name / "test.jsonl"), experiments=EXPERIMENTS)
        (before,), (after,) = (task.encode(each, task_word("clustering", name)) for each in (base, tuned))
        for dim in dims:
            scores = [task.scores((cut(vectors, dim),))["v_measure"].repeats for vectors in (before, after)]
            change = scores[1] - scores[0]
            error = float(change.std(ddof=1)) / len(change) ** 0.5
            row = {"dataset": name, "dim": dim, "base": float(scores[0].mean()), "delta": float(change.mean())}
            found.append({**row, "error": error})
    return found


def table(done: list[dict]) -> list[str]:
    """A row a configuration and dimension: means over the seeds, and each seed's interval."""
    heads = (
        "run",
        "dim",
        "BM25",
        "BM25+base",
        "base",
        "tuned, mean (min to max)",
        "gain",
        "95 % interval of each seed",
    )
    lines = [f"| {' | '.join(heads)} | gate of each seed |", "|:--|--:|--:|--:|--:|--:|--:|:--|:--|"]
    for label in dict.fromkeys(entry["label"] for entry in done):
        entries = [entry for entry in done if entry["label"] == label]
        for dim in DIMS:
            rows = [row for entry in entries for row in entry["results"] if row["dim"] == dim]
            if not rows:  # a bench made before this size was asked for
                continue
            tuned = [100 * row["tuned"] for row in rows]
            intervals = ", ".join("[{:+.1f}, {:+.1f}]".format(*(100 * end for end in row["ci95"])) for row in rows)
            gate = ", ".join(f"{entry['chosen']} {entry['alpha']:g}" for entry in entries) if dim == DIMS[0] else ""
            first = rows[0]
            lines.append(
                f"| {label} | {dim} | {100 * first['bm25']:.1f} | {100 * first['hybrid_base']:.1f} "
                f"| {100 * first['base']:.1f} | {statistics.mean(tuned):.1f} ({min(tuned):.1f} to {max(tuned):.1f}) "
                f"| {statistics.mean(100 * row['delta'] for row in rows):+.1f} | {intervals} | {gate} |"
            )
    return lines


def general_table(done: list[dict]) -> list[str]:
    """A row a general task: the base, and each seed's change with its interval, whole and cut."""
    tasks = [row for entry in done for row in entry.get("tasks", [])]
    if not tasks:
        return []
    lines = ["", "General tasks, which the corpus is not about (change in points by seed, 95 % interval):", ""]
    lines += ["| task | metric | dim | base | change, mean | by seed |", "|:--|:--|--:|--:|--:|:--|"]
    for name, metric in dict.fromkeys((row["dataset"], row["metric"]) for row in tasks):
        for dim in DIMS[:2]:
            rows = [row for row in tasks if (row["dataset"], row["metric"], row["dim"]) == (name, metric, dim)]
            seeds = ", ".join(
                "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * value for value in (row["delta"], *row["ci95"])))
                for row in rows
            )
            change = statistics.mean(100 * row["delta"] for row in rows)
            lines.append(f"| {name} | {metric} | {dim} | {100 * rows[0]['base']:.1f} | {change:+.1f} | {seeds} |")
    return lines


def clusters_table(done: list[dict]) -> list[str]:
    """A row a clustering set and size: the base, and each seed's change with its standard error."""
    rows = [row for entry in done for row in entry.get("clusters", [])]
    if not rows:
        return []
    lines = ["", f"The same clustering sets whole, means of {EXPERIMENTS} k-means from the same starts:", ""]
    lines += ["| set | dim | base | change, mean | by seed (± standard error) |", "|:--|--:|--:|--:|:--|"]
    for name, dim in dict.fromkeys((row["dataset"], row["dim"]) for row in rows):
        own = [row for row in rows if (row["dataset"], row["dim"]) == (name, dim)]
        seeds = ", ".join(f"{100 * row['delta']:+.1f} ± {100 * row['error']:.1f}" for row in own)
        change = 100 * statistics.mean(row["delta"] for row in own)
        lines.append(f"| {name} | {dim} | {100 * own[0]['base']:.1f} | {change:+.1f} | {seeds} |")
    return lines


def costs(done: list[dict]) -> list[str]:
    """Wall time and memory of the runs, naming what a run found done by the one before it."""
    lines = []
    for entry in done:
        kept = f" (kept: {', '.join(entry['skipped'])})" if entry["skipped"] else ""
        lines.append(f"- {entry['label']}, seed {entry['seed']}: {entry['seconds']} s, {entry['gigabytes']} GB{kept}")
    return lines


def main() -> None:
    """Make the runs that are missing, then write the table."""
    name = sys.argv[1]
    seeds = SEEDS if len(sys.argv) < 3 else tuple(map(int, sys.argv[2].split(",")))
    if not SHARED.is_dir():
        raise SystemExit("the labelled corpora are not here; this bench needs them")
    out = ROOT / "runs" / "bench" / name
    out.mkdir(parents=True, exist_ok=True)
    record = out / "done.jsonl"
    done = read_done(record)
    for seed in seeds:
        for config in configs(name):
            if any((entry["label"], entry["seed"]) == (config[0], seed) for entry in done):
                continue
            entry = run(config, seed, out)
            done.append(entry)
            note_done(record, entry)
            print(entry["label"], seed, [round(100 * row["delta"], 1) for row in entry["results"]], flush=True)
    lines = [
        f"# {name}: nDCG@10 x 100 on human judgements",
        "",
        f"`make bench-{name}`, two CPU cores. Student and base: all-MiniLM-L6-v2.",
        "",
        *table(done),
        *general_table(done),
        *clusters_table(done),
        "",
        "Wall time and peak memory of each run:",
        "",
        *costs(done),
    ]
    write_page(name, lines)


if __name__ == "__main__":
    main()
