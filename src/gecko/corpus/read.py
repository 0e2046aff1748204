"""Text in, whatever its container: files, folders, globs, BEIR folders, the interpreter's documentation, Hub datasets.

Readers stream: one line, one file or one record batch is in memory at a time.
"""

from __future__ import annotations

import csv
import glob
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gecko.corpus.stdlib import read_stdlib
from gecko.errors import GeckoError
from gecko.records import Document, Quarantined

TEXT_SUFFIXES = frozenset({".txt", ".md", ".markdown", ".html", ".htm"})
RECORD_SUFFIXES = frozenset({".jsonl", ".csv", ".parquet"})
_TEXT_FIELDS = ("text", "contents", "body", "passage")
_ID_FIELDS = ("_id", "id")
_SNIFFED = 1 << 16


def read_sources(sources: Sequence[str]) -> Iterator[Document | Quarantined]:
    """Read every source in the order given.

    Args:
        sources: Files, folders (read recursively, in sorted order), globs, BEIR folders (only their ``corpus.jsonl`` is
            read: queries and judgements are never corpus), ``stdlib:`` or ``hf://dataset[:split]``.

    Yields:
        Documents, and what could not be read with the reason. An id that was used before is quarantined.

    Raises:
        GeckoError: A source does not exist or cannot be opened, or no document was found at all.
    """
    if not sources:
        raise GeckoError("no corpus was named", "give --corpus PATH, or corpus.sources in the recipe")
    seen: set[str] = set()
    for source in sources:
        for item in _read_source(source):
            if isinstance(item, Document):
                if item.source_id in seen:
                    yield Quarantined("corpus", item.source_id, f"duplicate id {item.source_id}", item.text[:1000])
                    continue
                seen.add(item.source_id)
            yield item
    if not seen:
        raise GeckoError(
            f"the corpus is empty: no document in {', '.join(sources)}",
            "readable are .txt .md .html .jsonl .csv .parquet with a text field",
        )


def source_state(sources: Sequence[str]) -> list[tuple[str, int, int]]:
    """What tells whether sources changed since a stage read them: each file's name, size and time of change (ns)."""
    state: list[tuple[str, int, int]] = []
    for source in sources:
        if source == "stdlib:":
            state.append((f"stdlib:{sys.version}", 0, 0))
        elif source.startswith("hf://"):
            state.append((source, 0, 0))
        else:
            for path in _expand(source):
                facts = path.stat()
                state.append((str(path), facts.st_size, facts.st_mtime_ns))
    return state


def _read_source(source: str) -> Iterator[Document | Quarantined]:
    if source == "stdlib:":
        yield from read_stdlib()
    elif source.startswith("hf://"):
        yield from _read_hub(source)
    else:
        root = Path(source)
        for path in _expand(source):
            name = path.relative_to(root).as_posix() if root.is_dir() else path.name
            yield from _read_file(path, name)


def _expand(source: str) -> list[Path]:
    """List the files a path or glob stands for, in sorted order."""
    root = Path(source)
    try:
        if root.is_dir():
            if (root / "corpus.jsonl").is_file():
                return [root / "corpus.jsonl"]
            next(root.iterdir(), None)  # raises where the folder cannot be listed; rglob would pass it over in silence
            files = [path for path in sorted(root.rglob("*")) if path.is_file()]
            return [path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts)]
        if root.is_file():
            return [root]
    except OSError as error:
        raise GeckoError(f"cannot read {source}: {error.strerror}", "check its permissions") from error
    # Path.glob takes no absolute pattern, and users give both kinds.
    matches = glob.glob(source, recursive=True) if glob.has_magic(source) else []  # noqa: PTH207
    files = [path for path in map(Path, sorted(matches)) if path.is_file()]
    if not files:
        raise GeckoError(f"no file at {source}", "check the path; a glob needs quotes in a shell")
    return files


def _read_file(path: Path, name: str) -> Iterator[Document | Quarantined]:
    suffix = path.suffix.lower()
    try:
        if suffix == ".jsonl":
            yield from _read_jsonl(path, name)
        elif suffix == ".csv":
            yield from _read_csv(path, name)
        elif suffix == ".parquet":
            yield from _read_parquet(path, name)
        elif suffix in TEXT_SUFFIXES:
            yield from _read_text(path, name)
        else:
            yield Quarantined("corpus", name, f"not a kind of file that is read: {suffix or 'no suffix'}", "")
    except OSError as error:
        raise GeckoError(f"cannot read {path}: {error.strerror}", "check its permissions") from error


