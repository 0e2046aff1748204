"""Put any number of models side by side on human judgements, fairly: one reference, paired tests, one correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gecko.errors import UsageError
from gecko.evaluate.beir import BeirSet
from gecko.evaluate.bm25 import Bm25
from gecko.evaluate.compare import paired_bootstrap, wins_losses_ties
from gecko.evaluate.evaluate import METRICS, Embedder, encode_set, named_sets, widths_of, won_and_lost
from gecko.evaluate.retrieval import rrf
from gecko.evaluate.significance import RESAMPLES, holm, randomisation_test
from gecko.evaluate.stored import VECTORS, bytes_of, rank_stored, vector_kinds

BM25 = "bm25"
LEVEL = 0.05
_MAIN = "ndcg_at_10"


@dataclass(frozen=True, slots=True)
class Form:
    """How vectors are stored: cut to ``dim`` dimensions (a narrower model keeps all its own), as what kind."""

    dim: int
    vectors: str


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How models are compared.

    Attributes:
        against: The system all others are compared with; the first model if None.
        dims: Dimensions; the widest model's if None.
        vectors: Kinds of stored vectors.
        hybrids: Also fuse each model's ranking with BM25's.
        split: Which judgements.
        depth: Documents ranked a query (at least 100, for recall at 100).
    """

    against: str | None = None
    dims: Sequence[int] | None = None
    vectors: Sequence[str] = VECTORS[:1]
    hybrids: bool = True
    split: str = "test"
    depth: int = 100


def check_names(names: Sequence[str], options: CompareOptions) -> str:
    """Find what is wrong with a comparison before a model is loaded.

    Returns:
        The system all others are compared with.

    Raises:
        UsageError: Two models have one name, a name is a system's own, or there is no such system or kind of vectors.
    """
    vector_kinds(options.vectors)
    if not names:
        raise UsageError("there is no model to compare", "for example gecko compare A B --beir DIR")
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two models are called {name}", "tell them apart: old=PATH new=PATH")
        if name == BM25 or name.startswith(f"{BM25}+"):
            raise UsageError(f"{name} is no name for a model", "BM25 and its hybrids are compared in any case")
    systems = _systems(names, options.hybrids)
    against = options.against or names[0]
    if against not in systems:
        raise UsageError(f"--against {against}: no such system", f"there are {', '.join(systems)}")
    return against


def compare_models(
    models: Mapping[str, Embedder], folders: Sequence[Path], options: CompareOptions | None = None
) -> dict[str, Any]:
    """Compare models, BM25 and their hybrids with one of them, on BEIR folders, for each form of stored vectors.

    Every text is encoded once a model. A system's difference to the reference in nDCG@10 is bounded by a paired
    bootstrap interval and tested by a paired randomisation test; the p-values of all comparisons of the report (systems
    x sets x forms) are corrected together (Holm). One set and one model's vectors are in memory at a time.

    Args:
        models: By the name they are shown under.
        folders: BEIR folders.
        options: How.

    Returns:
        ``{"against", "systems", "results", "mean", "comparisons", "resamples", "queries"}``, JSON-ready. A result has
        ``dataset``, ``metric``, ``system``, ``dim``, ``vectors``, ``bytes`` (of a stored vector; null for BM25),
        ``value``, ``also`` (other metrics), ``delta``, ``ci95``, ``p``, ``p_holm``, ``verdict`` (better, worse or same,
        at the level of 0.05 after correction), ``wins``, ``losses``, ``ties`` and ``n``. ``queries`` has, for each set
        and system, those most won and lost in the first form.

    Raises:
        UsageError: No folder, a bad name, or a dimension or kind of vectors that does not exist.
        GeckoError: A folder is broken or a model returns something that is not a number.
    """
    options = options or CompareOptions()
    against = check_names(list(models), options)
    if not folders:
        raise UsageError("nothing to compare on", "name at least one BEIR folder with --beir")
    forms = forms_of(models, options)
    results: list[dict[str, Any]] = []
    shown: dict[str, dict[str, Any]] = {}
    for name, data in named_sets(folders, options.split):
        rows, shown[name] = _compare_on(data, models, against, forms, options)
        results += [{"dataset": name, **row} for row in rows]
    tested = [row for row in results if row["p"] is not None]
    for row, corrected in zip(tested, holm([row["p"] for row in tested]).tolist(), strict=True):
        row["p_holm"] = corrected
        row["verdict"] = "same" if corrected >= LEVEL else "better" if row["delta"] > 0 else "worse"
    return {
        "against": against,
        "systems": [
            {"name": name, "model": models[name].path if name in models else None}
            for name in _systems(list(models), options.hybrids)
        ],
        "results": results,
        "mean": _means(results),
        "comparisons": len(tested),
        "resamples": RESAMPLES,
        "queries": shown,
    }


