"""Step 1 without a language model: queries made of the passage's own phrases, in the shapes that people's queries have.

Phrases come from YAKE (keyphrases by statistics of the passage alone) and from a light grammar of English sentences:
definitions ("X is a …"), purposes ("to VERB …") and descriptions ("Gets the …"). In other languages only the shapes
that need no grammar are used. What it cannot do is say a thing in other words; that takes a language model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from gecko.records import Passage, content_id
from gecko.teacher.protocol import Generation

DEFAULT_STYLES: dict[str, float] = {"question": 0.4, "keywords": 0.25, "claim": 0.15, "sentence": 0.1, "title": 0.1}

TASKS: dict[str, tuple[str, ...]] = {
    "question": (
        "Given a question, find a passage that answers it.",
        "Given a how-to question, find a passage that explains how it is done.",
        "Given a question about a term, find a passage that explains it.",
    ),
    "keywords": (
        "Given a few keywords, find a passage that would be a good search result.",
        "Given a search query, find a relevant passage.",
    ),
    "claim": (
        "Given a claim, find a passage that lets a reader check whether it is true.",
        "Given a statement, find a passage that supports or refutes it.",
    ),
    "sentence": (
        "Given a sentence, find a passage with the same meaning.",
        "Given a description, find the passage it describes.",
    ),
    "title": ("Given a title, find the passage it belongs to.",),
}

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n{2,}|(?<=:)\n")
_WORD = re.compile(r"[\w'’][\w'’./-]*")
_LEAD = re.compile(
    r"^(however|therefore|thus|moreover|furthermore|also|in addition|for example|for instance|note that|and|but|so|"
    r"then|additionally|finally|first|second|in this (study|paper|case|example)|here),?\s+",
    re.IGNORECASE,
)
_POINTS_BACK = re.compile(r"^(this|that|these|those|it|they|he|she|we|such|its|their|there|which|who)\b", re.IGNORECASE)
_DEFINITION = re.compile(
    r"^(?:(?:the|an?)\s+)?(?P<term>[\w'’-]+(?:\s+[\w'’()-]+){0,3}?)\s+"
    r"(?P<verb>is|are|refers to|means|describes|represents|allows|lets|enables)\s+(?P<rest>.+)$",
    re.IGNORECASE,
)
_PURPOSE = re.compile(
    r"\b(?:how )?to\s+(?P<clause>(?!the\b|a\b|an\b|be\b|have\b|this\b|that\b|it\b)[a-z]{3,}\s+[^.;:()]{8,})"
)
_DESCRIBED = re.compile(
    r"^(?:the\s+)?(?:[`\w-]+\s+(?:cmdlet|command|function|method|class|parameter|module)\s+)?(?P<verb>[A-Za-z]+s)\s+(?P<rest>(?:the|an?|all|one|each|information)\b[^.;:]{6,})"
)
_NOT_VERBS = frozenset(
    {"this", "is", "was", "has", "does", "its", "as", "us", "always", "results", "methods", "patients"}
)
_MIN_WORDS = 5
_LONGEST = 14


class QueryWriter:
    """Writes one query a passage, chosen by a draw that depends on the passage and the seed only.

    Args:
        seed: Seed of the draws.
        styles: Weights of the query styles ``question``, ``keywords``, ``claim``, ``sentence``, ``title``.
    """

    def __init__(self, seed: int = 0, styles: Mapping[str, float] | None = None) -> None:
        self._seed = seed
        self.styles = dict(styles) if styles else DEFAULT_STYLES
        self._shapes: dict[str, Callable[[Passage, random.Random], str]] = {
            "question": _question,
            "keywords": _keywords,
            "claim": _claim,
            "sentence": _clause_of,
            "title": _title,
        }

    def write(self, passage: Passage) -> Generation:
        """Write a query for a passage, or say why there is none."""
        if len(_WORD.findall(passage.text)) < _MIN_WORDS or not _prose(passage.text):
            return Generation(task="", query="", skip="too little prose to ask about")
        draw = random.Random(content_id("offline", str(self._seed), passage.passage_id))  # noqa: S311
        for style in self._order(passage.lang, draw):
            query = " ".join(self._shapes[style](passage, draw).split()).strip(" ,;:-–|.")
            if _usable(query):
                return Generation(task=draw.choice(TASKS[style]), query=query)
        return Generation(task="", query="", skip="no phrase that could stand alone")

    def _order(self, lang: str, draw: random.Random) -> list[str]:
        """Styles in a weighted random order; English grammar only for English or unnamed text."""
        known = {name: weight for name, weight in self.styles.items() if name in self._shapes and weight > 0}
        if lang not in {"en", "und", ""}:
            known = {name: weight for name, weight in known.items() if name != "question"}
        # Exponential draws with the weights as rates give a weighted order without replacement.
        return sorted(known, key=lambda name: draw.expovariate(known[name])) or ["keywords"]


def _prose(text: str) -> bool:
    """Whether most of a text is words, not syntax or numbers."""
    words = text.split()
    return sum(word.strip(".,;:()'\"").isalpha() for word in words) >= 0.5 * len(words)


def _usable(query: str) -> bool:
    return 2 <= len(query.split()) <= 20 and sum(character.isalpha() for character in query) >= 6


def sentences(text: str) -> list[str]:
    """Cut a text into sentences; text without punctuation into stretches of a query's length."""
    parts = [" ".join(part.split()) for part in _SENTENCE.split(text) if part.strip()]
    cut: list[str] = []
    for part in parts:
        words = part.split()
        if len(words) <= 45:
            cut.append(part)
        else:
            cut += [" ".join(words[start : start + 18]) for start in range(0, len(words), 18)]
    return cut


