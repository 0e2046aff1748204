"""What a small multilingual run makes of an English encoder, on people's questions and translations it never saw.

    python bench/multilingual.py [SEEDS [ROWS [ITEMS]]]

Runs ``recipes/multilingual.yaml`` up to its fine-tuning, with what a machine without a network has in the place of its
models and data: all-MiniLM-L6-v2 as miner and student, xquad's paragraphs in five languages as the unlabelled corpus,
the offline teacher, which writes a query in each passage's own language, and beside that translations (``bitext``) in
33 languages and the English training split of the STS benchmark. Then it measures base and tuned: xquad (questions of
five languages against the paragraphs of the same language and of each other; nDCG@10) and tatoeba (finding the English
translation; F1 and accuracy, as MTEB). SEEDS runs (1), ROWS of each language's translations (100), ITEMS of each test
set (all of them; with fewer, for a quick look, nothing is written). Writes docs/results/multilingual.md. What lies in
runs/bench/multilingual is not made again, so that a bench that was stopped goes on and more seeds add to the first.

xquad's questions and tatoeba are test sets: nothing of them is trained on, and a training row that holds one of their
texts ends the bench. ../shared/data has no training data in another language than English, so the translations are
those of two programs' messages, Django's and Wagtail's (BSD licences), which people translated; their packages are
installed by pip into runs/bench/multilingual and only their catalogues are read.
"""

import gettext
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gecko.embedder.embedder import Embedder
from gecko.evaluate.beir import load_beir
from gecko.evaluate.compare import paired_bootstrap
from gecko.evaluate.pairs import Bitext
from gecko.evaluate.retrieval import cut, ndcg_at_k
from gecko.miner.exact import top_k
from gecko.recipe import Recipe, load_recipe
from gecko.shards import read_json, read_rows, to_unified
from gecko.training import train_stage

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
MADE = ROOT / "runs" / "bench" / "multilingual"
RESULT = ROOT / "docs" / "results" / "multilingual.md"
PACKAGES = ("django==5.2.19", "wagtail==8.0.1")
BASE = "all-MiniLM-L6-v2"
DIMS = (384, 256, 128)
XQUAD = ("en", "de", "es", "ru", "zh")
# Tatoeba's languages and the name of their catalogues.
LANGUAGES = {
    "ara": "ar", "bul": "bg", "cat": "ca", "ces": "cs", "cmn": "zh_Hans", "dan": "da", "deu": "de", "ell": "el",
    "est": "et", "fin": "fi", "fra": "fr", "heb": "he", "hin": "hi", "hun": "hu", "ind": "id", "ita": "it",
    "jpn": "ja", "kor": "ko", "lit": "lt", "nld": "nl", "pol": "pl", "por": "pt", "ron": "ro", "rus": "ru",
    "slk": "sk", "spa": "es", "srp": "sr", "swe": "sv", "swh": "sw", "tha": "th", "tur": "tr", "ukr": "uk", "vie": "vi",
}  # fmt: skip
FRET_SHARE, STS_SHARE = 0.3, 0.05  # of the batches; the translations have the rest, each language as much
SEEDS_A_ROW = 20  # passages asked for a query, to a row of each language's translations: at 100, all there are
MARKED_UP = re.compile(r"[<{\n]|%\(|%[sd]")  # a message with a place to fill in, or markup
TITLES = {
    "own": "xquad: questions and paragraphs of one language, nDCG@10 × 100",
    "across": "xquad across languages: questions of one, paragraphs of another, nDCG@10 × 100",
    "tatoeba": "tatoeba: the English translation found, F1 × 100",
}
Found = dict[tuple[str, str, int], np.ndarray]  # scores of the items by group, language and dimension


@dataclass(frozen=True)
class Figure:
    """One set measured: the items' scores of the base, and of the tuned model of each seed."""

    group: str
    name: str
    dim: int
    base: np.ndarray
    tuned: tuple[np.ndarray, ...]


