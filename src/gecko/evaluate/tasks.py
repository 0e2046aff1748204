"""Measure a model on general tasks of all the types of MTEB, beside the model it came from.

What was gained on one corpus may have been paid for elsewhere; this is where it shows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gecko.errors import GeckoError, UsageError
from gecko.evaluate.beir import load_beir
from gecko.evaluate.compare import Score, gain_interval
from gecko.evaluate.evaluate import Embedder, evaluate_set, widths_of
from gecko.evaluate.folders import Skipped, TaskType, TestSet, find_sets
from gecko.evaluate.labels import Classification, Clustering
from gecko.evaluate.once import EncodedOnce
from gecko.evaluate.pairs import Bitext, PairClassification, Similarity
from gecko.evaluate.pools import Reranking, Summaries
from gecko.evaluate.retrieval import cut
from gecko.mixture.tasks import task_word

logger = logging.getLogger(__name__)

# The metric that stands for a type in tables and means: MTEB's main score.
MAIN: dict[TaskType, str] = {
    "retrieval": "ndcg_at_10",
    "reranking": "map",
    "sts": "cosine_spearman",
    "classification": "accuracy",
    "pair_classification": "max_ap",
    "clustering": "v_measure",
    "bitext": "f1",
    "summarization": "cosine_spearman",
}
_SEED = 0  # of the sample of a limit


class Task(Protocol):
    """A loaded set: what the evaluation asks of it."""

    @property
    def left_out(self) -> int:
        """Rows of the file that the protocol does not score."""
        ...

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> Task:
        """Keep some of the items; raises GeckoError where they tell nothing."""
        ...

    def encode(self, model: Embedder, word: str) -> tuple[np.ndarray, ...]:
        """Encode all that is scored, at full width, rendered with the task's word."""
        ...

    def scores(self, vectors: tuple[np.ndarray, ...]) -> dict[str, Score]:
        """Score one model's vectors: metric → figure."""
        ...


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """How general tasks are measured.

    Attributes:
        split: Which split of each folder.
        words: Words put before the texts of models with gecko's format, by the set's name or by its type.
        limit: Items of a set scored at most, a fixed sample; all if None.
        samples_per_label: Training texts of a label in each experiment of a classification.
    """

    split: str = "test"
    words: Mapping[str, str] | None = None
    limit: int | None = None
    samples_per_label: int = 8


@dataclass(frozen=True, slots=True)
class Sets:
    """What was found to be scored, and what was passed over."""

    found: tuple[TestSet, ...]
    skipped: tuple[Skipped, ...]
    options: TaskOptions


def open_sets(places: Sequence[Path], options: TaskOptions | None = None) -> Sets:
    """Find the sets and read each once, so that a bad one is told before a model is loaded.

    Args:
        places: Folders of a set, folders of folders, or single files.
        options: How they will be measured.

    Raises:
        UsageError: No place was named, or words for a set that is not there.
        GeckoError: A place is not there or holds no set, or a set that was named itself is broken.
    """
    options = options or TaskOptions()
    found, skipped = find_sets(places, options.split)
    whole: list[TestSet] = []
    for item in found:
        try:
            if item.task_type == "retrieval":
                load_beir(item.folder, item.split)
            else:
                _load(item, options)
        except GeckoError as error:
            if item.named:
                raise
            skipped.append(Skipped(item.name, error.message))
        else:
            whole.append(item)
    if not whole:
        raise GeckoError(f"no usable test set: {skipped[-1].place}: {skipped[-1].reason}", "mend it, or name another")
    names = {item.name for item in whole} | {item.task_type for item in whole}
    for name, word in (options.words or {}).items():
        if name not in names:
            raise UsageError(f"task word for {name!r}: no such set or type", f"there are {', '.join(sorted(names))}")
        if not word.strip():
            raise UsageError(f"task word for {name!r}: it is empty", "for example scifact='fact checking'")
    return Sets(tuple(whole), tuple(skipped), options)


def evaluate_tasks(
    model: Embedder, base: Embedder | None, sets: Sets, *, dims: Sequence[int] | None = None
) -> dict[str, Any]:
    """Compare a tuned model with its base on general tasks, at each Matryoshka dimension.

    Each text of a folder is encoded once a model, at full width; smaller dimensions are cut from it and renormalised.
    One folder's texts and vectors are in memory at a time.

    Args:
        model: The tuned model.
        base: The model to compare with; None leaves ``base``, ``delta`` and ``ci95`` null.
        sets: What to score.
        dims: Dimensions to score; the model's own if None. A narrower base is scored at its full width there.

    Returns:
        ``{"model", "base", "results", "mean", "sets", "skipped"}``, JSON-ready. A result has ``task_type``,
        ``dataset``, ``metric``, ``dim``, ``base``, ``tuned``, ``delta``, ``ci95`` and ``n`` (of several language pairs
        also ``subsets``); ``mean`` has, for each dimension, the mean of each type's main metric and the mean of these.
        Correlations are in -1 to 1, all other figures in 0 to 1.

    Raises:
        UsageError: A dimension the model does not have.
        GeckoError: A set changed since it was opened, or a model returns something that is not a number.
    """
    return compare_tasks([model], base, sets, widths_of(model, dims))[0]


