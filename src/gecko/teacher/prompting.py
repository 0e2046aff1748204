"""What a language model is shown: constant instructions with examples first, then the passage as data.

The constant part of every prompt is a versioned file of ``prompts/``; the paper published none of its own. Nothing here
looks at a model or a file of the user: the same arguments give the same prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from gecko.records import Passage, content_id
from gecko.teacher.ask import Prompt
from gecko.teacher.wishes import DEFAULTS, PromptOptions, wishes
from gecko.teacher.wording import one_line, visible

_LONGEST_TITLE = 200
_LONGEST_QUERY = 1000
_LONGEST_REPLY = 4000

# All keys are required and none is null: the strictest servers allow nothing else, and a model held to a schema then
# writes what the examples show.
GENERATE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"skip": {"type": "string"}, "task": {"type": "string"}, "query": {"type": "string"}},
    "required": ["skip", "task", "query"],
    "additionalProperties": False,
}
_ORDER = {"type": "array", "items": {"type": "integer"}}
GRADE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"grades": {"type": "array", "items": {"type": "integer", "enum": [0, 1, 2, 3]}}, "order": _ORDER},
    "required": ["grades", "order"],
    "additionalProperties": False,
}
LISTWISE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"order": _ORDER},
    "required": ["order"],
    "additionalProperties": False,
}


def generate_prompt(passage: Passage, options: PromptOptions = DEFAULTS, seed: int = 0) -> Prompt:
    """Ask for a task and a query for a passage (P_QG), with the wishes that are drawn for it."""
    wish = "; ".join(
        f"{name}: {_line(value, _LONGEST_TITLE)}" for name, value in wishes(passage, options, seed).items()
    )
    return Prompt(_SHARED[_generating(options)], f"Wish: {wish}\n{_block(passage, options.max_passage_chars)}\nJSON:")


def likelihood_prompt(passage: Passage, options: PromptOptions = DEFAULTS) -> Prompt:
    """Raw text after which a query's likelihood is measured (P_QL); :func:`continuation` makes what follows it."""
    return Prompt(_SHARED["likelihood"], f"{_block(passage, options.max_ranked_chars)}\nQuery:")


def continuation(query: str) -> str:
    """A query as it continues :func:`likelihood_prompt`, with its own leading space."""
    return " " + _line(query, _LONGEST_QUERY)


def relevance_prompt(passage: Passage, query: str, options: PromptOptions = DEFAULTS) -> Prompt:
    """Ask for the relevance of a passage (P_RC); the next token is the label, a digit from 0 to 3."""
    block = _block(passage, options.max_ranked_chars)
    return Prompt(_SHARED["relevance"], f"Query: {_line(query, _LONGEST_QUERY)}\n{block}\nRelevance:")


def listwise_prompt(query: str, passages: Sequence[Passage], options: PromptOptions = DEFAULTS) -> Prompt:
    """Ask for the order of a query's candidates, numbered from 1 as given."""
    return Prompt(_SHARED["listwise"], _listed(query, passages, options))


def grade_prompt(query: str, passages: Sequence[Passage], options: PromptOptions = DEFAULTS) -> Prompt:
    """Ask for the grades and the order of a query's candidates, numbered from 1 as given, in one reply."""
    return Prompt(_SHARED["grade"], _listed(query, passages, options))


def repair_prompt(raw_reply: str, problem: str) -> Prompt:
    """Ask once more for a reply that could not be read; the model sees its own words and what was wrong with them."""
    reply = _neutral(_cut(visible(raw_reply), _LONGEST_REPLY))
    return Prompt(_SHARED["repair"], f"Problem: {_line(problem, 300)}\n<reply>\n{reply}\n</reply>\nJSON:")


