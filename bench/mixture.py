"""The whole of the paper on two cores: ``recipes/gecko-small.yaml``, human training sets of every kind, all task types.

    python bench/mixture.py         # seed 0
    python bench/mixture.py 0,1,2

Both stages of training from all-MiniLM-L6-v2, FRet of powershell_docs with the recorded replies, and the training
splits that the recipe names. Judged on test splits of every type; whether a set's training split was seen is said
beside it.
The table goes to ``docs/results/full-mixture.md``.
"""

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from quality import EXPERIMENTS, ROOT, SHARED, note_done, read_done, steady_clusters, train_run, write_page

from gecko.evaluate.tasks import MAIN, type_means

OUT = ROOT / "runs" / "bench" / "mixture"
DATA = SHARED / "data"
SEEN = {"powershell_docs", "scifact", "feedbackqa", "pubmedqa", "stsb/en", "en", "sts12", "msrp", "rqe"}
SEEN |= {"banking77", "clinc150", "emotion", "poem_sentiment"}
RETRIEVAL = ("powershell_docs", "feedbackqa", "pubmedqa", "medline", "cisi", "stackfaq")
TASKS = ("birco_wtb", "stsb/en", "sts12_16", "msrp", "rqe", "banking77", "clinc150", "emotion")
TASKS += ("poem_sentiment", "searchsnippets_clustering", "stackoverflow_clustering", "summeval", "tatoeba")
DIMS = (384, 256, 128, 64)


def small_run(
    out: Path, seed: int, retrieval: Sequence[str], tasks: Sequence[str], settings: Sequence[str] = ()
) -> tuple[list[dict], dict]:
    """One run of ``gecko-small`` in ``out``: MTEB's main metric of each set and dimension, and what the run cost."""
    link = out / "data"  # the recipe's sources lie under data/
    if not link.exists():
        out.mkdir(parents=True, exist_ok=True)
        link.symlink_to(DATA)
    values = [
        f"teacher.spec=recorded:{SHARED / 'recorded' / 'powershell_docs'}",
        f"seed={seed}",
        f"evaluation.beir={json.dumps([str(DATA / name) for name in retrieval])}",
        f"evaluation.tasks={json.dumps([str(DATA / name) for name in tasks])}",
        "evaluation.tasks_limit=2000",
        "audit.action=drop",  # the sets share texts: the training split of one holds test pairs of another
        *settings,
    ]
    summary, spent = train_run(DATA / "powershell_docs", out / "run", values, "gecko-small", out)
    evaluation = summary["evaluation"]
    rows = [*({"task_type": "retrieval", **row} for row in evaluation["results"]), *evaluation["tasks"]["results"]]
    return [row for row in rows if row["metric"] == MAIN[row["task_type"]]], spent


def run(seed: int) -> dict:
    """One run: what its evaluation says of every set."""
    rows, spent = small_run(OUT, seed, RETRIEVAL, TASKS)
    rows = steadied(rows, steady_clusters(OUT / "run" / "model", DIMS))
    gate = json.loads((OUT / "run" / "gate" / "gate.json").read_text())
    audit = json.loads((OUT / "run" / "audit" / "audit.json").read_text())
    counts = {"rows": audit["rows"], "dropped": audit["dropped"]}
    return {"seed": seed, **spent, **counts, "alpha": gate["alpha"], "results": rows}


def steadied(rows: list[dict], clusters: list[dict]) -> list[dict]:
    """Clustering figures of many k-means in the place of the evaluation's ten, which differ by points between starts.

    Their intervals are of the starts alone.
    """
    found = {(row["dataset"], row["dim"]): row for row in clusters}
    steady = []
    for row in rows:
        own = found.get((row["dataset"], row["dim"]))
        if own:
            interval = [own["delta"] - 1.96 * own["error"], own["delta"] + 1.96 * own["error"]]
            row = {**row, "base": own["base"], "tuned": own["base"] + own["delta"], "ci95": interval}
        steady.append(row)
    return steady


def per_type(done: list[dict], dim: int) -> list[str]:
    """A row a type and the mean over types: base, tuned, and each seed's gain."""
    gains: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for entry in done:
        for key, mean in type_means([row for row in entry["results"] if row["dim"] == dim]).items():
            kind = key.partition("@")[0]
            gains["**mean over types**" if kind == "types" else kind].append((mean["base"], mean["tuned"]))
    lines = ["| type | base | tuned, mean | gain | by seed |", "|:--|--:|--:|--:|:--|"]
    for kind, pairs in gains.items():
        base = 100 * statistics.mean(pair[0] for pair in pairs)
        tuned = 100 * statistics.mean(pair[1] for pair in pairs)
        seeds = ", ".join(f"{100 * (after - before):+.1f}" for before, after in pairs)
        lines.append(f"| {kind.replace('_', ' ')} | {base:.1f} | {tuned:.1f} | {tuned - base:+.1f} | {seeds} |")
    return lines


def per_set(done: list[dict]) -> list[str]:
    """A row a set: base, mean of the tuned models, the first seed's interval."""
    lines = ["| type | set | trained on | metric | base | tuned, mean | gain | 95 % interval, by seed |"]
    lines.append("|:--|:--|:--|:--|--:|--:|--:|:--|")
    tables = [
        {(row["task_type"], row["dataset"]): row for row in entry["results"] if row["dim"] == DIMS[0]} for entry in done
    ]
    for (kind, name), first in tables[0].items():
        rows = [table[kind, name] for table in tables]
        tuned = 100 * statistics.mean(row["tuned"] for row in rows)
        intervals = ", ".join("[{:+.1f}, {:+.1f}]".format(*(100 * end for end in row["ci95"])) for row in rows)
        seen = "train split" if name in SEEN else "no"
        base = 100 * first["base"]
        lines.append(
            f"| {kind.replace('_', ' ')} | {name} | {seen} | {first['metric']} | {base:.1f} | {tuned:.1f} "
            f"| {tuned - base:+.1f} | {intervals} |"
        )
    return lines


def main() -> None:
    """Make the runs that are missing, then write the table."""
    if not SHARED.is_dir():
        raise SystemExit("the labelled corpora are not here; this bench needs them")
    seeds = [0] if len(sys.argv) < 2 else [int(seed) for seed in sys.argv[1].split(",")]
    record = OUT / "done.jsonl"
    done = read_done(record)
    for seed in seeds:
        if all(entry["seed"] != seed for entry in done):
            done.append(run(seed))
            note_done(record, done[-1])
    lines = [
        "# The full mixture, in small",
        "",
        "`make bench-mixture`: `recipes/gecko-small.yaml`, both stages from all-MiniLM-L6-v2, two CPU cores; FRet of",
        "powershell_docs with recorded replies and the training splits of twelve human-labelled sets. Points on test",
        "splits (at most 2,000 items of a set that is no retrieval); the mean over types weighs every type the same.",
        "Rows that ask what a test asks were dropped (`audit.action: drop`): sets of similarity share pairs.",
        f"Clustering: all texts, means of {EXPERIMENTS} k-means from the same starts; its intervals are of the starts.",
    ]
    for dim in DIMS:
        lines += ["", f"## By type, {dim} dims", "", *per_type(done, dim)]
    lines += ["", f"## By set, {DIMS[0]} dims", "", *per_set(done), "", "Runs:", ""]
    lines += [
        f"- seed {entry['seed']}: {entry['seconds']} s, {entry['gigabytes']} GB, gate {entry['alpha']:g}; "
        f"{entry['rows']:,} rows, {entry['dropped']:,} more were dropped"
        for entry in done
    ]
    write_page("full-mixture", lines)


if __name__ == "__main__":
    main()
