"""Questions that an English sentence answers, found by patterns: definitions, purposes, permissions, causes, effects.

Each pattern turns one sentence into a question a person could have asked before reading it, with the kind of the
question, from which the task sentence follows.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from gecko.teacher.offline.frames import LEAD, POINTS_BACK, REPORTED
from gecko.teacher.offline.language import FUNCTION_WORDS, crop, is_noun_phrase, is_verb, lower, third_person, zipf


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its kind: ``howto``, ``term``, ``yesno``, ``reason``, ``fact``."""

    text: str
    kind: str


_DESCRIBED = re.compile(
    r"^(?:indicates that\s+)?(?:(?:this|the|these)\s+(?:[\w.-]+\s+)?(?:cmdlet|command|function|method|class|script|"
    r"property|parameter|example|sample|operator|module|tool|option|switch|api|statement|section|topic"
    r"|page|guide|article|"
    r"chapter)s?"
    r"\s+|it\s+)?(?:also\s+)?(?P<verb>[A-Za-z]{3,}s)\s+(?P<rest>(?!that\b|to\b|is\b|are\b|if\b|whether\b)[\w\"'(-].*)$",
    re.IGNORECASE,
)
_HOW_TO = re.compile(r"\bhow\s+to\s+(?P<verb>[a-z]+)\s+(?P<rest>[^.;:]{6,})")
_PURPOSE = re.compile(
    r"(?:^|\b(?:used|use \w+|ways?|steps|order|helps?|designed|required|possible|easy|allows you|lets you|enables you|"
    r"want|wish|try|able|tool|method|technique|procedure|necessary|important|how)\s+|,\s)to\s+"
    r"(?P<verb>[a-z]+)\s+(?P<rest>[^.;:]{6,})",
    re.IGNORECASE,
)
_MODAL = re.compile(
    r"^(?:(?:if|when|while|once|before|after|unless)\b[^,]{4,60},\s+)?(?P<who>you"
    r"|[A-Za-z][\w'-]*(?:\s+[\w'-]+){0,3}?)\s+"
    r"(?P<modal>can|may|must|should|need to|have to|will|could|cannot|are able to|are required to)\s+"
    r"(?:also\s+|only\s+|now\s+|still\s+|always\s+|not\s+|then\s+|either\s+)*(?P<verb>[a-z]+)\b\s*(?P<rest>.*)$",
    re.IGNORECASE,
)
_BE = re.compile(
    r"^(?:(?P<article>[Tt]he|[Aa]n?)"
    r"\s+)?(?P<term>[\w'’+#-]+(?:\s+[\w'’+#-]+){0,4}?)\s*(?:\([^)]{1,25}\)\s*)?\s(?P<be>is|are)\s+"
    r"(?P<rest>.+)$"
)
_SVO = re.compile(
    r"^(?:[Tt]he\s+|[Aa]n?\s+)?(?P<term>[\w'’+#-]+(?:\s+[\w'’+#-]+){0,3}?)\s+(?P<verb>[a-z]{3,}s)\s+(?P<rest>.+)$"
)
_ASPECT = re.compile(
    r"\b(?P<aspect>(?:effects?|impact|influence|role|purpose|advantages?|disadvantages?|benefits?"
    r"|difference|differences|"
    r"types?|causes?|relationship|definition|importance|limitations?|properties|risk|association|assumptions?|meaning|"
    r"symptoms|steps|components|goal|theory|measurement|calculation|determination|estimation|analysis"
    r"|design|construction))\s+"
    r"(?P<link>of|between|in|on|for)\s+(?P<rest>[^.;:()]{4,})",
    re.IGNORECASE,
)
_VERBS_OF_EFFECT = frozenset(
    "affect increase decrease reduce inhibit promote cause induce regulate improve impair predict prevent"
    " enhance suppress mediate modulate influence protect activate trigger drive control".split()
)
_ELSEWHERE = re.compile(
    r"\b(?:this|these|those|following|above|below|such|we|our|they|their|he|she|his|it|its|them|here|previous)\b", re.I
)
_READER_ACTS = re.compile(
    r"(?:(?<=that )|(?<=if )|(?<=when )|(?<=where )|(?<=what )|(?<=how )|(?<=while )|(?<=before )|(?<=after )|"
    r"(?<=until )|(?<=unless )|(?<=because )|^)you\b|\byou\b(?= (?:can|may|must|should|will|are|have|need"
    r"|want|do|could|would|"
    r"use|were)\b)",
    re.IGNORECASE,
)
_NEVER_TO = frozenset(
    "be have do make note say go come keep let see want think know seem become consist refer try".split()
)


