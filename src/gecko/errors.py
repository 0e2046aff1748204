"""The one error a user can cause, and how it is shown: a line and a hint, never a traceback."""

from __future__ import annotations


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
