"""Themes named by a language model, which reads the words and some texts of each; every call is in a ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from gecko.errors import UsageError
from gecko.jobs.themes import Theme
from gecko.teacher.ask import Prompt, Write
from gecko.teacher.ledger import FILE_NAME, Ledger
from gecko.teacher.llm import LLMTeacher
from gecko.teacher.objects import find_objects
from gecko.teacher.open import open_teacher
from gecko.teacher.options import TeacherOptions
from gecko.teacher.wording import one_line

_READ = 8  # texts of a theme that the model reads
_CHARACTERS = 400  # of each
_LONGEST = 60  # characters of a name
_TOKENS = 200
_SHARED = """You name the themes of a collection of texts. You are given words that set a theme apart and some of its
texts. Reply with one JSON object, {"name": "..."}: two to five words, in the language of the texts, that say what these
texts have in common and other themes have not. No quotation marks inside, no full stop, no word such as "theme".

"""
_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
    "additionalProperties": False,
}


def name_themes(
    themes: Sequence[Theme],
    texts: Sequence[str],
    options: TeacherOptions,
    out: Path,
    tell: Callable[[str], None],
) -> tuple[list[Theme], dict[str, float]]:
    """Have a language model name each theme; one that it does not name keeps its words.

    Args:
        themes: The themes.
        texts: All texts.
        options: Which model, and its caps.
        out: Folder of the ledger: a theme that was named before costs nothing.
        tell: Receives progress lines.

    Returns:
        The themes, and what the ledger has spent.

    Raises:
        UsageError: The teacher is no language model.
        GeckoError: It does not answer, or a cap is reached.
    """
    with Ledger(out / FILE_NAME) as ledger:
        teacher = open_teacher(options.spec, ledger, options=options, tell=tell)
        if not isinstance(teacher, LLMTeacher):
            raise UsageError(f"{options.spec} names no themes", "it must be a language model, such as openai:MODEL")
        with closing(teacher):
            teacher.probe()

            async def name(theme: Theme) -> str:
                return read_name((await teacher.caller.ask(naming_ask(theme, texts))).text)

            names = teacher.caller.map(name, list(themes))
        spent = ledger.stats()
    missing = names.count("")
    if missing:
        tell(f"{missing} of {len(names)} themes got no usable name and keep their words")
    named = [replace(theme, name=name or theme.name) for theme, name in zip(themes, names, strict=True)]
    return named, spent


def naming_ask(theme: Theme, texts: Sequence[str]) -> Write:
    """What the model is asked for one theme."""
    shown = "\n".join(f"- {one_line(texts[place])[:_CHARACTERS]}" for place in theme.members[:_READ])
    own = f"Words: {', '.join(theme.words)}\nTexts:\n{shown}\nJSON:"
    return Write(Prompt(_SHARED, own), _TOKENS, schema=_SCHEMA)


def read_name(reply: str) -> str:
    """The name in a reply; empty where there is none that can be used."""
    for found in find_objects(reply, ("name",), mend=True):
        name = one_line(str(found["name"])).strip(" .\"'")
        if name and len(name) <= _LONGEST:
            return name
    return ""
