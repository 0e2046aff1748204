"""What the jobs do on people's labels: themes, similar items, classes from few labels, translations.

    python bench/jobs.py [MODEL]     # beside all-MiniLM-L6-v2, another model

Everything runs through the modules behind the verbs. Themes are compared with intents and topics that people gave
(V-measure and adjusted mutual information, every text without a theme counted as a theme of its own); lists of similar
items by the share that has the item's label; classes by cross-validation, as ``gecko classify`` says it; matched
sentences by precision and recall against tatoeba's translations. The table goes to ``docs/results/jobs.md``.
"""

import json
import random
import sys
import time

import numpy as np
from quality import SHARED, write_page
from sklearn.metrics import adjusted_mutual_info_score, v_measure_score

from gecko.embedder.embedder import Embedder
from gecko.evaluate.compare import paired_bootstrap
from gecko.jobs.classify import check_labels, cross_validate, learning_curve
from gecko.jobs.similar import similar_to, spread_of
from gecko.jobs.themes import find_themes
from gecko.jobs.translations import match
from gecko.mixture.tasks import task_word

DATA = SHARED / "data"
BASE = "all-MiniLM-L6-v2"
MOST = 3000  # texts of a set
SETS = {  # each set's label column
    "banking77": "label_text",
    "clinc150": "label_text",
    "searchsnippets_clustering": "label",
    "stackoverflow_clustering": "label",
}
CLASSES = {"banking77": "label_text", "clinc150": "label_text", "emotion": "label_text", "poem_sentiment": "label_text"}
LANGUAGES = ("deu", "fra", "spa")
K = 10


def read(name: str, column: str) -> tuple[list[str], list[str]]:
    """Texts and labels of a test split, a fixed sample of a large one."""
    lines = (DATA / name / "test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    rows = random.Random(0).sample(rows, min(MOST, len(rows)))
    return [row["text"] for row in rows], [str(row.get(column, row["label"])) for row in rows]


def themes(model: Embedder) -> list[str]:
    lines = []
    for name, column in SETS.items():
        texts, labels = read(name, column)
        vectors = model.encode_symmetric(texts, task_word("clustering"), "Clustering")
        began = time.perf_counter()
        found = find_themes(vectors, texts)
        seconds = time.perf_counter() - began
        own = np.where(found.of > 0, found.of, -1 - np.arange(len(texts)))
        without = 100 * np.mean(found.of == 0)
        lines.append(
            f"| {name} | {len(texts):,} | {len(set(labels))} | {len(found.themes)} | {without:.0f} "
            f"| {100 * v_measure_score(labels, own):.1f} | {100 * adjusted_mutual_info_score(labels, own):.1f} "
            f"| {seconds:.0f} |"
        )
    return lines


def similar(model: Embedder) -> list[str]:
    lines = []
    for name, column in SETS.items():
        texts, labels = read(name, column)
        vectors = model.encode_symmetric(texts, task_word("sts"), "STS")
        own = list(range(len(texts)))
        for diversity in (0.0, 0.3):
            lists = similar_to(vectors, vectors, K, diversity=diversity, own=own)
            right = [np.mean([labels[like.index] == labels[i] for like in each]) for i, each in enumerate(lists)]
            lines.append(f"| {name} | {diversity:g} | {100 * np.mean(right):.1f} | {spread_of(lists, vectors):.2f} |")
    return lines


def classes(model: Embedder, base: Embedder) -> list[str]:
    lines = []
    for name, column in CLASSES.items():
        texts, labels = read(name, column)
        kept, _ = check_labels(labels)
        texts, labels = [texts[i] for i in kept], [labels[i] for i in kept]
        vectors = model.encode_symmetric(texts, task_word("classification"), "Classification")
        found = cross_validate(vectors, labels)
        figures = found.figures()
        curve = learning_curve(vectors, labels)
        points = ", ".join(f"{point['per_label']}: {100 * point['accuracy']:.1f}" for point in curve)
        beside = ""
        if model is not base:
            other = cross_validate(base.encode_symmetric(texts, task_word("classification"), "Classification"), labels)
            low, high = paired_bootstrap(other.right, found.right)
            gain = 100 * float(found.right.mean() - other.right.mean())
            beside = f"{gain:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        lines.append(
            f"| {name} | {len(texts):,} | {len(set(labels))} | {100 * figures['accuracy']:.1f} "
            f"[{100 * figures['ci95'][0]:.1f}, {100 * figures['ci95'][1]:.1f}] | {100 * figures['commonest']:.1f} "
            f"| {beside} | {points} |"
        )
    return lines


def translations(model: Embedder) -> list[str]:
    rows = [json.loads(line) for line in (DATA / "tatoeba" / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = []
    for language in LANGUAGES:
        own = [row for row in rows if language in str(row.get("lang", row.get("language", "")))]
        order = np.random.default_rng(0).permutation(len(own))
        left = model.encode_symmetric([row["sentence1"] for row in own], task_word("bitext"), "BitextMining")
        right = model.encode_symmetric([own[i]["sentence2"] for i in order], task_word("bitext"), "BitextMining")
        pairs = match(left, right)
        correct = sum(own[pair.left]["sentence2"] == own[order[pair.right]]["sentence2"] for pair in pairs)
        lines.append(
            f"| {language} | {len(own):,} | {len(pairs):,} | {100 * correct / max(1, len(pairs)):.1f} "
            f"| {100 * correct / max(1, len(own)):.1f} |"
        )
    return lines


def main() -> None:
    """Measure every job and write the page."""
    if not SHARED.is_dir():
        raise SystemExit("the labelled corpora are not here; this bench needs them")
    base = Embedder(BASE)
    models = {BASE: base} | ({sys.argv[1]: Embedder(sys.argv[1])} if len(sys.argv) > 1 else {})
    lines = [
        "# The jobs, on people's labels",
        "",
        f"`make bench-jobs`: test splits, at most {MOST:,} texts of a set; figures times 100. Nothing was trained on",
        "or chosen by these splits. How each is measured stands in `bench/jobs.py`.",
    ]
    for number, (name, model) in enumerate(models.items()):
        shown = f"{name}, tuned" if number else name
        lines += [
            "",
            f"## {shown}",
            "",
            "| themes of | texts | labels | themes | of none, % | V-measure | AMI | seconds |",
            "|:--|--:|--:|--:|--:|--:|--:|--:|",
            *themes(model),
            "",
            f"| similar items of | diversity | of the item's label, % of {K} | spread |",
            "|:--|--:|--:|--:|",
            *similar(model),
            "",
            "| classes of | texts | classes | accuracy, 5-fold | the commonest | beside the base | by labels a class |",
            "|:--|--:|--:|--:|--:|--:|:--|",
            *classes(model, base),
            "",
            "| translations from | sentences | pairs | precision | recall |",
            "|:--|--:|--:|--:|--:|",
            *translations(model),
        ]
    write_page("jobs", lines)


if __name__ == "__main__":
    main()
