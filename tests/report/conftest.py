"""A run directory like the pipeline leaves behind, with hostile text in it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gecko.records import FRET, PASSAGES, QUARANTINE
from gecko.report.embedding_map import FILE, map_mark
from gecko.teacher.ledger import FILE_NAME, Call, Ledger

HOSTILE = "<script>alert('pwned')</script> {{ 7 * 7 }} {0}"
TASKS = ["find the function that does this", "answer a question on the library", "locate the class described", HOSTILE]
MODULES = ["asyncio.Queue", "json.dumps", "pathlib.Path.glob", "itertools.chain", "functools.partial", "re.compile"]


def passage_rows(rng: np.random.Generator, rows: int) -> list[dict]:
    words = ["returns", "an", "iterator", "of", "values", "lazily", "raises", "when", "the", "path", "is", "missing"]
    return [
        {
            "passage_id": f"p{i:04d}",
            "source_id": f"s{i}",
            "title": MODULES[i % 6] if i else HOSTILE,
            "text": " ".join(rng.choice(words, int(rng.gamma(4, 22)) + 5)),
            "source": "stdlib",
            "lang": "de" if i % 11 == 0 else "en",
        }
        for i in range(rows)
    ]


def fret_rows(rng: np.random.Generator, rows: int, passages: int) -> list[dict]:
    found = []
    for i in range(rows):
        ids = rng.choice(passages, 20, False)
        relevance = np.sort(rng.beta(0.8, 1.4, 20))[::-1]
        candidates = [
            {
                "passage_id": f"p{p:04d}",
                "miner_score": float(0.9 - 0.02 * m + rng.normal(0, 0.02)),
                "miner_rank": int(m + 1),
                "ql": float(-1.0 - 2 * (1 - relevance[r]) + rng.normal(0, 0.2)) if i % 2 else None,
                "ql_rank": r + 1,
                "rc": float(relevance[r]),
                "rc_rank": r + 1,
                "rrf": 2 / (61 + r),
                "rank": r + 1,
            }
            for r, (p, m) in enumerate(zip(ids, np.argsort(np.arange(20) + rng.normal(0, 4, 20)), strict=True))
        ]
        seed = candidates[0] if i % 5 else candidates[3]
        question = (
            f"how do I get {MODULES[i % 6]} to return an iterator?" if i % 3 else f"{MODULES[i % 6]} missing path"
        )
        found.append(
            {
                "row_id": f"{(i * 7919) % 10007:05d}",
                "task": TASKS[min(3, int(rng.exponential(0.9)))],
                "query": HOSTILE if i == 0 else question,
                "lang": "en",
                "seed_id": seed["passage_id"],
                "positive_id": candidates[0]["passage_id"],
                "negative_id": candidates[12]["passage_id"] if i % 9 else "",
                "candidates": candidates,
                "relabelled": i % 5 == 0,
                "teacher": "recorded:stdlib",
                "rung": "grades",
                "prompt_version": "grade_v1",
                "input_tokens": 900,
                "output_tokens": 40,
            }
        )
    return found


def evaluation() -> dict:
    results, sets = [], [("stdlib-questions", 0.512, 0.583, 0.447, 214), ("scifact", 0.6451, 0.6502, 0.6804, 300)]
    for name, base, tuned, bm25, n in sets:
        for dim, cut in ((384, 0.0), (256, 0.006), (128, 0.024)):
            for metric, up in (("ndcg_at_10", 0.0), ("recall_at_100", 0.27), ("mrr", -0.03)):
                b, t = base + up - 1.8 * cut, tuned + up - cut
                half = 0.024 if n < 250 else 0.018
                results.append(
                    {"dataset": name, "metric": metric, "dim": dim, "base": b, "tuned": t, "delta": t - b, "n": n}
                    | {"ci95": [t - b - half, t - b + half], "bm25": bm25 + up}
                    | {"hybrid_base": b + 0.03, "hybrid_tuned": t + 0.025, "wins": 80, "losses": 40, "ties": n - 120}
                )
    entry = {"query_id": "1", "base_top": "queue.Queue", "tuned_top": "asyncio.Queue", "relevant": "asyncio.Queue"}
    texts = ["wait for an item without blocking the loop", "read gzip file line by line", HOSTILE]
    won = [entry | {"query": t, "base": 0.2 * i, "tuned": 1.0, "delta": 1 - 0.2 * i} for i, t in enumerate(texts)]
    lost = [entry | {"query": "temporary folder that cleans itself", "base": 1.0, "tuned": 0.39, "delta": -0.61}]
    return {
        "model": "runs/stdlib/model",
        "base": "all-MiniLM-L6-v2",
        "results": results,
        "mean": {},
        "queries": {"stdlib-questions": {"won": won, "lost": lost}},
    }


def every_query() -> dict:
    """What the evaluation keeps of each query: 60 of one set, a third won, a sixth lost."""
    rows = []
    for i in range(60):
        base = 0.5 + 0.005 * i
        tuned = base + (0.1 + 0.005 * i if i % 3 == 0 else -0.2 if i % 6 == 1 else 0)
        judged = [
            {"title": MODULES[i % 6], "text": HOSTILE if i == 3 else f"judged text {i}", "grade": 2}
            | {"base_rank": 7, "tuned_rank": None}
        ]
        first = {side: [{"text": f"{side} first {i}", "judged": side == "tuned"}] for side in ("base", "tuned")}
        query = HOSTILE if i == 0 else f"query number {i} on {MODULES[i % 6]}"
        row = {"query_id": str(i), "query": query, "base": base, "tuned": tuned, "judged": judged, "judged_count": 9}
        rows.append(row | {"first": first, "first_rank": {"base": 7, "tuned": None if i == 5 else 1}})
    return {"stdlib-questions": rows}


def map_points() -> list[dict]:
    rng = np.random.default_rng(1)
    texts = [HOSTILE, *(f"passage text {i}" for i in range(1, 30)), *(f"query text {i}" for i in range(10))]
    return [
        {"text": text, "query": i >= 30, "positive": i - 30 if i >= 30 else None}
        | {side: rng.random(2).round(4).tolist() for side in ("before", "after")}
        for i, text in enumerate(texts)
    ]


def write_run(run: Path, *, passages: int = 900, rows: int = 600) -> Path:
    rng = np.random.default_rng(0)
    for stage in ("passages", "fret", "train", "gate"):
        (run / stage).mkdir(parents=True)
    (run / "recipe.yaml").write_text("teacher:\n  spec: recorded:examples/stdlib\n")
    found = passage_rows(rng, passages)
    for shard, part in enumerate((found[: passages // 2], found[passages // 2 :])):
        pq.write_table(pa.Table.from_pylist(part, PASSAGES), run / "passages" / f"part-{shard:05d}.parquet")
    pq.write_table(pa.Table.from_pylist(fret_rows(rng, rows, passages), FRET), run / "fret" / "part-00000.parquet")
    bad = [{"stage": "fret", "item_id": str(i), "reason": "reply is not JSON", "raw": "secret raw"} for i in range(7)]
    bad += [{"stage": "fret", "item_id": "x", "reason": f"no task in reply {HOSTILE}", "raw": ""}]
    pq.write_table(pa.Table.from_pylist(bad, QUARANTINE), run / "fret" / "quarantine.parquet")
    loss = [
        {
            "step": 5 * i,
            "loss": 0.4 + 1.9 / (1 + i / 12) + rng.normal(0, 0.05),
            "learning_rate": 2e-5 * min(i / 10, 1, (120 - i) / 110),
        }
        for i in range(1, 120)
    ]
    (run / "train" / "history.json").write_text(json.dumps({"loss": loss, "rows": 4800, "seconds": 212.4}))
    scores = [
        {"alpha": a, "dev": 0.61 + 0.09 * a - 0.06 * a * a, "probe": 0.55 - 0.03 * a * a}
        for a in (0, 0.25, 0.5, 0.75, 1)
    ]
    scores = [point | {"score": point["dev"] + point["probe"]} for point in scores]
    gate = {"chosen": "interpolated", "alpha": 0.75, "reason": "best dev score that keeps the probe", "scores": scores}
    (run / "gate" / "gate.json").write_text(json.dumps(gate | {"dev_queries": 240}))
    (run / "evaluation.json").write_text(json.dumps(evaluation()))
    (run / "evaluation").mkdir()
    (run / "evaluation" / "queries.json").write_text(json.dumps(every_query()))
    near = {"before": 0.4, "after": 0.7}
    (run / FILE).write_text(json.dumps({"mark": map_mark(run), "points": map_points(), "nearest": near}))
    with Ledger(run / FILE_NAME) as ledger:
        ledger.put_many([Call("k1", "query", {"model": HOSTILE}, {"text": "x"}, 1200, 34, 0.42, 1.5)])
        ledger.put_many([Call("k2", "query", {"model": HOSTILE}, {}, 0, 0, 0.0, 1.5, "no answer")])
    stages = [
        ("passages", 900, 12.1),
        ("fret", 600, 96.0),
        ("mixture", 4800, 2.3),
        ("train", 4800, 212.4),
        ("gate", 5, 31.0),
    ]
    stages = [{"name": n, "rows": r, "seconds": s, "skipped": n == "passages"} for n, r, s in stages]
    (run / "summary.json").write_text(json.dumps({"stages": stages, "usd": 0.42}))
    return run


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    return write_run(tmp_path / "stdlib-run")


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """Writes such a run into a folder."""
    return write_run


@pytest.fixture(scope="module")
def module_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for tests that change nothing."""
    return write_run(tmp_path_factory.mktemp("run") / "stdlib-run")
