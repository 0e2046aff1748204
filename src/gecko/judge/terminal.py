"""Judging in a terminal: one candidate at a time, one letter and Enter."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import typer

from gecko.judge.judging import Judging
from gecko.judge.session import Question

_SHOWN = 700  # characters of a text at first
_KEYS = "2 relevant  1 partly  0 not  s skip  x drop the query  m more  u undo  q stop"


def ask_queries() -> Iterator[str]:
    """Yield the queries that the user types, up to an empty line or the end of the input."""
    while True:
        try:
            text = typer.prompt("query (empty: that is all)", default="", show_default=False, err=True)
        except typer.Abort:
            return
        if not str(text).strip():
            return
        yield str(text)


def judge_here(judging: Judging, say: Callable[[str], None]) -> None:
    """Ask about each candidate until all are judged or the user stops; every answer is on disk before the next one."""
    session = judging.session
    number = 0
    whole = False
    while (asked := session.question()) is not None:
        if not whole and asked.number != number:
            number = asked.number
            say(f"\nQuery {asked.number} of {asked.queries}: {printable(asked.query)}")
        _show(judging, asked, say, whole=whole)
        whole = False
        try:
            key = str(typer.prompt(_KEYS, default="", show_default=False, err=True)).strip().lower()
        except typer.Abort:
            return
        if key in {"0", "1", "2"}:
            session.grade(asked, int(key))
        elif key == "s":
            session.grade(asked, None)
        elif key == "x":
            session.drop(asked)
        elif key == "u":
            say("taken back" if session.undo() else "there is nothing to take back")
            number = 0
        elif key == "m":
            whole = True
        elif key == "q":
            return
        else:
            say(f"{printable(key) or 'an empty line'} is none of these")


def printable(text: str) -> str:
    """A text of a corpus without what would steer a terminal; its line ends stay."""
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)


def _show(judging: Judging, asked: Question, say: Callable[[str], None], *, whole: bool) -> None:
    title, text = (printable(part).strip() for part in judging.document(asked))
    say(f"\n[{asked.candidate} of {asked.candidates}] {title}".rstrip())
    say(text if whole or len(text) <= _SHOWN else f"{text[:_SHOWN].rstrip()} …")