def forms_of(models: Mapping[str, Embedder], options: CompareOptions) -> list[Form]:
    """The forms of stored vectors, widest first.

    Raises:
        UsageError: A dimension that no model has, or an unknown kind.
    """
    widest = max(models.values(), key=lambda model: model.dim)
    kinds = vector_kinds(options.vectors)
    return [Form(width, kind) for width in widths_of(widest, options.dims) for kind in kinds]


def _systems(names: Sequence[str], hybrids: bool) -> list[str]:
    return [BM25, *names, *(f"{BM25}+{name}" for name in names if hybrids)]


def _compare_on(
    data: BeirSet, models: Mapping[str, Embedder], against: str, forms: list[Form], options: CompareOptions
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Compare on one set: (a result for each form and system, the queries that each system won and lost)."""
    position = {doc_id: index for index, doc_id in enumerate(data.doc_ids)}
    judged = [{position[doc]: grade for doc, grade in grades.items()} for grades in data.qrels.values()]
    rankings = _rankings(data, models, forms, options)
    scores = {
        key: {metric: measure(ranking, judged) for metric, measure in METRICS.items()}
        for key, ranking in rankings.items()
    }
    rows = []
    for form, system in rankings:
        model = models.get(system.removeprefix(f"{BM25}+"))
        own, reference = scores[form, system], scores[form, against][_MAIN]
        row = {
            "metric": _MAIN,
            "system": system,
            "dim": form.dim,
            "vectors": form.vectors,
            "bytes": bytes_of(form.vectors, min(form.dim, model.dim)) if model else None,
            "value": float(own[_MAIN].mean()),
            "also": {metric: float(values.mean()) for metric, values in own.items() if metric != _MAIN},
        }
        rows.append(row | _difference(own[_MAIN], None if system == against else reference))
    _test(rows, {key: each[_MAIN] for key, each in scores.items()}, against)
    shown = {
        system: won_and_lost(
            data,
            {"base": scores[form, against][_MAIN], "tuned": scores[form, system][_MAIN]},
            {"base": rankings[form, against], "tuned": rankings[form, system]},
        )
        for form, system in rankings
        if form == forms[0] and system != against
    }
    return rows, shown


def _rankings(
    data: BeirSet, models: Mapping[str, Embedder], forms: list[Form], options: CompareOptions
) -> dict[tuple[Form, str], np.ndarray]:
    """Rank with every system in every form; (form, system) → positions (n, depth), in the order of the table."""
    depth = max(options.depth, 100)
    keyword = Bm25(data.titles, data.texts).search(list(data.queries.values()), depth)[0]
    found = {(form, BM25): keyword for form in forms}
    for name, model in models.items():
        queries, documents = encode_set(model, data)
        for form in forms:
            ranking = rank_stored(queries, documents, form.dim, form.vectors, depth)
            found[form, name] = ranking
            if options.hybrids:
                found[form, f"{BM25}+{name}"] = rrf([keyword, ranking], depth=depth)
    return {(form, system): found[form, system] for form in forms for system in _systems(list(models), options.hybrids)}


def _difference(own: np.ndarray, reference: np.ndarray | None) -> dict[str, Any]:
    """What a result says of a system beside the reference; null for the reference itself."""
    row: dict[str, Any] = dict.fromkeys(("delta", "ci95", "p", "p_holm", "verdict", "wins", "losses", "ties"))
    if reference is not None:
        row["delta"] = float(own.mean() - reference.mean())
        row["ci95"] = list(paired_bootstrap(reference, own))
        row["wins"], row["losses"], row["ties"] = wins_losses_ties(reference, own)
    return {**row, "n": len(own)}


def _test(rows: list[dict[str, Any]], scores: Mapping[tuple[Form, str], np.ndarray], against: str) -> None:
    """Fill in the p-values of one set's results, before correction."""
    tested = [row for row in rows if row["system"] != against]
    forms = [Form(row["dim"], row["vectors"]) for row in tested]
    differences = [scores[form, row["system"]] - scores[form, against] for form, row in zip(forms, tested, strict=True)]
    for row, p in zip(tested, randomisation_test(np.stack(differences, axis=1)).tolist(), strict=True):
        row["p"] = p


def _means(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average each system and form over the sets, every set alike, and count the verdicts."""
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for row in results:
        groups.setdefault((row["system"], row["dim"], row["vectors"]), []).append(row)
    return [
        {
            "system": system,
            "dim": dim,
            "vectors": vectors,
            "value": float(np.mean([row["value"] for row in rows])),
            "delta": None if rows[0]["delta"] is None else float(np.mean([row["delta"] for row in rows])),
            **{word: sum(row["verdict"] == word for row in rows) for word in ("better", "worse", "same")},
            "sets": len(rows),
        }
        for (system, dim, vectors), rows in groups.items()
    ]
