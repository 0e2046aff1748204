"""Find which local folder, and which of its files, supply the data of a task of MTEB."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from gecko.errors import GeckoError
from gecko.evaluate.beir import beir_files
from gecko.tabular import SUFFIXES

_VALIDATION = ("validation", "dev", "val")  # one split, called differently
_NAMED = re.compile(r"`([^`\s]+)`")
# "## MTEB" and what follows to the next heading, or one sentence "MTEB: ..." inside a line.
_SECTION = re.compile(r"^##\s+MTEB\s*\n(.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL)
_SENTENCE = re.compile(r"\bMTEB: (`.*)")
HINT = (
    "a folder called as the task, or one whose README.md names it (`NAME`) at the beginning of its section MTEB, with "
    "the files of its type; docs/evaluation.md"
)


def plain_name(name: str) -> str:
    """A name in small letters and digits, so that ``sts13.jsonl`` is the file of ``STS13``."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def readme_note(folder: Path) -> str:
    """What a folder's README says of MTEB, if it begins with a task's name; else nothing.

    A section that begins otherwise ("Not an MTEB task; like ...") names no task whose data this is.
    """
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = _SECTION.search(text) or _SENTENCE.search(text)
    note = " ".join(found.group(1).split()) if found else ""
    return note if note.startswith("`") else ""


def named_tasks(folder: Path) -> list[str]:
    """The tasks of MTEB that a folder's README says its data is of."""
    return _NAMED.findall(readme_note(folder))


def find_place(data: Path, task: str) -> Path | None:
    """Find the folder of a task: the one called so, else the first, and least deep, whose README names it.

    Raises:
        GeckoError: There is no folder ``data``.
    """
    if not data.is_dir():
        raise GeckoError(f"{data}: no such folder", HINT)
    folders = list(_folders(data))
    called = [folder for folder in folders if plain_name(folder.name) == plain_name(task)]
    named = [folder for folder in folders if task in named_tasks(folder)]
    return next(iter([*called, *named]), None)


def split_names(split: str, only: bool) -> list[str]:
    """Under which names a split is looked for; the only split of a task may lie there as ``test``."""
    alike = _VALIDATION if split in _VALIDATION else ()
    return list(dict.fromkeys([split, *alike, *(["test"] if only else [])]))


def find_beir(folders: Sequence[Path], splits: Sequence[str]) -> tuple[Path, str] | None:
    """Find a BEIR folder that has one of the splits: (folder, the split's name there)."""
    for folder in folders:
        for split in splits:
            if all(path.is_file() for path in beir_files(folder, split)):
                return folder, split
    return None


def find_file(folders: Sequence[Path], task: str, splits: Sequence[str], stem: str = "") -> Path | None:
    """Find the file of a split: ``TASK_SPLIT``, ``SPLIT``, or ``TASK`` (for the first of the splits) in a folder.

    Args:
        folders: Where to look, the first first.
        task: The task's name, compared without regard to case and signs.
        splits: Names of the split.
        stem: Put before the split (``reranking`` finds ``reranking_dev.jsonl``, and ``reranking.jsonl`` for test).
    """
    wanted = [plain_name(f"{task}{split}") for split in splits]
    wanted += [plain_name(f"{stem}{split}") for split in splits]
    wanted += [stem] if stem and "test" in splits else []
    wanted += [plain_name(task)] if "test" in splits else []
    for folder in folders:
        if not folder.is_dir():
            continue
        there = {
            plain_name(path.stem): path
            for path in sorted(folder.iterdir(), reverse=True)
            if path.is_file() and path.suffix.lower() in SUFFIXES
        }
        if name := next((name for name in wanted if name in there), None):
            return there[name]
    return None


def data_files(folder: Path) -> str:
    """Name what lies in a folder, for a message."""
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir() if path.name != "README.md")
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "nothing"


def _folders(root: Path) -> Iterator[Path]:
    """A folder, those in it and those in these, the least deep first; links are not followed."""
    level = [root]
    for _ in range(3):
        yield from level
        inner = (path for folder in level for path in sorted(folder.iterdir()))
        level = [path for path in inner if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")]
