"""Whether what a language model wrote can be a query or a task at all: its length, refusals, placeholders, copies."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from importlib.resources import files

import yaml

from gecko.corpus.decode import clean
from gecko.records import Passage

_LONGEST_QUERY = 400
_FEWEST_WORDS = 2
_MOST_WORDS = 60
_LONGEST_TASK = 300
# Of the searches that people typed, at most 0.8 % share so many words in a row with the passage they look for.
_COPIED_WORDS = 12

# Characters that no reader sees, but a model does: soft hyphens, zero-width spaces, direction marks, tags.
_UNSEEN = re.compile(
    "[\u00ad\u061c\u200b\u200e\u200f\u2060-\u2064\ufeff\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]"
)
_ACCENTS = re.compile("[\u0300-\u036f]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# Scripts written without spaces; two of their characters are counted as a word.
_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+")
_SPACELESS_CHARACTER = re.compile(f"[{_SPACELESS}]")

_ASKED = "query|task|string|text|question|keywords?|claim|sentence"
_PLACEHOLDER = re.compile(
    r"[\s.…_\-?*<>\[\]{}]*"
    r"|[<\[{(]+[^<>\[\]{}()]{1,80}[>\]})]+"
    rf"|(?:the |your |an? )?(?:search |example |user )?(?:{_ASKED})(?: here| text| string)?\.*"
    r"|none|null|n/?a|todo|tbd|undefined|lorem ipsum.*"
    r"|.*[<\[{](?:your |the |insert |an? )?(?:search )?(?:query|question|claim)(?: here)?[>\]}].*"
    r"|insert (?:the |your )?query.*",
    re.IGNORECASE,
)
_SHAPE_OF_TASK = re.compile(r"\bgiven an? (?:\.\.\.|…)|find a passage that (?:\.\.\.|…)", re.IGNORECASE)


@cache
def _pattern(section: str) -> re.Pattern[str]:
    """All expressions of a section of ``phrases.yaml`` as one."""
    text = files("gecko.teacher").joinpath("phrases.yaml").read_text(encoding="utf-8")
    expressions = []
    for words in yaml.safe_load(text)[section].values():
        for line in words["patterns"].splitlines():
            for name, listed in words.items():
                line = line.replace(f"{{{name}}}", listed)
            expressions.append(f"(?:{line})")
    return re.compile(_bare("|".join(expressions)))


def _bare(text: str) -> str:
    """Text without accents."""
    return unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", text)))


def fold(text: str) -> str:
    """Text in lower case, without accents, on one line."""
    return " ".join(_bare(text.lower()).replace("ß", "ss").split())


def visible(text: str) -> str:
    """Text without what no reader sees: NULs, lone surrogates, control characters, zero-width and direction marks."""
    return _CONTROL.sub(" ", _UNSEEN.sub("", clean(text)))


def one_line(text: str) -> str:
    """Visible text with every run of white space made one space."""
    return " ".join(visible(text).split())


def is_refusal(text: str) -> bool:
    """Whether a text begins as a model begins that will not do what it was asked."""
    return _pattern("refusals").match(fold(text[:300].lstrip(" \n\"'“*"))) is not None


def leans_on_passage(query: str) -> str:
    """The phrase by which a query leans on a passage that the searcher cannot see, such as "according to the text".

    Empty where the query stands alone.
    """
    found = _pattern("leaning").search(fold(query))
    return found[0].strip() if found else ""


def fault_of_task(task: str) -> str:
    """Why a text is no task description; empty where it is one."""
    if not task:
        return "there is no task"
    if len(task) > _LONGEST_TASK:
        return f"the task has {len(task)} characters, more than {_LONGEST_TASK}"
    if _PLACEHOLDER.fullmatch(task) or _SHAPE_OF_TASK.search(task):
        return "the task is a placeholder"
    if is_refusal(task):
        return "the model refused"
    return "" if _words(task) >= _FEWEST_WORDS else "the task is a single word"


def fault_of_query(query: str, passage: Passage | None = None) -> str:
    """Why a text is no query for a passage; empty where it can be one."""
    if not query:
        return "there is no query"
    if len(query) > _LONGEST_QUERY:
        return f"the query has {len(query)} characters, more than {_LONGEST_QUERY}"
    if _PLACEHOLDER.fullmatch(query):
        return "the query is a placeholder"
    if is_refusal(query):
        return "the model refused"
    words = _words(query)
    if words < _FEWEST_WORDS:
        return "the query is a single word"
    if words > _MOST_WORDS:
        return f"the query has {words:g} words, more than {_MOST_WORDS}"
    leaning = leans_on_passage(query)
    if leaning:
        return f"the query leans on a passage that the searcher cannot see: {leaning!r}"
    return _copy(query, passage) if passage is not None else ""


def _words(text: str) -> float:
    pieces = (piece for piece in _SPACELESS_CHARACTER.sub(" ", text).split() if any(map(str.isalnum, piece)))
    return sum(1 for _ in pieces) + len(_SPACELESS_CHARACTER.findall(text)) / 2


def _copy(query: str, passage: Passage) -> str:
    """What a query copies of its passage: the title, or more words in a row than a searcher would hit by chance."""
    tokens = _TOKEN.findall(query.casefold())
    if tokens and tokens == _TOKEN.findall(passage.title.casefold()):
        return "the query is the title of the passage"
    text = f" {' '.join(_TOKEN.findall(passage.text.casefold()))} "
    weights = [0.5 if _SPACELESS_CHARACTER.match(token) else 1.0 for token in tokens]
    end, weight = 0, 0.0
    for start in range(len(tokens)):
        while end < len(tokens) and weight < _COPIED_WORDS:
            weight += weights[end]
            end += 1
        if weight < _COPIED_WORDS:
            break
        if f" {' '.join(tokens[start:end])} " in text:
            return f"the query copies {_COPIED_WORDS} words or more in a row from the passage"
        weight -= weights[start]
    return ""