def cells(base: np.ndarray, tuned: Sequence[np.ndarray]) -> str:
    """Base, tuned, gain with its range over the seeds, and the paired interval of the mean over the seeds."""
    mean = np.mean(tuned, axis=0)
    gains = [100 * float((scores - base).mean()) for scores in tuned]
    low, high = (100 * bound for bound in paired_bootstrap(base, mean))
    return (
        f"{100 * base.mean():.1f} | {100 * mean.mean():.1f} | {statistics.mean(gains):+.1f} "
        f"({min(gains):+.1f} to {max(gains):+.1f}) | {low:+.1f} to {high:+.1f}"
    )


def pooled(units: Sequence[np.ndarray], same_items: bool) -> np.ndarray:
    """Items of several languages whose mean is the mean of the languages' means.

    Where the items are the same in each language, as xquad's questions are, an item's mean over them is one.
    """
    if same_items:
        return np.mean(units, axis=0)
    total = sum(map(len, units))
    return np.concatenate([each * total / (len(units) * len(each)) for each in units])


def plain(text: str) -> str:
    """A text as it is compared: letters and digits in small print."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def tested() -> set[str]:
    """Every question and sentence of the test sets, so that none is trained on."""
    tatoeba = map(json.loads, (DATA / "tatoeba" / "test.jsonl").read_text(encoding="utf-8").splitlines())
    found = {plain(row[side]) for row in tatoeba for side in ("sentence1", "sentence2")}
    for language in XQUAD:
        lines = (DATA / "xquad" / language / "queries.jsonl").read_text(encoding="utf-8").splitlines()
        found |= {plain(json.loads(line)["text"]) for line in lines}
    return found


def messages(packages: Path, locale: str) -> Iterator[tuple[str, str]]:
    """Messages and their translations in a language."""
    names = {locale, f"{locale}_{locale.upper()}", *({"he_IL"} if locale == "he" else ())}
    for path in sorted(packages.glob("*/**/LC_MESSAGES/*.mo")):
        if path.parents[1].name in names:
            with path.open("rb") as file:
                # The module reads catalogues but has no other way to list them.
                catalogue = gettext.GNUTranslations(file)._catalog
            for message, translation in catalogue.items():
                if isinstance(message, str) and message:
                    yield message.rpartition("\x04")[2], translation  # after the message's context


def translations(packages: Path, out: Path, forbidden: set[str]) -> dict[str, int]:
    """Write a file of pairs a language; returns how many there are of each, and dropped as a test text."""
    counts = {"dropped": 0}
    out.mkdir(parents=True, exist_ok=True)
    for language, locale in LANGUAGES.items():
        kept: dict[str, str] = {}
        for message, translation in messages(packages, locale):
            if MARKED_UP.search(message + translation) or plain(message) in {"", plain(translation)}:
                continue
            if {plain(message), plain(translation)} & forbidden:
                counts["dropped"] += 1
            else:
                kept.setdefault(message, translation)
        lines = [json.dumps({"text": m, "translation": t}, ensure_ascii=False) for m, t in kept.items()]
        text = "\n".join(lines) + "\n"
        path = out / f"{language}.jsonl"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:  # a new file would be trained on anew
            path.write_text(text, encoding="utf-8")
        counts[language] = len(lines)
    return counts


def recipe_of(seed: int, rows: int, pairs: Path) -> Recipe:
    """``recipes/multilingual.yaml`` with what is here."""
    each = (1 - FRET_SHARE - STS_SHARE) / len(LANGUAGES)
    sources: list[dict[str, object]] = [
        {"path": str(pairs / f"{name}.jsonl"), "kind": "bitext", "limit": rows, "weight": each} for name in LANGUAGES
    ]
    english = {"path": str(DATA / "stsb" / "en"), "kind": "sts", "name": "stsb", "limit": 10 * rows}
    sources.append({**english, "weight": STS_SHARE})
    settings = {
        "seed": seed,
        "teacher.spec": "offline",
        "teacher.prompts.language": "same",
        "fret.miner": BASE,
        "fret.limit": SEEDS_A_ROW * rows,
        "mixture.sampling": "weights",
        "mixture.fret_weight": FRET_SHARE,
        "mixture.sources": sources,
        "train.student": BASE,
        "train.text_format": "plain",
        "train.max_length": 128,
        "train.dims": list(DIMS),
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    corpus = [str(DATA / "xquad" / language) for language in XQUAD]
    return load_recipe(ROOT / "recipes" / "multilingual.yaml", overrides, corpus)


def train(recipe: Recipe, out: Path, forbidden: set[str]) -> dict:
    """Run the recipe up to its fine-tuned model, and see that no text of a test set was trained on."""
    summary = train_stage(recipe, out, "finetune", tell=print)
    rows = list(read_rows(out / "mixture", to_unified))
    held = [row for row in rows if set(map(plain, (row.query, row.positive, *row.negatives))) & forbidden]
    if held:
        raise SystemExit(f"{len(held)} training rows hold a text of a test set, such as {held[0].query!r}")
    history = read_json(out / "train" / "history.json")
    fret = sum(row.source == "fret" for row in rows)
    languages = read_json(out / "fret" / "_stage.json")["languages"]
    facts = {"rows": summary.rows, "fret": fret, "steps": summary.steps, "languages": languages}
    return {**facts, "minutes": history["seconds"] / 60, "model": summary.model}


def scores(model: str, most: int | None) -> Found:
    """A model's score of every question and every pair; what was measured of the same weights is not again."""
    print(f"measuring {model}", flush=True)
    embedder = Embedder(model)
    kept = MADE / f"scores-{embedder.fingerprint}-{most or 'all'}.npz"
    if not kept.is_file():
        found = {**xquad(embedder, most), **tatoeba(embedder, most)}
        with (temporary := kept.with_suffix(".part")).open("wb") as file:
            np.savez(file, **{json.dumps(key): units for key, units in found.items()})
        temporary.replace(kept)
    with np.load(kept) as arrays:
        return {(group, name, dim): arrays[key] for key in arrays for group, name, dim in [json.loads(key)]}


