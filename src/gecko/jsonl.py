"""JSON Lines, read the same way wherever they are read: a line at a time, UTF-8, a broken line told with its number.

The rooms differ only in what a broken line costs: a corpus and a training source set it aside, a test set refuses it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gecko.errors import GeckoError
from gecko.remote import AnyFile

_MOST = 250  # characters of a fault


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not blank.

    Attributes:
        number: Its place in the file, from 1, blank lines counted.
        value: What it says; None where it is broken.
        fault: Why it is not JSON in UTF-8; empty where it is.
        raw: Its bytes.
    """

    number: int
    value: Any
    fault: str
    raw: bytes


def read_lines(path: AnyFile) -> Iterator[Line]:
    """Yield every line that is not blank; a byte order mark before the first is passed over.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as handle:
        for number, raw in enumerate(handle, start=1):
            if not raw.strip():
                continue
            value, fault = None, ""
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                if not text.strip():
                    continue  # a byte order mark alone, or spaces that only Unicode knows
                value = json.loads(text)
            except json.JSONDecodeError as error:
                fault = f"{error.msg} at character {error.pos + 1}"
            except (ValueError, RecursionError) as error:  # not UTF-8, a number without end, too many brackets
                fault = str(error)
            yield Line(number, value, f"not JSON in UTF-8: {fault}"[:_MOST] if fault else "", raw)


def read_objects(path: Path, hint: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield (object, "path, line n") of a file in which every line must be an object.

    Args:
        path: The file.
        hint: What to say where there is no such file.

    Raises:
        GeckoError: The file is not there or cannot be read, or a line is no JSON object.
    """
    try:
        for line in read_lines(path):
            where = f"{path}, line {line.number}"
            if line.fault:
                raise GeckoError(f"{where}: {line.fault}", "Each line is one JSON object.")
            if not isinstance(line.value, dict):
                raise GeckoError(f"{where}: not a JSON object", "Each line is one JSON object.")
            yield line.value, where
    except FileNotFoundError:
        raise GeckoError(f"{path}: no such file", hint) from None
    except OSError as error:
        raise GeckoError(f"{path}: cannot be read ({error.strerror or error})", "Check its permissions.") from None
