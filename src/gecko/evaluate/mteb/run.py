"""Run tasks of MTEB on a model and its base: MTEB scores, gecko renders the texts and puts the figures side by side."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gecko.errors import GeckoError
from gecko.evaluate.evaluate import widths_of
from gecko.evaluate.mteb.chosen import Chosen, Loaded, quietly, reason_of
from gecko.evaluate.mteb.data import KINDS, count_items
from gecko.evaluate.mteb.encoder import MtebEncoder, word_of
from gecko.evaluate.mteb.meta import model_meta
from gecko.evaluate.once import EncodedOnce
from gecko.evaluate.tasks import type_means

logger = logging.getLogger(__name__)

_NO_INTERVAL = "MTEB gives a figure a set and no scores of its items, so gains have no interval."


def evaluate_mteb(
    model: Any,  # noqa: ANN401
    base: Any | None,  # noqa: ANN401
    tasks: Sequence[Chosen],
    out: Path,
    *,
    dims: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Run tasks on a model and its base, at each dimension.

    Each text of a task is encoded once a model, at full width; smaller dimensions are cut from it and renormalised.

    Args:
        model: The tuned model, an ``Embedder``.
        base: The model to compare with; None leaves ``base`` and ``delta`` null.
        tasks: What :func:`open_mteb` found.
        out: Folder for MTEB's own result files (its ``ResultCache``); every run writes them anew.
        dims: Dimensions to score; the model's own if None. A narrower base is scored at its full width there.

    Returns:
        JSON-ready: ``{"version", "models", "results", "mean", "sets", "interval", "files"}``. A result has
        ``task_type``, ``dataset``, ``metric``, ``dim``, ``base``, ``tuned``, ``delta``, ``ci95`` (null), ``n`` and, of
        several subsets, ``subsets``.

    Raises:
        UsageError: A dimension the model does not have.
        GeckoError: A task's data cannot be had, or MTEB cannot score it.
    """
    import mteb
    from mteb.cache import ResultCache

    widths = widths_of(model, dims)
    sides = {"tuned": model} | ({"base": base} if base else {})
    cache = ResultCache(cache_path=out)
    described = {side: model_meta(one, one.full_dim) for side, one in sides.items()}
    results: list[dict[str, Any]] = []
    sets: list[dict[str, Any]] = []
    for chosen in tasks:
        loaded = chosen.load()
        task = chosen.make(loaded)
        kind = KINDS[task.metadata.type]
        count = count_items(task, loaded.rows, chosen.split)
        logger.info("evaluating %s (mteb, %s, %s): %s items", chosen.name, kind, chosen.split, f"{count:,}")
        figures: dict[str, dict[int, dict[str, float]]] = {}
        for side, one in sides.items():
            once = EncodedOnce(one)
            figures[side] = {
                width: _figures(once, model_meta(one, min(width, one.full_dim))[0], chosen, loaded, width, cache)
                for width in widths
            }
        for width in widths:
            results.append(
                {
                    "task_type": kind,
                    "dataset": chosen.name,
                    "metric": task.metadata.main_score,
                    "dim": width,
                    **_side_by_side({side: by_width[width] for side, by_width in figures.items()}),
                    "n": count,
                }
            )
        sets.append(
            {
                "dataset": chosen.name,
                "task_type": kind,
                "split": chosen.split,
                "task": word_of(task.metadata.type, chosen.name, chosen.words),
                "items": count,
                "subsets": list(task.hf_subsets),
                "of_subsets": len(type(task).metadata.hf_subsets),
                "data": str(chosen.place) if chosen.place else f"hf://{task.metadata.dataset['path']}",
                "note": chosen.note,
                "superseded_by": task.superseded_by,
                "zero_shot": {side: meta.is_zero_shot_on([chosen.name]) for side, (meta, _) in described.items()},
            }
        )
    return {
        "version": mteb.__version__,
        "models": {side: _facts(meta, said) for side, (meta, said) in described.items()},
        "results": results,
        "mean": type_means(results),
        "sets": sets,
        "interval": _NO_INTERVAL,
        "files": str(out),
    }


def _figures(
    model: EncodedOnce,
    meta: Any,  # noqa: ANN401
    chosen: Chosen,
    loaded: Loaded,
    width: int,
    cache: Any,  # noqa: ANN401
) -> dict[str, float]:
    """Let MTEB score a model: the main score of each subset.

    Raises:
        GeckoError: MTEB cannot.
    """
    import mteb

    encoder = MtebEncoder(model, width, meta, chosen.words)
    try:
        with quietly():
            result = mteb.evaluate(
                encoder,
                chosen.make(loaded),
                cache=cache,
                overwrite_strategy="always",
                co2_tracker=False,
                show_progress_bar=False,
            )
    except (ValueError, LookupError, ArithmeticError, RuntimeError) as error:  # data that its protocol cannot take
        hint = "is the folder whole? docs/evaluation.md says what each type needs"
        raise GeckoError(f"{chosen.name}: MTEB cannot score it ({reason_of(error)})", hint) from error
    scores = result.task_results[0].scores[chosen.split]
    return {str(entry["hf_subset"]): float(entry["main_score"]) for entry in scores}


def _side_by_side(figures: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Put base and tuned beside each other, the mean over the subsets and each of them."""
    value = {side: sum(parts.values()) / len(parts) for side, parts in figures.items()}
    base = value.get("base")
    row: dict[str, Any] = {"base": base, "tuned": value["tuned"]}
    row |= {"delta": None if base is None else value["tuned"] - base, "ci95": None}
    if len(figures["tuned"]) > 1:
        before = figures.get("base", {})
        row["subsets"] = {
            name: {"base": before.get(name), "tuned": figure} for name, figure in figures["tuned"].items()
        }
    return row


def _facts(meta: Any, said: str) -> dict[str, Any]:  # noqa: ANN401
    """What the report says of a model as MTEB was told of it."""
    datasets = meta.training_datasets
    return {
        "name": meta.name,
        "revision": meta.revision,
        "adapted_from": meta.adapted_from,
        "training_datasets": None if datasets is None else sorted(datasets),
        "training_known_from": said,
    }