def xquad(embedder: Embedder, most: int | None) -> Found:
    """nDCG@10 of every question of every language against the paragraphs of every language."""
    sets = {language: load_beir(DATA / "xquad" / language) for language in XQUAD}
    if len({tuple(data.queries) for data in sets.values()}) > 1:
        raise SystemExit("xquad's questions are not the same in all languages")
    passages = {name: embedder.encode_passages(list(zip(s.titles, s.texts, strict=True))) for name, s in sets.items()}
    found: Found = {}
    for language, data in sets.items():
        names = list(data.queries)[:most]
        queries = embedder.encode_queries([data.queries[name] for name in names])
        for of, other in sets.items():
            place = {doc: index for index, doc in enumerate(other.doc_ids)}
            judged = [{place[doc]: grade for doc, grade in other.qrels[name].items()} for name in names]
            key = ("own", language) if of == language else ("across", f"{language} → {of}")
            for dim in DIMS:
                ranking = top_k(cut(queries, dim), cut(passages[of], dim), 10)[0]
                found[*key, dim] = ndcg_at_k(ranking, judged, 10)
    return found


def tatoeba(embedder: Embedder, most: int | None) -> Found:
    """F1 of every sentence of every language, whose translation is looked for among the English ones."""
    pairs = Bitext.read(DATA / "tatoeba" / "test.jsonl")
    names = np.array(pairs.subsets)
    found: Found = {}
    for language in LANGUAGES:
        part = pairs.take(np.flatnonzero(names == f"{language}-eng")[:most])
        vectors = part.encode(embedder, "semantic similarity")
        for dim in DIMS:
            found["tatoeba", language, dim] = part.scores(tuple(cut(side, dim) for side in vectors))["f1"].units
    return found


