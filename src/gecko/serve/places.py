"""Where an index lies: a folder of this machine, or an object store, which LanceDB reads and writes by itself."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gecko.errors import GeckoError, UsageError, cannot_write, reason, system_error
from gecko.remote import check_url, is_url
from gecko.shards import locked, read_json, refuse_url, write_json

TABLE = "passages"
FACTS = "index.json"
AGAIN = "index again: gecko index MODEL --corpus passages/ --out index/ (delete the folder first where it is damaged)"

STORES = ("s3", "gs", "az")  # that LanceDB knows

_FACTS_TABLE = "index"
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS}
_LOOK_EVERY = 10.0  # seconds between two looks at whether a distant index was extended
_OPTIONS = {"client_max_retries": "3", "client_retry_timeout": "30"}  # else three minutes until an error is told
_REMOTE_HINT = (
    "is the bucket there, and do the variables name a way in (AWS_ACCESS_KEY_ID, AWS_REGION, "
    "AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME)? If it is damaged, delete it"
)
# What LanceDB's long errors hold of the store's own words.
_CODES = (r"<Code>(\w+)</Code>", r'message: "([^"]+)"', r'(Failed to get [^":\\]+)')


class IndexPlace(Protocol):
    """What building and searching an index ask of its place; printed, it is the user's name for it."""

    @property
    def lasting(self) -> str:
        """Its name wherever a process is started."""
        ...

    def connect(self) -> Any:  # noqa: ANN401
        """LanceDB's connection."""
        ...

    def facts(self) -> Any:  # noqa: ANN401
        """What was written of the index; None where there is none."""
        ...

    def write_facts(self, facts: dict[str, Any]) -> None:
        """Replace what is written of the index, all at once."""
        ...

    def stamp(self) -> object:
        """What changes when the facts were written again."""
        ...

    def holds_table(self) -> bool:
        """Whether there is a table of passages, whole or not."""
        ...

    def locked(self) -> AbstractContextManager[None]:
        """Hold it for one writer."""
        ...

    def trouble(self, error: Exception) -> GeckoError:
        """What LanceDB raised, in a line."""
        ...


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """A folder of this machine; the facts are in ``index.json``."""

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def lasting(self) -> str:
        """The folder's absolute path."""
        return str(self.folder.resolve())

    def connect(self) -> Any:  # noqa: ANN401
        """LanceDB's connection."""
        import lancedb

        return lancedb.connect(self.folder)

    def facts(self) -> Any:  # noqa: ANN401
        """What was written; None where there is nothing."""
        return read_json(self.folder / FACTS)

    def write_facts(self, facts: dict[str, Any]) -> None:
        """Replace it, all at once."""
        write_json(self.folder / FACTS, facts)

    def stamp(self) -> object:
        """The time of the last writing."""
        try:
            return (self.folder / FACTS).stat().st_mtime_ns
        except OSError:
            return 0

    def holds_table(self) -> bool:
        """Whether there is a table of passages, whole or not."""
        return (self.folder / f"{TABLE}.lance").exists()

    def locked(self) -> AbstractContextManager[None]:
        """Hold the folder."""
        return locked(self.folder)

    def trouble(self, error: Exception) -> GeckoError:
        """What LanceDB raised, in a line."""
        if system_error(error) in _UNWRITABLE:
            return cannot_write(self.folder, error)
        return GeckoError(f"the index in {self} is damaged: {reason(error)[:120]}", AGAIN)


class StorePlace:
    """A place in an object store; the facts are a table of one row beside the passages, so one driver does it all.

    Args:
        url: Such as ``s3://bucket/index``. Credentials come from the environment, as LanceDB reads them.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._looked = -_LOOK_EVERY
        self._stamp: object = 0

    def __str__(self) -> str:
        return self.url

    @property
    def lasting(self) -> str:
        """The URL."""
        return self.url

    def connect(self) -> Any:  # noqa: ANN401
        """LanceDB's connection."""
        import lancedb

        return lancedb.connect(self.url, storage_options=_OPTIONS)

    def facts(self) -> Any:  # noqa: ANN401
        """What was written; None where there is nothing."""
        table = self._table(_FACTS_TABLE)
        rows = [] if table is None else table.to_arrow().column("facts").to_pylist()
        return json.loads(rows[0]) if rows else None

    def write_facts(self, facts: dict[str, Any]) -> None:
        """Replace it, all at once."""
        mode = "create" if self._table(_FACTS_TABLE) is None else "overwrite"
        self.connect().create_table(_FACTS_TABLE, [{"facts": json.dumps(facts)}], mode=mode)

    def stamp(self) -> object:
        """As :meth:`IndexPlace.stamp`; the store is asked every ten seconds at most."""
        if time.monotonic() - self._looked >= _LOOK_EVERY:
            table = self._table(_FACTS_TABLE)
            self._stamp = 0 if table is None else table.version
            self._looked = time.monotonic()
        return self._stamp

    def holds_table(self) -> bool:
        """Whether there is a table of passages, whole or not."""
        return self._table(TABLE) is not None

    def locked(self) -> AbstractContextManager[None]:
        """Hold it against other processes of this user and machine: a store has no lock that goes with its process."""
        name = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        return locked(Path(tempfile.gettempdir()) / f"gecko-index-{os.getuid()}-{name}")

    def trouble(self, error: Exception) -> GeckoError:
        """What LanceDB raised, in a line."""
        text = str(error)
        said = next((found[1] for code in _CODES if (found := re.search(code, text))), reason(error))
        return GeckoError(f"the index in {self} cannot be read or written, or is damaged: {said[:120]}", _REMOTE_HINT)

    def _table(self, name: str) -> Any:  # noqa: ANN401
        """A table; None where there is none."""
        try:
            return self.connect().open_table(name)
        except ValueError as error:
            if "was not found" in str(error):
                return None
            raise


def index_place(out: Path | str) -> IndexPlace:
    """The place that a path or a URL names.

    Raises:
        UsageError: A URL of a store that LanceDB does not know, with a key in it, or that was made a path.
    """
    text = str(out)
    if is_url(text):
        check_url(text)
        if text.partition("://")[0] not in STORES:
            raise UsageError(f"no index can lie in {text}", f"in {', '.join(f'{each}://' for each in STORES)} it can")
        return StorePlace(text)
    refuse_url(Path(out))
    return FolderPlace(Path(out))
