"""Which switches of training belong in the default recipe: each alone beside it, judged on dev data only.

    python bench/upgrades.py          # seed 0, every switch
    python bench/upgrades.py 1,2      # further seeds, of the switches that helped with seed 0 and of the default

Two corpora with recorded replies of a language model. powershell_docs is judged on held-out recorded queries, with the
grades of that model; mlquestions on people's dev questions. What training costs elsewhere is judged on train and dev
splits of general tasks. No test split is read. The table goes to ``docs/results/upgrades.md``.
"""

import json
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from quality import ROOT, SHARED, note_done, read_done, train_run, write_page

OUT = ROOT / "runs" / "bench" / "upgrades"
DATA = SHARED / "data"
DEV = OUT / "dev"
CORPORA = ("powershell_docs", "mlquestions")
# One pass at 96 tokens, so that nineteen runs fit in an hour or two.
COMMON = ("train.max_length=96", "train.epochs=1", "gate.alphas=[1.0]", "gate.max_probe_loss=1", "gate.max_dev=100")
POOL = 2000  # passages that people's dev questions are asked of, beside those they judged relevant
BASE = "all-MiniLM-L6-v2"
SWITCHES: dict[str, tuple[str, ...]] = {
    "default": (),
    "without rehearsal": ("train.rehearse.weight=0",),
    "without same-tower": ("train.same_tower=false",),
    "whole vectors only": ("train.dims=[384]",),
    "guard": (f"train.guard.embedder={BASE}", "train.guard.margin=0.05", "train.guard.kind=relative"),
    "hardness": ("train.hardness.alpha=5",),
    "spread-out": ("train.spread.weight=1",),
    "distillation from the base": (f"train.distill.embedder={BASE}", "train.distill.weight=2"),
    "listwise": ("train.listwise.weight=1", "train.candidates.count=5"),
    "margin MSE": ("train.margin_mse.weight=1", "train.candidates.count=5"),
    "several positives": ("train.positives.extra=2",),
}
GRADED = {"listwise", "margin MSE", "several positives"}  # mlquestions' recorded replies hold no grades
GENERAL = ("sts", "pair_classification", "classification", "clustering")


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, lines: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def general_tasks() -> None:
    """Write general tasks of train and dev splits in the folder format that ``gecko evaluate --tasks`` reads."""
    draw = random.Random(0)
    write(DEV / "stsb" / "test.jsonl", rows(DATA / "stsb" / "en" / "dev.jsonl"))
    write(DEV / "msrp" / "test.jsonl", rows(DATA / "msrp" / "val.jsonl"))
    write(DEV / "rqe" / "test.jsonl", rows(DATA / "rqe" / "validation.jsonl"))
    for name in ("clinc150", "emotion"):
        write(DEV / name / "train.jsonl", rows(DATA / name / "train.jsonl"))
        write(DEV / name / "test.jsonl", draw.sample(rows(DATA / name / "validation.jsonl"), 1000))
    banking = draw.sample(rows(DATA / "banking77" / "train.jsonl"), 4000)
    write(DEV / "banking77" / "train.jsonl", banking[1000:])
    write(DEV / "banking77" / "test.jsonl", banking[:1000])
    requests = draw.sample(rows(DATA / "clinc150" / "train.jsonl"), 3000)
    clusters = [{"text": row["text"], "label": row["domain"]} for row in requests]
    write(DEV / "clinc150_clustering" / "test.jsonl", clusters)
    snippets = []
    for name in ("birco_relic", "birco_wtb", "cisi", "feedbackqa", "medline", "npl", "pubmedqa", "scitldr", "stackfaq"):
        for row in draw.sample(rows(DATA / name / "corpus.jsonl"), 300):
            words = row["text"].split()
            start = draw.randrange(max(1, len(words) - 18))
            snippets.append({"text": " ".join(words[start : start + 18]) or row["title"], "label": name})
    write(DEV / "snippets_clustering" / "test.jsonl", snippets)


def judged_folder(corpus: str) -> None:
    """Write people's dev questions with a part of the corpus: encoding all of it for each run would take longest."""
    folder = OUT / corpus
    judgements = (DATA / corpus / "qrels" / "dev.tsv").read_text(encoding="utf-8")
    relevant = {line.split("\t")[1] for line in judgements.splitlines()[1:]}
    passages = rows(DATA / corpus / "corpus.jsonl")
    drawn = {row["_id"] for row in random.Random(0).sample(passages, POOL)}
    write(folder / "corpus.jsonl", [row for row in passages if row["_id"] in relevant | drawn])
    write(folder / "queries.jsonl", rows(DATA / corpus / "queries_dev.jsonl"))
    (folder / "qrels").mkdir()
    (folder / "qrels" / "dev.tsv").write_text(judgements, encoding="utf-8")