def table(figures: Sequence[Figure]) -> list[str]:
    """A line a language at the widest dimension, and the means over the languages at each."""
    group = figures[0].group
    lines = [f"## {TITLES[group]}", "", "| | n | base | tuned | gain (min to max) | 95 % interval |"]
    lines.append("|:--|--:|--:|--:|:--|:--|")
    lines += [
        f"| {one.name} | {len(one.base):,} | {cells(one.base, one.tuned)} |" for one in figures if one.dim == DIMS[0]
    ]
    for dim in DIMS:
        of = [one for one in figures if one.dim == dim]
        sides = [[one.base for one in of], *zip(*(one.tuned for one in of), strict=True)]
        base, *tuned = (pooled(units, same_items=group != "tatoeba") for units in sides)
        lines.append(f"| **mean of {len(of)}, {dim} dimensions** | | {cells(base, tuned)} |")
        if group == "tatoeba":  # a pair's F1 is above 0 where its translation was found
            base, *tuned = (pooled([(each > 0).astype(float) for each in units], same_items=False) for units in sides)
            lines.append(f"| accuracy, mean of {len(of)}, {dim} dimensions | | {cells(base, tuned)} |")
    return [*lines, ""]


def report(facts: list[dict], figures: Sequence[Figure], dropped: int) -> list[str]:
    """The page."""
    first = facts[0]
    languages = ", ".join(f"{name} {count}" for name, count in first["languages"].items())
    minutes = statistics.mean(fact["minutes"] for fact in facts)
    lines = [
        "# A small multilingual run on an English encoder",
        "",
        f"`make bench-multilingual`, one CPU core, {len(facts)} seed(s). Student and base: {BASE}, which was trained "
        "on English and whose vocabulary is English: **low figures in other languages are expected**, most so where a "
        "script is spelt by single letters or not at all. For a model that serves these languages start from a "
        "multilingual one (`recipes/multilingual.yaml`). What is shown here is the recipe at work, and what English "
        "pays for it.",
        "",
        f"Trained on {first['rows']:,} rows in {first['steps']} steps ({minutes:.0f} minutes a run): {first['fret']:,} "
        "FRet rows of the offline teacher, a query in the passage's own language, from the paragraphs of xquad as the "
        f"unlabelled corpus (all rows of FRet by language: {languages}); translated messages of Django and Wagtail "
        f"(`bitext`, both directions, {len(LANGUAGES)} languages); the English training split of the STS benchmark "
        f"(`sts`). {FRET_SHARE:.0%} of the batches are FRet's, {STS_SHARE:.0%} STS's, the rest translations. No "
        "question of xquad, no sentence of tatoeba and no two paragraphs as translations of each other were trained "
        f"on; {dropped} messages that are a text of a test set were dropped. Tuned: the mean over the seeds; "
        "intervals: paired bootstrap over the questions or pairs.",
        "",
    ]
    for group in TITLES:
        lines += table([one for one in figures if one.group == group])
    return lines


def main() -> None:
    """Make the runs that are missing, measure, and write the tables."""
    given = list(map(int, sys.argv[1:]))
    seeds, rows, most = (*given, *(1, 100, None)[len(given) :])
    if not DATA.is_dir():
        raise SystemExit(f"there is no {DATA}: the test sets are not part of this project")
    packages = MADE / "packages"
    if not packages.is_dir():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*install, "--target", str(packages), *PACKAGES], check=True)
    forbidden = tested()
    counts = translations(packages, MADE / "pairs", forbidden)
    dropped = counts.pop("dropped")
    print(f"{sum(counts.values()):,} translations in {len(counts)} languages, {dropped} dropped as texts of a test set")
    outs = [MADE / f"rows-{rows}-seed-{seed}" for seed in range(seeds)]
    facts = [train(recipe_of(seed, rows, MADE / "pairs"), out, forbidden) for seed, out in enumerate(outs)]
    base, tuned = scores(BASE, most), [scores(fact["model"], most) for fact in facts]
    figures = [Figure(*key, units, tuple(found[key] for found in tuned)) for key, units in base.items()]
    lines = report(facts, figures, dropped)
    print("\n".join(lines))
    if most is None:
        RESULT.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
