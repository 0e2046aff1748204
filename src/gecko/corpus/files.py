"""Which files the sources stand for, and the name each is known by: the ids of its documents begin with it."""

from __future__ import annotations

import glob
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gecko.errors import GeckoError, UsageError
from gecko.remote import AnyFile, RemoteFile, check_url, has_file, is_url, list_remote

STDLIB = "stdlib:"
HUB = "hf://"

# A file's name, size and two times of change (ns); of a file in an object store its URL, size, 0 and version.
FileState = tuple[str, int, int, int | str]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of the corpus; ``name`` is its path inside the source, and no other file has the same."""

    path: AnyFile
    name: str


def list_files(sources: Sequence[str]) -> list[list[SourceFile]]:
    """List the files of each source in sorted order; a source that is no path has none.

    Links that lead nowhere and other entries that are no files are listed too, so that they can be named.

    Raises:
        UsageError: There is no source, or an empty one, or a URL that cannot be used.
        GeckoError: A path does not exist or cannot be listed, or all the sources together hold no file.
    """
    if not sources:
        raise UsageError("no corpus was named", "give --corpus PATH, or corpus.sources in the recipe")
    if not all(source.strip() for source in sources):
        raise UsageError("a corpus source is an empty string", "give a path; is a shell variable unset?")
    listing = [[] if _is_named(source) else _expand(source) for source in sources]
    if not any(listing) and not any(map(_is_named, sources)):
        raise GeckoError(f"the corpus is empty: no file in {', '.join(sources)}", "name a folder that holds text")
    return _tell_apart(listing)


def file_state(path: AnyFile, name: str) -> FileState:
    """What tells whether a file was changed; of a link that leads nowhere, the link's own state.

    The second time is that of the inode, which a tool that restores the first cannot set back.
    """
    if isinstance(path, RemoteFile):
        return name, path.size or 0, 0, path.version
    facts = path.stat() if path.exists() else path.lstat()
    return name, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def printable(path: str | AnyFile) -> str:
    r"""Write a path as text; a byte of its name that is not UTF-8, which no table can hold, becomes ``\xNN``."""
    return os.fsencode(str(path)).decode("utf-8", "backslashreplace")


def _is_named(source: str) -> bool:
    return source == STDLIB or source.startswith(HUB)


def _expand(source: str) -> list[SourceFile]:
    if is_url(source):
        return _expand_remote(source)
    root = Path(source)
    try:
        if root.is_dir():
            if (root / "corpus.jsonl").is_file():
                return [SourceFile(root / "corpus.jsonl", "corpus.jsonl")]
            return [SourceFile(path, printable(path.relative_to(root).as_posix())) for path in _walk(root)]
        if root.is_file():
            return [SourceFile(root, printable(root.name))]
    except OSError as error:
        where = printable(error.filename or source)
        raise GeckoError(f"cannot read {where}: {error.strerror}", "check its permissions") from error
    # Path.glob takes no absolute pattern, and users give both kinds.
    matches = glob.glob(source, recursive=True) if glob.has_magic(source) else []  # noqa: PTH207
    files = [SourceFile(path, printable(path.name)) for path in map(Path, sorted(matches)) if not path.is_dir()]
    if not files:
        raise GeckoError(f"no file at {printable(source)}", "check the path; a glob needs quotes in a shell")
    return files


def _expand_remote(url: str) -> list[SourceFile]:
    """As :func:`_expand`, of a URL."""
    check_url(url)
    corpus = f"{url.rstrip('/')}/corpus.jsonl"
    found, folder = list_remote(corpus if has_file(corpus) else url)
    return [SourceFile(file, name if folder else file.name) for name, file in found.items()]


def _walk(root: Path) -> list[Path]:
    """List what is below a folder but for hidden names and folders; links to folders are listed, not followed."""

    def refuse(error: OSError) -> None:
        raise error  # os.walk would pass over a folder that cannot be listed in silence

    found: list[Path] = []
    for folder, subfolders, names in os.walk(root, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        links = [name for name in subfolders if Path(folder, name).is_symlink()]
        found += [Path(folder, name) for name in names + links if not name.startswith(".")]
    return sorted(found)


def _tell_apart(listing: list[list[SourceFile]]) -> list[list[SourceFile]]:
    """Rename different files of one name by their paths from the folder they share; all others keep their names."""
    homes: dict[str, set[str]] = defaultdict(set)
    for files in listing:
        for file in files:
            homes[file.name].add(_absolute(file))
    taken = {name for name, paths in homes.items() if len(paths) == 1}
    names: dict[tuple[str, str], str] = {}
    for name, paths in homes.items():
        if len(paths) == 1:
            continue
        shared = os.path.commonpath(paths)
        for path in sorted(paths):
            longer = printable(Path(path).relative_to(shared).as_posix())
            names[name, path] = printable(path) if longer in taken else longer
            taken.add(names[name, path])
    return [
        [replace(file, name=names.get((file.name, _absolute(file)), file.name)) for file in files] for files in listing
    ]


def _absolute(file: SourceFile) -> str:
    if isinstance(file.path, RemoteFile):
        return f"/{file.path.url}"  # no file of this machine lies in /s3:
    return os.path.abspath(file.path)  # noqa: PTH100  (Path.absolute keeps "..", Path.resolve follows links)
