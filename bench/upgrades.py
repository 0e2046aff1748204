"""Which switches of training belong in the default recipe: each alone beside it, judged on dev data only.

    python bench/upgrades.py          # seed 0, every switch
    python bench/upgrades.py 1,2      # further seeds, of the switches that helped with seed 0 and of the default
    python bench/upgrades.py 0,1,2 whole   # the default and listwise, trained as long as the recipe says

Two corpora with recorded replies of a language model. powershell_docs is judged on held-out recorded queries, with the
grades of that model; mlquestions on people's dev questions. What training costs elsewhere is judged on train and dev
splits of general tasks. No test split is read. The table goes to ``docs/results/upgrades.md``.
"""

import json
import random
import statistics
import sys
from pathlib import Path

import numpy as np
from quality import ROOT, SHARED, note_done, read_done, train_run, write_page

from gecko.context import held_out_rows
from gecko.embedder.embedder import Embedder
from gecko.evaluate.beir import load_beir
from gecko.evaluate.compare import paired_bootstrap
from gecko.evaluate.tasks import evaluate_tasks, open_sets
from gecko.fret.store import PassageTable
from gecko.recipe import load_recipe
from gecko.shards import read_rows, to_fret
from gecko.train.gate import DevSet, dev_set, score_queries

OUT = ROOT / "runs" / "bench" / "upgrades"
DATA = SHARED / "data"
DEV = OUT / "dev"
CORPORA = ("powershell_docs", "mlquestions")
DIMS = (384, 256)
MAX_DEV = 200  # held-out queries that powershell_docs is judged on
WHOLE = "powershell_docs, as long as the recipe trains"
WHOLE_LABELS = ("default", "base", "listwise")
# One pass at 64 tokens, so that nineteen runs fit in an hour or two.
SHORT = ("train.max_length=64", "train.epochs=1")
COMMON = (
    "gate.alphas=[1.0]",
    "gate.max_probe_loss=1",
    f"gate.max_dev={MAX_DEV}",
)
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
# mlquestions' recorded replies hold no grades, and so its rows no hard negatives.
GRADED = {"hardness", "listwise", "margin MSE", "several positives"}
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
    write(DEV / "emotion" / "train.jsonl", rows(DATA / "emotion" / "train.jsonl"))
    write(DEV / "emotion" / "test.jsonl", draw.sample(rows(DATA / "emotion" / "validation.jsonl"), 1000))
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
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "qrels" / "dev.tsv").write_text(judgements, encoding="utf-8")


def dev_items(corpus: str, out: Path) -> DevSet:
    """What a corpus is judged on: people's dev questions, or the queries that the run in ``out`` held out."""
    if corpus == "mlquestions":
        data = load_beir(OUT / corpus, "dev")
        queries = [("question answering", text) for text in data.queries.values()]
        place = {doc_id: index for index, doc_id in enumerate(data.doc_ids)}
        relevant = [{place[doc]: float(grade) for doc, grade in data.qrels[query].items()} for query in data.queries]
        return DevSet(queries, list(zip(data.titles, data.texts, strict=True)), relevant)
    gate = load_recipe(out / "recipe.yaml").gate
    rows = held_out_rows(read_rows(out / "fret", to_fret), gate.dev_share, gate.max_dev)
    return dev_set(rows, PassageTable(out / "passages"))


def dev_scores(embedder: Embedder, items: DevSet) -> dict[str, list[float]]:
    """A model's nDCG@10 of each dev query at each size."""
    scores = score_queries(embedder, items, DIMS)
    return {str(dim): [round(float(score), 4) for score in found] for dim, found in zip(DIMS, scores, strict=True)}


def general_scores(embedder: Embedder) -> dict[str, list[float]]:
    """A model's mean on each type of general task, at both sizes."""
    means = evaluate_tasks(embedder, None, open_sets([DEV]), dims=DIMS)["mean"]
    return {kind: [means[f"{kind}@{dim}"]["tuned"] for dim in DIMS] for kind in GENERAL}


def run(label: str, corpus: str, seed: int) -> dict:
    """One run: each dev query's score, and the means on general tasks.

    The base is scored after the default run, on the queries which that held out.
    """
    name = corpus.partition(",")[0]
    out = OUT / (f"{name}-whole-{seed}" if corpus == WHOLE else f"{name}-{seed}")
    if label != "base":
        length = () if corpus == WHOLE else SHORT
        values = [f"teacher.spec=recorded:{SHARED / 'recorded' / name}", f"seed={seed}", *length, *COMMON]
        train_run(DATA / name, out, [*values, *SWITCHES[label]])
    # Not what the gate shipped, which is the base where held-out queries do not gain.
    embedder = Embedder(BASE if label == "base" else str(out / "train" / "model"))
    scores = dev_scores(embedder, dev_items(corpus, out))
    return {"label": label, "corpus": corpus, "seed": seed, "general": general_scores(embedder), "scores": scores}


