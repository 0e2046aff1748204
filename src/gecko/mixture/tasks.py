"""The words for every kind of task, trained by the mixture and used by the evaluation: one table, so that they agree.

The short labels are those of the paper's evaluation (table 9). FRet's tasks are sentences in a teacher's own words,
thousands of them; the paper puts the frequent ones into four kinds (question answering, search result, fact checking,
sentence similarity; section 4.3 and table 2) but does not say how; here their words decide.
"""

from __future__ import annotations

import re

ANSWERING = "question answering"
_SEARCH = "search result"
_SIMILARITY = "semantic similarity"

# Of each kind the short label, and a sentence such as FRet's tasks are. The mixture trains both, the evaluation uses
# the label. Where the paper has none (nli, bitext, pairs, triples) it is that of the nearest kind it has.
TASKS: dict[str, tuple[str, str]] = {
    "retrieval": (_SEARCH, "Given a query, find a passage that answers it."),
    "reranking": (_SEARCH, "Given a query, find a passage that answers it."),
    "nli": (_SIMILARITY, "Given a sentence, find a sentence that follows from it."),
    "sts": (_SIMILARITY, "Given a sentence, find a sentence with the same meaning."),
    "classification": ("classification", "Given a text, find a text of the same class."),
    "clustering": (_SEARCH, "Given a text, find a text on the same topic."),
    "pair_classification": (_SIMILARITY, "Given a text, find a text that says the same in other words."),
    "bitext": (_SIMILARITY, "Given a sentence, find its translation."),
    "summarization": (_SEARCH, "Given a summary, find another summary of the same text."),
    "pairs": (_SEARCH, "Given a query, find a passage that answers it."),
    "triples": (_SEARCH, "Given a query, find a passage that answers it."),
}

# Retrieval and reranking sets that the paper gives a word of its own, by their names in small letters and digits.
# Quora, whose documents it renders as queries too, keeps the word of its kind and the form of retrieval.
DATASETS: dict[str, str] = {
    **dict.fromkeys(("askubuntudupquestions", "scidocsrr"), ANSWERING),
    **dict.fromkeys(("cqadupstack", "dbpedia", "fiqa", "msmarco", "nq", "scidocs", "touche2020"), ANSWERING),
    **dict.fromkeys(("arguana", "mindsmallreranking"), _SIMILARITY),
    **dict.fromkeys(("nfcorpus", "scifact"), "fact checking"),
}

# In order: a claim "that answers" is still a claim. What fits none asks for something a passage answers.
_PATTERNS = (
    ("fact checking", r"\b(claims?|statements?|assertions?|refut\w+|verif\w+|fact[- ]check\w*)\b"),
    (
        _SIMILARITY,
        r"\b(same (meaning|thing|idea|message|sense|content)|(means|says?) the same|similarity|paraphras\w+"
        r"|in other words|restat\w+)\b",
    ),
    (_SEARCH, r"\b(key ?words?|search(es)?|quer(y|ies)|few words)\b"),
)
_KINDS = tuple((kind, re.compile(pattern)) for kind, pattern in _PATTERNS)
_SENTENCE = re.compile(r"\b(find|retrieve)\b|[.!?。！？।؟]$")


def task_kind(task: str) -> str:
    """Name the kind of a task string: a short label is its own kind, a sentence one of the four by its words.

    ``sentence similarity``, FRet's word, and ``semantic similarity``, the paper's at evaluation, are one kind.
    """
    task = " ".join(task.split()).lower()
    if task and task != "sentence similarity" and not _SENTENCE.search(task):
        return task
    return next((kind for kind, pattern in _KINDS if pattern.search(task)), ANSWERING)


def task_word(kind: str, dataset: str = "") -> str:
    """The short label that a test set is asked with: the paper's for the set by that name, else its kind's."""
    name = re.sub(r"[^a-z0-9]", "", dataset.rpartition("/")[2].lower())
    return DATASETS.get(name, TASKS[kind][0]) if kind in ("retrieval", "reranking") else TASKS[kind][0]