def flip(text: str) -> str:
    """Turn the reader into the asker: your → my, yourself → myself, you → I."""
    text = re.sub(r"\byourself\b", "myself", text, flags=re.IGNORECASE)
    text = re.sub(r"\byours?\b", "my", text, flags=re.IGNORECASE)
    text = re.sub(_READER_ACTS, "I", text)
    text = re.sub(r"\byou\b", "me", text, flags=re.IGNORECASE)
    return re.sub(r"\bI are\b", "I am", text)


def questions(sentence: str, draw: random.Random) -> list[Question]:
    """Questions that a sentence answers, none where no pattern fits."""
    sentence = LEAD.sub("", sentence).strip()
    if sentence.endswith("?"):
        words = sentence.split()
        own = (
            4 <= len(words) <= 16
            and not POINTS_BACK.search(sentence)
            and re.match(
                r"(?:what|how|why|when|where|who|which|can|do|does|is|are|should|will|may|must)\b",
                sentence,
                re.IGNORECASE,
            )
        )
        return [Question(lower(sentence), "fact")] if own else []
    reported = REPORTED.sub("", sentence)
    # Where sentences cannot be told apart, only a pattern inside one noun phrase holds.
    patterns = (_aspect,) if re.fullmatch(r"[^A-Z,.;:]*", sentence) else _PATTERNS
    found = [pattern(reported, draw) for pattern in patterns]
    return [question for question in found if question is not None and _stands_alone(question.text)]


def _stands_alone(text: str) -> bool:
    words = text.split()
    if not 3 <= len(words) <= 15:
        return False
    return not _ELSEWHERE.search(text)


def _asked_how(verb: str, rest: str, draw: random.Random, length: int = 10) -> Question | None:
    """A how-to question, or the bare imperative that people type into a search box."""
    verb = verb.lower()
    clause = crop(rest, length)
    if verb in _NEVER_TO or not is_verb(verb) or len(clause.split()) < 2:
        return None
    shape = draw.choice(("how do I ", "how to ", "how can I ", "", ""))
    return Question(f"{shape}{verb} {flip(clause)}", "howto")


def described(sentence: str) -> tuple[str, str] | None:
    """Verb (base form) and object of a description: "This cmdlet gets the keys" → ("get", "the keys")."""
    match = _DESCRIBED.match(sentence)
    if not match:
        return None
    verb = third_person(match["verb"])
    if not verb or (sentence[0].isupper() and sentence.startswith(match["verb"]) and not _object(match["rest"])):
        return None
    return (verb, match["rest"]) if verb not in _NEVER_TO | {"contain", "indicate", "appear", "result"} else None


def _object(rest: str) -> bool:
    first = rest.split()[0].lower()
    return first in {"the", "a", "an", "all", "one", "each", "any", "only", "information", "how", "your"} or (
        first not in FUNCTION_WORDS and not third_person(first) and not first.endswith(("ed", "ly"))
    )


def _description(sentence: str, draw: random.Random) -> Question | None:
    parts = described(sentence)
    if not parts:
        return None
    shown = _HOW_TO.search(sentence)
    return _asked_how(shown["verb"], shown["rest"], draw) if shown else _asked_how(*parts, draw)


def _purpose(sentence: str, draw: random.Random) -> Question | None:
    match = _HOW_TO.search(sentence) or _PURPOSE.search(sentence)
    return _asked_how(match["verb"], match["rest"], draw) if match else None


def _imperative(sentence: str, draw: random.Random) -> Question | None:
    words = sentence.split()
    if len(words) < 4 or not words[0][0].isupper() or third_person(words[0]) or not is_verb(words[0].lower()):
        return None
    if words[1].lower() not in {"the", "a", "an", "your", "all", "any", "to", "with", "for", "from"}:
        return None
    return _asked_how(words[0], " ".join(words[1:]), draw)


def _permission(sentence: str, draw: random.Random) -> Question | None:
    match = _MODAL.match(sentence)
    if not match:
        return None
    who, modal, verb = match["who"], match["modal"].lower(), match["verb"].lower()
    clause = crop(match["rest"], 9)
    if not clause or POINTS_BACK.match(who) or not (is_verb(verb) or verb in {"be", "have", "go", "get"}):
        return None
    subject = "I" if who.lower() == "you" else lower(who)
    if subject != "I" and not is_noun_phrase(
        re.sub(r"^(?:the|an?|all|your|some|most|many)\s+", "", who, flags=re.IGNORECASE)
    ):
        return None
    does = "do" if subject == "I" or subject.endswith("s") else "does"
    if modal in {"need to", "have to", "must", "are required to"}:
        front = draw.choice((f"{does} {subject} have to", f"{does} {subject} need to"))
    elif modal in {"can", "may", "could", "cannot", "are able to"}:
        front = draw.choice((f"can {subject}", f"how can {subject}" if subject == "I" else f"can {subject}"))
    else:
        front = f"{'should' if modal == 'should' else 'will'} {subject}"
    return Question(f"{front} {verb} {flip(clause)}", "howto" if front.startswith("how") else "yesno")


