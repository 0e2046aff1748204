"""Light linguistics for the offline teacher: sentences, phrases and word forms from frequencies, without a tagger.

What a tagger would know is read off word frequencies (``wordfreq``): a word whose -ing and -ed forms are about as
common as itself is used as a verb, one without them is not. That is right often enough to write queries that read
well, and needs no download.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any

WORD = re.compile(r"[^\W_](?:[\w'’.+#-]*[\w+#])?")
_ENDS = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])|(?<=[a-z]{3}[.!?])(?=[A-Z][a-z])|(?<=[。！？])|\n{2,}")
_SHORT = re.compile(
    r"\b(e\.g|i\.e|vs|et al|etc|Fig|Dr|Mr|Mrs|No|St|approx|cf|Prof|U\.S|U\.K|sp|ca)\.(?=\s)", re.IGNORECASE
)
_MARKUP = re.compile(r"!?\[?!?INCLUDE\s*\[[^\]]*\]|<[/a-zA-Z][^>]{0,80}>|https?://\S+|www\.\S+|^\s*#+\s*", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")
_CITE = re.compile(r"\s*\[[\d,;\s–-]+\]")
_CODE = re.compile(r"[$={}|;\\<>@_]|--|//|::|\(\)|PS [A-Z]:|^[-+*/]\w")
_CJK = re.compile(r"[぀-ヿ㐀-鿿豈-﫿가-힯]")

FUNCTION_WORDS = frozenset(
    "a an the of to in on at by for from with without into onto over under about as and or but nor so if than then that"
    " this these those which who whom whose what when where why how while because since although though whether is"
    " are was were be been being am do does did done has have had having can could may might must shall"
    " should will would"
    " it its he she they them their his her him you your we our us i me my mine not no nor only also"
    " very more most much"
    " many such each every any some all both either neither one other another same own too just there here up down out"
    " off between among through during before after above below against per via within upon toward towards across"
    " however therefore thus e.g i.e etc using based due".split()
)
LEANING = FUNCTION_WORDS - {
    "not",
    "it",
    "them",
    "you",
    "one",
    "here",
    "there",
    "done",
    "both",
    "all",
    "up",
    "down",
    "out",
    "off",
}
_VAGUE = frozenset(
    "example examples following thing things way ways case cases number use used using list note notes section topic"
    " article page table figure information detail details various several different certain particular specified given"
    " new first second third last next previous important common general main many time times part parts value values"
    " study studies result results method methods background conclusion conclusions objective aim paper report".split()
)
_NOUN_END = ("tion", "sion", "ment", "ness", "ity", "ance", "ence", "ism", "ology", "ship", "sis", "ics")


def is_cjk(text: str) -> bool:
    """Whether a text is written without spaces between words."""
    return len(_CJK.findall(text)) > 0.3 * max(1, sum(character.isalpha() for character in text))


def clean(text: str) -> str:
    """Take out markup, links and citation marks; the words stay."""
    text = _LINK.sub(r"\1", text)
    text = _CITE.sub("", _MARKUP.sub(" ", text))
    text = re.sub(r"^[^.\n]{0,200}?\b(?=This (?:command|cmdlet|example|sample)\b)", "", text)  # code before its comment
    return text.replace("`", "").replace("**", "").replace("“", '"').replace("”", '"')


def is_prose(sentence: str) -> bool:
    """Whether a stretch of text is words rather than code, a table or numbers."""
    tokens = sentence.split()
    if not tokens:
        return False
    worded = sum(token.strip(".,;:!?()'\"").replace("-", "").replace("'", "").isalpha() for token in tokens)
    coded = sum(bool(_CODE.search(token)) for token in tokens)
    return worded >= 0.7 * len(tokens) and coded <= 0.1 * len(tokens)


def sentences(text: str) -> list[str]:
    """Cut a text into its prose sentences; text without punctuation into stretches that may be one.

    A stretch begins where an article follows a noun ("… flexible capacities | a digital data storage system …").
    """
    text = _SHORT.sub(lambda match: match[0][:-1] + "․", clean(text))  # one-dot leader: not a sentence's end
    found: list[str] = []
    for part in _ENDS.split(text):
        sentence = " ".join(part.replace("․", ".").split()).lstrip("-*•· ")
        found += _stretches(sentence) if unpunctuated(sentence) else [sentence]
    return [sentence for sentence in found if is_cjk(sentence) or is_prose(sentence)]


def unpunctuated(sentence: str) -> bool:
    """Whether a text has lost its capitals and punctuation, so that sentences cannot be told apart."""
    return len(sentence.split()) > 12 and not re.search(r"[A-Z,.;:]", sentence)


def _stretches(text: str) -> list[str]:
    cut: list[list[str]] = [[]]
    for word in text.split():
        previous = cut[-1][-1] if cut[-1] else ""
        if (
            word in {"a", "an", "the"}
            and len(cut[-1]) >= 4
            and previous not in FUNCTION_WORDS
            and not is_verb(previous)
        ):
            cut.append([])
        cut[-1].append(word)
    return [" ".join(part) for part in cut]


@lru_cache(maxsize=100_000)
def zipf(word: str, lang: str = "en") -> float:
    """Zipf frequency of a word (log10 per billion words); 0 where it is unknown."""
    from wordfreq import available_languages, zipf_frequency

    known = lang if lang in available_languages() and lang not in {"zh", "ja", "ko"} else "en"
    return float(zipf_frequency(word.lower(), known))


@lru_cache(maxsize=50_000)
def is_verb(word: str) -> bool:
    """Whether an English base form is often used as a verb (compute, reduce, set; not patient, data)."""
    word = word.lower()
    if not word.isalpha() or len(word) < 2 or word in FUNCTION_WORDS or word.endswith(_NOUN_END):
        return False
    if zipf(f"{word}e") > zipf(word) + 0.5:  # "stat", "puls": the forms belong to state, pulse
        return False
    stem = word[:-1] if word.endswith("e") and not word.endswith("ee") else word
    y_stem = f"{word[:-1]}i" if word.endswith("y") else stem
    ing = max(zipf(f"{stem}ing"), zipf(f"{word}{word[-1]}ing"))
    ed = max(zipf(f"{y_stem}ed"), zipf(f"{word}{word[-1]}ed"))
    return ing > 2.2 and max(ing, ed) - zipf(word) > -1.0


@lru_cache(maxsize=50_000)
def third_person(word: str) -> str:
    """Base form of a third-person verb (gets → get, specifies → specify); empty where it is not likely one."""
    word = word.lower()
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return ""
    forms = [f"{word[:-3]}y" if word.endswith("ies") else word[:-1]]
    if word.endswith(("sses", "xes", "zes", "ches", "shes", "oes")):
        forms.append(word[:-2])
    verbs = [form for form in forms if is_verb(form)]
    return max(verbs, key=zipf) if verbs else ""


def lower(text: str) -> str:
    """Lower the first letter of words that are capitalised by position, not of names (PowerShell, DNA, B12)."""
    words = text.split()
    if words and re.fullmatch(r"[A-Z]?[a-z'’-]+[,.;:]?", words[0]) and words[0] != "I":
        words[0] = words[0].lower()
    return " ".join(words)


def crop(clause: str, words: int) -> str:
    """Keep at most the first words of a clause, up to a comma or bracket, not ending on a function word."""
    head = re.split(r"[;:()]|,\s|\s[–—-]\s|\.\s", clause)[0].split()
    kept = head[:words]
    if len(head) > words:  # a cut inside a phrase: go back to before the last preposition that keeps enough
        for index in range(len(kept) - 1, max(4, words // 2), -1):
            if kept[index].lower() in {
                "of",
                "to",
                "in",
                "on",
                "for",
                "with",
                "by",
                "from",
                "that",
                "which",
                "and",
                "when",
            }:
                kept = kept[:index]
                break
    while kept and kept[-1].lower().strip("\"'") in LEANING:
        kept.pop()
    return " ".join(kept).strip(" .,;:–—-\"'")


def informative(text: str, lang: str = "en") -> float:
    """How much a query says: the rarity of its distinct words, a rare word counting at most three points."""
    words = {word.lower() for word in WORD.findall(text)} - (FUNCTION_WORDS if lang == "en" else set()) - _VAGUE
    # fsum does not depend on the order, and a set's order changes from process to process.
    return math.fsum(min(3.0, max(0.0, 6.0 - zipf(word, lang))) for word in words)


def is_noun_phrase(phrase: str) -> bool:
    """Whether an English phrase reads as a noun phrase a person would ask about."""
    words = phrase.split()
    if not 1 <= len(words) <= 4 or _CODE.search(phrase):
        return False
    low = [word.lower() for word in words]
    if low[-1] in _VAGUE or low[0] in _VAGUE | {"click", "see", "let", "well", "way", "non"}:
        return False
    if (
        low[-1].endswith(("ed", "ly", "'s", "’s"))
        or low[0].endswith("ly")
        or (zipf(low[-1]) > 0 and _adjective(low[-1]))
    ):
        return False
    if any(word in FUNCTION_WORDS or not re.search(r"[^\W\d]{2}", word) for word in low):
        return False
    if len(low) > 1 and third_person(low[0]):
        return False
    # "amplifier performs operations" is a clause: a third-person verb after a noun.
    return not any(third_person(word) and zipf(third_person(word)) - zipf(word) < 0.9 for word in low[1:])


def _adjective(word: str) -> bool:
    return word.endswith(("ous", "ful", "ical", "able", "ible", "less", "ish")) or word in {
        "high",
        "low",
        "similar",
        "major",
    }


@lru_cache(maxsize=8)
def _extractor(lang: str) -> Any:  # noqa: ANN401
    import yake

    return yake.KeywordExtractor(lan=lang, n=3, top=20, dedupLim=0.8)


def keyphrases(text: str, lang: str = "en") -> list[str]:
    """The passage's keyphrases by YAKE, best first; for English only those that read as noun phrases.

    A phrase must end where the text ends it (punctuation, a function word), else it is a piece of a longer one.
    """
    text = " ".join(clean(text).split())[:2000]
    found = [phrase for phrase, _ in _extractor(lang).extract_keywords(text)]
    if lang != "en":
        return found
    return [phrase for phrase in found if is_noun_phrase(phrase) and _ends_here(phrase, text)]


def _ends_here(phrase: str, text: str) -> bool:
    for match in re.finditer(re.escape(phrase) + r"(?P<next>\W*\w*)", text, re.IGNORECASE):
        follows = match["next"]
        word = WORD.search(follows)
        if word is None or re.match(r"\s*[.,;:!?)(]", follows):
            return True
        low = word[0].lower()
        if low in FUNCTION_WORDS or third_person(low) or low.endswith(("ed", "ly")):
            return True
    return False
