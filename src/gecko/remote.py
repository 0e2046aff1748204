"""Files of object stores (``s3://bucket/docs/``), read where files of this machine are read; fsspec does the work.

What lies there is only ever read: bytes are streamed, nothing is copied to this machine. Credentials come from the
environment, as the store's own driver finds them. A connection that breaks is an error that no reader takes for the
end of a file, or for a damaged one.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from gecko.errors import GeckoError, UsageError, reason

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_URL_AS_PATH = re.compile(r"[a-z][a-z0-9+.-]+:/[^/]", re.IGNORECASE)  # as pathlib writes one; a letter alone is a drive
_ADDRESS = re.compile(r"https?://\S+")
_BLOCK = 1 << 23  # bytes asked for at once; a stream holds two of them at most
_BUFFER = 1 << 20
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"} | dict.fromkeys(
    ("abfs", "abfss", "az", "adl"), "adlfs"
)
# What stores call a version of an object, and the time it was written; the first that is there tells a change.
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "LastModified", "last_modified", "updated", "mtime", "modified")
_REFUSED = {
    "file": ("is a path of this machine", "leave out file://"),
    "local": ("is a path of this machine", "leave out local://"),
    "http": ("is a web address, which lists no files", "download it, and name the copy"),
    "https": ("is a web address, which lists no files", "download it, and name the copy"),
}
_CREDENTIALS = (
    "credentials come from the environment, as the store's own tools read them: AWS_ACCESS_KEY_ID or AWS_PROFILE, "
    "GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME and its key"
)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of an object store, with what is asked of a :class:`pathlib.Path` that is read.

    Attributes:
        url: Where it is.
        size: Bytes, as it was listed; None where it was not.
        version: What tells one content from another: the store's tag, or the time it was written.
    """

    url: str
    size: int | None = None
    version: str = ""

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of its URL."""
        return PurePosixPath(self.url).name

    @property
    def suffix(self) -> str:
        """The ending of its name."""
        return PurePosixPath(self.url).suffix

    @property
    def stem(self) -> str:
        """Its name without the ending."""
        return PurePosixPath(self.url).stem

    def open(self, mode: str = "r", encoding: str | None = None) -> IO[Any]:
        """Open it to read: bytes with ``rb``, else text.

        Raises:
            GeckoError: It is not there or cannot be read, at once or while it is read.
        """
        with _told(self.url):
            system, path = _find_system(self.url)
            opened = system.open(path, "rb", block_size=_BLOCK)
        size = opened.size if self.size is None and isinstance(getattr(opened, "size", None), int) else self.size
        raw = io.BufferedReader(_Stream(opened, self.url, size), _BUFFER)
        return raw if "b" in mode else io.TextIOWrapper(raw, encoding or "utf-8")

    def read_bytes(self) -> bytes:
        """All of it, in one request.

        Raises:
            GeckoError: As :meth:`open`.
        """
        with _told(self.url):
            system, path = _find_system(self.url)
            raw: bytes = system.cat_file(path)
        if self.size is not None and len(raw) != self.size:
            raise _cut(self.url, len(raw), self.size)
        return raw


AnyFile = Path | RemoteFile


class _Stream(io.RawIOBase):
    """A remote file's bytes; what goes wrong is told, and an end that comes too early is no end."""

    def __init__(self, opened: Any, url: str, size: int | None) -> None:  # noqa: ANN401
        self._opened, self._url, self._size = opened, url, size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        view = memoryview(buffer).cast("B")
        with _told(self._url):
            data = self._opened.read(len(view))
        if len(view) and not data and self._size is not None and self.tell() < self._size:
            raise _cut(self._url, self.tell(), self._size)
        view[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        with _told(self._url):
            return int(self._opened.seek(offset, whence))

    def tell(self) -> int:
        return int(self._opened.tell())

    def close(self) -> None:
        if not self.closed:
            self._opened.close()
        super().close()


def is_url(text: str) -> bool:
    """Whether a place is a URL such as ``s3://bucket/docs``."""
    return _URL.match(text) is not None


def was_url(path: Path) -> bool:
    """Whether a path was made of a URL: pathlib writes ``s3:/bucket/docs``, and no such folder should be made."""
    return _URL_AS_PATH.match(str(path)) is not None


def any_file(text: str) -> AnyFile:
    """The file that a word of the command line names, of this machine or of an object store; it need not be there."""
    return RemoteFile(text) if is_url(text) else Path(text)


def list_remote(url: str) -> tuple[dict[str, RemoteFile], bool]:
    """List what is at a URL now: the file, all files below a folder but hidden ones, or what a glob matches.

    Args:
        url: Of any store that fsspec knows.

    Returns:
        File by name (its path below the folder, else the last part of its URL), sorted; and whether it is a folder.

    Raises:
        UsageError: The store is of no known kind, its package is not installed, or the URL holds a password.
        GeckoError: There is nothing, or the store refuses or fails.
    """
    with _told(url):
        system, path = _find_system(url)
        system.invalidate_cache()  # a listing that an earlier one left may be hours old
        try:
            facts = system.info(path)
        except FileNotFoundError:
            facts = {}
        if facts.get("type") == "file":
            file = _remote_file(url, facts)
            return {file.name: file}, False
        files = _below(system, url) if facts else {}
        folder = bool(files)
        if not files and re.search(r"[*?\[]", url):
            files = _matched(system, url)
    if not files:
        raise GeckoError(f"no file at {url}", "check the bucket and the path; a glob needs quotes in a shell")
    return files, folder


def has_file(url: str) -> bool:
    """Whether there is a file of that very URL.

    Raises:
        GeckoError: As :func:`list_remote`, but where there is nothing.
    """
    with _told(url):
        system, path = _find_system(url)
        system.invalidate_cache()
        try:
            return bool(system.info(path).get("type") == "file")
        except FileNotFoundError:
            return False


def check_url(url: str) -> None:
    """Refuse what is no store's URL, or holds a password.

    Raises:
        UsageError: It is one.
    """
    scheme, _, rest = url.partition("://")
    if re.match(r"[^/@]*:[^/@]*@", rest):
        raise UsageError(f"the {scheme}:// URL holds a key, which would be written into the run", _CREDENTIALS)
    if "::" in url:
        raise UsageError(f"{url} is a chain of URLs", "name a plain one, such as s3://bucket/docs/")
    if scheme.lower() in _REFUSED:
        what, hint = _REFUSED[scheme.lower()]
        raise UsageError(f"{url.partition('?')[0]} {what}", hint)


def _find_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and its path there."""
    from fsspec.core import url_to_fs

    check_url(url)
    scheme = url.partition("://")[0].lower()
    try:
        system, path = url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(scheme, "")
        hint = f"pip install {package}" if package else reason(error)
        raise UsageError(f"{scheme}:// needs the package {package or 'of its driver'}", hint) from error
    except ValueError as error:
        if "not known" not in str(error):
            raise
        raise UsageError(
            f"{scheme}:// is no kind of store that fsspec knows", "for example s3://, gs:// or abfs://"
        ) from error
    return system, path


def _below(system: Any, url: str) -> dict[str, RemoteFile]:  # noqa: ANN401
    """All files below a folder by their paths there, in order; hidden names and folders are left out."""
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    # Object stores list everything at once. The general way walks the folders, and passes over those that fail.
    walks = type(system).find is AbstractFileSystem.find
    walks &= getattr(type(system), "_find", AsyncFileSystem._find) is AsyncFileSystem._find
    root = system._strip_protocol(url).rstrip("/")
    found = system.find(root, detail=True, **({"on_error": "raise"} if walks else {}))
    home = url.rstrip("/")
    names = {path: path.removeprefix(root).lstrip("/") for path, facts in found.items() if facts.get("type") == "file"}
    return {
        name: _remote_file(f"{home}/{name}", found[path])
        for path, name in sorted(names.items(), key=lambda item: item[1])
        if name and not name.endswith("/") and not any(part.startswith(".") for part in name.split("/"))
    }


def _matched(system: Any, url: str) -> dict[str, RemoteFile]:  # noqa: ANN401
    """What a glob matches, by the last part of each URL where that is one file's alone, else by its path."""
    from fsspec.utils import glob_translate

    home, _, _ = re.split(r"[*?\[]", url, maxsplit=1)[0].rpartition("/")
    wanted = re.compile(glob_translate(url[len(home) + 1 :]))
    return {name: file for name, file in _below(system, home).items() if wanted.match(name)}


def _remote_file(url: str, facts: dict[str, Any]) -> RemoteFile:
    version = next((str(facts[key]) for key in _VERSIONS if facts.get(key)), "")
    # A store that tells neither: whatever it does tell.
    said = version or hashlib.sha256(repr(sorted(facts.items(), key=str)).encode()).hexdigest()[:32]
    size = facts.get("size")
    return RemoteFile(url, size if isinstance(size, int) else None, said)


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Tell what a store, its driver or the network raises in one line; addresses may hold keys, and are left out."""
    try:
        yield
    except GeckoError:
        raise
    except (FileNotFoundError, IsADirectoryError) as error:
        raise GeckoError(f"no file at {url}", "check the bucket and the path") from error
    except Exception as error:  # every driver raises its own
        said = _ADDRESS.sub("…", f"{type(error).__name__}: {reason(error)}")[:200]
        if isinstance(error, PermissionError) or re.search("credential|forbidden|denied", said, re.IGNORECASE):
            raise GeckoError(f"no permission to read {url} ({said})", _CREDENTIALS) from error
        raise GeckoError(
            f"cannot read {url}: {said}", "is the store reachable? what is finished is kept: run the same command again"
        ) from error


def _cut(url: str, read: int, size: int) -> GeckoError:
    return GeckoError(
        f"cannot read {url}: it ended at byte {read:,} of {size:,}",
        "the connection broke, or the file was changed meanwhile: run the same command again",
    )
