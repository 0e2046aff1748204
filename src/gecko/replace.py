"""A folder put in its place whole: what stood there before goes only when the new one is on disk."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gecko.errors import GeckoError


@contextmanager
def replaced(out: Path) -> Iterator[Path]:
    """Give an empty folder beside the place to write to; it takes the place when the block ends well.

    Raises:
        OSError: It cannot be written; what stood there is there still.
        GeckoError: Another process is writing there.
    """
    out = out.resolve() if out.is_symlink() else out  # the link stays; what it points to is replaced
    fresh, old = (out.with_name(f".{out.name}.{state}") for state in ("new", "old"))
    moved = False
    with _held(fresh, out):
        try:
            if old.exists() and not out.exists():  # a process was killed between the two renames
                old.rename(out)
            for left in (*fresh.iterdir(), old):  # by a process that was killed
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left)
                else:
                    left.unlink(missing_ok=True)
            yield fresh
            if out.exists():
                out.rename(old)
            try:
                fresh.rename(out)
                moved = True  # from now on, a folder of that name is another process's
            except BaseException:
                if old.exists() and not out.exists():
                    old.rename(out)
                raise
        finally:
            if not moved:
                shutil.rmtree(fresh, ignore_errors=True)
            if out.exists():
                shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _held(folder: Path, out: Path) -> Iterator[None]:
    """Hold a folder, made where it is missing, for one process; the lock goes with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            same = os.path.samestat(os.fstat(handle), folder.stat())  # or it took its place meanwhile
        except (BlockingIOError, FileNotFoundError):
            same = False
        if not same:
            raise GeckoError(f"another process is writing {out}", "wait for it, or choose another --out")
        yield
    finally:
        os.close(handle)
