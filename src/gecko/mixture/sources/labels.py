"""Labelled texts as triples: a text, another of its label, and one of another label (paper, section 3.3).

With the unique-ID trick: each triple's own ID is appended to its three texts, so that every other row's texts, many of
which share the label and would be false negatives, lack it and are told apart by it alone; only the row's own negative
stays hard. No ID is appended when the model is used.

The ID is six lower-case letters: of one length, so that length tells nothing; a hash, no counter, so that two IDs
differ in most of their pieces; letters, as an encoder that was not trained yet tells them apart far better than digits,
and in fewer tokens (docs/mixture.md has the figures).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from string import ascii_lowercase

from gecko.mixture.sources.make import Draft, RowMaker
from gecko.mixture.sources.read import Item
from gecko.records import UnifiedRow, content_id

logger = logging.getLogger(__name__)

_LETTERS = 6
_APPENDED = re.compile(rf" [a-z]{{{_LETTERS}}}\Z")


def labelled(items: Iterable[Item], maker: RowMaker) -> Iterator[Draft]:
    """Draft a row of each text whose label has another one. The texts are held in memory.

    Raises:
        GeckoError: There is no text, one label only, or no label with two texts.
    """
    groups = _group(items, maker)
    texts = [text for members in groups.values() for text in members]
    if len(groups) < 2:
        found = f"all {len(texts)} texts have the label {next(iter(groups))!r}" if groups else "no usable text"
        raise maker.trouble(found, f"{maker.options.kind} needs texts of two labels or more")
    if all(len(members) < 2 for members in groups.values()):
        raise maker.trouble(f"none of its {len(groups)} labels has two texts", "is the right column named as label?")
    longest = maker.options.max_chars
    if cut := sum(len(text) > longest for text in texts):
        logger.info("source %s: %d texts cut to %d characters", maker.options.name, cut, longest)
    taken: set[int] = set()
    start = 0
    for label, members in groups.items():
        end = start + len(members)
        if len(members) == 1:
            maker.account.unused[f"the only text of its label ({label})"] += 1
        else:
            yield from _of_one_label(texts, start, end, maker, taken)
        start = end


def unique_id_of(row: UnifiedRow) -> str:
    """The unique ID of a row, with the space before it; empty where its texts do not all end with the same.

    Rows do not say of what kind they are. One whose texts end with the same six letters by chance passes for one with
    an ID, and loses nothing by it.
    """
    found = _APPENDED.search(row.query)
    ends_all = found is not None and all(text.endswith(found[0]) for text in (row.positive, *row.negatives))
    return found[0] if found is not None and ends_all else ""


def _of_one_label(texts: list[str], start: int, end: int, maker: RowMaker, taken: set[int]) -> Iterator[Draft]:
    """Draft the rows of ``texts[start:end]``, which are all of their label."""
    outside = len(texts) - (end - start)
    for own in range(start, end):
        like = int(maker.draw.integers(start, end - 1))
        like += like >= own
        drawn = maker.draw.choice(outside, size=min(maker.negatives, outside), replace=False)
        unlike = [int(place) + (end - start if place >= start else 0) for place in drawn]
        row_id = content_id(maker.options.name, texts[own])
        tag = _unique_id(row_id, taken)
        query, positive, *negatives = (
            f"{texts[place][: maker.options.max_chars].rstrip()} {tag}" for place in (own, like, *unlike)
        )
        yield from maker.keep(replace(maker.draft(query, positive, negatives), row_id=row_id))


def _group(items: Iterable[Item], maker: RowMaker) -> dict[str, list[str]]:
    """Gather the distinct texts of each label; a text with two labels is set aside wherever it stands."""
    labels: dict[str, set[str]] = {}
    places: dict[str, list[str]] = {}
    for item in items:
        labels.setdefault(item.values["text"], set()).add(item.values["label"])
        places.setdefault(item.values["text"], []).append(item.where)
    groups: dict[str, list[str]] = {}
    for text, found in labels.items():
        if len(found) > 1:
            for where in places[text]:
                maker.account.set_aside(where, f"the same text has the labels {', '.join(sorted(found))}", text)
            continue
        groups.setdefault(found.pop(), []).append(text)
        if len(places[text]) > 1:
            maker.account.unused["repeats an earlier text"] += len(places[text]) - 1
    return groups


def _unique_id(row_id: str, taken: set[int]) -> str:
    number = int(content_id("unique", row_id), 16) % 26**_LETTERS
    while number in taken:
        number = (number + 1) % 26**_LETTERS
    taken.add(number)
    return "".join(ascii_lowercase[number // 26**place % 26] for place in range(_LETTERS))
