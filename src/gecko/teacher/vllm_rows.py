"""What a question becomes for vLLM, as rows of a Ray dataset, and how its answer is read off the rows that come back.

Token ids are made by the definitions that the in-process engines share (``tokens``, ``pieces``). QL is read off
``prompt_logprobs`` and is exact; RC is read off the likeliest next tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gecko.corpus.decode import clean
from gecko.errors import reason
from gecko.teacher.ask import Answer, Ask, Likelihood, Write
from gecko.teacher.openai_errors import Damaged
from gecko.teacher.openai_tokens import values
from gecko.teacher.pieces import Reading, label_values, read_labels, read_likelihood
from gecko.teacher.tokens import Tokens

_NOTHING = "no log-probabilities in its answer"
# What vLLM says of a question that it will never answer; anything else may be trouble of the engine or the machine.
_REFUSED = re.compile(r"ValueError|ValidationError|longer than|context length|max_model_len")
TOP = 20  # what vLLM reports at most by default (its max_logprobs)


@dataclass(frozen=True, slots=True)
class Question:
    """An ask as rows of the pipeline, and how their answers are read; no reading for a :class:`Write`."""

    rows: list[dict[str, Any]]
    reading: Reading | None = None


def question_of(ask: Ask, tokens: Tokens) -> Question:
    """The rows that an ask becomes.

    Raises:
        PieceError: The model's tokens cannot express it.
    """
    if isinstance(ask, Write):
        return Question([_row(tokens.chat(ask.prompt), ask.max_tokens, temperature=ask.temperature, seed=ask.seed)])
    if isinstance(ask, Likelihood):
        reading = read_likelihood(tokens.encode, tokens.start, ask)
        fed = [*reading.prefix, *reading.rest, reading.wanted[-1][1]]
        return Question([_row(fed, 1, tail=len(reading.wanted))], reading)
    reading = read_labels(tokens.encode, tokens.start, ask)
    fed = [*reading.prefix, *reading.rest]
    # Two places where the vocabulary has the space before a digit as a token of its own.
    return Question([_row(fed[: at + 1], 1, top=TOP) for at in sorted({at for at, _ in reading.wanted})], reading)


def _row(
    tokens: list[int], most: int, *, temperature: float = 0.0, seed: int = 0, tail: int = 0, top: int = 0
) -> dict[str, Any]:
    """A row as the processor takes it; ``tail`` tokens at its end are to be read.

    Rows of one dataset must have the same parameters and a value for each: Arrow makes floats of numbers beside none.
    """
    params: dict[str, Any] = {"temperature": temperature, "max_tokens": most, "seed": seed, "logprobs": top}
    if tail:
        params["prompt_logprobs"] = 0  # of the given token alone
    return {"tokenized_prompt": tokens, "tail": tail, "sampling_params": params}


def kept(row: dict[str, Any]) -> dict[str, Any]:
    """What of the processor's output is sent back, as JSON: a token's number is no name of a column."""
    tokens, given, tops = row["prompt_token_ids"], row["prompt_logprobs"], row["logprobs"]
    read = range(len(tokens) - row["tail"], len(tokens))
    tail = [] if given is None else [given[at][tokens[at]]["logprob"] for at in read]
    top = {} if tops is None else {int(token): entry["logprob"] for token, entry in tops[0].items()}
    value = {
        "text": row["generated_text"],
        "input": row["num_input_tokens"],
        "output": row["num_generated_tokens"],
        "tail": tail,
        "top": top,
    }
    return {"number": row["number"], "answer": json.dumps(value)}


def answer_of(ask: Ask, reading: Reading | None, replies: Sequence[Mapping[str, Any]]) -> Answer:
    """The answer in all the rows of one ask that came back; ``error`` where vLLM refused it or left something out."""
    failed = next((row["__inference_error__"] for row in replies if row.get("__inference_error__")), "")
    if failed:
        return Answer(error=reason(ValueError(failed)), transient=_REFUSED.search(failed) is None)
    parts = sorted((json.loads(row["answer"]) for row in replies), key=lambda part: part["input"])
    used: dict[str, Any] = {
        "input_tokens": sum(part["input"] for part in parts),
        "output_tokens": sum(part["output"] for part in parts),
    }
    if isinstance(ask, Write):
        # It is not said why a reply ended.
        finish = "length" if used["output_tokens"] >= ask.max_tokens else "stop"
        return Answer(text=clean(parts[0]["text"]), finish=finish, **used)
    assert reading is not None  # noqa: S101 - every question but a Write has one
    try:
        if isinstance(ask, Likelihood):
            found = values(parts[0]["tail"])
            return Answer(logprobs=found, **used) if found else Answer(error=_NOTHING, **used)
        places = sorted({at for at, _ in reading.wanted})
        tops = {
            at: dict(zip(map(int, part["top"]), values(part["top"].values()), strict=True))
            for at, part in zip(places, parts, strict=True)
        }
        labels, floored = _labels(reading, tops)
        return Answer(labels=labels, floored=floored, **used)
    except (Damaged, ValueError):  # min() of none
        return Answer(error=_NOTHING, **used)


def _labels(reading: Reading, tops: Mapping[int, Mapping[int, float]]) -> tuple[dict[str, float], tuple[str, ...]]:
    """Labels from the likeliest tokens at each place; one of which no form is among them gets what bounds it."""
    known = [tops[at].get(token) for at, token in reading.wanted]
    bounded = [
        min(tops[at].values()) if value is None else value for (at, _), value in zip(reading.wanted, known, strict=True)
    ]
    forms: list[tuple[str, tuple[tuple[int, ...], ...]]] = []
    floored: list[str] = []
    for label, ways in reading.forms:
        whole = tuple(way for way in ways if all(known[index] is not None for index in way))
        if not whole:
            floored.append(label)
            whole = (max(ways, key=lambda way: sum(bounded[index] for index in way)),)
        forms.append((label, whole))
    return label_values(replace(reading, forms=tuple(forms)), bounded), tuple(floored)