def beside(entries: list[dict], others: list[dict]) -> list[str]:
    """The gain on dev of some runs over others of the same seeds, at each size: the mean and its paired interval."""
    cells = []
    for dim in map(str, DIMS):
        own, other = (np.mean([entry["scores"][dim] for entry in side], axis=0) for side in (entries, others))
        low, high = paired_bootstrap(other, own)
        cells.append(f"{100 * (own - other).mean():+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
    return cells


def table(done: list[dict]) -> list[str]:
    """A row a switch and corpus: gain on dev beside the default of the same seeds, and mean gains over the base."""
    heads = ["switch", "seeds", "dev, 384", "beside the default", "dev, 256", "beside the default"]
    heads += [kind.replace("_", " ") for kind in GENERAL]
    lines: list[str] = []
    for corpus in (*CORPORA, WHOLE):
        if all(entry["corpus"] != corpus for entry in done):
            continue
        lines += [
            "",
            f"## {corpus}",
            "",
            f"| {' | '.join(heads)} |",
            "|:--|--:|--:|--:|--:|--:|" + "--:|" * len(GENERAL),
        ]
        runs = {(e["label"], e["seed"]): e for e in done if e["corpus"] == corpus}
        for label in ("base", *SWITCHES):
            seeds = [seed for name, seed in runs if name == label and ("base", seed) in runs]
            if not seeds:
                continue
            own, default, base = ([runs[name, seed] for seed in seeds] for name in (label, "default", "base"))
            gains = [""] * len(DIMS) if label == "default" else beside(own, default)
            cells = [label, str(len(seeds))]
            for dim, gain in zip(DIMS, gains, strict=True):
                cells += [f"{100 * statistics.mean(np.mean(e['scores'][str(dim)]) for e in own):.1f}", gain]
            cells += [general_cell(own, None if label == "base" else base, kind) for kind in GENERAL]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def general_cell(entries: list[dict], base: list[dict] | None, kind: str) -> str:
    """The mean on a type of general task at each size, in points; the gain over the base where one is given."""
    means = np.mean([entry["general"][kind] for entry in entries], axis=0)
    if base is None:
        return " / ".join(f"{100 * value:.1f}" for value in means)
    means -= np.mean([entry["general"][kind] for entry in base], axis=0)
    return " / ".join(f"{100 * value:+.1f}" for value in means)


def helped(done: list[dict], label: str) -> bool:
    """Whether a switch gained on dev with seed 0, on the mean of the corpora it was tried on, at both sizes."""
    first = {(e["label"], e["corpus"]): e["scores"] for e in done if e["seed"] == 0 and e["corpus"] != WHOLE}
    corpora = [corpus for name, corpus in first if name == label]
    gains = [
        statistics.mean(np.mean(first[label, c][str(dim)]) - np.mean(first["default", c][str(dim)]) for c in corpora)
        for dim in DIMS
        if corpora
    ]
    return bool(gains) and min(gains) > 0


def main() -> None:
    """Make the runs that are missing, then write the table."""
    if not SHARED.is_dir():
        raise SystemExit("the labelled corpora are not here; this bench needs them")
    seeds = [0] if len(sys.argv) < 2 else [int(seed) for seed in sys.argv[1].split(",")]
    corpora = CORPORA if len(sys.argv) < 3 else (WHOLE,) if sys.argv[2] == "whole" else tuple(sys.argv[2].split(","))
    if not DEV.exists():
        general_tasks()
        judged_folder("mlquestions")
    record = OUT / "done.jsonl"
    done = read_done(record)
    for seed in seeds:
        for corpus in corpora:
            for label in ("default", "base", *(label for label in SWITCHES if label != "default")):
                known = any((e["label"], e["corpus"], e["seed"]) == (label, corpus, seed) for e in done)
                wanted = seed == 0 or label in ("default", "base") or helped(done, label)
                if known or not wanted or (corpus == "mlquestions" and label in GRADED):
                    continue
                if corpus == WHOLE and label not in WHOLE_LABELS:
                    continue
                done.append(run(label, corpus, seed))
                note_done(record, done[-1])
                print(corpus, seed, label, "done", flush=True)
    done = read_done(record)  # another process may make the other corpus
    lines = [
        "# Each switch of training alone, on dev data",
        "",
        "`make bench-upgrades`: `recipes/domain.yaml` from all-MiniLM-L6-v2, recorded replies, one pass, 64 tokens,",
        f"the tuned model whole. Dev: nDCG@10 × 100 of {MAX_DEV} held-out recorded queries (powershell_docs), people's",
        f"dev questions among {POOL:,} passages and theirs (mlquestions). *Beside the default*: gain over that of",
        "the same seeds, with its paired bootstrap interval over the queries. Others: the base's means on general",
        "tasks of train and dev splits, and gains over them, at 384 / 256 dims. One seed screens; what gained on dev",
        "has three. No test split was read.",
        *table(done),
    ]
    write_page("upgrades", lines)


if __name__ == "__main__":
    main()
