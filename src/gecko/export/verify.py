"""Does an export answer as the model does? The same texts through each, and what a difference costs on a test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gecko.embedder.embedder import Embedder
from gecko.embedder.onnx import MARK, export_facts
from gecko.embedder.open import resolve_model
from gecko.errors import GeckoError, UsageError
from gecko.evaluate.beir import BeirSet
from gecko.evaluate.evaluate import check_finite, encode_set, named_sets, widths_of
from gecko.evaluate.retrieval import cut, ndcg_at_k
from gecko.export.origin import recipe_of, run_of, trained_dims
from gecko.export.same import ODD_TEXTS, SAME_GAP, gaps
from gecko.miner.exact import top_k
from gecko.shards import read_rows, to_passage
from gecko.train.general_texts import general_texts

LOSS = 0.005  # nDCG@10, of formats that round
_ROUNDED_GAP = 0.1  # where there is no test to measure the loss on
_SAME = frozenset({"compat", "onnx"})
_TEXTS = 200
_REPEATS = 3
_DEPTH = 10


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one export compares with its model.

    Attributes:
        name: As it was named.
        format: ``compat``, ``onnx``, ``onnx-int8`` or ``static``; ``model`` of a folder that is no export.
        dim: Dimensions of its vectors.
        worst_gap: One minus the lowest cosine between its and the model's vector of a text; None of a static table,
            whose vectors lie in a space of their own.
        mean_gap: The mean of these.
        ndcg: For each set and dimension: ``dataset``, ``dim``, ``model``, ``export``, ``delta`` of nDCG@10.
        texts_per_second: Documents encoded, the median of a few passes.
        speedup: Over the model.
        bytes: Of all its files.
        faults: Why it does not pass; empty where it does.
    """

    name: str
    format: str
    dim: int
    worst_gap: float | None
    mean_gap: float | None
    ndcg: list[dict[str, Any]]
    texts_per_second: float
    speedup: float
    bytes: int
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an export may differ by; None takes what its format promises, and a static table promises nothing.

    Attributes:
        gap: Largest of one minus the cosine.
        loss: Largest loss of nDCG@10, a fraction.
    """

    gap: float | None = None
    loss: float | None = None

    def of(self, kind: str, *, measured: bool) -> tuple[float | None, float | None]:
        """Both limits for a format; ``measured``: whether there is a test."""
        if kind == "static":
            return None, self.loss
        gap = SAME_GAP if kind in _SAME or kind == "model" else None if measured else _ROUNDED_GAP
        return gap if self.gap is None else self.gap, LOSS if self.loss is None else self.loss


def verify(
    model: str,
    exports: Sequence[str],
    *,
    beir: Sequence[Path] = (),
    split: str | None = None,
    dims: Sequence[int] | None = None,
    limits: Limits | None = None,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Compare exports with their model.

    Args:
        model: The model.
        exports: Their folders.
        beir: BEIR folders to measure nDCG@10 on; default: those of the run that made the model.
        split: Of their judgements; default: the run's, or test.
        dims: Dimensions to measure at; default: the widest that both have, and for a run's model the sizes of it.
        limits: What an export may differ by.
        tell: Receives a line for each export.

    Returns:
        ``{"model", "texts", "sets", "model_texts_per_second", "model_bytes", "results": [Verdict …], "passed"}``.

    Raises:
        UsageError: A folder is the model itself, or a dimension that it does not have is asked for.
        GeckoError: One cannot be opened, or is an export of another model.
    """
    limits = limits or Limits()
    whole = Embedder(model, bf16=False)
    kinds = [_format_of(name, model, whole) for name in exports]
    recipe = recipe_of(model) or {}
    evaluation = recipe.get("evaluation") or {}
    folders = list(beir) or [Path(place) for place in evaluation.get("beir") or ()]
    sets = dict(named_sets(folders, split or evaluation.get("split") or "test")) if folders else {}
    documents, queries = sample_texts(model, list(sets.values()))
    widths = widths_of(whole, dims or [whole.dim, *(size for size in trained_dims(model) if size < whole.dim)])
    known = whole.encode_passages(documents), whole.encode_queries(queries)
    vectors = {name: encode_set(whole, data) for name, data in sets.items()}
    speed = _speed(whole, documents)
    verdicts = []
    for name, kind in zip(exports, kinds, strict=True):
        export = Embedder(name, bf16=False)
        if export.dim > whole.dim:
            raise GeckoError(f"{name} has {export.dim} dimensions, {model} has {whole.dim}", "is it an export of it?")
        apart = None if kind == "static" else _gaps(known, export, documents, queries)
        scores = [row for key, data in sets.items() for row in _scores(key, data, vectors[key], export, widths)]
        pace = _speed(export, documents)
        verdict = Verdict(
            name=name,
            format=kind,
            dim=export.dim,
            worst_gap=None if apart is None else max(0.0, float(apart.max())),
            mean_gap=None if apart is None else max(0.0, float(apart.mean())),
            ndcg=scores,
            texts_per_second=round(pace, 1),
            speedup=round(pace / speed, 2),
            bytes=_bytes(name),
        )
        verdict.faults.extend(_faults(verdict, limits))
        tell(f"{name}: {'; '.join(verdict.faults) or 'passed'}")
        verdicts.append(verdict)
    return {
        "model": model,
        "texts": len(documents) + len(queries),
        "sets": list(sets),
        "model_texts_per_second": round(speed, 1),
        "model_bytes": _bytes(model),
        "results": [asdict(verdict) for verdict in verdicts],
        "passed": not any(verdict.faults for verdict in verdicts),
    }


