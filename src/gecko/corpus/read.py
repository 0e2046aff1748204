"""Text in, whatever its container: files, folders, globs, BEIR folders, the interpreter's documentation, Hub datasets.

Files may lie in an object store. Readers stream: one line, one file or one record batch is in memory at a time.
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from gecko.corpus.decode import clean, decode
from gecko.corpus.files import HUB, STDLIB, FileState, SourceFile, file_state, list_files, printable
from gecko.corpus.html import html_to_markdown
from gecko.corpus.rows import read_csv, read_hub, read_jsonl, read_parquet
from gecko.corpus.stdlib import read_stdlib
from gecko.errors import GeckoError
from gecko.records import Document, Quarantined
from gecko.remote import AnyFile, RemoteFile

TEXT_SUFFIXES = frozenset({".txt", ".md", ".markdown", ".html", ".htm"})
RECORD_SUFFIXES = frozenset({".jsonl", ".csv", ".parquet"})

# Texts of an object store fetched before their turn, as a request takes longer than reading what it brings.
_AHEAD = 16
_SMALL = 1 << 20  # bytes


def read_sources(sources: Sequence[str]) -> Iterator[Document | Quarantined]:
    """Read every source in the order given.

    The sources are looked up at once, before the first item is asked for; they are read as items are asked for.

    Args:
        sources: Files, folders (read recursively, in sorted order), globs, BEIR folders (only their ``corpus.jsonl`` is
            read: queries and judgements are never corpus), of this machine or of an object store (``s3://bucket/docs``),
            ``stdlib:`` or ``hf://dataset[:split]``.

    Returns:
        Documents, and what could not be read with the reason. An id that was used before in the same file is
        quarantined; one that another file used is told apart as ``file:id``.

    Raises:
        UsageError: There is no source, or an empty one.
        GeckoError: A source does not exist or cannot be opened, or (while reading) no document was found at all.
    """
    return _read_all(sources, list_files(sources))


def source_state(sources: Sequence[str]) -> list[FileState]:
    """What tells whether sources changed since a stage read them: the state of each file."""
    state: list[FileState] = []
    for source, files in zip(sources, list_files(sources), strict=True):
        if source == STDLIB:
            state.append((f"{STDLIB}{sys.version}", 0, 0, 0))
        elif source.startswith(HUB):
            state.append((source, 0, 0, 0))
        state += [file_state(file.path, str(file.path)) for file in files]
    return state


def commonest(reasons: Counter[str]) -> str:
    """Say in brackets how much was set aside and why most of it was; nothing where nothing was."""
    if not reasons:
        return ""
    reason = " ".join(reasons.most_common(1)[0][0].split())  # an Arrow error has several lines
    return f" ({reasons.total()} set aside, most often: {reason[:200]})"


def _read_all(sources: Sequence[str], listing: list[list[SourceFile]]) -> Iterator[Document | Quarantined]:
    seen: dict[str, str] = {}
    reasons: Counter[str] = Counter()
    for source, files in zip(sources, listing, strict=True):
        for found in _read_source(source, files):
            item = _tell_apart(found, seen)
            if isinstance(item, Document):
                seen[item.source_id] = item.source
            elif not seen:
                reasons[item.reason] += 1
            yield item
    if not seen:
        raise GeckoError(
            f"the corpus is empty: no document in {', '.join(map(printable, sources))}{commonest(reasons)}",
            "readable are .txt .md .html .jsonl .csv .parquet with a text field",
        )


def _tell_apart(item: Document | Quarantined, seen: dict[str, str]) -> Document | Quarantined:
    """Give a document whose id another file used the file's name too; within one file the id is a mistake."""
    if isinstance(item, Quarantined) or item.source_id not in seen:
        return item
    longer = f"{item.source}:{item.source_id}"
    if seen[item.source_id] == item.source or longer in seen:
        return Quarantined("corpus", item.source_id, f"duplicate id {item.source_id}", item.text[:1000])
    return replace(item, source_id=longer)


def _read_source(source: str, files: list[SourceFile]) -> Iterator[Document | Quarantined]:
    if source == STDLIB:
        yield from read_stdlib()
    elif source.startswith(HUB):
        yield from read_hub(source)
    for file, fetch in _in_turn(files):
        yield from _read_file(file.path, file.name, fetch)


def _in_turn(files: Sequence[SourceFile]) -> Iterator[tuple[SourceFile, Callable[[], bytes]]]:
    """Yield each file with what gets all of its bytes; those of small remote texts are under way by then."""
    waiting: deque[tuple[SourceFile, Callable[[], bytes]]] = deque()
    pool = ThreadPoolExecutor(_AHEAD)
    try:
        for file in files:
            path = file.path
            ahead = isinstance(path, RemoteFile) and path.size is not None and path.size < _SMALL
            ahead &= Path(file.name).suffix.lower() in TEXT_SUFFIXES
            waiting.append((file, pool.submit(path.read_bytes).result if ahead else path.read_bytes))
            if len(waiting) > _AHEAD:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _read_file(path: AnyFile, name: str, fetch: Callable[[], bytes]) -> Iterator[Document | Quarantined]:
    suffix = Path(name).suffix.lower()
    try:
        if isinstance(path, Path) and not path.is_file():
            yield Quarantined("corpus", name, _what_it_is(path), "")
        elif suffix == ".jsonl":
            yield from read_jsonl(path, name)
        elif suffix == ".csv":
            yield from read_csv(path, name)
        elif suffix == ".parquet":
            yield from read_parquet(path, name)
        elif suffix in TEXT_SUFFIXES:
            yield _read_text(fetch(), name)
        else:
            yield Quarantined("corpus", name, f"not a kind of file that is read: {suffix or 'no suffix'}", "")
    except OSError as error:
        raise GeckoError(
            f"cannot read {printable(path)}: {error.strerror or error}", "check its permissions"
        ) from error


def _what_it_is(path: Path) -> str:
    if path.is_dir():
        return "a link to a folder, which is not followed"
    return "a link that leads nowhere" if path.is_symlink() else "not a regular file"


def _read_text(raw: bytes, name: str) -> Document | Quarantined:
    try:
        text = decode(raw)
    except UnicodeError as error:
        return Quarantined("corpus", name, f"damaged text: {error}", repr(raw[:80]))
    if text is None:
        return Quarantined("corpus", name, "binary, or in no known encoding", repr(raw[:80]))
    title = Path(name).stem
    suffix = Path(name).suffix.lower()
    if suffix in {".html", ".htm"}:
        title, text = html_to_markdown(text, title)
    return Document(name, clean(title), clean(text), name, markdown=suffix != ".txt")
