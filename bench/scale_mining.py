"""Mining at scale: what do top-20 searches over a million vectors cost, beside faiss and Sentence-Transformers?

    python bench/scale_mining.py [--documents 1000000] [--queries 100000] [--texts 4000] [--small]

Passages of the Python standard library's documentation are encoded with all-MiniLM-L6-v2; the documents are mixtures of
two of these vectors with some noise, since encoding a million real passages takes hours, and a query is a document with
more noise (its positive). Each search runs in a process of its own, on the same vectors and with the same threads:

- gecko: exact search over the memory-mapped vectors;
- faiss: ``IndexFlatIP``, bare;
- mine_hard_negatives: Sentence-Transformers' miner on the same pairs of a query and its positive, with and without
  faiss. Its model is a stub that looks vectors up, so that it does the same search and no encoding;
- hnsw, ivfpq: gecko's approximate indexes, with their recall against the exact search.

Time is that of the search, and for an index of the building before it. Memory is the greatest ``RssAnon`` of the
process, Python and its libraries among it, as the kernel tells: all but the mapped files. At the full size the bench
fails above 1.2 times faiss's time or above 2 GB. Every finished size is a section of ``docs/results/scale-mining.md``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from quality import note_done, read_done, write_page

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[1]
MADE = ROOT / "runs" / "bench" / "scale-mining"
K = 20
FULL = (1_000_000, 100_000)
MOST_TIME, MOST_MB = 1.2, 2000
_ROWS = 50_000
_TORCH_QUERIES = 1024  # of mine_hard_negatives without faiss: its default of 16,384 needs 66 GB for a million documents


class Stub:
    """A model of Sentence-Transformers' interface that looks vectors up: a text is the number of its row."""

    device = "cpu"

    def __init__(self, folder: Path) -> None:
        self.queries = np.load(folder / "queries.npy", mmap_mode="r")
        self.documents = np.load(folder / "documents.npy", mmap_mode="r")

    def get_embedding_dimension(self) -> int:
        """Width of the vectors."""
        return self.documents.shape[1]

    def encode_document(self, texts: Sequence[str], **_: object) -> np.ndarray:
        """Look documents up."""
        return self.documents[[int(text) for text in texts]]

    def encode_query(self, texts: Sequence[str], **_: object) -> np.ndarray:
        """Look queries up."""
        return self.queries[[int(text[1:]) for text in texts]]

    def similarity(self, queries: np.ndarray, documents: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Inner products of all with all, as of a model whose vectors have unit length."""
        import torch

        return torch.as_tensor(queries) @ torch.as_tensor(documents).T

    def similarity_pairwise(self, queries: np.ndarray, documents: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Inner products of pairs."""
        import torch

        return (torch.as_tensor(queries) * torch.as_tensor(documents)).sum(dim=1)


def gecko_exact(folder: Path) -> dict[str, Any]:
    from gecko.miner.exact import top_k

    queries, documents = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("queries", "documents"))
    started = time.perf_counter()
    positions, _ = top_k(queries, documents, K)
    seconds = time.perf_counter() - started
    np.save(folder / "exact.npy", positions)
    return {"seconds": seconds}


def faiss_flat(folder: Path) -> dict[str, Any]:
    import faiss

    queries, documents = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("queries", "documents"))
    index = faiss.IndexFlatIP(documents.shape[1])
    index.add(documents)
    started = time.perf_counter()
    _, positions = index.search(queries, K)
    seconds = time.perf_counter() - started
    exact = np.load(folder / "exact.npy")
    return {"seconds": seconds, "recall": _overlap(positions, exact)}


def hard_negatives(folder: Path, *, use_faiss: bool) -> dict[str, Any]:
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    model = Stub(folder)
    positives = np.load(folder / "positives.npy").tolist()
    pairs = Dataset.from_dict(
        {"query": [f"q{row}" for row in range(len(positives))], "positive": [str(place) for place in positives]}
    )
    corpus = [str(place) for place in range(len(model.documents))]
    batch = {} if use_faiss else {"faiss_batch_size": _TORCH_QUERIES}
    started = time.perf_counter()
    mine_hard_negatives(
        pairs,
        model,
        corpus=corpus,
        range_max=K,
        num_negatives=K,
        output_format="n-tuple",
        use_faiss=use_faiss,
        verbose=False,
        **batch,
    )
    return {"seconds": time.perf_counter() - started}


