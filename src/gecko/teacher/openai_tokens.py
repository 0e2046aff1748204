"""Finds the tokens that count among those a server reports: a continuation's at the end of a text, and labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gecko.teacher.ask import EngineError, Likelihood
from gecko.teacher.openai_errors import Damaged

_SPACES = ("Ġ", "▁", " ")
_ROUNDING = 1e-3  # a log-probability of certainty may come out a little above 0
_BROKEN = "\ufffd"


class Unspelled(EngineError):
    """The reported tokens do not spell the continuation, so that its own are not known by their text."""

    def __init__(self) -> None:
        super().__init__("the tokens of the reply do not spell the continuation")


@dataclass(frozen=True, slots=True)
class Scored:
    """Tokens of a given text with their log-probabilities.

    Attributes:
        tokens: Their texts; a server may lose spaces and the bytes of split characters in them.
        logprobs: None where the server has none, as for the first token.
        offsets: Where each begins in the text, in characters; empty where the server does not say.
        generated: How many at the end were generated; None where that is not known.
        trusted: Whether the offsets were found to be right; they are then believed also where the tokens' texts lack
            bytes.
    """

    tokens: Sequence[str]
    logprobs: Sequence[float | None]
    offsets: Sequence[int] = ()
    generated: int | None = 0
    trusted: bool = False


def values(numbers: Iterable[object]) -> tuple[float, ...]:
    """Log-probabilities as a server sent them, checked.

    Raises:
        Damaged: One is missing, not finite, or positive.
    """
    found = []
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise Damaged("a log-probability is missing or not a number")
        if number > _ROUNDING:
            raise Damaged("a log-probability is positive")
        found.append(min(float(number), 0.0))
    return tuple(found)


def tail(scored: Scored, ask: Likelihood, count: int | None = None) -> tuple[float, ...]:
    """Log-probabilities of the continuation's tokens; a token that begins before it and ends in it is one of them.

    Args:
        scored: The tokens of prompt and continuation.
        ask: The prompt and the continuation.
        count: How many tokens the continuation has, where the server counted them.

    Raises:
        Damaged: They are too few, or one is no log-probability.
        Unspelled: The tokens' text does not match, and there is no count.
    """
    start, end = span(scored, ask, count)
    found = values(scored.logprobs[start:end])
    if not found:
        raise Damaged("no log-probability of the continuation")
    return found


def span(scored: Scored, ask: Likelihood, count: int | None = None) -> tuple[int, int]:
    """First token of the continuation, and the one after its last; see :func:`tail`."""
    total = len(scored.tokens)
    if count is not None:
        end = total - (scored.generated or 0)
        if not 0 < count <= end:
            raise Damaged("fewer log-probabilities than the continuation has tokens")
        return end - count, end
    if scored.offsets:
        boundary = len(ask.prompt.shared) + len(ask.prompt.own)
        stop = boundary + len(ask.continuation)
        ends = [*scored.offsets[1:], math.inf]
        inside = [at for at in range(total) if scored.offsets[at] < stop and ends[at] > boundary]
        if inside and (scored.trusted or _spells(scored.tokens[inside[0] : inside[-1] + 1], ask.continuation)):
            return inside[0], inside[-1] + 1
    # Offsets that count a marker of the text's start, or bytes, are off; the end of the text is not.
    for generated in dict.fromkeys((scored.generated, 0, 1)):
        if generated is None:
            continue
        start = _walk(scored.tokens[: total - generated], ask.continuation)
        if start is not None:
            return start, total - generated
    raise Unspelled


def squeeze(text: str) -> str:
    """A text without spaces, which servers lose or mark in single tokens."""
    for space in _SPACES[:2]:
        text = text.replace(space, " ")
    return "".join(text.split())


def _spells(tokens: Sequence[str], text: str) -> bool:
    wanted, first, rest = squeeze(text), squeeze(tokens[0]), squeeze("".join(tokens[1:]))
    # Only the first token may have begun before the text.
    return _BROKEN not in first + rest and (first + rest).endswith(wanted) and (len(rest) < len(wanted) or not first)


def _walk(tokens: Sequence[str], text: str) -> int | None:
    """Where the tokens at the end begin to spell a text, or None."""
    wanted, got, raw = squeeze(text), "", 0
    for at in range(len(tokens) - 1, -1, -1):
        if _BROKEN in tokens[at]:
            return None
        got = squeeze(tokens[at]) + got
        raw += len(tokens[at])
        if len(got) < len(wanted):
            continue
        if not got.endswith(wanted):
            return None
        while at and raw + len(tokens[at - 1]) <= len(text) and not squeeze(tokens[at - 1]):
            at -= 1
            raw += len(tokens[at])
            if not tokens[at]:
                break
        return at
    return None


def match_labels(top: Sequence[tuple[str, float]], labels: Sequence[str]) -> tuple[dict[str, float], tuple[str, ...]]:
    """Log-probability of each label among the likeliest tokens, and the labels that are not among them.

    A label's tokens with and without a leading space are one outcome, so their probabilities are added. A label that
    is not reported gets the lowest value that is: it is no likelier than that.

    Raises:
        Damaged: No token is reported.
    """
    if not top:
        raise Damaged("no log-probabilities of the first token")
    found: dict[str, float] = {}
    for token, value in top:
        label = token[1:] if token.startswith(_SPACES) else token
        if label in labels:
            found[label] = min(_add(found[label], value), 0.0) if label in found else value
    floor = min(value for _, value in top)
    floored = tuple(label for label in labels if label not in found)
    return {label: found.get(label, floor) for label in labels}, floored


def sum_by_label(by_id: Mapping[int, float], label_ids: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Log-probability of each label from those of its tokens.

    Raises:
        Damaged: A token is not reported.
    """
    found: dict[str, float] = {}
    for label, numbers in label_ids.items():
        if any(number not in by_id for number in numbers):
            raise Damaged("a label's token is missing")
        total = by_id[numbers[0]]
        for number in numbers[1:]:
            total = _add(total, by_id[number])
        found[label] = min(total, 0.0)
    return found


def _add(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high + math.log1p(math.exp(low - high))
