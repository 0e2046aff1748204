"""How fast is a training step beside plain Sentence-Transformers, what does each part give, and how much memory?

    python bench/train.py            # writes docs/results/train-speed.md, which says what is measured and how
    python bench/train.py --small    # the same with few rows, to see it work; prints only

Each batch is a process of its own. What is in ``runs/bench/train/done.jsonl`` is not measured again.
"""

import contextlib
import itertools
import json
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate import Accelerator
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

from gecko.corpus.build import CorpusOptions, build_passages
from gecko.embedder.open import load_model
from gecko.recipe import PrefinetuneOptions, TrainOptions
from gecko.records import Passage, UnifiedRow
from gecko.train import gradient_cache, groups
from gecko.train import loss as gecko_loss
from gecko.train.finetune import disable_dropout
from gecko.train.loss_options import LossOptions
from gecko.train.memory import return_freed_memory
from gecko.train.prefinetune import prefinetune

ROOT = Path(__file__).resolve().parents[1]
MADE = ROOT / "runs" / "bench" / "train"
SHARED = ROOT.parent / "shared"
CORPORA = {  # a corpus, and a language model's replies that say which passage answers which query
    "powershell_docs": (str(SHARED / "data" / "powershell_docs"), SHARED / "recorded" / "powershell_docs"),
    "stdlib": ("stdlib:", ROOT / "examples" / "stdlib" / "recorded"),
}
STUDENT, LENGTH, MINI, TOKENS = "all-MiniLM-L6-v2", 256, 32, 4096
SAME = {"same_tower": False, "mask_duplicates": False, "temperature": 0.05}
THEIRS, THEIR_TOKENS = "Sentence-Transformers", "Sentence-Transformers, by tokens"
OURS, OUR_TOKENS, SMALL, UNCACHED = "gecko", "gecko, by tokens", "gecko, mini-batches of 8", "gecko, uncached"
SIZES = {OUR_TOKENS: {"mini_tokens": TOKENS}, SMALL: {"mini_batch": 8}, UNCACHED: {}}
WHOLE, COMPILED = "all of it", "with torch.compile"
PARTS = (
    "texts in their order, not by length",
    "by length, cut at every 32nd text",
    "equal texts encoded each",
    "all texts encoded twice",
    "weights converted to bfloat16 for each mini-batch",
    "attention in bfloat16",
)
HEAD = f"""# The speed and the memory of training

`make bench-train` (`python bench/train.py`). {STUDENT} on CPUs, texts cut at {LENGTH} tokens, no dropout. A step is the
same plain loop for all: tokenise, loss, backward, optimiser (AdamW), the forward pass under autocast as trainers have
it. Sides take turns, one step each that does not count, then three; medians. *short* and *bodies* are titles with a
sentence or the body; the other rows are queries with the passages that a language model ranked first and (in *What each
part gives*) last. *Sentence-Transformers* is `CachedMultipleNegativesRankingLoss`, `mini_batch_size={MINI}`, or *by
tokens* `mini_batch_num_tokens={TOKENS}`; *gecko* is `GeckoLoss`, `mini_batch={MINI}` or `mini_tokens={TOKENS}`, and in
the first table has the switches that make it the same function (no same-tower terms, no mask of equal texts): losses
agree to rounding. The large batch is one step of pre-finetuning whole, with trainer and saving.
"""

Row = list[str]
Cell = dict[str, Any]