def approximate(folder: Path, kind: str) -> dict[str, Any]:
    from gecko.miner.indexes import IndexSearch

    queries, documents = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("queries", "documents"))
    started = time.perf_counter()
    index = IndexSearch(kind, documents, folder / "indexes" / f"{kind}.faiss")
    built = time.perf_counter()
    positions, _ = index.find(queries, K)
    searched = time.perf_counter()
    recall = _overlap(positions, np.load(folder / "exact.npy"))
    return {"built": built - started, "seconds": searched - built, "recall": recall}


JOBS: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    "exact": ("gecko, exact", gecko_exact),
    "faiss": ("faiss IndexFlatIP", faiss_flat),
    "st-faiss": ("mine_hard_negatives, faiss", lambda folder: hard_negatives(folder, use_faiss=True)),
    "st-torch": ("mine_hard_negatives, no faiss", lambda folder: hard_negatives(folder, use_faiss=False)),
    "hnsw": ("gecko, hnsw", lambda folder: approximate(folder, "hnsw")),
    "ivfpq": ("gecko, ivfpq", lambda folder: approximate(folder, "ivfpq")),
}


def _overlap(found: np.ndarray, exact: np.ndarray) -> float:
    """Mean share of the exact neighbours among those found."""
    same = sum(len(np.intersect1d(*rows)) for rows in zip(found, exact, strict=True))
    return same / exact.size


def make_vectors(folder: Path, documents: int, queries: int, texts: int) -> None:
    """Write documents, queries and the documents that the queries were made of, unless they are there."""
    size = {"documents": documents, "queries": queries, "texts": texts}
    if (folder / "made.json").exists() and json.loads((folder / "made.json").read_text()) == size:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    real = _real_vectors(texts)
    draw = np.random.default_rng(0)
    made = np.lib.format.open_memmap(folder / "documents.npy", "w+", np.float32, (documents, real.shape[1]))
    for start in range(0, documents, _ROWS):
        count = min(_ROWS, documents - start)
        weight = draw.uniform(0.5, 0.9, (count, 1)).astype(np.float32)
        one, other = (real[draw.integers(0, len(real), count)] for _ in range(2))
        made[start : start + count] = _unit(weight * one + (1 - weight) * other + _noise(draw, one.shape, 0.2))
    positives = draw.choice(documents, queries, replace=False)
    asked = np.lib.format.open_memmap(folder / "queries.npy", "w+", np.float32, (queries, real.shape[1]))
    for start in range(0, queries, _ROWS):
        chosen = made[positives[start : start + _ROWS]]
        asked[start : start + _ROWS] = _unit(chosen + _noise(draw, chosen.shape, 0.5))
    np.save(folder / "positives.npy", positives)
    made.flush()
    asked.flush()
    (folder / "made.json").write_text(json.dumps(size))


