"""Where a query's words stand in a passage, whatever their endings."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_WORD = re.compile(r"\w+")
_COMMON = 6.0  # Zipf frequency: once in a thousand words, such as "the", "how" and "is"
# Snowball's names of the languages it knows, by code; in others only equal words are marked.
_STEMMERS = {
    "ar": "arabic", "ca": "catalan", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish",
    "eu": "basque", "fi": "finnish", "fr": "french", "ga": "irish", "hi": "hindi", "hu": "hungarian", "hy": "armenian",
    "id": "indonesian", "it": "italian", "lt": "lithuanian", "ne": "nepali", "nl": "dutch", "no": "norwegian",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "sv": "swedish", "ta": "tamil",
    "tr": "turkish", "yi": "yiddish",
}  # fmt: skip


def highlights(query: str, text: str, lang: str = "en") -> list[tuple[int, int]]:
    """Find the places of the query's words in a text.

    Words that every text of the language holds are left out, unless the query has no others.

    Returns:
        [start, end) in characters, ascending.
    """
    stem = _stemmer(lang)
    words = {word.lower() for word in _WORD.findall(query)}
    telling = {word for word in words if not _common(word, lang)} or words
    stems = {stem(word) for word in telling}
    return [found.span() for found in _WORD.finditer(text) if stem(found.group().lower()) in stems]


@lru_cache(maxsize=32)
def _stemmer(lang: str) -> Any:  # noqa: ANN401
    name = _STEMMERS.get(lang or "en", "english" if lang in {"", "und"} else None)
    if name is None:
        return str
    import Stemmer

    return lru_cache(maxsize=20_000)(Stemmer.Stemmer(name).stemWord)


@lru_cache(maxsize=20_000)
def _common(word: str, lang: str) -> bool:
    import wordfreq

    try:
        return float(wordfreq.zipf_frequency(word, lang or "en", wordlist="small")) >= _COMMON
    except (LookupError, ImportError):  # it has no list of the language, or needs a package to split it
        return False
