"""The licence that a data set or corpus states of itself, by the files that lie with it; never a guess."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from gecko.corpus.files import HUB, STDLIB

NOT_STATED = "licence not stated"

_READMES = ("README.md", "README.txt", "README")
_METADATA = ("dataset_info.json", "dataset_infos.json", "metadata.json", "datapackage.json", "croissant.json")
_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "LICENCE.md", "LICENCE.txt", "COPYING")
_KEYS = ("license", "licence", "licenses", "licences")
_HEADING = re.compile(r"^#+\s*licen[cs]e\b.*$", re.IGNORECASE)
_LINE = re.compile(r"^[\s*_-]*licen[cs]e[\s*_]*:[\s*_]*(\S.*)$", re.IGNORECASE)
_LONGEST = 300
_MOST_BYTES = 1_000_000


def stated_licence(source: str) -> str:
    """Say which licence a source states, and where.

    Args:
        source: A folder or file, ``stdlib:``, or a data set on the Hub, whose page is not asked.

    Returns:
        The statement, cut at 300 characters, with the file it stands in; else ``licence not stated``.
    """
    if source.startswith(STDLIB):
        return "PSF-2.0, of the interpreter that the texts were read from"
    place = Path(source)
    if source.startswith(HUB) or not place.exists():
        return NOT_STATED
    home = place if place.is_dir() else place.parent
    # The README of a set in several languages lies one folder up; it counts where it names this one.
    named = re.compile(rf"(?<!\w){re.escape(home.name)}(?!\w)")
    above = any(named.search(_text(home.parent / name)) for name in _READMES)
    bare = not any((home / name).is_file() for name in (*_READMES, *_METADATA, *_FILES))
    for folder in (home, home.parent) if bare and above and place.is_dir() else (home,):
        for name, read in _READERS:
            if (folder / name).is_file() and (found := read(_text(folder / name))):
                return f"{_one_line(found)} ({folder.name}/{name})"
    return NOT_STATED


def hub_licence(folder: Path) -> str:
    """The licence in the head of a model's or data set's own card, as the Hub writes it; empty where there is none."""
    name = _head(_text(folder / "README.md")).get("license")
    return name if isinstance(name, str) else ""


def _of_readme(text: str) -> str:
    head = _head(text)
    if found := next((_named(head[key]) for key in _KEYS if head.get(key)), ""):
        return found
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if _HEADING.match(line):
            return _paragraph(lines[number + 1 :])
        if match := _LINE.match(line):
            return match[1]
    return ""


def _of_metadata(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        return ""
    inner = list(value.values()) if isinstance(value, dict) else []
    for one in [value, *inner]:  # dataset_infos.json has an entry a configuration
        if isinstance(one, dict) and (found := next((_named(one[key]) for key in _KEYS if one.get(key)), "")):
            return found
    return ""


def _first_line(text: str) -> str:
    return next((line.strip("# \t") for line in text.splitlines() if line.strip("# \t")), "")


_READERS = (
    *((name, _of_readme) for name in _READMES),
    *((name, _of_metadata) for name in _METADATA),
    *((name, _first_line) for name in _FILES),
)


def _head(text: str) -> dict[str, Any]:
    """The YAML before a card; empty where there is none."""
    try:
        value = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else None
    except (IndexError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def _named(value: Any) -> str:  # noqa: ANN401
    """A licence as metadata writes it: a name, an object with a name, or a list of such."""
    if isinstance(value, list):
        return ", ".join(filter(None, map(_named, value)))
    if isinstance(value, dict):
        return str(value.get("name") or value.get("title") or value.get("url") or "")
    return value if isinstance(value, str) else ""


def _paragraph(lines: list[str]) -> str:
    """The first paragraph of a section, up to the next heading."""
    said: list[str] = []
    for line in lines:
        if line.startswith("#") or (said and not line.strip()):
            break
        if line.strip():
            said.append(line.strip())
    return " ".join(said)


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as handle:
            return handle.read(_MOST_BYTES)
    except OSError:
        return ""


def _one_line(text: str) -> str:
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
