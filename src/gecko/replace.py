"""A folder put in its place whole: what stood there before goes only when the new one is on disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(out: Path) -> Iterator[Path]:
    """Give an empty folder beside the place to write to; it takes the place when the block ends well.

    Raises:
        OSError: It cannot be written; what stood there is there still.
    """
    fresh, old = (out.with_name(f".{out.name}.{state}") for state in ("new", "old"))
    try:
        for left in (fresh, old):  # by a process that was killed
            if left.exists():
                shutil.rmtree(left)
        fresh.mkdir(parents=True)
        yield fresh
        if out.exists():
            out.rename(old)
        try:
            fresh.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    finally:
        for left in (fresh, old):
            shutil.rmtree(left, ignore_errors=True)
