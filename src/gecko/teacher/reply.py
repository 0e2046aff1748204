"""Reads what a language model replied: a value, or the reason why there is none. Never raises, whatever the reply.

Strict JSON is tried first, then a JSON object inside prose, a fence or behind ``<think>``, then a mended one. A reply
that was cut off is never mended: the end that a repair invents would pass for what the model wrote.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from gecko.records import Passage
from gecko.teacher.objects import LONGEST, JsonObject, find_objects, without_thoughts
from gecko.teacher.wording import fault_of_query, fault_of_task, is_refusal, one_line

Value = TypeVar("Value")

_NO_SKIP = {"", "none", "null", "no", "false", "n/a", "-"}
_NUMBER = re.compile(r"\s*(?:passage\s*)?[\[(#]?\s*(\d{1,4})\s*[\])]?\s*", re.IGNORECASE)
_NUMBERS = re.compile(r"\d+")
_BARE_ORDER = re.compile(r"[\s\d\[\],>]+")


@dataclass(frozen=True, slots=True)
class Skipped:
    """The model found nothing in the passage that anybody would search for."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A reply that holds no usable answer.

    Attributes:
        reason: What is wrong with it.
        mendable: Whether it may be an answer in a wrong form, which the model can be shown again
            (``repair_prompt``); a cut or filtered reply, a refusal or a bad query is not.
    """

    reason: str
    mendable: bool = False


def read_generation(
    text: str, finish: str = "stop", *, passage: Passage | None = None, tokens: int = 0
) -> tuple[str, str] | Skipped | Unreadable:
    """Read the reply to ``generate_prompt``.

    Of several objects in one reply the first that is usable counts, so that an echo of the shape does no harm.

    Args:
        text: The reply.
        finish: Why it ended (``Answer.finish``).
        passage: What it was written for; where given, a query that copies from it is not accepted.
        tokens: Length of the reply, for the reason of a cut one.

    Returns:
        (task, query), each on one line.
    """
    return _read(text, finish, tokens, ("query", "skip"), lambda found: _generation(found, passage))


def read_grades(
    text: str, count: int, finish: str = "stop", *, tokens: int = 0
) -> tuple[tuple[int, ...], tuple[int, ...]] | Unreadable:
    """Read the reply to ``grade_prompt``.

    There must be a grade from 0 to 3 for every passage. The order may have holes: a passage repeated in it has its
    first place, and one left out is put behind the last one graded as high or higher (several such: by grade, then as
    shown). So a good passage that was forgotten does not end up last, where negatives are taken from.

    Args:
        text: The reply.
        count: How many passages were shown.
        finish: Why it ended (``Answer.finish``).
        tokens: Length of the reply, for the reason of a cut one.

    Returns:
        (grades, order): grades in the order shown, and positions of the passages, from 0, best first.
    """
    return _read(text, finish, tokens, ("grades",), lambda found: _graded(found, count))


def read_order(text: str, count: int, finish: str = "stop", *, tokens: int = 0) -> tuple[int, ...] | Unreadable:
    """Read the reply to ``listwise_prompt``; ``[2, 1]`` or ``[2] > [1]`` without an object will do, too.

    A passage repeated in it has its first place. Where fewer than half are left out, they follow behind the others as
    shown: shown in the miner's order, that is the place ranking gives a candidate without a score.

    Returns:
        The positions of the passages, from 0, best first.
    """
    if finish not in {"length", "content_filter"} and len(text) < LONGEST and _BARE_ORDER.fullmatch(text):
        return _ordered(JsonObject(order=text), count)
    return _read(text, finish, tokens, ("order",), lambda found: _ordered(found, count))


def _read(
    text: str, finish: str, tokens: int, keys: tuple[str, ...], build: Callable[[JsonObject], Value | Unreadable]
) -> Value | Unreadable:
    """The first value that can be built from an object of the reply, or why there is none."""
    if finish == "content_filter":
        return Unreadable("stopped by the server's content filter")
    first: Unreadable | None = None
    for found in find_objects(text, keys, mend=finish != "length"):
        value = build(found)
        if not isinstance(value, Unreadable):
            return value
        first = first or value
    if finish == "length":
        return Unreadable(f"truncated at {tokens} tokens" if tokens else "truncated at the limit of tokens")
    if first is not None:
        return first
    said = without_thoughts(text)
    if not said:
        return Unreadable("the reply is empty" if not text.strip() else "the reply holds thoughts and no answer")
    if is_refusal(said):
        return Unreadable("the model refused")
    if len(text) > LONGEST:
        return Unreadable(f"the reply has {len(text)} characters")
    return Unreadable(f"the reply holds no JSON object with {' or '.join(keys)}", mendable=True)


def _generation(found: JsonObject, passage: Passage | None) -> tuple[str, str] | Skipped | Unreadable:
    if found.contradicted & {"task", "query", "skip"}:
        return Unreadable("the reply gives two values for one key", mendable=True)
    skip = found.get("skip")
    if skip is True or (isinstance(skip, str) and one_line(skip).casefold().rstrip(".") not in _NO_SKIP):
        return Skipped(one_line(skip)[:300] if isinstance(skip, str) else "no reason given")
    texts = {}
    for key in ("task", "query"):
        value = found.get(key)
        if value is None:
            return Unreadable(f"the reply has no {key}", mendable=True)
        if not isinstance(value, str):
            return Unreadable(f"the {key} is no text", mendable=True)
        texts[key] = _bare(one_line(value))
    fault = fault_of_task(texts["task"]) or fault_of_query(texts["query"], passage)
    return Unreadable(fault) if fault else (texts["task"], texts["query"])


def _bare(text: str) -> str:
    """Text without quotation marks around all of it."""
    for left, right in ('""', "“”", "„“", "«»", "「」", "''"):
        inner = text[1:-1]
        if len(text) > 2 and text[0] == left and text[-1] == right and left not in inner and right not in inner:
            return inner.strip()
    return text


def _graded(found: JsonObject, count: int) -> tuple[tuple[int, ...], tuple[int, ...]] | Unreadable:
    if found.contradicted & {"grades", "order"}:
        return Unreadable("the reply gives two values for one key", mendable=True)
    listed = found["grades"]
    if not isinstance(listed, list) or len(listed) != count:
        number = len(listed) if isinstance(listed, list) else "no list of"
        return Unreadable(f"the reply has {number} grades for {count} passages", mendable=True)
    grades = [_grade(value) for value in listed]
    if any(grade is None for grade in grades):
        return Unreadable("a grade is not one of 0, 1, 2 and 3", mendable=True)
    known = [grade for grade in grades if grade is not None]
    order = _positions(found.get("order"), count)
    if isinstance(order, Unreadable):
        return order
    for position in sorted(set(range(count)) - set(order), key=lambda one: (-known[one], one)):
        better = [place for place, one in enumerate(order) if known[one] >= known[position]]
        order.insert(better[-1] + 1 if better else 0, position)
    return tuple(known), tuple(order)


def _grade(value: Any) -> int | None:  # noqa: ANN401
    if isinstance(value, str):
        return int(value) if value in {"0", "1", "2", "3"} else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value in (0, 1, 2, 3) else None


def _ordered(found: JsonObject, count: int) -> tuple[int, ...] | Unreadable:
    if "order" in found.contradicted:
        return Unreadable("the reply gives two values for one key", mendable=True)
    order = _positions(found["order"], count)
    if isinstance(order, Unreadable):
        return order
    left_out = [position for position in range(count) if position not in set(order)]
    if 2 * len(left_out) >= count > 0:
        return Unreadable(f"the reply orders {len(order)} of {count} passages", mendable=True)
    return (*order, *left_out)


def _positions(value: Any, count: int) -> list[int] | Unreadable:  # noqa: ANN401
    """Positions from 0 of an order counted from 1, without repetitions; none where there is no order."""
    if isinstance(value, str):
        value = _NUMBERS.findall(value)
    if value is None:
        return []
    if not isinstance(value, list):
        return Unreadable("the order is no list", mendable=True)
    numbers = [_number(one) for one in value]
    if sorted(number for number in numbers if number is not None) == list(range(count)) and len(numbers) == count:
        return [number for number in numbers if number is not None]  # counted from 0 throughout
    if not all(number is not None and 1 <= number <= count for number in numbers):
        return Unreadable(f"the order names something that is no passage from 1 to {count}", mendable=True)
    return list(dict.fromkeys(number - 1 for number in numbers if number is not None))


def _number(value: Any) -> int | None:  # noqa: ANN401
    if isinstance(value, str):
        found = _NUMBER.fullmatch(value)
        return int(found[1]) if found else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value == value and abs(value) < 10_000 and value == int(value) else None
