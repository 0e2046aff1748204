"""What a caller hands an embedder, made into texts, a bounded number of them at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar

from gecko.errors import GeckoError

T = TypeVar("T")
Side = Literal["query", "document", "text"]

WINDOW = 4096  # texts that are read, sorted by length and encoded together


def windows(items: Iterable[T], size: int = WINDOW) -> Iterator[list[T]]:
    """Cut a stream into lists of at most ``size`` items."""
    stream = iter(items)
    while block := list(itertools.islice(stream, size)):
        yield block


def is_alone(given: object, side: Side) -> bool:
    """Whether a caller gave one text and not several: a string; of documents also a mapping or a (title, text)."""
    return isinstance(given, str) or (side == "document" and (isinstance(given, Mapping) or _is_pair(given)))


def as_texts(items: Iterable[Any]) -> Iterator[str]:
    """Pass texts through.

    Raises:
        GeckoError: One is something else, or holds half a character.
    """
    for item in _each(items):
        if not isinstance(item, str):
            raise GeckoError(f"a text is expected, not {type(item).__name__}", "give strings")
        yield _whole(item)


def as_passages(items: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Make (title, text) of texts, (title, text) tuples and mappings with ``text`` and maybe ``title``.

    Raises:
        GeckoError: One is something else, or holds half a character.
    """
    for item in _each(items):
        title, text = "", item
        if isinstance(item, Mapping):
            title, text = item.get("title") or "", item.get("text")
        elif _is_pair(item):
            title, text = item
        if not isinstance(title, str) or not isinstance(text, str):
            raise GeckoError(
                f"a document is a text, a (title, text) tuple or a mapping with them, not {type(item).__name__}",
                "give a list of such for several",
            )
        yield _whole(title), _whole(text)


def _each(items: object) -> Iterable[Any]:
    if not isinstance(items, Iterable):
        raise GeckoError(f"texts are expected, not {type(items).__name__}", "give a string, or a list of such")
    return items


def _is_pair(item: object) -> bool:
    """Whether something is one (title, text) and not a list of two texts."""
    return isinstance(item, tuple) and len(item) == 2 and all(isinstance(part, str) for part in item)


def _whole(text: str) -> str:
    """The text, if tokenizers can read it: they take UTF-8, which has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise GeckoError(f"a text holds half a character, at {error.start}", "decode it as what it is") from error
    return text