def cells(small: bool) -> list[Cell]:
    """What is measured, in the order of the tables."""

    def cell(kind: str, data: str, rows: int, bf16: bool, sides: tuple[str, ...] = ()) -> Cell:
        rows = max(8, rows // 32) if small else rows
        repeats = 0 if kind == "memory" else 2 if small else 3
        return {"kind": kind, "data": data, "rows": rows, "bf16": bf16, "sides": list(sides), "repeats": repeats}

    found = [name for name, (source, _) in CORPORA.items() if source == "stdlib:" or Path(source).is_dir()]
    speed = (THEIRS, THEIR_TOKENS, OURS, OUR_TOKENS)
    cached, parts = (*speed, SMALL, UNCACHED), (WHOLE, *PARTS, OUR_TOKENS, COMPILED)[: -1 if small else None]
    return [
        *(cell("speed", found[0], 64, bf16, cached) for bf16 in (True, False)),
        *(cell("speed", name, 256, True, speed) for name in found),
        cell("speed", "short", 1024, True, speed),
        *(cell("memory", "bodies", rows, True, (OURS,)) for rows in (64, 256, 1024, 4096)),
        cell("prefinetune", "short", 16384, True),
        cell("parts", found[0], 128, True, parts),
        cell("parts", found[0], 10, True, (WHOLE, PARTS[3])),
    ]


def make_rows(name: str) -> Iterator[Row]:
    """Query, passage ranked first and passage ranked last; or titles with bodies, or with single sentences."""
    source, replies = CORPORA.get(name, CORPORA["stdlib"])
    made = build_passages(CorpusOptions(sources=(source,)))
    passages = {found.source_id: found for found in made if isinstance(found, Passage)}
    drawn = random.Random(0)
    if name in CORPORA:
        texts = {key: f"{found.title} {found.text}".strip() for key, found in passages.items()}
        rankings = (replies / "rankings.jsonl").read_text(encoding="utf-8").splitlines()
        for ranking in map(json.loads, drawn.sample(rankings, len(rankings))):
            order = [key for key in ranking["order"] if key in texts]
            if len(order) > 1:
                yield [ranking["query"], texts[order[0]], texts[order[-1]]]
        return
    shuffled = drawn.sample([*passages.values()], len(passages))
    if name == "bodies":
        yield from ([found.title, found.text] for found in shuffled)
        return
    cut = [(re.split(r"(?<=[.!?:])\s+", found.text), found.title) for found in shuffled]
    # The first sentences of all passages, then the second ones, and so on, so that few of a batch share a title.
    for place in range(max(len(sentences) for sentences, _ in cut)):
        at = ([title, sentences[place]] for sentences, title in cut if place < len(sentences))
        yield from (pair for pair in at if 4 <= len(pair[1].split()) <= 40)


def rows_of(name: str, count: int) -> list[Row]:
    """So many rows, always the same; made once."""
    path = MADE / f"{name}.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in make_rows(name)), encoding="utf-8")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:count]]


def open_model(student: str, bf16: bool) -> Any:  # noqa: ANN401
    """The student as trainers have it: its forward pass under autocast, and no dropout, so that losses are equal."""
    model = load_model(student, device="cpu")
    model.max_seq_length = min(LENGTH, model.max_seq_length)
    disable_dropout(model)
    return Accelerator(cpu=True, mixed_precision="bf16" if bf16 else "no").prepare_model(model).train()


def make_loss(model: Any, side: str, kind: str) -> Any:  # noqa: ANN401
    """The loss of one side; parts are measured with the recipes' own switches."""
    if side in {THEIRS, THEIR_TOKENS}:
        tokens = TOKENS if side == THEIR_TOKENS else None
        return CachedMultipleNegativesRankingLoss(
            model, scale=1 / SAME["temperature"], mini_batch_size=MINI, mini_batch_num_tokens=tokens
        )
    size = SIZES.get(side, {"mini_batch": MINI})
    return gecko_loss.GeckoLoss(model, LossOptions(**size, **(SAME if kind == "speed" else {})))


def changes(model: Any) -> dict[str, tuple[Any, str, Any]]:  # noqa: ANN401
    """How each part is taken away, as ``mock.patch.object`` takes it, and the encoder compiled."""

    def in_order(texts: dict[str, Any], size: int, _: int = 0) -> tuple[list[dict[str, Any]], Any]:
        places = torch.arange(len(texts["input_ids"]))
        parts = [(part, int(texts["attention_mask"][part].sum(1).max())) for part in places.split(size)]
        return [{key: value[part, :width] for key, value in texts.items()} for part, width in parts], places

    def every(columns: list[dict[str, Any]]) -> tuple[dict[str, Any], Any]:
        with mock.patch("gecko.train.batch.merge_equal", lambda rows: (torch.arange(len(rows)),) * 2):
            return distinct_texts(columns)

    def even(lengths: list[int], size: int, *_: int) -> list[int]:
        return [len(lengths[start : start + size]) for start in range(0, len(lengths), size)]

    distinct_texts, encoder = gecko_loss.distinct_texts, model[0].auto_model
    ways = (
        (gradient_cache, "length_groups", in_order),
        (groups, "cheapest_cut", even),
        (gecko_loss, "distinct_texts", every),
        (gradient_cache, "_kept", lambda *_: set()),
        (gradient_cache, "_weights_converted_once", lambda _: contextlib.nullcontext()),
        (gradient_cache, "PreciseAttention", contextlib.nullcontext),
    )
    compiled = (encoder, "forward", torch.compile(encoder.forward, dynamic=True))
    return {**dict(zip(PARTS, ways, strict=True)), COMPILED: compiled}


def measure(cell: Cell, rows: list[Row], student: str = STUDENT) -> dict[str, Any]:
    """Seconds of a step of each side, in turns, forwards and backwards, after one step each that does not count."""
    model = open_model(student, cell["bf16"])
    columns = [list(column) for column in zip(*rows, strict=True)]
    if cell["kind"] != "parts":
        columns = columns[:2]
    labels = torch.full((len(rows),), len(columns) - 2)
    # At a rate of 0, so that all sides see the same weights.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    losses = {side: make_loss(model, side, cell["kind"]) for side in cell["sides"]}
    parts = changes(model)
    found: dict[str, Any] = {"seconds": {side: [] for side in losses}, "loss": {}}
    for turn in range(1 + cell["repeats"]):
        for side in list(losses)[:: 1 if turn % 2 else -1]:
            return_freed_memory()
            with mock.patch.object(*parts[side]) if side in parts else contextlib.nullcontext():
                started = time.perf_counter()
                features = [model.preprocess(column) for column in columns]
                optimizer.zero_grad()
                value = losses[side](features, labels)
                value.backward()
                optimizer.step()
                found["seconds"][side].append(time.perf_counter() - started)
            found["loss"][side] = value.item()
    return {**found, **figures(columns, model.tokenizer)}


def figures(columns: list[Row], tokenizer: Any) -> dict[str, float]:  # noqa: ANN401
    """Texts and tokens of a batch, and the peak memory of this process."""
    ids = tokenizer([*itertools.chain(*columns)], truncation=True, max_length=LENGTH)["input_ids"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    distinct = len(set(map(tuple, ids)))
    return {"gigabytes": peak, "texts": len(ids), "distinct": distinct, "tokens": sum(map(len, ids))}


def pretrain(cell: Cell, rows: list[Row], student: str = STUDENT) -> dict[str, Any]:
    """One step of pre-finetuning as a recipe has it: data set, trainer, saving and all."""
    pairs = [UnifiedRow(str(number), "title", *row[:2], (), source="short") for number, row in enumerate(rows)]
    options = PrefinetuneOptions(corpus=True, batch_size=len(rows), max_steps=1, mini_tokens=TOKENS)
    train = TrainOptions(student=student, text_format="plain", bf16=cell["bf16"])
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        prefinetune(pairs, options, train, Path(folder) / "model")
    seconds = time.perf_counter() - started
    columns = [list(column) for column in zip(*rows, strict=True)]
    return {"seconds": {OURS: [seconds]}, **figures(columns, load_model(student, device="cpu").tokenizer)}


def ratio(found: dict[str, Any], side: str, other: str) -> float:
    """How many times as long the median step of one side takes as the other's."""
    return statistics.median(found["seconds"][side][1:]) / statistics.median(found["seconds"][other][1:])


def describe(cell: Cell, found: dict[str, Any]) -> str:
    kind = "bfloat16" if cell["bf16"] else "float32"
    return f"{cell['data']}, {cell['rows']:,} rows, {found['texts']:,} texts, {found['tokens']:,} tokens | {kind}"


def heads(title: str, names: str, left: int) -> list[str]:
    count = names.count("|") + 1
    return ["", f"## {title}", "", f"| {names} |", f"|{':--|' * left}{'--:|' * (count - left)}"]


def spread(seconds: list[float]) -> str:
    """The median of the steps that count, with the least and the most."""
    least, *_, most = sorted(seconds[1:])
    return f"{statistics.median(seconds[1:]):.2f} ({least:.2f} to {most:.2f})"


def tables(done: list[tuple[Cell, dict[str, Any]]]) -> Iterator[str]:
    """The worst figure of each claim, then the tables."""
    kinds = ("speed", "parts", "memory", "prefinetune")
    speed, parts, memory, large = ([pair for pair in done if pair[0]["kind"] == kind] for kind in kinds)
    faster = [ratio(found, THEIRS, OURS) for _, found in speed]
    dearer = [ratio(found, OURS, UNCACHED) for _, found in speed if UNCACHED in found["seconds"]]
    peaks = [found["gigabytes"] for _, found in memory]
    rows = [f"{cell['rows']:,}" for cell, _ in (*memory, *large)]
    yield f"- rows/s, times plain Sentence-Transformers: {min(faster):.2f} to {max(faster):.2f} (aim: 1.5 or more)"
    yield f"- a step with the gradient cache, times one without: at most {max(dearer):.2f} (aim: 1.4 or less)"
    yield f"- peak memory of batches of {rows[0]} to {rows[-2]} rows: {min(peaks):.2f} to {max(peaks):.2f} GB"
    yield f"- and of a pre-finetuning step of {rows[-1]} rows: {large[0][1]['gigabytes']:.2f} GB (aim: 8 or less)"
    names = "batch | type | side | loss | seconds (least to most) | rows/s | times"
    yield from heads("Beside Sentence-Transformers", names, 3)
    for cell, found in speed:
        for side, seconds in found["seconds"].items():
            rate = cell["rows"] / statistics.median(seconds[1:])
            figures = f"{found['loss'][side]:.5f} | {spread(seconds)} | {rate:.1f}"
            yield f"| {describe(cell, found)} | {side} | {figures} | {ratio(found, THEIRS, side):.2f} |"
    yield from heads("What each part gives", "batch | type | gecko | seconds (least to most) | times", 3)
    for cell, found in parts:
        for side, seconds in found["seconds"].items():
            yield f"| {describe(cell, found)} | {side} | {spread(seconds)} | {ratio(found, side, WHOLE):.2f} |"
    yield from heads("Memory", "batch | type | peak, GB", 1)
    for cell, found in (*memory, *large):
        yield f"| {describe(cell, found)} | {found['gigabytes']:.2f} |"


def main() -> None:
    """Measure what is missing, then write the tables."""
    if sys.argv[1:2] == ["--cell"]:
        cell = json.loads(sys.argv[2])
        made = pretrain if cell["kind"] == "prefinetune" else measure
        print(json.dumps(made(cell, rows_of(cell["data"], cell["rows"]))))
        return
    small = sys.argv[1:] == ["--small"]
    record = MADE / ("small.jsonl" if small else "done.jsonl")
    known = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    done = []
    for cell in json.loads(json.dumps(cells(small))):
        found = next((found for other, found in known if other == cell), None)
        if found is None:
            rows_of(cell["data"], 1)  # made here: the memory that making takes is not the training's
            command = [sys.executable, __file__, "--cell", json.dumps(cell)]
            child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(child.stdout.splitlines()[-1])
            with record.open("a") as handle:
                handle.write(json.dumps([cell, found]) + "\n")
            print(describe(cell, found), found["seconds"], flush=True)
        done.append((cell, found))
    lines = [HEAD, "", *tables(done)]
    print("\n".join(lines))
    if not small:
        (ROOT / "docs" / "results" / "train-speed.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