def _format_of(name: str, model: str, whole: Embedder) -> str:
    """The format of an export, or ``model`` of another model that is compared.

    Raises:
        UsageError: It is the model's own folder.
        GeckoError: It is not there, incomplete, or an export of another model.
    """
    folder = Path(resolve_model(name))
    if folder.resolve() == Path(resolve_model(model)).resolve():
        raise UsageError(f"{name} is the model itself", "name its exports")
    facts = export_facts(folder)
    if facts is not None and facts["fingerprint"] != whole.fingerprint:
        raise GeckoError(
            f"{name} was made from another model ({facts['model']}), or from {model} as it was before",
            f"name that model, or export again: gecko export {model} --format {facts['format']} --out {name}",
        )
    return "model" if facts is None else str(facts["format"])


def sample_texts(model: str, sets: Sequence[BeirSet]) -> tuple[list[tuple[str, str]], list[str]]:
    """Choose the texts that are compared: of the test, else of the run's passages, else general ones; and odd ones.

    Returns:
        (title, text) documents, and queries.
    """
    run = run_of(model)
    documents: list[tuple[str, str]] = []
    queries: list[str] = []
    for data in sets:
        documents += _spread(list(zip(data.titles, data.texts, strict=True)), _TEXTS // len(sets))
        queries += _spread(list(data.queries.values()), _TEXTS // len(sets) // 2)
    if not documents and run is not None and any((run / "passages").glob("part-*.parquet")):
        passages = read_rows(run / "passages", to_passage)
        documents = [(row.title, row.text) for row, _ in zip(passages, range(_TEXTS), strict=False)]
    if not queries:
        import random

        queries = general_texts("general", _TEXTS // 2, random.Random(0))  # noqa: S311
    return [*(documents or [("", text) for text in queries]), *(("", text) for text in ODD_TEXTS)], [
        *queries,
        *ODD_TEXTS,
    ]


def _spread(items: list[Any], count: int) -> list[Any]:
    """At most so many items, evenly from the whole list."""
    return items[:: max(1, -(-len(items) // max(count, 1)))]


def _gaps(
    known: tuple[np.ndarray, np.ndarray], export: Embedder, documents: Sequence[tuple[str, str]], queries: Sequence[str]
) -> np.ndarray:
    found = export.encode_passages(documents), export.encode_queries(queries)
    check_finite(export, *found)
    return np.concatenate([gaps(ours, theirs) for ours, theirs in zip(known, found, strict=True)])


def _scores(
    name: str,
    data: BeirSet,
    known: tuple[np.ndarray, np.ndarray],
    export: Embedder,
    widths: Sequence[int],
) -> Iterator[dict[str, Any]]:
    position = {doc_id: place for place, doc_id in enumerate(data.doc_ids)}
    judged = [{position[doc]: grade for doc, grade in grades.items()} for grades in data.qrels.values()]
    found = encode_set(export, data)

    def score(vectors: tuple[np.ndarray, np.ndarray], width: int) -> float:
        ranking, _ = top_k(cut(vectors[0], width), cut(vectors[1], width), _DEPTH)
        return float(ndcg_at_k(ranking, judged, _DEPTH).mean())

    # An export that is narrower than the sizes asked for is measured at its own, against the model cut to that.
    for width in [size for size in widths if size <= export.dim] or [export.dim]:
        before, after = score(known, width), score(found, width)
        yield {"dataset": name, "dim": width, "model": before, "export": after, "delta": after - before}


def _speed(embedder: Embedder, documents: Sequence[tuple[str, str]]) -> float:
    """Documents a second: the median of a few passes, after one that is not counted."""
    embedder.encode_passages(documents[:8])
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        embedder.encode_passages(documents)
        seconds.append(time.perf_counter() - started)
    return len(documents) / max(float(np.median(seconds)), 1e-9)


def _faults(verdict: Verdict, limits: Limits) -> list[str]:
    gap, loss = limits.of(verdict.format, measured=bool(verdict.ndcg))
    faults = []
    if gap is not None and verdict.worst_gap is not None and not verdict.worst_gap <= gap:
        faults.append(f"worst cosine gap {verdict.worst_gap:.6f} is above {gap:g}")
    worst = min(verdict.ndcg, key=lambda row: row["delta"], default=None)
    if loss is not None and worst is not None and not -worst["delta"] <= loss:
        faults.append(f"loses {-worst['delta']:.4f} nDCG@10 on {worst['dataset']} at {worst['dim']}, above {loss:g}")
    return faults


def _bytes(name: str) -> int:
    folder = Path(resolve_model(name))
    files = folder.rglob("*") if folder.is_dir() else ()
    return sum(file.stat().st_size for file in files if file.is_file() and file.name not in (MARK, "README.md"))


def render_verify(report: dict[str, Any]) -> str:
    """The table of a verification for a terminal."""
    sets = list(dict.fromkeys((row["dataset"], row["dim"]) for one in report["results"] for row in one["ndcg"]))
    head = ["", "format", "dims", "worst cosine", *(f"{name}@{dim}" for name, dim in sets), "texts/s", "MB", ""]
    pace, size = report["model_texts_per_second"], report["model_bytes"]
    lines = [[report["model"], "the model", "", "", *([""] * len(sets)), f"{pace:,.0f}", f"{size / 1e6:,.1f}", ""]]
    for one in report["results"]:
        deltas = {(row["dataset"], row["dim"]): f"{100 * row['delta']:+.2f}" for row in one["ndcg"]}
        cosine = "" if one["worst_gap"] is None else f"{1 - one['worst_gap']:.6f}"
        speed = f"{one['texts_per_second']:,.0f} ({one['speedup']:.1f}x)"
        passed = "FAILED" if one["faults"] else "ok"
        shown = [deltas.get(key, "") for key in sets]
        lines.append(
            [one["name"], one["format"], str(one["dim"]), cosine, *shown, speed, f"{one['bytes'] / 1e6:,.1f}", passed]
        )
    widths = [max(len(row[place]) for row in [head, *lines]) for place in range(len(head))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *lines]
    ]
    measured = "changes of nDCG@10 x 100" if sets else "no test to measure nDCG@10 on: name one with --beir"
    return "\n".join([*table, f"{report['texts']:,} texts through each; {measured}"])
