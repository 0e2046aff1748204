"""Step 1 without a language model: queries made of the passage's own phrases, in the shapes that people's queries have.

Phrases come from YAKE (keyphrases by statistics of the passage alone) and from a light grammar of English sentences
(``questions.py``). In other languages only the shapes that need no grammar are used. Of several queries that a passage
allows, the more specific is drawn more often. What it cannot do is say a thing in other words: that takes a language
model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping

from gecko.errors import UsageError
from gecko.records import Passage, content_id
from gecko.teacher.offline.frames import LEAD, POINTS_BACK, REPORTED
from gecko.teacher.offline.language import (
    FUNCTION_WORDS,
    WORD,
    crop,
    informative,
    is_cjk,
    is_prose,
    is_verb,
    keyphrases,
    lower,
    sentences,
    third_person,
    unpunctuated,
)
from gecko.teacher.offline.questions import described, flip, questions
from gecko.teacher.protocol import Generation

DEFAULT_STYLES: dict[str, float] = {"question": 0.35, "keywords": 0.3, "claim": 0.15, "title": 0.1, "sentence": 0.1}

TASKS: dict[str, tuple[str, ...]] = {
    "fact": (
        "Given a question, find a passage that answers it.",
        "Given a question, find the passage that holds the answer.",
        "Given a search question, find a passage that would answer it.",
    ),
    "howto": (
        "Given a how-to question, find a passage that explains how it is done.",
        "Given a description of what someone wants to do, find a passage that shows how.",
        "Given a question, find a passage that answers it.",
    ),
    "term": (
        "Given a question about a term, find a passage that explains it.",
        "Given a question, find a passage that answers it.",
        "Given a term, find a passage that defines it.",
    ),
    "yesno": (
        "Given a yes-or-no question, find a passage that settles it.",
        "Given a question, find a passage that answers it.",
    ),
    "reason": (
        "Given a question about a cause, find a passage that gives the reason.",
        "Given a question, find a passage that answers it.",
    ),
    "keywords": (
        "Given a few keywords, find a passage that would be a good search result.",
        "Given a search query, find a relevant passage.",
        "Given keywords, find a passage about them.",
    ),
    "claim": (
        "Given a claim, find a passage that lets a reader check whether it is true.",
        "Given a statement, find a passage that supports or refutes it.",
        "Given a claim, find a passage with evidence for or against it.",
    ),
    "sentence": (
        "Given a sentence, find a passage with the same meaning.",
        "Given a description, find the passage it describes.",
    ),
    "title": (
        "Given a heading, find the passage that belongs under it.",
        "Given a topic, find a passage about it.",
    ),
}

_GENERIC = frozenset(
    "example examples description parameters parameter notes note inputs outputs syntax overview introduction summary"
    " remarks see also schema attributes elements background general other more information faq contents"
    " references links type"
    " none long short related next steps".split()
)
_SUBORDINATE = re.compile(
    r"^(?:if|when|while|despite|although|though|as|since|because|after|before|unless|in|for|with|by|to)\b", re.I
)
_FINITE = re.compile(
    r"\b(?:is|are|was|were|has|have|had|can|may|must|should|will|does|do|cannot|\w{3,}ed)\b", re.IGNORECASE
)
_DESCRIBED_HERE = re.compile(
    r"\s(?:is|are|was|were)\s(?:\w+ly\s)?(?:described|given|discussed|presented|derived|considered"
    r"|reported|examined|shown)\b.*$"
)
_MIN_WORDS = 5
_LONGEST = 16
Draft = tuple[str, str]  # kind (a key of TASKS) and query


class QueryWriter:
    """Writes one query a passage, chosen by a draw that depends on the passage and the seed only.

    Args:
        seed: Seed of the draws.
        styles: Weights of the query styles ``question``, ``keywords``, ``claim``, ``sentence``, ``title``.

    Raises:
        UsageError: A style is unknown, a weight is negative, or all are 0.
    """

    def __init__(self, seed: int = 0, styles: Mapping[str, float] | None = None) -> None:
        self._seed = seed
        self.styles = dict(styles) if styles else dict(DEFAULT_STYLES)
        unknown = sorted(set(self.styles) - set(_SHAPES))
        if unknown:
            raise UsageError(f"unknown query style {unknown[0]}", f"known are {', '.join(_SHAPES)}")
        if min(self.styles.values()) < 0 or not any(self.styles.values()):
            raise UsageError("the weights of query styles must be 0 or more, and one above 0", "mend fret.styles")

    def write(self, passage: Passage) -> Generation:
        """Write a query for a passage, or say why there is none."""
        if not _has_something_to_say(passage.text):
            return Generation(task="", query="", skip="too little prose to ask about")
        draw = random.Random(content_id("offline", str(self._seed), passage.passage_id))  # noqa: S311
        for style in self._order(passage.lang, draw):
            drafts = [
                (kind, " ".join(query.split()).strip(" ,;:-–|\"'")) for kind, query in _SHAPES[style](passage, draw)
            ]
            drafts = [(kind, query) for kind, query in drafts if _usable(query, passage.lang)]
            if drafts:
                kind, query = _prefer_specific(drafts, passage.lang, draw)
                return Generation(task=draw.choice(TASKS[kind]), query=query)
        return Generation(task="", query="", skip="no phrase that could stand alone")

    def _order(self, lang: str, draw: random.Random) -> list[str]:
        """Styles in a weighted random order; English grammar only for English or unnamed text."""
        known = {name: weight for name, weight in self.styles.items() if weight > 0}
        if not _english(lang):
            known = {name: known.get(name, 0.0) + 0.01 for name in ("keywords", "sentence")}
        # Exponential draws with the weights as rates give a weighted order without replacement.
        order = sorted(known, key=lambda name: draw.expovariate(known[name]))
        return order + [name for name in ("sentence", "keywords") if name not in order]


def _english(lang: str) -> bool:
    return lang in {"en", "und", ""}


def _has_something_to_say(text: str) -> bool:
    if is_cjk(text):
        return sum(character.isalpha() for character in text) >= 10
    found = sentences(text)
    return any(len(WORD.findall(sentence)) >= _MIN_WORDS for sentence in found)


def _usable(query: str, lang: str) -> bool:
    if is_cjk(query):
        return 4 <= len(query) <= 60
    if not 2 <= len(query.split()) <= 20 or sum(character.isalpha() for character in query) < 6 or not is_prose(query):
        return False
    return not _english(lang) or informative(query) >= 2.5


def _prefer_specific(drafts: list[Draft], lang: str, draw: random.Random) -> Draft:
    """Draw a draft; the weight is the square of what it says, so vague ones lose to specific ones."""
    weights = [min(9.0, informative(query, lang if not _english(lang) else "en") + 0.1) ** 2 for _, query in drafts]
    return draw.choices(drafts, weights)[0]


def _topic(title: str) -> str:
    """The most specific part of a title that says what it is about; empty where none does."""
    for part in reversed(re.split(r"\s+[>|]\s+", title)):
        words = [word for word in WORD.findall(part.replace("_", " ")) if word.lower() not in _GENERIC]
        if words and not part.startswith("-"):
            return re.sub(r"^about\s+", "", " ".join(part.replace("_", " ").split()))
    return ""


def _question(passage: Passage, draw: random.Random) -> list[Draft]:
    found = [question for sentence in sentences(passage.text)[:12] for question in questions(sentence, draw)]
    drafts: list[Draft] = [(question.kind, question.text) for question in found]
    if unpunctuated(passage.text) and len(drafts) < 2:
        # Such text is abstracts; people ask it for a subject ("control characteristics of sampling servo systems").
        drafts += _sentence(passage, draw)[:2]
    topic = _topic(passage.title)
    if topic.endswith("?"):
        drafts.append(("fact", lower(topic.rsplit(" - ", 1)[-1])))
    if drafts:
        return drafts
    phrases = [phrase for phrase in keyphrases(passage.text) if len(phrase.split()) >= 2][:3]
    return [("term", f"what {'are' if _plural(phrase) else 'is'} {phrase.lower()}") for phrase in phrases]


def _plural(phrase: str) -> bool:
    return phrase.lower().endswith("s") and not phrase.lower().endswith(("ss", "us", "is", "ics"))


def _keywords(passage: Passage, draw: random.Random) -> list[Draft]:
    lang = "en" if _english(passage.lang) else passage.lang
    topic = _topic(passage.title) if lang == "en" else ""
    phrases = [phrase.lower() for phrase in keyphrases(passage.text, lang)]
    if not phrases:
        return []
    start = draw.choice(phrases[:3])
    size = draw.randint(3, 5)
    chosen = [start]
    # A word from the title first, as people name the thing, then phrases from elsewhere in the passage.
    named = [word for word in WORD.findall(topic) if informative(word) >= 1.5 and len(word) < 25][:2]
    for extra in [*named[: draw.randint(0, 2)], *(phrase for phrase in phrases if phrase != start)]:
        if len(" ".join([*chosen, extra]).split()) <= size and not _overlap(extra, chosen):
            chosen.append(extra.lower())
    text = passage.title.lower() + " " + passage.text.lower()
    chosen.sort(key=lambda phrase: text.find(phrase))
    return [("keywords", " ".join(chosen))]


def _overlap(phrase: str, chosen: list[str]) -> bool:
    stems = {word[:5] for word in " ".join(chosen).lower().split()}
    return any(word[:5] in stems for word in phrase.lower().split())


def _clauses(passage: Passage) -> list[str]:
    """Sentences without what leans on their neighbours: lead words, reporting frames, subordinate openings."""
    clauses = []
    for sentence in sentences(passage.text)[:15]:
        clause = REPORTED.sub("", LEAD.sub("", sentence)).strip(" \"'")
        clause = LEAD.sub("", clause)
        if _SUBORDINATE.match(clause):
            clause = clause.split(", ", 1)[1] if ", " in clause else ""
        if clause and not POINTS_BACK.match(clause) and not clause.endswith((":", "?")):
            clauses.append(clause)
    return clauses


def _claim(passage: Passage, draw: random.Random) -> list[Draft]:
    drafts = []
    titles = [_topic(passage.title)] if _has_verb(_topic(passage.title)) else []
    for clause in [*titles, *_clauses(passage)]:
        claim = crop(clause, _LONGEST)
        if (
            6 <= len(claim.split())
            and _has_verb(claim)
            and not described(clause)
            and not re.search(r"\b(?:you|your|we|our|us)\b", claim, re.IGNORECASE)
        ):
            drafts.append(
                ("claim", claim[0].upper() + claim[1:] + draw.choice((".", "")) if passage.text[0].isupper() else claim)
            )
    return drafts


def _has_verb(clause: str) -> bool:
    words = clause.split()
    if any(
        third_person(word) and index > 0 and words[index - 1].lower() not in FUNCTION_WORDS
        for index, word in enumerate(words)
    ):
        return True
    return bool(_FINITE.search(" ".join(words[1:])))


def _sentence(passage: Passage, draw: random.Random) -> list[Draft]:
    if is_cjk(passage.text):
        parts = [part.strip() for part in re.split(r"[。！？，、；\n]", passage.text)]
        return [("sentence", part[:40]) for part in parts if len(part) >= 6]
    if not _english(passage.lang):
        return [
            ("sentence", crop(sentence, _LONGEST)) for sentence in sentences(passage.text) if len(sentence.split()) >= 4
        ]
    drafts = []
    for clause in _clauses(passage):
        words = clause.split()
        description = described(clause)
        if description:
            drafts.append(("howto", f"{description[0]} {flip(crop(description[1], 12))}"))
        elif is_verb(words[0]) and len(words) > 4 and words[1].lower() in {"the", "a", "an", "your", "all"}:
            drafts.append(("howto", flip(lower(crop(clause, 12)))))
        else:
            clause = _DESCRIBED_HERE.sub("", clause)
            drafts.append(("sentence", crop(clause, draw.choice((8, 10, 12, 14)))))
    return [(kind, query) for kind, query in drafts if len(query.split()) >= 4]


def _title(passage: Passage, draw: random.Random) -> list[Draft]:
    topic = _topic(passage.title)
    if " - " in topic and draw.random() < 0.7:
        topic = topic.rsplit(" - ", 1)[-1]
    topic = re.sub(r"^[\d.]+\s+", "", topic).rstrip(".")
    return [("fact" if topic.endswith("?") else "title", topic)] if len(topic.split()) >= 2 else []


_SHAPES: dict[str, Callable[[Passage, random.Random], list[Draft]]] = {
    "question": _question,
    "keywords": _keywords,
    "claim": _claim,
    "sentence": _sentence,
    "title": _title,
}
