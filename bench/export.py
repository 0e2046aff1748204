"""Exports of a model: do they answer as it does, what do they cost on people's questions, and how fast are they?

    python bench/export.py MODEL [RIVALS_PYTHON]            # writes docs/results/export.md, which says what is measured
    python bench/export.py MODEL [RIVALS_PYTHON] --small    # few texts, to see it work; prints only

RIVALS_PYTHON is the interpreter of an environment that has fastembed; without it, fastembed is left out. Each side
encodes in a process of its own on the same number of threads (OMP_NUM_THREADS, or the processors there are), the sides
in turns, model loading and a first batch not counted. nDCG@10 is measured on those of the labelled corpora that are
here. Exports that are in ``runs/bench/export`` and are of the model as it is are not made again.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
OUT = ROOT / "runs" / "bench" / "export"
FORMATS = ("compat", "onnx", "onnx-int8", "static")
SETS = ("powershell_docs", "scifact")
TEXTS, SMALL = 5000, 32
TOKENS = (100, 250)
ROUNDS, SMALL_ROUNDS = 3, 1
THREADS = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
TORCH = "Sentence-Transformers, torch float32"
FASTEMBED = "fastembed, our onnx"


def sides(model: str, *, rivals: bool) -> dict[str, tuple[str, str]]:
    """Name of each side → the kind of encoder, and what it opens."""
    exports = {kind: str(OUT / kind) for kind in FORMATS}
    ours = {
        TORCH: ("sentence_transformers", model),
        "gecko, torch (bfloat16 where the CPU has it)": ("gecko", model),
        "gecko, onnx": ("gecko", exports["onnx"]),
        "gecko, onnx-int8": ("gecko", exports["onnx-int8"]),
        "gecko, static": ("gecko", exports["static"]),
        "Sentence-Transformers, our static": ("sentence_transformers", exports["static"]),
    }
    theirs = {
        FASTEMBED: ("fastembed", f"{exports['onnx']}/onnx/model.onnx"),
        "fastembed, our onnx-int8": ("fastembed", f"{exports['onnx-int8']}/onnx/model_quantized.onnx"),
    }
    return ours | theirs if rivals else ours


def sentence_transformers_encoder(model: str) -> Callable[[list[str]], Any]:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(THREADS)
    if model == "all-MiniLM-L6-v2":
        from gecko.embedder.open import resolve_model

        model = resolve_model(model)
    loaded = SentenceTransformer(model, device="cpu", model_kwargs={"dtype": "float32"})
    return lambda texts: loaded.encode(texts, normalize_embeddings=True)


def gecko_encoder(model: str) -> Callable[[list[str]], Any]:
    import torch

    from gecko.embedder.embedder import Embedder

    torch.set_num_threads(THREADS)  # an ONNX export has threads of its own, as many
    return Embedder(model).encode


def fastembed_encoder(graph: str) -> Callable[[list[str]], Any]:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    folder, file = Path(graph).parents[1], Path(graph).relative_to(Path(graph).parents[1]).as_posix()
    dim = json.loads((folder / "gecko_export.json").read_text())["dim"]
    TextEmbedding.add_custom_model(
        model="mine",
        pooling=PoolingType.DISABLED,
        normalization=False,
        sources=ModelSource(hf="a/b"),
        dim=dim,
        model_file=file,
        output_name="sentence_embedding",
    )
    loaded = TextEmbedding("mine", specific_model_path=str(folder), local_files_only=True, threads=THREADS)
    return lambda texts: list(loaded.embed(texts))


def encode(kind: str, model: str, file: Path) -> None:
    """One side's turn: prints the seconds that all texts took and the first vector."""
    texts = json.loads(file.read_text())
    makers = {
        "sentence_transformers": sentence_transformers_encoder,
        "gecko": gecko_encoder,
        "fastembed": fastembed_encoder,
    }
    call = makers[kind](model)
    call(texts[:32])
    started = time.perf_counter()
    vectors = call(texts)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "first": [float(value) for value in vectors[0]]}))


