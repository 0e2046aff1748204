"""How cards are written, and how a data card that someone has made theirs is told from gecko's own."""

from __future__ import annotations

from pathlib import Path

from gecko.shards import atomic

_OWN = "<!-- Written by gecko, and written again by the next run. Without this line the card is yours and is kept. -->"


def write_own_card(path: Path, text: str) -> None:
    """Write a card, unless someone has made the one that is there theirs, or it says the same.

    Raises:
        GeckoError: It cannot be written.
    """
    text = f"{text.rstrip()}\n\n{_OWN}\n"
    there = _read(path)
    if there is None or _OWN in there:
        write_card(path, text)


def write_card(path: Path, text: str) -> None:
    """Write a card; one that says the same already is left as it is, so that a folder does not look changed.

    Raises:
        GeckoError: It cannot be written.
    """
    if _read(path) != text:
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
