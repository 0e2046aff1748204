"""The texts a job works on: a table, a file of one text a line, or passages as ``gecko corpus`` makes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gecko.errors import GeckoError, UsageError, reason
from gecko.mixture.format import render_passage
from gecko.remote import AnyFile
from gecko.shards import read_rows, to_passage
from gecko.tabular import SUFFIXES, Record, as_label, as_text, read_records

# What a column is called where the user names none, the first that is there.
_NAMES: dict[str, tuple[str, ...]] = {
    "text": ("text", "content", "comment", "body", "review", "message", "sentence", "query"),
    "title": ("title", "subject", "headline"),
    "id": ("id", "_id", "passage_id", "source_id"),
    "label": ("label_text", "label", "class", "category"),
    "time": ("time", "date", "timestamp", "created", "created_at"),
}
_HINT = "give a .jsonl, .csv, .tsv or .parquet file, a text file of one text a line, or a folder of passages"


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column of a table holds what; empty takes a usual name, where there is one."""

    text: str = ""
    title: str = ""
    id: str = ""
    label: str = ""
    time: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """One text; ``label`` and ``time`` are empty where the file has none."""

    item_id: str
    title: str
    text: str
    label: str = ""
    time: str = ""

    @property
    def whole(self) -> str:
        """Title and text as a model in plain format reads them."""
        return render_passage(self.title, self.text, "plain")


@dataclass(slots=True)
class Items:
    """What a file held.

    Attributes:
        items: The texts, in the file's order.
        left: Rows that are not among them, by reason.
        columns: The columns that were read.
    """

    items: list[Item] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)
    columns: dict[str, str] = field(default_factory=dict)

    def said(self, place: AnyFile) -> str:
        """What was read and what was not, in a line."""
        counts = "".join(f", {count:,} {why}" for why, count in sorted(self.left.items()))
        named = ", ".join(f"{role} from {name}" for role, name in self.columns.items())
        return f"{place}: {len(self.items):,} texts{counts}{f' ({named})' if named else ''}"


def read_items(place: AnyFile, columns: Columns = Columns(), *, wanted: Sequence[str] = ()) -> Items:
    """Read texts.

    A row without text, one that cannot be read, and one whose id came before are left out and counted.

    Args:
        place: A table or a text file of one text a line, of this machine or an object store; or a folder of passages.
        columns: Which column holds what.
        wanted: Roles, beside the text, that the file must have a column for, such as ``label``.

    Raises:
        GeckoError: It cannot be read, holds no text, or a column that is needed is not there.
    """
    import pyarrow as pa

    found = Items()
    try:
        rows = _passages(place) if isinstance(place, Path) and place.is_dir() else _rows(place, columns, found, wanted)
        seen: set[str] = set()
        for number, row in enumerate(rows, start=1):
            if isinstance(row, str):
                found.left[row] += 1
            elif not row.text:
                found.left["without text"] += 1
            elif row.item_id and row.item_id in seen:
                found.left["whose id came before"] += 1
            else:
                item_id = row.item_id or str(number)
                seen.add(item_id)
                found.items.append(Item(item_id, row.title, row.text, row.label, row.time))
    except FileNotFoundError:
        raise GeckoError(f"{place}: no such file or folder", _HINT) from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise GeckoError(f"{place} cannot be read: {reason(error)[:160]}", _HINT) from error
    if not found.items:
        raise GeckoError(f"{place} holds no text", _HINT)
    return found


def _passages(place: Path) -> Iterator[Item]:
    for passage in read_rows(place, to_passage):
        yield Item(passage.passage_id, passage.title, passage.text)


def _rows(place: AnyFile, columns: Columns, found: Items, wanted: Sequence[str]) -> Iterator[Item | str]:
    if place.suffix.lower() not in SUFFIXES:
        if wanted:
            raise GeckoError(f"{place} has no columns, and a {wanted[0]} is needed", "give a table")
        with place.open(encoding="utf-8-sig") as lines:
            for line in lines:
                yield Item("", "", as_text(line) or "")
        return
    chosen: dict[str, str] | None = None
    for record in read_records(place):
        if isinstance(record, str):
            yield "that cannot be read"
            continue
        if chosen is None:  # by the first record
            chosen = _choose(place, record, columns, wanted)
            found.columns.update(chosen)
        value = {role: record.get(name) for role, name in chosen.items()}
        text, title = as_text(value["text"]) or "", as_text(value.get("title")) or ""
        yield Item(
            as_label(value.get("id")) or "",
            title if text else "",
            text or title,
            as_label(value.get("label")) or "",
            _time(value.get("time")),
        )


def _choose(place: AnyFile, record: Record, columns: Columns, wanted: Sequence[str]) -> dict[str, str]:
    """The column of each role, by the user's word or a usual name."""
    there = ", ".join(map(str, record))
    chosen: dict[str, str] = {}
    for role, usual in _NAMES.items():
        own = getattr(columns, role)
        if own and own not in record:
            raise UsageError(f"{place}: no column {own}; there are {there}", f"--{role} names the column of the {role}")
        name = own or next((name for name in usual if name in record and name not in chosen.values()), "")
        if name:
            chosen[role] = name
        elif role == "text" or role in wanted:
            raise GeckoError(f"{place}: no column of the {role}; there are {there}", f"name it: --{role} COLUMN")
    return chosen


def _time(value: Any) -> str:  # noqa: ANN401
    return "" if value is None else str(value).strip()
