"""The kind a task string is of, so that kinds can be counted and sampled evenly (paper, section 4.3 and table 2).

FRet's tasks are sentences in a teacher's own words, thousands of them. The paper puts the frequent ones into four kinds
(question answering, search result, fact checking, sentence similarity) but does not say how; here their words decide.
"""

from __future__ import annotations

import re

ANSWERING = "question answering"

# In order: a claim "that answers" is still a claim. What fits none asks for something a passage answers.
_PATTERNS = (
    ("fact checking", r"\b(claims?|statements?|assertions?|refut\w+|verif\w+|fact[- ]check\w*)\b"),
    (
        "semantic similarity",
        r"\b(same (meaning|thing|idea|message|sense|content)|(means|says?) the same|similarity|paraphras\w+"
        r"|in other words|restat\w+)\b",
    ),
    ("search result", r"\b(key ?words?|search(es)?|quer(y|ies)|few words)\b"),
)
_KINDS = tuple((kind, re.compile(pattern)) for kind, pattern in _PATTERNS)
_SENTENCE = re.compile(r"\b(find|retrieve)\b|[.!?]$")


def task_kind(task: str) -> str:
    """Name the kind of a task string: a short label is its own kind, a sentence one of the four by its words.

    ``sentence similarity``, FRet's word, and ``semantic similarity``, the paper's at evaluation, are one kind.
    """
    task = " ".join(task.split()).lower()
    if task and task != "sentence similarity" and not _SENTENCE.search(task):
        return task
    return next((kind for kind, pattern in _KINDS if pattern.search(task)), ANSWERING)