def compare_tasks(
    models: Sequence[Embedder], base: Embedder | None, sets: Sets, widths: list[int]
) -> list[dict[str, Any]]:
    """Compare several models with one base, as :func:`evaluate_tasks` does; the base encodes each text once for all.

    A model that is narrower than one of ``widths`` is scored at its full width there.
    """
    results: list[list[dict[str, Any]]] = [[] for _ in models]
    facts: list[list[dict[str, Any]]] = [[] for _ in models]
    for _, group in groupby(sets.found, key=lambda item: item.folder):
        items = list(group)
        before = EncodedOnce(base) if base else None
        for place, model in enumerate(models):
            once = EncodedOnce(model)
            for item in items:
                rows, fact = _score(item, sets.options, once, before, widths)
                results[place] += rows
                facts[place].append(fact)
    skipped = [{"place": item.place, "reason": item.reason} for item in sets.skipped]
    return [
        {
            "model": model.path,
            "base": base.path if base else None,
            "results": rows,
            "mean": type_means([row for row in rows if row["metric"] == MAIN[row["task_type"]]]),
            "sets": said,
            "skipped": skipped,
        }
        for model, rows, said in zip(models, results, facts, strict=True)
    ]


def _load(item: TestSet, options: TaskOptions) -> tuple[Task, int]:
    """Read a set: (what of it is scored, how many items there are)."""
    if item.task_type == "classification" and item.train is not None:
        task: Task = Classification.read(item.file, item.train, options.samples_per_label)
    else:
        task = _READERS[item.task_type](item.file)
    there = len(task)
    rows = _sample(there, options.limit)
    return (task if len(rows) == there else task.take(rows)), there


_READERS: dict[TaskType, Callable[[Path], Task]] = {
    "reranking": Reranking.read,
    "sts": Similarity.read,
    "pair_classification": PairClassification.read,
    "clustering": Clustering.read,
    "bitext": Bitext.read,
    "summarization": Summaries.read,
}


def _score(
    item: TestSet, options: TaskOptions, model: Embedder, base: Embedder | None, widths: list[int]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Score one set: (a result for each dimension and metric, what the set is and how much of it was scored)."""
    words = options.words or {}
    word = words.get(item.name) or words.get(item.task_type) or task_word(item.task_type, item.name)
    head = {"task_type": item.task_type, "dataset": item.name}
    if item.task_type == "retrieval":
        data = load_beir(item.folder, item.split)
        names = list(data.queries)
        there, left_out = len(names), 0
        kept = [names[row] for row in _sample(there, options.limit)]
        data = replace(data, queries={q: data.queries[q] for q in kept}, qrels={q: data.qrels[q] for q in kept})
        _tell(item, len(kept), there)
        rows, _ = evaluate_set(item.name, data, model, base, widths, task=word)
    else:
        task, there = _load(item, options)
        left_out = task.left_out
        _tell(item, len(task), there)
        rows = list(_compare(task, model, base, widths, word))
    fact = {"split": item.split, "task": word, "items": rows[0]["n"], "of": there, "left_out": left_out}
    return [{**head, **row} for row in rows], {**head, **fact}


def _compare(
    task: Task, model: Embedder, base: Embedder | None, widths: list[int], word: str
) -> Iterator[dict[str, Any]]:
    """Yield a result for each dimension and metric."""
    tuned = task.encode(model, word)
    before = task.encode(base, word) if base else None
    for width in widths:
        after = task.scores(tuple(cut(part, width) for part in tuned))
        earlier = task.scores(tuple(cut(part, width) for part in before)) if before else {}
        for metric, score in after.items():
            old = earlier.get(metric)
            row = {
                "metric": metric,
                "dim": width,
                "base": old.value if old else None,
                "tuned": score.value,
                "delta": score.value - old.value if old else None,
                "ci95": gain_interval(old, score) if old else None,
                "n": score.n,
            }
            if score.subsets:
                row["subsets"] = {
                    name: {"base": old.subsets[name] if old else None, "tuned": value}
                    for name, value in score.subsets.items()
                }
            yield row


def _sample(size: int, limit: int | None) -> np.ndarray:
    """Which items of a set are scored, in their order: all, or as many as the limit, the same for every model."""
    if limit is None or limit >= size:
        return np.arange(size)
    return np.sort(np.random.default_rng(_SEED).permutation(size)[:limit])


def _tell(item: TestSet, items: int, there: int) -> None:
    sampled = f" of {there:,}, a sample" if items < there else ""
    logger.info("evaluating %s (%s, %s): %s items%s", item.name, item.task_type, item.split, f"{items:,}", sampled)


def widest_main(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The main metric of each set at the widest dimension; a result without a type is one of retrieval."""
    main = [row for row in results if row["metric"] == MAIN[row.get("task_type", "retrieval")]]
    widest = max((row["dim"] for row in main), default=0)
    return [row for row in main if row["dim"] == widest]


def type_means(main: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Average results of main metrics over the sets of a type, and then over the types, every one alike."""
    means: dict[str, dict[str, float | None]] = {}
    for dim in dict.fromkeys(row["dim"] for row in main):
        of_type = {
            kind: _mean([row for row in main if (row["task_type"], row["dim"]) == (kind, dim)])
            for kind in dict.fromkeys(row["task_type"] for row in main)
        }
        means |= {f"{kind}@{dim}": mean for kind, mean in of_type.items()}
        means[f"types@{dim}"] = _mean(list(of_type.values()))
    return means


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    return {
        column: None if rows[0][column] is None else float(np.mean([row[column] for row in rows]))
        for column in ("base", "tuned", "delta")
    }
