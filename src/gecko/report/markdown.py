"""What all cards are put together with: texts that Markdown shows as they are, and nothing of this machine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from gecko.evaluate.table import table_lines

_MOST_REASONS = 8
_LONGEST_REASON = 120
# Reasons that go on in words, or with an id, of their own each time.
_OPEN = ("skipped by the teacher", "near duplicate", "exact duplicate")
_ABSOLUTE = re.compile(r"(?<![\w/.:])/(?:[^\s/:,;'\"]+/)+([^\s/:,;'\"]+)")  # a path from the root, by its last part


def short(name: str) -> str:
    """A path by its last part; a SPEC keeps its kind, and any other text stays as it is."""
    kind, colon, rest = name.partition(":")
    if colon and kind.isidentifier() and rest.startswith(("/", ".")):
        return f"{kind}:{Path(rest).name}"
    return Path(name).name if name.startswith(("/", ".")) else name


def shareable(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe without this machine's paths and addresses."""

    def shared(value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, dict):
            return {key: shared(item) for key, item in value.items() if key != "base_url"}
        if isinstance(value, list):
            return [shared(item) for item in value]
        return short(value) if isinstance(value, str) else value

    return {key: shared(value) for key, value in recipe.items()}


def safe(text: str) -> str:
    """A text that Markdown shows as it is, on one line."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in " ".join(text.split()))


def code(text: str) -> str:
    """A text in code letters, whatever it holds."""
    fence = "``" if "`" in text else "`"
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def front_matter(head: dict[str, Any]) -> str:
    """The YAML before a card, without what is not known."""
    known = {key: value for key, value in head.items() if value}
    return f"---\n{as_yaml(known)}---"


def as_yaml(value: object) -> str:
    """YAML in the order given."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], names: int = 1) -> str:
    """A Markdown table whose first columns are names and all others figures, which get their separators."""
    cells = [tuple(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row) for row in rows]
    return "\n".join(table_lines(tuple(headings), cells, names))


def details(summary: str, text: str) -> str:
    """A part that Markdown readers fold away."""
    return f"<details>\n<summary>{summary}</summary>\n\n{text}\n\n</details>"


def counted(counter: Counter[str], most: int) -> str:
    """The most frequent names with their counts, and how many are not shown."""
    left = len(counter) - most
    said = [f"{safe(name)} ({count:,})" for name, count in counter.most_common(most)]
    return ", ".join([*said, f"and {left:,} more"] if left > 0 else said)


def set_aside(quarantine: Counter[tuple[str, str]], stages: Sequence[str]) -> str:
    """What stages set aside, by reason, as a table; a line where it is nothing."""
    found = Counter({key: count for key, count in quarantine.items() if key[0] in stages})
    if not found:
        return "Nothing was set aside."
    merged: Counter[tuple[str, str]] = Counter()
    for (stage, reason), count in found.items():
        own = _ABSOLUTE.sub(r"\1", reason)[:_LONGEST_REASON]
        said = next((known for known in _OPEN if reason.startswith(known)), own)
        merged[stage, safe(said)] += count
    rows: list[tuple[str, str, int]] = [(*key, count) for key, count in merged.most_common(_MOST_REASONS)]
    if left := merged.total() - sum(row[2] for row in rows):
        rows.append(("", f"{len(merged) - len(rows):,} other reasons", left))
    head = f"Set aside, {merged.total():,} in all:"
    return f"{head}\n\n{table(('step', 'reason', 'items'), rows, 2)}"
