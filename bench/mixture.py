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

from quality import ROOT, SHARED, train_run

OUT = ROOT / "runs" / "bench" / "mixture"
DATA = SHARED / "data"
SEEN = {"powershell_docs", "scifact", "feedbackqa", "pubmedqa", "stsb/en", "en", "sts12", "msrp", "rqe"}
SEEN |= {"banking77", "clinc150", "emotion", "poem_sentiment"}
RETRIEVAL = ("powershell_docs", "feedbackqa", "pubmedqa", "medline", "cisi", "stackfaq")
TASKS = ("birco_wtb", "stsb/en", "sts12_16", "msrp", "rqe", "banking77", "clinc150", "emotion")
TASKS += ("poem_sentiment", "searchsnippets_clustering", "stackoverflow_clustering", "summeval", "tatoeba")
DIMS = (384, 256, 128, 64)


def run(seed: int) -> dict:
    """One run: what its evaluation says of every set."""
    link = OUT / "data"  # the recipe's sources lie under data/
    if not link.exists():
        OUT.mkdir(parents=True, exist_ok=True)
        link.symlink_to(DATA)
    values = [
        f"teacher.spec=recorded:{SHARED / 'recorded' / 'powershell_docs'}",
        f"seed={seed}",
        f"evaluation.beir={json.dumps([str(DATA / name) for name in RETRIEVAL])}",
        f"evaluation.tasks={json.dumps([str(DATA / name) for name in TASKS])}",
        "evaluation.tasks_limit=2000",
        "audit.action=drop",  # the sets share texts: the training split of one holds test pairs of another
    ]
    summary, spent = train_run(DATA / "powershell_docs", OUT / "run", values, "gecko-small", OUT)
    gate = json.loads((OUT / "run" / "gate" / "gate.json").read_text())
    evaluation = summary["evaluation"]
    retrieval = [{"task_type": "retrieval", **row} for row in evaluation["results"] if row["metric"] == "ndcg_at_10"]
    rows = [*retrieval, *evaluation["tasks"]["results"]]
    audit = json.loads((OUT / "run" / "audit" / "audit.json").read_text())
    counts = {"rows": audit["rows"], "dropped": audit["dropped"]}
    return {"seed": seed, **spent, **counts, "alpha": gate["alpha"], "results": rows}


def main_rows(entry: dict, dim: int) -> list[dict]:
    """One row a set: of its metrics the first, which is the one that MTEB ranks by."""
    first: dict[tuple[str, str], dict] = {}
    for row in entry["results"]:
        if row["dim"] == dim:
            first.setdefault((row["task_type"], row["dataset"]), row)
    return list(first.values())


def per_type(done: list[dict], dim: int) -> list[str]:
    """A row a type and the mean over types: base, tuned, and each seed's gain."""
    gains: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for entry in done:
        found: dict[str, list[dict]] = defaultdict(list)
        for row in main_rows(entry, dim):
            found[row["task_type"]].append(row)
        means = {
            kind: (statistics.mean(r["base"] for r in rows), statistics.mean(r["tuned"] for r in rows))
            for kind, rows in found.items()
        }
        means["**mean over types**"] = tuple(map(statistics.mean, zip(*means.values(), strict=True)))
        for kind, pair in means.items():
            gains[kind].append(pair)
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
    tables = [{(row["task_type"], row["dataset"]): row for row in main_rows(entry, DIMS[0])} for entry in done]
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
    done = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    for seed in seeds:
        if all(entry["seed"] != seed for entry in done):
            done.append(run(seed))
            with record.open("a") as handle:
                handle.write(json.dumps(done[-1]) + "\n")
    lines = [
        "# The full mixture, in small",
        "",
        "`make bench-mixture`: `recipes/gecko-small.yaml`, both stages from all-MiniLM-L6-v2, two CPU cores; FRet of",
        "powershell_docs with recorded replies and the training splits of twelve human-labelled sets. Points on test",
        "splits (at most 2,000 items of a set that is no retrieval); the mean over types weighs every type the same.",
        "Rows that ask what a test asks were dropped (`audit.action: drop`): sets of similarity share pairs.",
    ]
    for dim in DIMS:
        lines += ["", f"## By type, {dim} dims", "", *per_type(done, dim)]
    lines += ["", f"## By set, {DIMS[0]} dims", "", *per_set(done), "", "Runs:", ""]
    lines += [
        f"- seed {entry['seed']}: {entry['seconds']} s, {entry['gigabytes']} GB, gate {entry['alpha']:g}; "
        f"{entry['rows']:,} rows, {entry['dropped']:,} more were dropped"
        for entry in done
    ]
    (ROOT / "docs" / "results" / "full-mixture.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