def _read_text(path: Path, name: str) -> Iterator[Document | Quarantined]:
    raw = path.read_bytes()
    text = _decode(raw)
    if text is None:
        yield Quarantined("corpus", name, "binary, or in no known encoding", repr(raw[:80]))
        return
    title = path.stem
    if path.suffix.lower() in {".html", ".htm"}:
        title, text = _html_to_markdown(text, title)
        name_as_markdown = f"{name}.md"  # headings were kept as Markdown, so the chunker can cut at them
        yield Document(source_id=name, title=title, text=clean(text), source=name_as_markdown)
        return
    yield Document(source_id=name, title=title, text=clean(text), source=name)


def _decode(raw: bytes) -> str | None:
    """Decode UTF-8, else what charset-normalizer finds; None for binary data."""
    if b"\x00" in raw[:_SNIFFED] and not raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        from charset_normalizer import from_bytes

        best = from_bytes(raw[: _SNIFFED * 4]).best()
        return None if best is None else raw.decode(best.encoding, errors="replace")


def _html_to_markdown(text: str, fallback: str) -> tuple[str, str]:
    """Take the readable text of a page, its headings written as Markdown ones. Returns (title, text)."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(text, "html.parser")
    title = soup.title.get_text(" ", strip=True) if soup.title else fallback
    for element in soup(["script", "style", "nav", "noscript", "template", "head", "svg"]):
        element.decompose()
    for level in range(1, 7):
        for heading in soup.find_all(f"h{level}"):
            heading.replace_with(f"\n\n{'#' * level} {heading.get_text(' ', strip=True)}\n\n")
    for block in soup.find_all(["p", "li", "div", "section", "article", "tr", "br", "pre", "blockquote", "table"]):
        block.append("\n\n" if block.name in {"p", "div", "section", "article", "pre", "blockquote", "table"} else "\n")
    lines = (line.strip() for line in soup.get_text().splitlines())
    return title, "\n".join(lines)


def _read_jsonl(path: Path, name: str) -> Iterator[Document | Quarantined]:
    with path.open("rb") as handle:
        for number, raw in enumerate(handle, start=1):
            where = f"{name}#{number}"
            if not raw.strip():
                continue
            try:
                record = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (UnicodeDecodeError, ValueError) as error:
                yield Quarantined("corpus", where, f"not JSON in UTF-8: {error}"[:300], repr(raw[:200]))
                continue
            yield _record(record, where, name)


def _read_csv(path: Path, name: str) -> Iterator[Document | Quarantined]:
    csv.field_size_limit(sys.maxsize)
    with path.open("rb") as sniffed:
        encoding = "utf-8-sig" if _is_utf8(sniffed.read(_SNIFFED)) else "latin-1"
    with path.open(encoding=encoding, errors="replace", newline="") as handle:
        try:
            for number, record in enumerate(csv.DictReader(handle), start=1):
                yield _record(record, f"{name}#{number}", name)
        except csv.Error as error:
            yield Quarantined("corpus", name, f"not CSV: {error}", "")


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(raw) - 4  # a character cut in two by the end of the sample
    return True


def _read_parquet(path: Path, name: str) -> Iterator[Document | Quarantined]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                number += 1
                yield _record(record, f"{name}#{number}", name)
    except pa.ArrowInvalid as error:
        yield Quarantined("corpus", name, f"not Parquet: {error}", "")


def _read_hub(source: str) -> Iterator[Document | Quarantined]:
    from datasets import load_dataset

    dataset, _, split = source.removeprefix("hf://").partition(":")
    try:
        records: Iterable[dict[str, Any]] = load_dataset(dataset, split=split or "train", streaming=True)
    except Exception as error:
        raise GeckoError(
            f"cannot load {source}: {error}", "is it a public dataset id, and is the Hub reachable?"
        ) from error
    for number, record in enumerate(records, start=1):
        yield _record(record, f"{dataset}#{number}", source)


def _record(record: object, where: str, source: str) -> Document | Quarantined:
    """Make a document of one record, or say what it lacks."""
    if not isinstance(record, dict):
        return Quarantined("corpus", where, "not a record with fields", str(record)[:200])
    text = next((record[key] for key in _TEXT_FIELDS if isinstance(record.get(key), str)), None)
    if text is None:
        return Quarantined("corpus", where, f"no text field ({', '.join(_TEXT_FIELDS)})", str(record)[:200])
    source_id = next((str(record[key]) for key in _ID_FIELDS if record.get(key) not in (None, "")), where)
    title = record.get("title")
    return Document(source_id, clean(title).strip() if isinstance(title, str) else "", clean(text), source)


def clean(text: str) -> str:
    """Drop NULs and lone surrogates, which no tokenizer or file wants, and make line ends uniform."""
    text = text.replace("\x00", "").replace("\r\n", "\n").replace("\r", "\n")
    return text.encode("utf-8", "ignore").decode("utf-8")