@lru_cache(maxsize=1)
def _extractor() -> Any:  # noqa: ANN401
    import yake

    return yake.KeywordExtractor(lan="en", n=3, top=12, dedupLim=0.7)


def keyphrases(text: str) -> list[str]:
    """The passage's keyphrases by YAKE, best first."""
    return [phrase for phrase, _ in _extractor().extract_keywords(text[:2000])]


def _question(passage: Passage, draw: random.Random) -> str:
    found = sentences(passage.text)
    shapes: list[Callable[[], str]] = [
        lambda: _first(found, _purpose_question),
        lambda: _first(found, lambda sentence: _definition_question(sentence, draw)),
        lambda: _first(found, _description_question),
    ]
    draw.shuffle(shapes)
    for shape in shapes:
        question = shape()
        if question:
            return question
    phrases = keyphrases(passage.text)
    if not phrases:
        return ""
    return draw.choice(("what is {}", "how does {} work", "what are {}", "why {}")).replace("{}", phrases[0].lower())


def _first(found: list[str], make: Callable[[str], str]) -> str:
    return next((question for sentence in found if (question := make(_LEAD.sub("", sentence)))), "")


def _purpose_question(sentence: str) -> str:
    match = _PURPOSE.search(sentence)
    return f"how to {_crop(match['clause'], 9)}" if match else ""


def _definition_question(sentence: str, draw: random.Random) -> str:
    match = _DEFINITION.match(sentence)
    if not match or _POINTS_BACK.match(match["term"]):
        return ""
    term, verb = match["term"], match["verb"].lower()
    if verb in {"is", "are"} and re.match(r"(not|also|only|often|very|more|used|available|required)\b", match["rest"]):
        return f"when {verb} {term} {_crop(match['rest'], 7)}"
    plural = verb == "are"
    return draw.choice((f"what {'are' if plural else 'is'} {term}", f"what {'do' if plural else 'does'} {term} mean"))


def _description_question(sentence: str) -> str:
    match = _DESCRIBED.match(sentence)
    if not match or match["verb"].lower() in _NOT_VERBS:
        return ""
    return f"how to {_bare(match['verb'].lower())} {_crop(match['rest'], 9)}"


def _bare(verb: str) -> str:
    """Third person to bare form: gets → get, specifies → specify, passes → pass."""
    if verb.endswith("ies"):
        return verb[:-3] + "y"
    if verb.endswith(("sses", "shes", "ches", "xes", "zes")):
        return verb[:-2]
    return verb[:-1]


def _keywords(passage: Passage, draw: random.Random) -> str:
    phrases = [phrase.lower() for phrase in keyphrases(passage.text)]
    if not phrases:
        return ""
    chosen = [phrases[0]]
    for phrase in phrases[1:]:
        if len(" ".join([*chosen, phrase]).split()) > draw.randint(3, 5):
            break
        if not set(phrase.split()) & set(" ".join(chosen).split()):
            chosen.append(phrase)
    return " ".join(chosen)


def _claim(passage: Passage, draw: random.Random) -> str:
    whole = [_LEAD.sub("", sentence) for sentence in sentences(passage.text)]
    whole = [s for s in whole if 5 <= len(s.split()) <= 22 and not _POINTS_BACK.match(s)]
    return _crop(draw.choice(whole), 18) if whole else ""


def _clause_of(passage: Passage, draw: random.Random) -> str:
    found = [_LEAD.sub("", sentence) for sentence in sentences(passage.text)]
    clauses = [part for sentence in found for part in re.split(r"[,;:()]\s*", sentence)]
    clauses = [part for part in clauses if 4 <= len(part.split()) and not _POINTS_BACK.match(part)]
    return _crop(draw.choice(clauses), _LONGEST) if clauses else ""


def _title(passage: Passage, draw: random.Random) -> str:
    tail = passage.title.rsplit(">", 1)[-1]
    return " ".join(tail.replace("_", " ").split())


def _crop(clause: str, words: int) -> str:
    """Keep the first words of a clause, not ending on one that leans on the next."""
    kept = re.split(r"[,;:()]", clause)[0].split()[:words]
    while kept and kept[-1].lower() in {
        "the",
        "a",
        "an",
        "of",
        "to",
        "in",
        "on",
        "and",
        "or",
        "for",
        "with",
        "by",
        "from",
        "that",
        "is",
        "are",
        "as",
        "at",
        "which",
        "into",
        "your",
        "its",
        "their",
        "be",
    }:
        kept.pop()
    return " ".join(kept)
