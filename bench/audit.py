"""Does the audit find leaks that were planted, does it find anything else, and what does it cost at scale?

    python bench/audit.py [SCALE]        1 (default): 1,000,000 rows against 20,000 questions and 80,000 documents

Rows and evaluation texts are random words of a Zipfian vocabulary, so that what is alike is alike by plan. Leaks are
planted into the queries of 1 % of the rows, texts shared with documents into the positives of another 1 %, and decoys
(12 words in a row, half the words) into the queries of a further 1 %. ``gecko audit`` runs as a process of its own,
whose time and peak memory are those of the table. Fails below a recall of 0.99, and at full scale above 10 minutes or
4 GB. The texts are made a shard at a time in ``runs/bench/audit`` and every shard by its own seed, so that a bench that
was stopped goes on with the next; they are deleted when it is done.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gecko.records import UNIFIED

ROWS, QUESTIONS, DOCUMENTS = 1_000_000, 20_000, 80_000
SHARD = 50_000
VOCABULARY = 60_000
ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "docs" / "results" / "audit.md"
MADE = ROOT / "runs" / "bench" / "audit"
LEAKS = ("exact", "order", "near", "ngram")
OVERLAPS = ("exact", "ngram")

Texts = list[list[str]]


class Writer:
    """Draws texts of random words, the frequent ones as frequent as in language."""

    def __init__(self) -> None:
        self.draw = np.random.default_rng(0)
        letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
        lengths = self.draw.integers(2, 11, VOCABULARY)
        words = {"".join(self.draw.choice(letters, size)): None for size in lengths}
        self.words = np.array(list(words), dtype=object)
        weights = 1 / np.arange(10, 10 + len(self.words))
        self.cumulated = np.cumsum(weights / weights.sum())

    def start(self, *seed: int) -> None:
        """Draw from here on as this seed has it, whatever was drawn before."""
        self.draw = np.random.default_rng(seed)

    def texts(self, count: int, shortest: int, longest: int) -> Texts:
        """That many texts, as lists of words."""
        lengths = self.draw.integers(shortest, longest + 1, count)
        places = np.searchsorted(self.cumulated, self.draw.random(int(lengths.sum())))
        drawn = self.words[np.minimum(places, len(self.words) - 1)]
        return [part.tolist() for part in np.split(drawn, np.cumsum(lengths)[:-1])]

    def leak(self, kind: str, question: list[str]) -> list[str]:
        """A query that repeats a question."""
        if kind == "exact":
            return [word.upper() if self.draw.random() < 0.3 else f"{word}," for word in question]
        if kind == "order":
            return [question[place] for place in self.draw.permutation(len(question))]
        if kind == "near":
            [more] = self.texts(1, 1, 1)
            place = int(self.draw.integers(len(question) + 1))
            return [*question[:place], *more, *question[place:]]
        return self.around(self.run(question, 13))

    def decoy(self, question: list[str]) -> list[str]:
        """A query that repeats as much of a question as it may."""
        if self.draw.random() < 0.5:
            return self.around(self.run(question, 12))
        return self.around([question[place] for place in self.draw.permutation(len(question))[: len(question) // 2]])

    def run(self, text: list[str], size: int) -> list[str]:
        """So many words in a row out of a text."""
        start = int(self.draw.integers(len(text) - size + 1))
        return text[start : start + size]

    def around(self, words: list[str]) -> list[str]:
        """Words with others before and after them, and a little punctuation."""
        before, after = self.texts(2, 6, 9)
        return [*before[:-1], f"{before[-1]}:", *words, f"- {after[0]}", *after[1:]]


def write_evaluation(folder: Path, questions: Texts, documents: Texts) -> None:
    """Write a BEIR folder, the judgements last."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, texts in (("queries", questions), ("corpus", documents)):
        with (folder / f"{name}.jsonl").open("w") as lines:
            for number, text in enumerate(texts):
                lines.write(json.dumps({"_id": f"{name[0]}{number}", "title": "", "text": " ".join(text)}) + "\n")
    judged = "".join(f"q{number}\tc{number % len(documents)}\t1\n" for number in range(len(questions)))
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")


def plan(rows: int) -> dict[str, Any]:
    """Which rows are planted with what: leaks and shared documents by their kind, and decoys."""
    order = np.random.default_rng(1).permutation(rows)
    each = rows // 400
    return {
        "leaks": {kind: order[i * each : (i + 1) * each] for i, kind in enumerate(LEAKS)},
        "overlaps": {kind: order[(4 + i) * 2 * each : (5 + i) * 2 * each] for i, kind in enumerate(OVERLAPS)},
        "decoys": order[16 * each : 20 * each],
    }


