"""What building and searching an index share: its folder, and what index.json says of it."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from gecko.errors import GeckoError, cannot_write, reason, system_error
from gecko.shards import read_json

logger = logging.getLogger(__name__)

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS}

TABLE = "passages"
FACTS = "index.json"
AGAIN = "index again: gecko index MODEL --corpus passages/ --out index/ (delete the folder first where it is damaged)"


class TextEncoder(Protocol):
    """What an index asks of a model."""

    path: str
    dim: int

    @property
    def fingerprint(self) -> str:
        """Hash of what its vectors depend on."""
        ...

    @property
    def origin(self) -> str:
        """Fingerprint of the model that its vectors stand for: an export's is that of what was exported."""
        ...

    def encode_queries(self, queries: Sequence[str], task: str | Sequence[str] | None = None) -> np.ndarray:
        """Unit vectors (n, dim)."""
        ...

    def encode_passages(self, passages: Sequence[tuple[str, str]]) -> np.ndarray:
        """Unit vectors (n, dim) of (title, text) pairs."""
        ...


def facts_of(out: Path) -> dict[str, Any] | None:
    """What index.json says: model, weights, dim; None where there is no index."""
    facts = read_json(out / FACTS)
    known = isinstance(facts, dict) and isinstance(facts.get("model"), str) and isinstance(facts.get("dim"), int)
    if facts is not None and not known:
        raise GeckoError(f"{out / FACTS} is damaged", AGAIN)
    return cast("dict[str, Any] | None", facts)


@contextmanager
def intact(out: Path) -> Iterator[None]:
    """Tell what goes wrong inside LanceDB as a full disk or a damaged index; it has no error class of its own."""
    try:
        yield
    except GeckoError:
        raise
    except Exception as error:
        logger.debug("%s", out, exc_info=True)
        if system_error(error) in _UNWRITABLE:
            raise cannot_write(out, error) from error
        raise GeckoError(f"the index in {out} is damaged: {reason(error)[:120]}", AGAIN) from error
