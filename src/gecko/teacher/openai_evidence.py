"""What in a reply to :mod:`gecko.teacher.openai_probe` shows that a server has a feature."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from gecko.teacher.ask import EngineError, Labels, Likelihood
from gecko.teacher.openai_read import read, scored_tokens
from gecko.teacher.openai_tokens import span
from gecko.teacher.openai_wire import Dialect


def first_of(dialect: Dialect, ask: Likelihood, reply: Mapping[str, Any] | None) -> tuple[str, float] | None:
    """The continuation's first token and its value, where a reply has a value for each of its tokens."""
    try:
        found = read(dialect, ask, reply or {}).logprobs
        scored = scored_tokens(dialect, reply or {})
        token = scored.tokens[span(scored, ask)[0]]
    except (EngineError, LookupError, TypeError, ValueError, AttributeError):
        return None
    return (token, found[0]) if 2 <= len(found) <= len(ask.continuation) else None


def label_mass(dialect: Dialect, ask: Labels, reply: Mapping[str, Any] | None) -> float:
    """Probability of the labels that a reply reports; 0 where it reports none, or takes the wrong one for likelier.

    The digits that a model about to think or to say something else has among its likely tokens mean nothing.
    """
    try:
        answer = read(dialect, ask, reply or {})
    except EngineError:
        return 0.0
    told = {label: value for label, value in answer.labels.items() if label not in answer.floored}
    right = max(answer.labels, key=answer.labels.__getitem__) == "1"  # is ice cold: yes
    return sum(map(math.exp, told.values())) if right and "1" in told else 0.0


def distinct(ids: Mapping[str, list[int]]) -> bool:
    """Whether no token stands for two labels."""
    every = [number for numbers in ids.values() for number in numbers]
    return len(every) == len(set(every))


def obeys(text: str, schema: str) -> bool:
    """Whether a reply has the form of the probe's schema, or any JSON form where only that was asked for."""
    try:
        value = json.loads(text)
    except ValueError:
        return False
    if schema == "json_object":
        return isinstance(value, dict)
    return isinstance(value, dict) and set(value) == {"warm", "degrees"} and isinstance(value["warm"], bool)
