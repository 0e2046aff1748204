"""The one error a user can cause, and how it is shown: a line and a hint, never a traceback."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SYSTEM = re.compile(r"\(os error (\d+)\)")  # the words of libraries in Rust: lance, safetensors, tokenizers


class GeckoError(Exception):
    """Something the user can mend.

    Args:
        message: One line that says what is wrong, with the offending name or path.
        hint: One line that says what to do about it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(GeckoError):
    """A wrong argument or recipe key: the command line exits with 2 instead of 1."""


def reason(error: BaseException) -> str:
    """First line of what an exception says, or its name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell in a line that a disk is full or a place cannot be written.

    Raises:
        GeckoError: An OSError was raised inside.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: BaseException) -> GeckoError:
    """The error for a full disk or a place that cannot be written, from what a library raised."""
    number = system_error(error)
    said = os.strerror(number) if number else reason(error)
    return GeckoError(f"cannot write {path}: {said}", "check the free space and the permissions, then run again")


def system_error(error: BaseException) -> int:
    """The number of the system's error (:mod:`errno`) behind an exception; 0 where it tells of none."""
    found = _SYSTEM.search(str(error))
    return getattr(error, "errno", None) or (int(found[1]) if found else 0)


def is_memory_error(error: BaseException) -> bool:
    """Whether an exception says that memory is full: on CPUs, torch raises a RuntimeError of no special kind."""
    full = ("can't allocate memory", "not enough memory", "out of memory")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, which need not be imported for this
        or (isinstance(error, RuntimeError) and any(text in str(error) for text in full))
    )
