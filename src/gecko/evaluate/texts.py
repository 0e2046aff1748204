"""The texts of evaluation sets, for an audit of training rows: what is asked, and what is searched.

A question is a text that a figure is taken over: a query, or any text of a set that compares, sorts or pairs texts. A
document is what queries are searched among. To have trained on a question spoils the figure; to have trained on a
corpus that one searches is what tuning is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gecko.errors import GeckoError
from gecko.evaluate.beir import load_beir
from gecko.evaluate.folders import Skipped, TaskType, TestSet, find_sets
from gecko.evaluate.rows import read_rows, texts_of

# Of each type but retrieval: the columns of questions, and those of documents.
_COLUMNS: dict[TaskType, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "reranking": (("query",), ("positive", "negative")),
    "sts": (("sentence1", "sentence2"), ()),
    "pair_classification": (("sentence1", "sentence2"), ()),
    "bitext": (("sentence1", "sentence2"), ()),
    "classification": (("text",), ()),
    "clustering": (("text",), ()),
    "summarization": (("human_summaries", "machine_summaries"), ()),
}


@dataclass(frozen=True, slots=True)
class EvaluationText:
    """One text: its id in its set (of a file of rows ``FILE:ROW``), and what it says."""

    text_id: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationTexts:
    """The texts of one set."""

    name: str
    questions: list[EvaluationText]
    documents: list[EvaluationText]


def read_evaluation(
    places: Sequence[tuple[str, str]], *, documents: bool = True
) -> tuple[list[EvaluationTexts], list[Skipped]]:
    """Read the texts of evaluation sets.

    Args:
        places: (folder or file as :func:`find_sets` takes it, split) of each.
        documents: Whether documents are wanted.

    Returns:
        Each set once, and what was passed over, with the reason.

    Raises:
        GeckoError: A place is not there or holds no set, or a set that was named itself is broken.
    """
    sets: dict[tuple[Path, TaskType], TestSet] = {}
    skipped: list[Skipped] = []
    for split in dict.fromkeys(split for _, split in places):
        found, passed = find_sets([Path(place) for place, own in places if own == split], split)
        skipped += passed
        for item in found:
            sets.setdefault((item.file if item.task_type != "retrieval" else item.folder, item.task_type), item)
    read = []
    for item in sets.values():
        try:
            read.append(read_set(item, documents=documents))
        except GeckoError as error:
            if item.named:
                raise
            skipped.append(Skipped(item.name, error.message))
    return read, skipped


def read_set(item: TestSet, *, documents: bool = True) -> EvaluationTexts:
    """Read the texts of one set.

    Raises:
        GeckoError: It is broken.
    """
    if item.task_type == "retrieval":
        data = load_beir(item.folder, item.split)
        questions = [EvaluationText(query_id, text) for query_id, text in data.queries.items()]
        whole = zip(data.doc_ids, data.titles, data.texts, strict=True) if documents else ()
        searched = [EvaluationText(doc_id, f"{title} {text}".strip()) for doc_id, title, text in whole]
        return EvaluationTexts(item.name, questions, searched)
    asked, searched_columns = _COLUMNS[item.task_type]
    columns = searched_columns if documents else ()
    return EvaluationTexts(item.name, list(_texts(item.file, asked)), list(_texts(item.file, columns)))


def _texts(file: Path, columns: tuple[str, ...]) -> Iterator[EvaluationText]:
    if not columns:
        return
    for number, (row, where) in enumerate(read_rows(file, columns), start=1):
        for column in columns:
            for text in texts_of(row, column, where):
                yield EvaluationText(f"{file.name}:{number}", text)
