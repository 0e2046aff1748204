"""Finds the JSON object in a language model's reply: alone, in prose or a fence, behind its thoughts, or mended."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

LONGEST = 100_000
_LONGEST_MENDED, _MOST_BRACKETS = 8_000, 100  # json-repair takes seconds for thousands of brackets
_STARTS = 64  # places where an object is looked for: a reply of braces alone must not take minutes
_THOUGHT = re.compile(r"\A.*(?:</think(?:ing)?>|<\|message\|>)|<think(?:ing)?>.*\Z", re.DOTALL | re.IGNORECASE)
_OPENING = re.compile(r":\s*([\"'“])")
_COMPLETE = {
    opening: re.compile(rf"(?:(?<!\\){closing}|\])\s*,?\s*\}}*\Z")
    for opening, closing in (('"', '"'), ("'", "'"), ("“", '[”"]'))
}


class JsonObject(dict[str, Any]):
    """A JSON object, its keys in lower case.

    Attributes:
        contradicted: Keys that were given more than one value.
    """

    contradicted: frozenset[str] = frozenset()


def without_thoughts(text: str) -> str:
    """What a reasoning model said after it had thought; nothing where it never came to an end."""
    return _THOUGHT.sub("", text).strip()


def find_objects(text: str, keys: tuple[str, ...], *, mend: bool) -> Iterator[JsonObject]:
    """Objects of a reply that have one of the keys, the surest first.

    Args:
        text: The reply; one longer than :data:`LONGEST` without its thoughts holds none.
        keys: In lower case.
        mend: Whether json-repair may be tried where there is no other object. It must not on a reply that was cut off:
            the end that it invents would pass for what the model wrote.
    """
    if len(text) > LONGEST:
        text = without_thoughts(text)
        if len(text) > LONGEST:
            return
    whole = _wanted(_parse(text.strip()), keys)
    if whole is not None:
        yield whole
        return
    said = without_thoughts(text)
    some = False
    for value in _parsed(said):
        wanted = _wanted(value, keys)
        if wanted is not None:
            some = True
            yield wanted
    mended = _wanted(_mended(said), keys) if mend and not some else None
    if mended is not None:
        yield mended


def _object_of(pairs: list[tuple[str, Any]]) -> JsonObject:
    made = JsonObject()
    twice = set()
    for key, value in pairs:
        name = key.strip().casefold()
        if name in made and json.dumps(made[name]) != json.dumps(value):
            twice.add(name)
        made[name] = value
    made.contradicted = frozenset(twice)
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_object_of)


def _parse(text: str) -> Any:  # noqa: ANN401
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _parsed(text: str) -> Iterator[Any]:
    at = text.find("{")
    for _ in range(_STARTS):
        if at < 0:
            return
        try:
            value, end = _DECODER.raw_decode(text, at)
        except ValueError:
            end = at + 1
        except RecursionError:
            return  # each further brace would be tried as deep again
        else:
            yield value
        at = text.find("{", end)


def _mended(text: str) -> Any:  # noqa: ANN401
    """What json-repair makes of text that ends as an object ends; None where it makes nothing."""
    start, end = text.find("{"), text.rfind("}")
    body = text[max(start, 0) : end + 1] if end > start else text[max(start, 0) :].strip("` \r\n\t")
    if start < 0 or len(body) > _LONGEST_MENDED or body.count("{") + body.count("[") > _MOST_BRACKETS:
        return None
    # The last string must be closed as it was opened; an apostrophe or a quoted word in it closes nothing.
    if not _COMPLETE[['"', *_OPENING.findall(body)][-1]].search(body):
        return None
    from json_repair import repair_json

    try:
        return repair_json(body, return_objects=True, skip_json_loads=True)
    except Exception:  # a guest's parser on hostile text: whatever it raises, there is no answer
        return None


def _wanted(value: Any, keys: tuple[str, ...]) -> JsonObject | None:  # noqa: ANN401
    """The object with one of the keys: the value itself, or one that it wraps."""
    inner = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []
    for one in (value, *inner):
        if isinstance(one, dict):
            made = one if isinstance(one, JsonObject) else _object_of([(str(key), item) for key, item in one.items()])
            if any(key in made for key in keys):
                return made
    return None
