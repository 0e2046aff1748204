"""Labelled data as it lies on disk or on the Hub: one record at a time, each column by the role it plays.

Files are streamed. A record that cannot be used (an empty text, a score that is no number, a broken line) is set aside
with the reason and does not cost its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow as pa

from gecko.corpus.files import HUB
from gecko.errors import GeckoError
from gecko.mixture.options import OPTIONAL_ROLES, ROLES, SourceOptions
from gecko.records import Quarantined
from gecko.remote import AnyFile, is_url, list_remote
from gecko.tabular import SHOWN, SUFFIXES, as_label, as_score, as_text, as_texts, read_records


@dataclass(frozen=True, slots=True)
class Item:
    """A usable record: ``values`` has a value for each role, text cleaned, labels as text, scores as numbers."""

    where: str
    values: dict[str, Any]


def read_items(options: SourceOptions) -> Iterator[Item | Quarantined]:
    """Read a source's records by the roles of its kind.

    Args:
        options: Where it lies, its kind and its columns.

    Returns:
        Usable records, and those set aside with the reason.

    Raises:
        GeckoError: There is no such file or data set, it cannot be read, or it lacks a column.
    """
    columns: dict[str, str] = {}
    for number, record in enumerate(_records(options), start=1):
        where = f"{options.name}#{number}"
        if isinstance(record, str):
            yield Quarantined("mixture", where, record, "")
            continue
        columns = columns or _columns_of(options, record)
        yield _item(where, record, columns)


def check_columns(options: SourceOptions) -> None:
    """Find what would stop :func:`read_items` at the first record: a missing file or column. The Hub is not asked.

    Raises:
        GeckoError: As :func:`read_items`.
    """
    if not options.path.startswith(HUB):
        next((item for item in read_items(options) if isinstance(item, Item)), None)


def source_files(options: SourceOptions) -> list[AnyFile]:
    """List the files of a split: the file that is named, or those in the folder; none of a data set on the Hub.

    The folder may be one of an object store.

    Raises:
        GeckoError: There are none.
    """
    if options.path.startswith(HUB):
        return []
    if is_url(options.path):
        return _remote_files(options)
    place = Path(options.path)
    if place.is_file():
        if place.suffix.lower() not in SUFFIXES:
            raise trouble(options, f"{place} is not a kind of file that is read", f"readable are {' '.join(SUFFIXES)}")
        return [place]
    if not place.is_dir():
        raise trouble(options, f"no file or folder at {place}", "a data set on the Hub is hf://OWNER/NAME")
    for pattern in _patterns(options.split):
        if files := sorted(place.glob(pattern)):
            return list(files)
    raise _no_split(options, [path.name for path in place.iterdir()])


def _remote_files(options: SourceOptions) -> list[AnyFile]:
    try:
        found, folder = list_remote(options.path)
    except GeckoError as error:
        raise trouble(options, error.message, error.hint) from error
    if folder:
        for pattern in _patterns(options.split):
            # A stroke in the name is one of the pattern, as pathlib has it.
            matched = [name for name in found if fnmatchcase(name, pattern) and name.count("/") == pattern.count("/")]
            if matched:
                return [found[name] for name in matched]
        raise _no_split(options, [name for name in found if "/" not in name])
    if unread := next((name for name, file in found.items() if file.suffix.lower() not in SUFFIXES), None):
        raise trouble(options, f"{unread} is not a kind of file that is read", f"readable are {' '.join(SUFFIXES)}")
    return list(found.values())


def _patterns(split: str) -> list[str]:
    """The names that the files of a split may have, the first that are there count."""
    return [f"{start}{suffix}" for suffix in SUFFIXES for start in (split, f"{split}-*", f"data/{split}-*")]


def _no_split(options: SourceOptions, names: list[str]) -> GeckoError:
    there = ", ".join(sorted(name for name in names if name.endswith(SUFFIXES))) or "none"
    return trouble(
        options, f"{options.path} has no file of split {options.split!r} ({there})", "name the file, or another split"
    )


def _records(options: SourceOptions) -> Iterator[dict[str, Any] | str]:
    """Yield each record, or the reason why there is none in its place."""
    if options.path.startswith(HUB):
        yield from _hub(options)
        return
    for path in source_files(options):
        try:
            yield from read_records(path, lambda names: _columns_of(options, dict.fromkeys(names)).values())
        except (OSError, ValueError, pa.ArrowException) as error:
            reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
            raise trouble(options, f"cannot read {path}: {reason}", "is it whole, and UTF-8 text?") from error


def _hub(options: SourceOptions) -> Iterator[dict[str, Any] | str]:
    """Stream a data set from the Hub; an NLI label is given by its name, as its number differs between data sets."""
    from datasets import load_dataset

    owner, _, rest = options.path.removeprefix(HUB).partition("/")
    name, _, config = rest.partition("/")
    try:
        data = load_dataset(f"{owner}/{name}", config or None, split=options.split, streaming=True)
        to_name = _label_names(data, options) if options.kind == "nli" else None
        for record in data:
            yield to_name(record) if to_name else record
    except Exception as error:  # datasets, huggingface_hub, fsspec and the HTTP client each raise their own
        reason = str(error).split("\n")[0]
        raise trouble(
            options, f"cannot load {options.path}: {reason}", "is it a public data set, and is the Hub reachable?"
        ) from error


def _label_names(data: Any, options: SourceOptions) -> Callable[[dict[str, Any]], dict[str, Any]] | None:  # noqa: ANN401
    features = data.features or {}
    candidates = (options.columns["label"],) if "label" in options.columns else ROLES["nli"]["label"]
    for column in candidates:
        names = getattr(features.get(column), "names", None)
        if names:
            return lambda record: {
                **record,
                column: names[record[column]] if 0 <= record[column] < len(names) else record[column],
            }
    return None


def _columns_of(options: SourceOptions, record: dict[str, Any]) -> dict[str, str]:
    """Find the column of each role, by the recipe or by the usual names."""
    found: dict[str, str] = {}
    for role, usual in ROLES[options.kind].items():
        named = options.columns.get(role)
        candidates = (named,) if named else usual
        column = next((name for name in candidates if name in record), None)
        if column is not None:
            found[role] = column
        elif named or role not in OPTIONAL_ROLES:
            raise trouble(
                options,
                f"no column {' or '.join(map(repr, candidates))} for {role}; there are {', '.join(map(str, record))}",
                f"name it: columns: {{{role}: COLUMN}}",
            )
    return found


def _item(where: str, record: dict[str, Any], columns: dict[str, str]) -> Item | Quarantined:
    values: dict[str, Any] = {}
    for role, column in columns.items():
        value = _READERS.get(role, as_text)(record.get(column))
        if value is None and role not in OPTIONAL_ROLES:
            reason = f"{column}: {_WANTED.get(role, 'an empty text, or none')}"
            return Quarantined("mixture", where, reason, ascii(record)[:SHOWN])
        values[role] = value
    return Item(where, values)


_READERS: dict[str, Callable[[Any], Any]] = {
    "label": as_label,
    "score": as_score,
    "positive": as_texts,
    "negative": as_texts,
}
_WANTED = {"label": "no label", "score": "not a number"}


def trouble(options: SourceOptions, message: str, hint: str) -> GeckoError:
    """An error that names the source."""
    return GeckoError(f"source {options.name}: {message}", hint)