# A closing tag of ours, however it is spelt, and the control tokens of chat templates: a tokenizer that knows one takes
# it as such wherever it stands in a prompt. They are replaced, never removed: what is left cannot close up to new ones.
# What no reader sees may stand anywhere in it: Unicode's Default_Ignorable_Code_Point.
_IGNORED = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_JOINERS = f"[{_IGNORED}]*"
_TAG = re.compile(
    rf"[<＜﹤](?=[\s/{_IGNORED}]*(?:{_JOINERS.join('passage')}|{_JOINERS.join('reply')}))", re.IGNORECASE
)  # fmt: skip
_WORDS = (
    "s|bos|eos|pad|unk|mask|cls|sep|think|thinking|tool_call|tool_response|system|user|assistant|image|audio|video|eot|eod|"
    r"endoftext|(?:start|end)_of_\w+|fim_\w+|unused\d+|extra_id_\d+|reserved_\d+"
)
_CONTROL = re.compile(rf"[<＜](?:[|｜][^<>＜＞‹›\s]{{1,80}}[|｜]|/?(?:{_WORDS})|</?SYS>)[>＞]", re.IGNORECASE)
_BRACKETED = re.compile(
    r"[\[［](/?(?:INST|THINK|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_(?:CALLS|RESULTS|CONTENT)|IMG|[gs]?MASK|CLS|SEP|PAD|UNK|BOS|EOS))[\]］]"
)
_ANGLES = str.maketrans("<＜>＞", "‹‹››")
_NUMBER = re.compile(r"(?<!\S)\[(\d{1,3})\]")


def _neutral(text: str) -> str:
    """Text in which nothing can be taken for one of our tags or for a model's control token."""
    text = _TAG.sub("‹", text)
    text = _CONTROL.sub(lambda found: found[0].translate(_ANGLES), text)
    return _BRACKETED.sub(r"(\1)", text)


def _cut(text: str, longest: int) -> str:
    """The beginning of a text, to the end of a word."""
    text = text.strip()
    if len(text) <= longest:
        return text
    head = text[:longest]
    end = len(head)
    if not text[longest].isspace():
        # Text without spaces (Chinese, a long path) is cut where it is.
        end = next((at for at in range(longest - 1, max(longest - 80, 0), -1) if head[at].isspace()), longest)
    return head[:end].rstrip() + " …"


def _line(text: str, longest: int) -> str:
    return _neutral(_cut(one_line(text), longest))


def _block(passage: Passage, longest: int) -> str:
    title = _line(passage.title, _LONGEST_TITLE)
    heading = f"Title: {title}\n" if title else ""
    return f"<passage>\n{heading}{_neutral(_cut(visible(passage.text), longest))}\n</passage>"


def _listed(query: str, passages: Sequence[Passage], options: PromptOptions) -> str:
    # One line is one passage, as in the recorded replies: no text can begin a line of its own.
    lines = [f"Query: {_line(query, _LONGEST_QUERY)}"]
    for number, passage in enumerate(passages, start=1):
        title, text = _line(passage.title, _LONGEST_TITLE), _line(passage.text, options.max_ranked_chars)
        shown = _NUMBER.sub(r"(\1)", f"{title} | {text}" if title else text)
        lines.append(f"[{number}] {shown}")
    return "\n".join(lines) + "\n"


def _read(name: str) -> str:
    text = files("gecko.teacher").joinpath("prompts", f"{name}.md").read_text(encoding="utf-8")
    return text.replace("\r\n", "\n").rstrip("\n") + "\n\n"


_FILES = {
    "generate": "generate_v2",
    "likelihood": "likelihood_v1",
    "relevance": "relevance_v1",
    "listwise": "listwise_v1",
    "grade": "grade_v1",
    "repair": "repair_v1",
}
_LOCAL = "generate_local"  # in place of "generate" where the tasks are to be in the queries' languages
_SHARED = {kind: _read(name) for kind, name in _FILES.items()} | {_LOCAL: _read("generate_local_v1")}
_LAYOUT = "2"  # raised when the same passage would be laid out differently
PROMPT_VERSIONS = {kind: content_id(_LAYOUT, _SHARED[kind]) for kind in _FILES}
VERSION = content_id(*PROMPT_VERSIONS.values())


def _generating(options: PromptOptions) -> str:
    return "generate" if options.task_language == "English" else _LOCAL


def version_of(options: PromptOptions) -> str:
    """The version of the prompts that options choose."""
    used = {**PROMPT_VERSIONS, "generate": content_id(_LAYOUT, _SHARED[_generating(options)])}
    return content_id(*used.values())
