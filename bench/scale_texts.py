"""Real text for the bench of scale, in passages that all differ: labelled corpora, documentation, sources.

Texts are cut into passages of 60 words. Where a machine does not hold enough of them, the same texts are cut again into
shorter passages at other places (45 words from the 20th on, 35 from the 10th, …), so that no passage is another one.
The order is that of a hash of each passage: any first part of the corpus is a fair sample of the whole.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
CUTS = ((60, 0), (45, 20), (35, 10), (50, 33), (40, 27), (28, 5))  # words of a passage, and where the first begins
FEWEST = 12  # words
BUCKETS = 64
_MOST_BYTES = 4_000_000
_SUFFIXES = {"", ".gz", ".txt", ".md", ".rst", ".html", ".Debian"}
_TAG = re.compile(r"<[^>]{0,300}>")
_ESCAPE = re.compile(r"\\f(?:\(..|\[[^\]]*\]|.)|\\[&%|^/,]|\\s[-+]?\d")


def make_corpus(out: Path, size: int, *, everything: bool) -> dict[str, object]:
    """Write ``corpus.jsonl`` of at least ``size`` distinct passages, or of all there are, unless it is there.

    Args:
        out: A folder of its own.
        size: How many are wanted.
        everything: Read every text there is, so that the corpus is a sample of all of them; else the first ones do.

    Returns:
        ``{"passages", "texts": {source: passages of the first cut}, "cuts": how often the texts were cut}``.
    """
    facts = out / "facts.json"
    if facts.exists() and json.loads(facts.read_text())["asked"] >= size:
        return json.loads(facts.read_text())
    out.mkdir(parents=True, exist_ok=True)
    places = [out / f"bucket-{number}.jsonl" for number in range(BUCKETS)]
    buckets = [place.open("w", encoding="utf-8") for place in places]
    sources: Counter[str] = Counter()
    written = cuts = 0
    for words, start in CUTS:
        if written >= size * 1.25:  # a share of them repeats another one
            break
        cuts += 1
        for source, title, text in texts():
            if not everything and written >= size * 1.25:
                break
            for passage in cut(text, words, start):
                key = hashlib.blake2b(passage.encode(), digest_size=8).hexdigest()
                row = {"_id": f"{key}-{cuts}", "title": title, "text": passage}
                buckets[int(key[:2], 16) % BUCKETS].write(json.dumps(row) + "\n")
                written += 1
                sources[source] += cuts == 1
    for handle in buckets:
        handle.close()
    count = 0
    with (out / "corpus.jsonl").open("w", encoding="utf-8") as corpus:
        for place in places:
            rows = dict(sorted((line[9:25], line) for line in place.open(encoding="utf-8")))
            corpus.writelines(rows.values())
            count += len(rows)
            place.unlink()
    said = {"asked": size, "passages": count, "texts": dict(sources), "cuts": cuts}
    facts.write_text(json.dumps(said))
    return said


def cut(text: str, words: int, start: int) -> Iterator[str]:
    """Cut a text into passages of so many words, as they stand in it."""
    spans = [match.span() for match in re.finditer(r"\S+", text)][start:]
    for first in range(0, len(spans), words):
        part = spans[first : first + words]
        passage = text[part[0][0] : part[-1][1]]
        letters = sum(character.isalpha() for character in passage)
        if len(part) >= FEWEST and letters >= 0.5 * len(passage.replace(" ", "")):
            yield passage


def texts() -> Iterator[tuple[str, str, str]]:
    """All texts: (source, title, text)."""
    for corpus in sorted(SHARED.glob("**/corpus.jsonl")):
        for line in corpus.open(encoding="utf-8"):
            row = json.loads(line)
            yield "labelled corpora", str(row.get("title") or ""), str(row["text"])
    for path in files(Path("/usr/share/doc"), _SUFFIXES):
        yield "/usr/share/doc", f"{path.parent.name} {path.name.split('.')[0]}", _TAG.sub(" ", read(path))
    for path in files(Path("/usr/share/man"), {".gz"}):
        yield "manual pages", path.name.split(".")[0], roff(read(path))
    for root in sorted({sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), *python_folders()}):
        for path in files(Path(root), {".py"}):
            yield from (("Python sources", title, text) for title, text in python_texts(path))
        for path in files(Path(root), {".md", ".rst", ".txt"}):
            yield "files of Python packages", path.parent.name.split("-")[0], read(path)
        for path in sorted(Path(root).glob("*.dist-info/METADATA")):
            yield "files of Python packages", path.parent.name.split("-")[0], read(path)


def python_folders() -> list[str]:
    """Folders that installed packages are imported from, with the system's own."""
    found = [Path(entry) for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    return [str(path) for path in [*found, Path("/usr/lib/python3/dist-packages")] if path.is_dir()]


def files(root: Path, suffixes: set[str]) -> Iterator[Path]:
    """Files of some kinds below a folder, in sorted order."""
    for path in sorted(root.rglob("*")) if root.is_dir() else ():
        if path.suffix in suffixes and path.is_file() and not path.is_symlink():
            yield path


def read(path: Path) -> str:
    """A text file, also a compressed one; empty where it is no text or very large."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return raw.decode("utf-8") if len(raw) <= _MOST_BYTES else ""
    except (OSError, EOFError, UnicodeDecodeError):
        return ""


def roff(text: str) -> str:
    """The words of a manual page: requests and the comments among them go, the words of a font or a heading stay."""
    lines = []
    for line in text.split("\n"):
        if line.startswith((".", "'")):
            name, _, rest = line.partition(" ")
            line = (
                rest.replace('"', "") if name in {".B", ".I", ".BR", ".BI", ".IR", ".SH", ".SS", ".TP", ".IP"} else ""
            )
        lines.append(_ESCAPE.sub("", line).replace("\\-", "-").replace("\\(aq", "'"))
    return "\n".join(lines)


def python_texts(path: Path) -> Iterator[tuple[str, str]]:
    """The docstrings of a source file, and its blocks of comments: (title, text)."""
    source = read(path)
    try:
        tree = ast.parse(source) if source else None
    except (SyntaxError, ValueError, RecursionError):
        tree = None
    if tree is None:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node)
            if doc:
                yield f"{path.stem}.{getattr(node, 'name', '')}".rstrip("."), doc
    comments = re.findall(r"(?:^[ \t]*#[^\n]*\n){2,}", source, re.MULTILINE)
    for block in comments:
        yield path.stem, "\n".join(line.strip().lstrip("#").strip() for line in block.split("\n"))
