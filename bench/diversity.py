"""Tables 2 and 7 of the paper in small: kinds of task in FRet, the unified format, and human-labelled data beside it.

    python bench/diversity.py         # seed 0
    python bench/diversity.py 0,1,2

Fine-tuning only, from all-MiniLM-L6-v2, on FRet of powershell_docs with the recorded replies, and the training splits
that ``recipes/gecko-small.yaml`` names; every model is measured whole, whatever the gate would say. The table goes to
``docs/results/diversity.md``.
"""

import json
import statistics
import sys
from typing import Any

import yaml
from quality import ROOT, SHARED, SHIP_TUNED, note_done, read_done, write_page

from gecko.evaluate.tasks import type_means
from mixture import small_run

OUT = ROOT / "runs" / "bench" / "diversity"
RETRIEVAL = ("stackfaq",)
TASKS = ("stsb/en", "sts12_16", "msrp", "rqe", "banking77", "emotion", "poem_sentiment")
TASKS += ("searchsnippets_clustering", "stackoverflow_clustering")
LENGTH = 64  # tokens in training: ten runs of a seed then take an hour of a core at most
SAME = (*SHIP_TUNED, "gate.max_dev=100", "prefinetune.corpus=false", "prefinetune.queries=false")
SAME += (f"train.max_length={LENGTH}", "train.dims=[384]", "evaluation.dims=[384]", "evaluation.tasks_limit=1000")
FEW = 380  # FRet rows of a kind: all that the second most frequent kind has, but a few
# A few hundred rows are a handful of batches; so many passes make them as many steps as all rows are in one.
SMALL = (f"mixture.fret_limit={FEW}", "train.epochs=4")
SIMILARITY, LABELS = {"sts", "pair_classification"}, {"classification"}


def sources(kinds: set[str] | None) -> str:
    """The recipe's human-labelled sources of some kinds, or of all, as a setting."""
    named = yaml.safe_load((ROOT / "recipes" / "gecko-small.yaml").read_text())["mixture"]["sources"]
    return "mixture.sources=" + json.dumps([s for s in named if kinds is None or s["kind"] in kinds])


ALONE = sources(set())
RUNS: dict[str, tuple[str, ...]] = {
    f"question answering only, {FEW} rows": (ALONE, *SMALL, 'mixture.fret_kinds=["question answering"]'),
    f"search result only, {FEW} rows": (ALONE, *SMALL, 'mixture.fret_kinds=["search result"]'),
    f"all kinds, {FEW} rows": (ALONE, *SMALL),
    "… kinds drawn equally often": (ALONE, *SMALL, "mixture.sampling=uniform_task"),
    "all FRet rows": (ALONE,),
    "… in the unified format": (ALONE, "train.text_format=gecko"),
    "FRet + similarity pairs": (sources(SIMILARITY),),
    "FRet + classification": (sources(LABELS),),
    "FRet + all human data": (sources(None),),
    "…… in the unified format": (sources(None), "train.text_format=gecko"),
}
NAMES = {"pair_classification": "pairs", "summarization": "summaries", "types": "mean"}


def run(label: str, seed: int) -> dict[str, Any]:
    """One model: base's and its own mean over the sets of each type, and nDCG@10 on held-out FRet queries."""
    rows, spent = small_run(OUT, seed, RETRIEVAL, TASKS, (*SAME, *RUNS[label]))
    trial = json.loads((OUT / "run" / "gate" / "gate.json").read_text())
    means = {key.partition("@")[0]: [mean["base"], mean["tuned"]] for key, mean in type_means(rows).items()}
    return {"label": label, "seed": seed, **spent, "dev_gain": trial["scores"][-1]["dev_gain"], "types": means}


def table(done: list[dict]) -> list[str]:
    """A row a run: the gain on held-out queries, then means over the seeds, in points, by type; the base first."""
    kinds = list(done[0]["types"])
    lines = [f"| run | seeds | held-out queries | {' | '.join(NAMES.get(kind, kind) for kind in kinds)} |"]
    lines.append("|:--|--:|--:|" + "--:|" * len(kinds))
    base = [f"{100 * done[0]['types'][kind][0]:.1f}" for kind in kinds]
    lines.append(f"| base | | | {' | '.join(base)} |")
    for label in RUNS:
        entries = [entry for entry in done if entry["label"] == label]
        if not entries:
            continue
        cells = [over_seeds([entry["dev_gain"] for entry in entries], sign="+")]
        cells += [over_seeds([entry["types"][kind][1] for entry in entries]) for kind in kinds]
        lines.append(f"| {label} | {len(entries)} | {' | '.join(cells)} |")
    return lines


def over_seeds(found: list[float], sign: str = "") -> str:
    """The mean in points, and half the range where there is one."""
    spread = f" ±{50 * (max(found) - min(found)):.1f}" if len(found) > 1 else ""
    return f"{100 * statistics.mean(found):{sign}.1f}{spread}"


def main() -> None:
    """Make the runs that are missing, then write the table."""
    if not SHARED.is_dir():
        raise SystemExit("the labelled corpora are not here; this bench needs them")
    seeds = [0] if len(sys.argv) < 2 else [int(seed) for seed in sys.argv[1].split(",")]
    record = OUT / "done.jsonl"
    done = read_done(record)
    for seed in seeds:
        for label in RUNS:
            if all((entry["label"], entry["seed"]) != (label, seed) for entry in done):
                done.append(run(label, seed))
                note_done(record, done[-1])
                print(json.dumps(done[-1]), flush=True)
    lines = [
        "# Kinds of task, the unified format, and human-labelled data, in small",
        "",
        f"`make bench-diversity`: fine-tuning only, from all-MiniLM-L6-v2, {LENGTH} tokens, FRet of powershell_docs",
        "with recorded replies, and the training splits of `recipes/gecko-small.yaml`. The paper's table 2 (and 7, the",
        "format). Points on test splits, 384 dims, at most 1,000 items of a set that is no retrieval; *mean* weighs",
        "every type the same. *Held-out queries*: gain in nDCG@10 on recorded queries of powershell_docs. Retrieval:",
        f"{' and '.join(RETRIEVAL)}, which no run was trained on. ± is half the range over the seeds. Rows that ask",
        "what a test asks were dropped. Not here: FRet of fact checking or similarity only (too few recorded rows) and",
        "NLI (no such set at hand; similarity pairs and duplicates stand in for it).",
        "",
        *table(done),
    ]
    write_page("diversity", lines)


if __name__ == "__main__":
    main()