def run(label: str, corpus: str, seed: int) -> dict:
    """One run: gains on dev and on each type of general task, in points at 384 and 256 dims."""
    judged = [f"evaluation.beir=[{OUT / corpus}]", "evaluation.split=dev"] if corpus == "mlquestions" else []
    values = [
        f"teacher.spec=recorded:{SHARED / 'recorded' / corpus}",
        f"seed={seed}",
        f"evaluation.tasks=[{DEV}]",
        *judged,
        *COMMON,
        *SWITCHES[label],
    ]
    out = OUT / f"{corpus}-{seed}"
    summary, _ = train_run(DATA / corpus, out, values)
    evaluation = summary["evaluation"]
    gains: dict[str, list[float]] = {}
    for dim in (384, 256):
        if judged:
            found = [row for row in evaluation["results"] if row["dim"] == dim and row["metric"] == "ndcg_at_10"]
            gains.setdefault("dev", []).append(found[0]["delta"])
        for kind in GENERAL:
            own = [r["delta"] for r in evaluation["tasks"]["results"] if r["task_type"] == kind and r["dim"] == dim]
            gains.setdefault(kind, []).append(statistics.mean(own))
    if not judged:
        trial = json.loads((out / "gate" / "gate.json").read_text())["scores"][-1]
        gains["dev"] = [trial["dev_gain"], trial["narrow_gains"]["256"]]
    return {"label": label, "corpus": corpus, "seed": seed, "gains": gains}


def table(done: list[dict]) -> list[str]:
    """A row a switch and corpus: mean gains over the base, and over the default run of the same seed."""
    heads = ("switch", "seeds", "dev 384 / 256", "beside the default", *(kind.replace("_", " ") for kind in GENERAL))
    lines: list[str] = []
    for corpus in CORPORA:
        lines += ["", f"## {corpus}", "", f"| {' | '.join(heads)} |", "|:--|--:|--:|--:|" + "--:|" * len(GENERAL)]
        default = {e["seed"]: e["gains"] for e in done if (e["label"], e["corpus"]) == ("default", corpus)}
        for label in SWITCHES:
            entries = [e for e in done if (e["label"], e["corpus"]) == (label, corpus) and e["seed"] in default]
            if not entries:
                continue
            beside = [
                [a - b for a, b in zip(e["gains"]["dev"], default[e["seed"]]["dev"], strict=True)] for e in entries
            ]
            cells = [mean([e["gains"]["dev"] for e in entries]), "" if label == "default" else mean(beside)]
            cells += [mean([e["gains"][kind] for e in entries]) for kind in GENERAL]
            lines.append(f"| {label} | {len(entries)} | {' | '.join(cells)} |")
    return lines


def mean(pairs: list[list[float]]) -> str:
    """The mean at each size, in points."""
    return " / ".join(f"{100 * statistics.mean(column):+.1f}" for column in zip(*pairs, strict=True))


def helped(done: list[dict]) -> Callable[[str], bool]:
    """Whether a switch gained on dev with seed 0, on the mean of the corpora it was tried on, at both sizes."""
    first = [e for e in done if e["seed"] == 0]
    default = {e["corpus"]: e["gains"]["dev"] for e in first if e["label"] == "default"}

    def gains(label: str) -> bool:
        own = [
            [a - b for a, b in zip(e["gains"]["dev"], default[e["corpus"]], strict=True)]
            for e in first
            if e["label"] == label
        ]
        return bool(own) and all(statistics.mean(column) > 0 for column in zip(*own, strict=True))

    return gains


def main() -> None:
    """Make the runs that are missing, then write the table."""
    if not SHARED.is_dir():
        raise SystemExit("the labelled corpora are not here; this bench needs them")
    seeds = [0] if len(sys.argv) < 2 else [int(seed) for seed in sys.argv[1].split(",")]
    corpora = CORPORA if len(sys.argv) < 3 else tuple(sys.argv[2].split(","))
    if not DEV.exists():
        general_tasks()
        judged_folder("mlquestions")
    record = OUT / "done.jsonl"
    done = read_done(record)
    for seed in seeds:
        for corpus in corpora:
            for label in SWITCHES:
                known = any((e["label"], e["corpus"], e["seed"]) == (label, corpus, seed) for e in done)
                wanted = seed == 0 or label == "default" or helped(done)(label)
                if known or not wanted or (corpus == "mlquestions" and label in GRADED):
                    continue
                entry = run(label, corpus, seed)
                done.append(entry)
                note_done(record, entry)
                print(json.dumps(entry), flush=True)
    done = read_done(record)  # another process may make the other corpus
    lines = [
        "# Each switch of training alone, on dev data",
        "",
        "`make bench-upgrades`: `recipes/domain.yaml`, recorded replies, one pass, 96 tokens, the tuned model whole;",
        "gains over all-MiniLM-L6-v2 in points at 384 / 256 dims. Dev: nDCG@10 of held-out recorded queries",
        f"(powershell_docs), of people's dev questions among {POOL:,} passages and theirs (mlquestions). Others: means",
        "over general tasks of train and dev splits. One seed screens; what gained on dev has three. No test split was",
        "read.",
        *table(done),
    ]
    write_page("upgrades", lines)


if __name__ == "__main__":
    main()