def passages(model: str, folders: Sequence[Path], count: int) -> list[str]:
    """Passages of the corpora in turns, of so many tokens."""
    from gecko.embedder.embedder import Embedder
    from gecko.evaluate.beir import load_beir

    embedder = Embedder(model)
    pools = []
    for folder in folders:
        data = load_beir(folder, "test")
        pools.append(embedder.render_passages(list(zip(data.titles, data.texts, strict=True))))
    tokenizer, found = embedder.model.tokenizer, []
    for text in itertools.chain.from_iterable(itertools.zip_longest(*pools)):
        if text and TOKENS[0] <= len(tokenizer(text, verbose=False)["input_ids"]) <= TOKENS[1]:
            found.append(text)
            if len(found) == count:
                break
    return found


def measure(model: str, rivals: str | None, texts: Sequence[str], rounds: int) -> dict[str, dict]:
    """Seconds of each side, by round, and its first vector."""
    file = OUT / "texts.json"
    file.write_text(json.dumps(texts))
    found: dict[str, dict] = {}
    for turn in range(rounds):
        for name, (kind, target) in sides(model, rivals=rivals is not None).items():
            python = rivals if rivals is not None and kind == "fastembed" else sys.executable
            command = [python, __file__, "--encode", kind, target, str(file)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            answer = json.loads(done.stdout.strip().splitlines()[-1])
            found.setdefault(name, {"seconds": [], "first": answer["first"]})["seconds"].append(answer["seconds"])
            print(turn, name, round(answer["seconds"], 1), flush=True)
    return found


def speed_table(found: dict[str, dict], count: int) -> list[str]:
    """A row a side: texts a second and the ratios; the cosine of its first vector to torch's."""
    import numpy as np

    lines = [
        "| side | texts/s, median (min to max) | × torch float32 | × fastembed, our onnx | first vector's cosine |"
    ]
    lines += ["|:--|--:|--:|--:|--:|"]
    pace = {name: statistics.median(count / seconds for seconds in side["seconds"]) for name, side in found.items()}
    known = np.array(found[TORCH]["first"])
    for name, side in found.items():
        all_of = [count / seconds for seconds in side["seconds"]]
        first = np.array(side["first"])
        rival = f"{pace[name] / pace[FASTEMBED]:.2f}" if FASTEMBED in pace else "–"
        same = f"{float(known @ first / np.linalg.norm(first)):.4f}" if len(first) == len(known) else "–"
        lines.append(
            f"| {name} | {pace[name]:,.1f} ({min(all_of):,.1f} to {max(all_of):,.1f}) | {pace[name] / pace[TORCH]:.2f} "
            f"| {rival} | {same} |"
        )
    return lines


def verify_table(report: dict[str, Any]) -> list[str]:
    """A row an export: the worst cosine, what it costs on each set and size, its bytes."""
    columns = list(dict.fromkeys((row["dataset"], row["dim"]) for one in report["results"] for row in one["ndcg"]))
    heads = ["export", "worst cosine", *(f"{name}, {dim}" for name, dim in columns), "MB", "passed"]
    lines = [f"| {' | '.join(heads)} |", f"|:--|{'--:|' * (len(heads) - 1)}"]
    base = {(row["dataset"], row["dim"]): row["model"] for one in report["results"] for row in one["ndcg"]}
    cells = ["the model", "", *(f"{100 * base[key]:.2f}" for key in columns), f"{report['model_bytes'] / 1e6:,.1f}", ""]
    lines.append(f"| {' | '.join(cells)} |")
    for one in report["results"]:
        deltas = {(row["dataset"], row["dim"]): f"{100 * row['delta']:+.2f}" for row in one["ndcg"]}
        cosine = "–" if one["worst_gap"] is None else f"{1 - one['worst_gap']:.6f}"
        cells = [one["format"], cosine, *(deltas.get(key, "–") for key in columns)]
        cells += [f"{one['bytes'] / 1e6:,.1f}", "no" if one["faults"] else "yes"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def small_set(source: Path, out: Path, queries: int = 10, documents: int = 20) -> Path:
    """A BEIR folder with the first queries of another, what is relevant to them, and some more."""
    head, *rows = (source / "qrels" / "test.tsv").read_text().splitlines()
    chosen = list(dict.fromkeys(row.split("\t")[0] for row in rows))[:queries]
    kept = [row for row in rows if row.split("\t")[0] in chosen]
    wanted = {row.split("\t")[1] for row in kept}
    corpus = (source / "corpus.jsonl").read_text().strip().split("\n")  # not splitlines: texts hold other line ends
    lines = [line for place, line in enumerate(corpus) if json.loads(line)["_id"] in wanted or place < documents]
    (out / "qrels").mkdir(parents=True, exist_ok=True)
    (out / "qrels" / "test.tsv").write_text("\n".join([head, *kept]) + "\n")
    (out / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    (out / "queries.jsonl").write_text((source / "queries.jsonl").read_text())
    return out


def make_exports(model: str) -> None:
    """Make those exports that are not there, or are of other weights."""
    from gecko.embedder.embedder import Embedder
    from gecko.embedder.onnx import export_facts
    from gecko.export.export import export_model

    fingerprint = Embedder(model).fingerprint
    for kind in FORMATS:
        facts = export_facts(OUT / kind)
        if facts is None or facts["fingerprint"] != fingerprint:
            export_model(model, kind, OUT / kind, tell=print)


def with_fastembed(pythons: Sequence[str]) -> str | None:
    """The interpreter that has fastembed, if one was named and it does."""
    for python in pythons:
        if subprocess.run([python, "-c", "import fastembed"], check=False, capture_output=True).returncode == 0:
            return python
        print(f"{python} has no fastembed: it is left out")
    return None


def main() -> None:
    """Make the exports, verify them, time them, write the page."""
    arguments = [value for value in sys.argv[1:] if value != "--small"]
    if arguments[0] == "--encode":
        encode(arguments[1], arguments[2], Path(arguments[3]))
        return
    from quality import write_page

    from gecko.export.verify import verify

    model, rivals = arguments[0], with_fastembed(arguments[1:])
    small = "--small" in sys.argv
    folders = [SHARED / name for name in SETS if (SHARED / name).is_dir()]
    if not folders:
        raise SystemExit(f"none of the labelled corpora is here: {', '.join(SETS)}")
    OUT.mkdir(parents=True, exist_ok=True)
    make_exports(model)
    if small:
        folders = [small_set(folder, OUT / "small" / folder.name) for folder in folders]
    report = verify(model, [str(OUT / kind) for kind in FORMATS], beir=folders, split="test", tell=print)
    texts = passages(model, folders, SMALL if small else TEXTS)
    speed = measure(model, rivals, texts, SMALL_ROUNDS if small else ROUNDS)
    named = model if not Path(model).exists() else "/".join(Path(model).parts[-2:])
    lines = [
        f"# Exports of {named}: the same answers, and how fast",
        "",
        f"`make bench-export MODEL={named}`. nDCG@10 × 100 of the model, and how much each export changes it:",
        "",
        *verify_table(report),
        "",
        f"{report['texts']:,} texts went through each for the cosine; a static table's vectors are in another space.",
        "",
        f"{len(texts):,} passages of {TOKENS[0]} to {TOKENS[1]} tokens, {THREADS} threads, each side in a process of "
        f"its own and in turns, {len(speed[TORCH]['seconds'])} rounds"
        + (":" if rivals else "; fastembed is not here:"),
        "",
        *speed_table(speed, len(texts)),
    ]
    print("\n".join(lines)) if small else write_page("export", lines)


if __name__ == "__main__":
    main()
