"""General texts for rehearsal: those that ship with the package, made ones, or the user's own."""

from __future__ import annotations

import importlib.resources
import random
from pathlib import Path

from gecko.errors import GeckoError, UsageError

_WORDS = 20_000  # of a language, the most frequent
_LENGTHS = (2, 14)  # words of a text


def made_texts(language: str, count: int, draw: random.Random) -> list[str]:
    """Make texts of words that are drawn by Zipf's law, the r-th most frequent in proportion to 1 / r.

    Raises:
        UsageError: There are no word frequencies of the language.
    """
    from wordfreq import available_languages, top_n_list

    if language not in available_languages("small"):
        known = ", ".join(sorted(available_languages("small")))
        raise UsageError(f"train.rehearse.texts words:{language}: no word frequencies", f"there are {known}")
    words = top_n_list(language, _WORDS)
    return [
        " ".join(words[int(len(words) ** draw.random()) - 1] for _ in range(draw.randint(*_LENGTHS)))
        for _ in range(count)
    ]


def general_texts(where: str, count: int, draw: random.Random) -> list[str]:
    """Draw at most so many of the texts that a recipe names.

    Args:
        where: ``general``, ``words:LANGUAGE`` or a file, one text a line.
        count: How many at most.
        draw: Draws them.

    Raises:
        GeckoError: The file cannot be read, or holds none.
        UsageError: As :func:`made_texts`.
    """
    kind, _, language = where.partition(":")
    if kind == "words" and language:
        return made_texts(language, count, draw)
    hint = "name a text file, one text a line, or: general, words:LANGUAGE"
    try:
        if where == "general":
            content = importlib.resources.files("gecko.train").joinpath("general.txt").read_text(encoding="utf-8")
        else:
            content = Path(where).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise GeckoError(f"train.rehearse.texts {where}: {reason}", hint) from error
    texts = list(dict.fromkeys(line.strip() for line in content.splitlines() if line.strip()))
    if not texts:
        raise GeckoError(f"train.rehearse.texts {where}: no text in it", hint)
    draw.shuffle(texts)
    return texts[:count]