def _copula(sentence: str, draw: random.Random) -> Question | None:
    match = _BE.match(sentence)
    if not match or POINTS_BACK.match(match["term"]) or len(match["rest"].split()) < 3:
        return None
    term, be, rest = match["term"], match["be"], match["rest"]
    plural = be == "are"
    named = lower(term) if is_noun_phrase(term) else ""
    article = f"{match['article'].lower()} " if match["article"] else ""
    because = re.match(r"(?P<state>[^,.;]{4,60}?)\s+(?:because|since|due to)\b", rest)
    if because and named:
        return Question(f"why {be} {article}{named} {because['state']}", "reason")
    used = re.match(r"(?:\w+ly\s+)?used (?:for|to|in|as|when)\b", rest)
    if used and named:
        return Question(f"what {be} {article}{named} used for", "term")
    if (
        re.match(r"(?:an?|the|one of|defined as|known as|called|said to be)\s", rest)
        and named
        and not re.match(r"(?:the same|a (?:bit|lot|few|good|very))\b", rest)
    ):
        shapes = [f"what {be} {article}{named}", f"what {'are' if plural else 'is'} {named}"]
        if not plural and len(named.split()) <= 2:
            shapes.append(f"what does {named} mean")
        shapes.append(f"{named} definition")
        return Question(draw.choice(shapes), "term")
    clause = crop(rest, 8)
    if (
        named
        and len(clause.split()) >= 2
        and re.match(r"(?:\w+ed|not|only|always|available|often|more|less|\w+ble)\b", rest)
    ):
        return Question(f"{be} {article}{named} {clause}", "yesno")
    return None


def _effect(sentence: str, draw: random.Random) -> Question | None:
    match = _SVO.match(sentence)
    if not match or POINTS_BACK.match(match["term"]):
        return None
    verb, term = third_person(match["verb"]), lower(match["term"])
    if (
        not verb
        or not is_noun_phrase(term)
        or (zipf(verb) - zipf(match["verb"]) > 1.3 and verb not in _VERBS_OF_EFFECT)
    ):
        return None
    rest = match["rest"]
    if verb == "refer":
        return Question(draw.choice((f"what does {term} refer to", f"what is meant by {term}")), "term")
    if verb in {"mean", "describe", "represent", "denote", "measure"}:
        return Question(draw.choice((f"what does {term} {verb}", f"what is {term}")), "term")
    if verb in {"allow", "help", "enable", "let", "provide", "include", "contain", "consist", "show"}:
        return Question(
            f"what does {term} {verb}" if verb in {"include", "contain", "show"} else f"what does {term} do", "fact"
        )
    clause = crop(rest, 7)
    if not clause or clause.split()[0].lower() in {"that", "if", "whether"}:
        return None
    front = (
        draw.choice(("does", "how does")) if verb in _VERBS_OF_EFFECT else draw.choice(("does", "why does", "how does"))
    )
    return Question(
        f"{front} {term} {verb} {flip(clause)}",
        "reason" if front == "why does" else "yesno" if front == "does" else "fact",
    )


def _aspect(sentence: str, draw: random.Random) -> Question | None:
    match = _ASPECT.search(sentence)
    if not match:
        return None
    clause = crop(match["rest"], 9)
    cut = re.split(
        r"\s(?:is|are|was|were|has|have|can|may|that|which|by|where|when|will|should|using)\s", f"{clause} "
    )[0].strip()
    aspect = match["aspect"].lower()
    if not cut or (aspect.startswith("difference") and "and" not in cut.split()) or cut.split()[-1].endswith("ed"):
        return None
    be = "are" if aspect.endswith("s") and not aspect.endswith("sis") else "is"
    link = match["link"].lower()
    front = (
        draw.choice((f"what {be} the ", ""))
        if not aspect.startswith(("type", "step"))
        else draw.choice(("what are the ", ""))
    )
    return Question(f"{front}{aspect} {link} {cut}", "fact")


_PATTERNS: tuple[Callable[[str, random.Random], Question | None], ...] = (
    _description,
    _purpose,
    _imperative,
    _permission,
    _copula,
    _effect,
    _aspect,
)