def _real_vectors(texts: int) -> np.ndarray:
    from gecko.corpus.build import CorpusOptions, build_passages
    from gecko.embedder.embedder import Embedder
    from gecko.records import Passage

    rows = [row for row in build_passages(CorpusOptions(sources=("stdlib:",))) if isinstance(row, Passage)]
    chosen = rows[:: max(1, len(rows) // texts)][:texts]
    return Embedder("all-MiniLM-L6-v2").encode_passages([(row.title, row.text) for row in chosen])


def _noise(draw: np.random.Generator, shape: tuple[int, ...], length: float) -> np.ndarray:
    return draw.normal(0, length / shape[1] ** 0.5, shape).astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def measured(job: str, folder: Path) -> dict[str, Any]:
    """Run a job in a process of its own; what it tells, and its peak of memory that is no mapped file, in MB."""
    command = [sys.executable, str(Path(__file__).resolve()), "--job", job, "--folder", str(folder)]
    said, peak = folder / f"{job}.log", 0
    with said.open("w") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        status = Path(f"/proc/{child.pid}/status")
        while child.poll() is None:
            lines = [line for line in status.read_text().splitlines() if line.startswith("RssAnon")]
            peak = max([peak, *(int(line.split()[1]) for line in lines)])
            time.sleep(0.02)
    last = (said.read_text().strip().splitlines() or [""])[-1]
    if child.returncode:
        return {"failed": f"{last[:200]} (exit {child.returncode})"}
    return {**json.loads(last), "mb": peak / 1024}


def table(figures: dict[str, dict[str, Any]]) -> str:
    """Markdown: time and memory of each, and beside gecko's exact search."""
    lines = [
        "| search | built, s | searched, s | times gecko's | MB beside mapped files | times gecko's | of gecko's 20 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    own = figures["exact"]
    for job, found in figures.items():
        name = JOBS[job][0]
        if "failed" in found:
            lines.append(f"| {name} | | not run: {found['failed']} | | | | |")
            continue
        built = f"{found['built']:.1f}" if "built" in found else ""
        recall = f"{found['recall']:.4f}" if "recall" in found else ""
        time_ratio, memory_ratio = found["seconds"] / own["seconds"], found["mb"] / own["mb"]
        lines.append(
            f"| {name} | {built} | {found['seconds']:.1f} | {time_ratio:.2f} | {found['mb']:,.0f} | {memory_ratio:.2f} "
            f"| {recall} |"
        )
    return "\n".join(lines)


def section(entry: dict[str, Any]) -> list[str]:
    """The lines of one size."""
    figures = entry["figures"]
    lines = [
        f"## Top {K} of {entry['queries']:,} queries over {entry['documents']:,} × {entry['width']} vectors",
        "",
        f"The vectors are mixtures of those of {entry['texts']:,} real passages.",
        "",
        *table(figures).splitlines(),
    ]
    if "failed" not in figures.get("faiss", {"failed": ""}):
        ratio, memory = figures["exact"]["seconds"] / figures["faiss"]["seconds"], figures["exact"]["mb"]
        lines += [
            "",
            f"Exact search takes {ratio:.2f} times faiss's flat search (target: {MOST_TIME}) and {memory:,.0f} MB "
            f"beside the vectors (target: {MOST_MB:,}).",
        ]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=FULL[0])
    parser.add_argument("--queries", type=int, default=FULL[1])
    parser.add_argument("--texts", type=int, default=4000, help="real passages whose vectors are mixed")
    parser.add_argument("--small", action="store_true", help="20,000 documents, 1,000 queries, 300 texts")
    parser.add_argument("--only", help="searches, by comma: " + ",".join(JOBS))
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=MADE, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        print(json.dumps(JOBS[given.job][1](given.folder)))
        return 0
    size = (20_000, 1_000, 300) if given.small else (given.documents, given.queries, given.texts)
    make_vectors(given.folder, *size)
    shutil.rmtree(given.folder / "indexes", ignore_errors=True)
    names = list(dict.fromkeys(["exact", *(given.only.split(",") if given.only else JOBS)]))
    figures: dict[str, dict[str, Any]] = {}
    for name in names:
        figures[name] = measured(name, given.folder)
        print(f"{JOBS[name][0]}: {figures[name]}", file=sys.stderr, flush=True)
    width = np.load(given.folder / "documents.npy", mmap_mode="r").shape[1]
    entry = {"documents": size[0], "queries": size[1], "texts": size[2], "width": width, "figures": figures}
    if given.small:
        print("\n".join(section(entry)))
        return 0
    record = MADE / "done.jsonl"
    note_done(record, entry)
    done = {(each["documents"], each["queries"]): each for each in read_done(record)}
    lines = ["# Mining at scale", "", "`make bench-scale-mining`, two CPU cores; what is measured stands in "]
    lines[-1] += "`bench/scale_mining.py`."
    write_page("scale-mining", lines + [line for key in sorted(done) for line in ["", *section(done[key])]])
    if "failed" in figures.get("faiss", {"failed": ""}):
        return 0
    ratio, memory = figures["exact"]["seconds"] / figures["faiss"]["seconds"], figures["exact"]["mb"]
    return int(size[:2] == FULL and (ratio > MOST_TIME or memory > MOST_MB))


if __name__ == "__main__":
    sys.exit(main())
