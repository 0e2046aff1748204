"""Do gecko's figures on general tasks agree with MTEB's own code? The same vectors are scored by both.

    python bench/agree.py DATA...        in an environment that also has mteb==2.26.*; folders as --tasks takes them

Retrieval is left to the tests, which compare it with trec_eval. Prints a table, and fails where a figure differs by
0.1 point.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.clustering import AbsTaskClustering
from mteb.abstasks.pair_classification import AbsTaskPairClassification
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.abstasks.text.bitext_mining import AbsTaskBitextMining
from mteb.abstasks.text.summarization import AbsTaskSummarization
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction

from gecko.corpus.decode import clean
from gecko.embedder.embedder import Embedder
from gecko.embedder.open import PACKAGED_MODEL
from gecko.evaluate.folders import TestSet
from gecko.evaluate.rows import read_rows
from gecko.evaluate.tasks import MAIN, Sets, TaskOptions, evaluate_tasks, open_sets

ALLOWED = 0.1  # points


class Remembering:
    """The packaged model in float32, which keeps the vector of every text it encoded."""

    def __init__(self) -> None:
        self.model = Embedder(PACKAGED_MODEL, bf16=False)
        self.path, self.dim = self.model.path, self.model.dim
        self.vectors: dict[str, np.ndarray] = {}

    def _encode(self, texts: Iterable[str]) -> np.ndarray:
        texts = list(texts)
        found = self.model.encode(texts)
        self.vectors.update(zip(texts, found, strict=True))
        return found

    def encode_queries(self, queries: list[str], task: str | None = None) -> np.ndarray:
        """Encode and remember."""
        return self._encode(queries)

    def encode_symmetric(self, texts: list[str], task: str, prompt_name: str = "") -> np.ndarray:
        """Encode and remember."""
        return self._encode(texts)

    def encode_passages(self, passages: list[tuple[str, str]]) -> np.ndarray:
        """Encode and remember."""
        return self._encode(text for _, text in passages)


class Recalling(AbsEncoder):
    """Gives mteb the vectors that gecko scored."""

    mteb_model_meta = ModelMeta.model_construct(
        name="gecko/vectors", revision="1", similarity_fn_name=ScoringFunction.COSINE, embed_dim=384
    )

    def __init__(self, vectors: dict[str, np.ndarray]) -> None:
        self.vectors = vectors

    def encode(self, inputs: Any, **_: Any) -> np.ndarray:  # noqa: ANN401
        """Look up the texts of all batches."""
        return np.array([self.vectors[clean(text)] for batch in inputs for text in batch["text"]])


# Of each type: mteb's class, its column for each of ours, and what its sets choose of its settings.
PAIR = {"sentence1": "sentence1", "sentence2": "sentence2"}
TYPES: dict[str, tuple[Any, dict[str, str], dict[str, Any]]] = {
    "sts": (AbsTaskSTS, {**PAIR, "score": "score"}, {}),
    "pair_classification": (AbsTaskPairClassification, {**PAIR, "label": "labels"}, {}),
    "bitext": (AbsTaskBitextMining, PAIR, {}),
    "classification": (AbsTaskClassification, {"text": "text", "label": "label"}, {}),
    "clustering": (
        AbsTaskClustering,
        {"text": "sentences", "label": "labels"},
        {"max_fraction_of_documents_to_embed": None},
    ),
    "summarization": (
        AbsTaskSummarization,
        {"human_summaries": "human_summaries", "machine_summaries": "machine_summaries", "relevance": "relevance"},
        {"min_score": 0, "max_score": 5},
    ),
    "reranking": (AbsTaskRetrieval, {}, {}),
}


def mteb_figure(item: TestSet, vectors: dict[str, np.ndarray]) -> float:
    """Have mteb score the vectors of a set."""
    base, columns, settings = TYPES[item.task_type]
    if item.task_type == "reranking":
        data, subsets, main = pools_of(item.file), ["default"], "map_at_1000"
    else:
        data, subsets = data_of(item, columns)
        main = MAIN[item.task_type]
    metadata = TaskMetadata.model_construct(
        name="agree",
        dataset={"path": "agree", "revision": "1"},
        type=base.__name__.removeprefix("AbsTask"),
        modalities=["text"],
        eval_splits=["test"],
        eval_langs={name: ["eng-Latn"] for name in subsets} if len(subsets) > 1 else ["eng-Latn"],
        main_score=main,
        prompt=None,
    )
    task = type("Agree", (base,), {"metadata": metadata, **settings})()
    task.dataset, task.data_loaded = data, True
    scores = task.evaluate(Recalling(vectors), "test", encode_kwargs={"batch_size": 64})
    return float(np.mean([part[main] for part in scores.values()]))


def data_of(item: TestSet, columns: dict[str, str]) -> tuple[Any, list[str]]:
    """A set's rows as mteb's data, a part of it for each language pair."""
    parts: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for split, path in (("test", item.file), ("train", item.train)):
        if path is None:
            continue
        for row, _ in read_rows(path, list(columns), ("lang",)):
            kept = {name: row[role] for role, name in columns.items()}
            part = row.get("lang", "default") if item.task_type == "bitext" else "default"
            parts[part][split].append({"text": "", **kept} if item.task_type == "summarization" else kept)
    made = {
        name: DatasetDict({split: Dataset.from_list(rows) for split, rows in splits.items()})
        for name, splits in parts.items()
    }
    return (made["default"] if list(made) == ["default"] else made), list(made)


def pools_of(path: Path) -> dict[str, dict[str, RetrievalSplitData]]:
    """Pools as mteb's reranking has them: each text a document of its own, of its query only."""
    corpus, queries = [], []
    relevant: dict[str, dict[str, int]] = {}
    pools: dict[str, list[str]] = {}
    for number, (row, _) in enumerate(read_rows(path, ("query", "positive", "negative"))):
        query = f"query{number}"
        queries.append({"id": query, "text": row["query"]})
        relevant[query] = {}
        for kind, grade in (("positive", 1), ("negative", 0)):
            for place, text in enumerate(row[kind]):
                name = f"{'a' * grade}{kind}_{query}_{place:05d}"  # as mteb names them, which decides between equals
                corpus.append({"id": name, "title": "", "text": text})
                relevant[query][name] = grade
        pools[query] = list(relevant[query])
    split = RetrievalSplitData(
        corpus=Dataset.from_list(corpus),
        queries=Dataset.from_list(queries),
        relevant_docs=relevant,
        top_ranked=pools,
    )
    return {"default": {"test": split}}


def main() -> None:
    worst = 0.0
    print(f"| {'type':<20} | {'set':<28} | gecko | mteb | difference |\n|:--|:--|--:|--:|--:|")
    for item in open_sets([Path(place) for place in sys.argv[1:]]).found:
        if item.task_type == "retrieval":
            continue
        model = Remembering()
        report = evaluate_tasks(model, None, Sets((item,), (), TaskOptions()))
        ours = next(row["tuned"] for row in report["results"] if row["metric"] == MAIN[item.task_type])
        theirs = mteb_figure(item, model.vectors)
        worst = max(worst, 100 * abs(ours - theirs))
        print(
            f"| {item.task_type:<20} | {item.name:<28} | {100 * ours:.3f} | {100 * theirs:.3f} "
            f"| {100 * (ours - theirs):+.3f} |",
            flush=True,
        )
    print(f"\nlargest difference: {worst:.3f} points")
    sys.exit(worst >= ALLOWED)


if __name__ == "__main__":
    main()