def write_rows(
    folder: Path, rows: int, planted: dict[str, Any], questions: Texts, documents: Texts, writer: Writer
) -> None:
    """Write rows as a run does, a shard at a time; those that are there already are kept."""
    folder.mkdir(exist_ok=True)
    long = [text for text in questions if len(text) >= 13]
    leak_of = {int(row): kind for kind, places in planted["leaks"].items() for row in places}
    share_of = {int(row): kind for kind, places in planted["overlaps"].items() for row in places}
    decoys = set(planted["decoys"].tolist())
    for shard, start in enumerate(range(0, rows, SHARD)):
        path = folder / f"part-{shard:05d}.parquet"
        if path.exists():
            continue
        writer.start(2, shard)
        count = min(SHARD, rows - start)
        queries, positives = writer.texts(count, 6, 20), writer.texts(count, 60, 160)
        for i in range(count):
            row = start + i
            if row in leak_of:
                choice = long if leak_of[row] == "ngram" else questions
                queries[i] = writer.leak(leak_of[row], choice[int(writer.draw.integers(len(choice)))])
            elif row in decoys:
                queries[i] = writer.decoy(long[int(writer.draw.integers(len(long)))])
            if row in share_of:
                document = documents[int(writer.draw.integers(len(documents)))]
                positives[i] = document if share_of[row] == "exact" else writer.around(writer.run(document, 13))
        columns = {
            "row_id": [f"r{start + i}" for i in range(count)],
            "task": ["search result"] * count,
            "query": [" ".join(text) for text in queries],
            "positive": [f"title: none | text: {' '.join(text)}" for text in positives],
            "negatives": [[]] * count,
            "symmetric": [False] * count,
            "source": ["fret"] * count,
            "candidates": [[]] * count,
        }
        unfinished = path.with_suffix(".unfinished")
        pq.write_table(pa.table(columns, schema=UNIFIED), unfinished, compression="zstd")
        unfinished.rename(path)
        print(f"rows: {start + count:,} of {rows:,}", file=sys.stderr, flush=True)


def measured(rows: Path, against: Path, leaks: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Run the audit as a user does: (what it says, what it took)."""
    command = [sys.executable, "-m", "gecko", "audit", str(rows), "--against", str(against), "--out", str(leaks)]
    started = time.monotonic()
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = {"seconds": time.monotonic() - started, "cpu": usage.ru_utime + usage.ru_stime, "gb": usage.ru_maxrss / 1e6}
    return json.loads(done.stdout), took


def table(planted: dict[str, Any], value: dict[str, Any], leaks: Path) -> tuple[list[str], float]:
    """Lines of a table of what was planted and found, and the least recall of exact and n-gram matches."""
    found = {int(leak["row_id"][1:]): leak["match"] for leak in map(json.loads, leaks.open())}
    lines = ["| planted into | how | planted | found | recall | found as such |", "|:--|:--|--:|--:|--:|--:|"]
    least = 1.0
    for kind, rows in planted["leaks"].items():
        there = [found[row] for row in rows.tolist() if row in found]
        recall = len(there) / len(rows)
        least = min(least, recall if kind in {"exact", "ngram"} else 1.0)
        as_such = sum(match == kind for match in there)
        lines.append(f"| queries | {kind} | {len(rows):,} | {len(there):,} | {recall:.4f} | {as_such:,} |")
    overlaps = value["sets"][0]["overlaps"]
    for kind, rows in planted["overlaps"].items():
        there_of = overlaps["kinds"].get(kind, 0)
        least = min(least, there_of / len(rows))
        lines.append(
            f"| positives | {kind} | {len(rows):,} | {there_of:,} | {there_of / len(rows):.4f} | {there_of:,} |"
        )
    true = {row for rows in planted["leaks"].values() for row in rows.tolist()}
    right = len(true & set(found))
    shared = sum(map(len, planted["overlaps"].values()))
    precision, other = right / max(len(found), 1), min(shared / max(overlaps["rows"], 1), 1.0)
    lines += [
        "",
        f"Precision of leaks {precision:.4f} ({len(found):,} rows named, {len(found) - right:,} of them not planted, "
        f"with {len(planted['decoys']):,} decoys); of shared documents {other:.4f} ({overlaps['rows']:,} rows named, "
        f"{shared:,} planted).",
    ]
    return lines, least


def main() -> None:
    """Make what is missing of the texts, audit, and write the table."""
    scale = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    rows, questions, documents = (max(int(size * scale), 400) for size in (ROWS, QUESTIONS, DOCUMENTS))
    folder = MADE / f"{rows}"
    folder.mkdir(parents=True, exist_ok=True)
    writer = Writer()
    writer.start(1)
    asked, searched = writer.texts(questions, 6, 24), writer.texts(documents, 60, 240)
    if not (folder / "evaluation" / "qrels" / "test.tsv").exists():
        write_evaluation(folder / "evaluation", asked, searched)
    planted = plan(rows)
    write_rows(folder / "rows", rows, planted, asked, searched, writer)
    print("the rows are written; auditing", file=sys.stderr, flush=True)
    value, took = measured(folder / "rows", folder / "evaluation", folder / "leaks.jsonl")
    lines, least = table(planted, value, folder / "leaks.jsonl")
    head = f"{rows:,} rows (query and positive) against {questions:,} questions and {documents:,} documents"
    cost = f"{took['seconds']:.0f} s, {took['cpu']:.0f} s of processor, peak memory {took['gb']:.2f} GB"
    text = "\n".join(["# The leakage audit, planted", "", f"`make bench-audit`: {head}: {cost}.", "", *lines]) + "\n"
    print(text)
    if scale == 1:
        RESULT.write_text(text)
    shutil.rmtree(folder)
    if least < 0.99 or (scale == 1 and (took["seconds"] > 600 or took["gb"] > 4)):
        sys.exit("the audit does not keep what it promises")


if __name__ == "__main__":
    main()
