"""Fill a task of MTEB with data from the disk; its metadata, protocol and metrics stay MTEB's own.

The files are read, and refused, as ``gecko evaluate --tasks`` reads them, so both score the same texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gecko.errors import GeckoError
from gecko.evaluate.beir import load_beir
from gecko.evaluate.folders import TaskType
from gecko.evaluate.labels import Classification, Clustering
from gecko.evaluate.mteb.places import data_files, find_beir, find_file, split_names
from gecko.evaluate.pairs import Bitext, PairClassification, Similarity
from gecko.evaluate.pools import Reranking, Summaries

# What MTEB calls a type, and what gecko does; the words put before texts go by the latter.
KINDS: dict[str, TaskType] = {
    "Retrieval": "retrieval",
    "InstructionRetrieval": "retrieval",
    "Reranking": "reranking",
    "InstructionReranking": "reranking",
    "STS": "sts",
    "Classification": "classification",
    "MultilabelClassification": "classification",
    "PairClassification": "pair_classification",
    "Clustering": "clustering",
    "BitextMining": "bitext",
    "Summarization": "summarization",
}
# Of these the folder formats have no columns; their data comes from the network alone.
_NOT_LOCAL = ("InstructionRetrieval", "InstructionReranking", "MultilabelClassification")

Dataset = dict[str, dict[str, Any]]


def load_local(task: Any, place: Path, split: str) -> Dataset:  # noqa: ANN401  (a task of mteb, which may be absent)
    """Read a task's data: subset → split → rows, as its class expects them after its own ``load_data``.

    Args:
        task: A task of MTEB.
        place: The folder that supplies it.
        split: The split that is scored; a classification's training split is read too.

    Returns:
        The subsets of the task that the folder holds, in the task's order; at least one.

    Raises:
        GeckoError: A type without a folder format, or a split, a subset or a column is missing or broken.
    """
    name, kind = task.metadata.name, task.metadata.type
    if kind in _NOT_LOCAL or getattr(task, "parallel_subsets", False) or getattr(task, "is_cross_validation", False):
        raise GeckoError(
            f"{name}: no folder format holds this kind of task ({kind})", "leave out --mteb-data to ask the Hub for it"
        )
    splits = split_names(split, len(task.metadata.eval_splits) == 1)
    read = _READERS[KINDS[kind]]
    found: Dataset = {}
    for subset in task.hf_subsets:
        rows = read(task, _folders(task, place, subset), splits)
        if rows is not None:
            found[subset] = {split: rows} if KINDS[kind] != "classification" else rows | {split: rows["test"]}
    if KINDS[kind] == "bitext" and not found:
        found = _by_language(task, place, splits, split)
    if not found:
        raise GeckoError(
            f"{place}: no split {split!r} for {name} ({kind}); there is {data_files(place)}",
            f"it is looked for as {' or '.join(splits)}; docs/evaluation.md says in which files",
        )
    return {subset: _as_dict(rows, KINDS[kind]) for subset, rows in found.items()}


def count_items(task: Any, dataset: Mapping[str, Any], split: str) -> int:  # noqa: ANN401
    """How many items a figure is over: queries of retrieval, else rows."""
    sizes = []
    for subset in task.hf_subsets:
        parts = dataset.get(subset, dataset if subset == "default" else None)
        if parts is None or split not in parts:
            continue
        rows = parts[split]
        sizes.append(len(rows["queries"]) if isinstance(rows, dict) else len(rows))
    return sum(sizes)


def _folders(task: Any, place: Path, subset: str) -> list[Path]:  # noqa: ANN401
    """Where a subset may lie: in a folder of its name; a task's only one in the place itself, or in its language's."""
    if subset != "default":
        return [place / subset]
    import langcodes

    tags = [language.partition("-")[0] for language in task.metadata.eval_langs]
    return [place, *(place / tag for tag in tags), *(place / langcodes.standardize_tag(tag) for tag in tags)]


def _as_dict(splits: dict[str, Any], kind: TaskType) -> Any:  # noqa: ANN401
    from datasets import DatasetDict

    return splits if kind in ("retrieval", "reranking") else DatasetDict(splits)


def _table(columns: Mapping[str, Sequence[Any]]) -> Any:  # noqa: ANN401
    from datasets import Dataset as Table

    return Table.from_dict(dict(columns))


def _retrieval(task: Any, folders: list[Path], splits: list[str]) -> Any:  # noqa: ANN401
    if (found := find_beir(folders, splits)) is None:
        return None
    data = load_beir(*found)
    return {
        "corpus": _table({"id": data.doc_ids, "title": data.titles, "text": data.texts}),
        "queries": _table({"id": list(data.queries), "text": list(data.queries.values())}),
        "relevant_docs": data.qrels,
        "top_ranked": None,
    }


def _reranking(task: Any, folders: list[Path], splits: list[str]) -> Any:  # noqa: ANN401
    if (path := find_file(folders, task.metadata.name, splits, "reranking")) is None:
        return None
    data = Reranking.read(path)
    # mteb puts equal scores in descending order of their ids; so these count against the model, as in gecko's figure.
    ranked = {
        f"q{row}": [f"q{row}-{len(pool) - place:06d}" for place in range(len(pool))]
        for row, pool in enumerate(data.pools)
    }
    relevant = {
        query: {text: int(place >= len(ids) - count) for place, text in enumerate(ids)}
        for (query, ids), count in zip(ranked.items(), data.relevant, strict=True)
    }
    texts = [text for pool in data.pools for text in pool]
    ids = [text for pool in ranked.values() for text in pool]
    return {
        "corpus": _table({"id": ids, "title": [""] * len(ids), "text": texts}),
        "queries": _table({"id": list(ranked), "text": data.queries}),
        "relevant_docs": relevant,
        "top_ranked": ranked,
    }


def _sts(task: Any, folders: list[Path], splits: list[str]) -> Any:  # noqa: ANN401
    if (path := find_file(folders, task.metadata.name, splits)) is None:
        return None
    data = Similarity.read(path)
    first, second = task.column_names
    return _table({first: data.first, second: data.second, "score": data.gold.tolist()})


def _pairs(task: Any, folders: list[Path], splits: list[str]) -> Any:  # noqa: ANN401
    if (path := find_file(folders, task.metadata.name, splits)) is None:
        return None
    data = PairClassification.read(path)
    return _table(
        {
            task.input1_column_name: data.first,
            task.input2_column_name: data.second,
            task.label_column_name: data.gold.tolist(),
        }
    )


def _classification(task: Any, folders: list[Path], splits: list[str]) -> Any:  # noqa: ANN401
    if (path := find_file(folders, task.metadata.name, splits)) is None:
        return None
    if (train := find_file([path.parent], task.metadata.name, [task.train_split])) is None:
        raise GeckoError(
            f"{path.parent}: no split {task.train_split!r} for {task.metadata.name}, whose classifier learns from it; "
            f"there is {data_files(path.parent)}",
            f"put {task.train_split}.jsonl beside {path.name}",
        )
    data = Classification.read(path, train, task.samples_per_label)
    number = _numbers([*data.train_labels, *data.labels])
    text, label = task.input_column_name, task.label_column_name
    return {
        task.train_split: _table({text: data.train_texts, label: [number[own] for own in data.train_labels]}),
        "test": _table({text: data.texts, label: [number[own] for own in data.labels]}),
    }


def _clustering(task: Any, folders: list[Path], splits: list[str]) -> Any:  # noqa: ANN401
    from mteb.abstasks.clustering_legacy import AbsTaskClusteringLegacy

    if (path := find_file(folders, task.metadata.name, splits)) is None:
        return None
    data = Clustering.read(path)
    columns: dict[str, list[Any]] = {
        task.input_column_name: data.texts,
        task.label_column_name: [str(label) for label in data.labels],
    }
    # The first version's classes cluster sets of texts, one set a row.
    legacy = isinstance(task, AbsTaskClusteringLegacy)
    return _table({name: [values] for name, values in columns.items()} if legacy else columns)


def _bitext(task: Any, folders: list[Path], splits: list[str]) -> Any:  # noqa: ANN401
    path = find_file(folders, task.metadata.name, splits)
    if path is None:
        return None
    data = Bitext.read(path)
    if len(set(data.subsets)) > 1:
        raise GeckoError(f"{path}: holds several language pairs, {task.metadata.name} has one", "leave one of them")
    return _table({"sentence1": data.first, "sentence2": data.second})


def _by_language(task: Any, place: Path, splits: list[str], split: str) -> Dataset:  # noqa: ANN401
    """Read one file whose column ``lang`` names the task's subsets."""
    if (path := find_file([place], task.metadata.name, splits)) is None:
        return {}
    data = Bitext.read(path)
    there = set(data.subsets)
    wanted = [subset for subset in task.hf_subsets if subset in there]
    if not wanted:
        raise GeckoError(
            f"{path}: its lang names none of the subsets of {task.metadata.name}",
            f"they are called as MTEB does, for example {task.hf_subsets[0]}",
        )
    rows = list(zip(data.first, data.second, data.subsets, strict=True))
    return {
        subset: {
            split: _table(
                {
                    "sentence1": [first for first, _, own in rows if own == subset],
                    "sentence2": [second for _, second, own in rows if own == subset],
                }
            )
        }
        for subset in wanted
    }


def _summaries(task: Any, folders: list[Path], splits: list[str]) -> Any:  # noqa: ANN401
    if (path := find_file(folders, task.metadata.name, splits)) is None:
        return None
    data = Summaries.read(path)
    return _table(
        {
            task.text_column_name: [""] * len(data),  # the article, which no figure reads
            task.human_summaries_column_name: data.human,
            task.machine_summaries_column_name: data.machine,
            task.relevancy_column_name: data.gold,
        }
    )


def _numbers(labels: Sequence[str]) -> dict[str, int]:
    """Number the labels: as they are where all are whole numbers, else in alphabetical order."""
    different = sorted(set(map(str, labels)))
    try:
        return {label: int(label) for label in different}
    except ValueError:
        return {label: number for number, label in enumerate(different)}


_READERS: dict[TaskType, Callable[[Any, list[Path], list[str]], Any]] = {
    "retrieval": _retrieval,
    "reranking": _reranking,
    "sts": _sts,
    "pair_classification": _pairs,
    "classification": _classification,
    "clustering": _clustering,
    "bitext": _bitext,
    "summarization": _summaries,
}
