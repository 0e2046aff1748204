"""Which language a text is in, as an ISO 639 code, and which language a name means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from gecko.corpus.identify import BlockIdentifier

NO_LANGUAGE = frozenset({"", "und", "zxx"})
_MIN_LETTERS = 20
_SURE = 0.5
_READ = 1000  # characters of a text
_MANY = 32  # texts that are walked faster together than one by one
# Of a short text: how sure the identifier must be to be asked at all, how much likelier than the expected language
# another one must be, and how sure of one that nothing else speaks for (docs/decisions.md has the figures). Latin words
# of science and law are no Latin text.
_SOME_EVIDENCE = 0.1
_TIMES_LIKELIER = 5.0
_SURE_OF_ANOTHER = 0.7
_NOT_ASKED_IN = frozenset({"la", "zxx"})
# What the identifier tells apart and a corpus does not: a variety, and what it counts as.
_VARIETIES = {
    "arz": "ar", "ary": "ar", "nn": "no", "nb": "no", "pcm": "en", "sdh": "ku", "uzs": "uz", "wuu": "zh", "yue": "zh",
}  # fmt: skip
_NAMES = (
    "afrikaans af, albanian sq, amharic am, arabic ar, armenian hy, assamese as, azerbaijani az, basque eu,"
    " belarusian be, bengali bn, bosnian bs, breton br, bulgarian bg, burmese my, cantonese zh, castilian es,"
    " catalan ca, chinese zh, croatian hr, czech cs, danish da, dutch nl, english en, esperanto eo, estonian et,"
    " farsi fa, filipino tl, finnish fi, flemish nl, french fr, galician gl, georgian ka, german de, greek el,"
    " gujarati gu, haitian ht, hausa ha, hebrew he, hindi hi, hungarian hu, icelandic is, igbo ig, indonesian id,"
    " irish ga, italian it, japanese ja, javanese jv, kannada kn, kazakh kk, khmer km, kinyarwanda rw, korean ko,"
    " kurdish ku, kyrgyz ky, lao lo, latin la, latvian lv, lithuanian lt, luxembourgish lb, macedonian mk,"
    " malagasy mg, malay ms, malayalam ml, maltese mt, mandarin zh, marathi mr, mongolian mn, nepali ne,"
    " norwegian no, occitan oc, odia or, pashto ps, persian fa, polish pl, portuguese pt, punjabi pa, quechua qu,"
    " romanian ro, russian ru, sanskrit sa, serbian sr, sinhala si, slovak sk, slovenian sl, somali so, spanish es,"
    " swahili sw, swedish sv, tagalog tl, tajik tg, tamil ta, tatar tt, telugu te, thai th, turkish tr, turkmen tk,"
    " ukrainian uk, urdu ur, uyghur ug, uzbek uz, vietnamese vi, welsh cy, xhosa xh, yoruba yo, zulu zu"
)
_CODES = dict(entry.rsplit(" ", 1) for entry in _NAMES.split(", "))


@lru_cache(maxsize=1)
def _identifier() -> Any:  # noqa: ANN401
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@lru_cache(maxsize=1)
def _block_identifier() -> BlockIdentifier:
    return BlockIdentifier(_identifier())


def detect(text: str) -> str:
    """Identify the language of a text; ``und`` where it is too short to tell or the identifier is unsure."""
    if not _has_letters(text):
        return "und"
    language, confidence = _identifier().classify(text[:_READ])
    return str(language) if confidence >= _SURE else "und"


def detect_all(texts: Sequence[str]) -> list[str]:
    """Identify the languages of several texts, each as :func:`detect` does, many in a fraction of the time."""
    if len(texts) < _MANY:
        return [detect(text) for text in texts]
    found = ["und"] * len(texts)
    places = [place for place, text in enumerate(texts) if _has_letters(text)]
    answers = _block_identifier().classify([texts[place][:_READ] for place in places], _SURE)
    for place, (language, sure) in zip(places, answers, strict=True):
        if sure:
            found[place] = language
    return found


def _has_letters(text: str) -> bool:
    """Whether a text has letters enough; most show it in their first words."""
    return any(
        sum(character.isalpha() for character in part) >= _MIN_LETTERS for part in (text[: 3 * _MIN_LETTERS], text)
    )


def detect_among(text: str, likely: Sequence[str]) -> str:
    """Identify the language of a short text, such as a query, of which something is known.

    It is the first of the likely languages that the text may well be in; another one only where the identifier is
    sure of it and finds it several times likelier than each of those.

    Args:
        text: A text of any length; an empty one may be in any language.
        likely: Codes, the one that is expected first; those that say nothing are passed over.

    Returns:
        Its code; without a likely language what :func:`detect` says.
    """
    known = _identifier().labels
    wanted = [code for code in map(_main, likely) if code in known]
    if not wanted:
        return detect(text)
    if not text.strip():
        return wanted[0]
    chances: dict[str, float] = {}
    for code, chance in _identifier().rank(text[:_READ]):
        if code in wanted or code not in _NOT_ASKED_IN:
            chances[_main(code)] = chances.get(_main(code), 0.0) + chance
    best = max(chances, key=lambda code: chances[code])
    if chances[best] < _SOME_EVIDENCE:
        return wanted[0]
    for code in wanted:
        if chances[best] < _TIMES_LIKELIER * chances[code]:
            return code
    return best if chances[best] >= _SURE_OF_ANOTHER else wanted[0]


def differ(one: str, other: str) -> bool:
    """Whether two codes name different languages; not where one of them names none."""
    return not {one, other} & NO_LANGUAGE and _main(one) != _main(other)


def code_of(name: str) -> str:
    """The code that an English name of a language means (``German``, ``Latin American Spanish``); empty if unknown.

    What tells a variety apart stands before the language (``Swiss German``) or, less often, behind it in a word that
    names none (``Norwegian Bokmål``); what follows a comma or a bracket is not read.
    """
    words = re.findall(r"[^\W\d_]+", re.split("[(,;]", name.casefold())[0])
    if len(words) == 1 and words[0] in _CODES.values():
        return words[0]
    return next((_CODES[word] for word in reversed(words) if word in _CODES), "")


def _main(code: str) -> str:
    return _VARIETIES.get(code, code)
