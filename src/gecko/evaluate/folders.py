"""Find the test sets in folders: what type each is, by the files and columns it has; what is none, with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from gecko.errors import GeckoError, UsageError
from gecko.evaluate.beir import beir_files, splits_of
from gecko.evaluate.rows import columns_in, first_columns
from gecko.tabular import SUFFIXES

TaskType = Literal[
    "retrieval",
    "reranking",
    "sts",
    "classification",
    "pair_classification",
    "clustering",
    "bitext",
    "summarization",
]

# The roles (evaluate/rows.py) that make a file of rows a type's; the first that fits names it.
_ROLES: tuple[tuple[TaskType, tuple[str, ...]], ...] = (
    ("sts", ("sentence1", "sentence2", "score")),
    ("pair_classification", ("sentence1", "sentence2", "label")),
    ("bitext", ("sentence1", "sentence2")),
    ("summarization", ("human_summaries", "machine_summaries", "relevance")),
    ("reranking", ("query", "positive", "negative")),
    ("classification", ("text", "label")),
)
_BESIDE = ("lang", "language", "id", "_id", "source", "subset")  # columns that a translation may have beside its texts
_SPLITS = ("train", "dev", "val", "validation", "test")
_INSTEAD_OF_TEST = ("test", "validation", "dev", "val")
HINT = (
    "A set is a BEIR folder, reranking.jsonl, or SPLIT.jsonl (.csv, .tsv, .parquet) with sentence1 and sentence2 "
    "(and score or label), text and label, or human_summaries, machine_summaries and relevance; docs/evaluation.md."
)


@dataclass(frozen=True, slots=True)
class TestSet:
    """One set to be scored.

    Attributes:
        name: How it is called in tables: its place below the folder that was named.
        task_type: What is asked of it.
        folder: Where it lies.
        file: The file that is scored; of retrieval, the folder's corpus.
        split: The split that was found.
        train: The training split of a classification.
        named: Whether the user named its folder or file itself; a fault of it is then an error, else it is skipped.
    """

    __test__ = False  # no test of pytest's

    name: str
    task_type: TaskType
    folder: Path
    file: Path
    split: str
    train: Path | None = None
    named: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """A place that gives no set, and why."""

    place: str
    reason: str


def find_sets(places: Sequence[Path], split: str = "test") -> tuple[list[TestSet], list[Skipped]]:
    """Find the sets in folders, and in the folders they hold.

    Args:
        places: Folders of a set, folders of folders, or single files.
        split: Which split; where a folder has no ``test``, ``validation``, ``dev`` or ``val`` is taken.

    Raises:
        UsageError: No place was named.
        GeckoError: A place does not exist, a named one is no set, or there is no set in all of them.
    """
    if not places:
        raise UsageError("nothing to evaluate on", "Name at least one folder.")
    found: list[tuple[Path, TestSet]] = []
    skipped: list[Skipped] = []
    for place in dict.fromkeys(Path(place).resolve() for place in places):
        if not place.exists():
            raise GeckoError(f"{place}: no such folder", HINT)
        sets = _look(place, place, split)
        skipped += [item for item in sets if isinstance(item, Skipped)]
        found += [(place, item) for item in sets if isinstance(item, TestSet)]
        if len(sets) == 1 and isinstance(sets[0], Skipped):
            raise GeckoError(f"{place}: {sets[0].reason}", HINT)
    if not found:
        raise GeckoError(f"no test set in {', '.join(map(str, places))}", HINT)
    return _tell_apart(found), skipped


def _look(root: Path, place: Path, split: str) -> list[TestSet | Skipped]:
    """List what a folder holds, then what the folders in it hold; at least one item."""
    if place.is_file():
        name = place.parent.name if place.stem in _SPLITS else place.stem
        return [_of_file(place, name, place.stem if place.stem in _SPLITS else split, named=True)]
    items = _of_folder(root, place, split)
    if not (place / "corpus.jsonl").exists():
        for inner in sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")):
            linked = Skipped(_name(root, inner), "a link, which is not followed")
            items += [linked] if inner.is_symlink() else _look(root, inner, split)
    if not items:
        items.append(Skipped(_name(root, place), "no data file"))
    return items


def _of_folder(root: Path, folder: Path, split: str) -> list[TestSet | Skipped]:
    """List the sets that the files in a folder make."""
    name, named = _name(root, folder), folder == root
    known: list[TestSet | Skipped] = []
    beir = beir_files(folder, split)
    if all(path.is_file() for path in beir):
        known.append(TestSet(name, "retrieval", folder, beir[0], split, named=named))
    pools = [folder / f"reranking_{split}.jsonl", *([folder / "reranking.jsonl"] if split == "test" else [])]
    if pool := next((path for path in pools if path.is_file()), None):
        known.append(TestSet(name, "reranking", folder, pool, split, named=named))
    if known:
        return known
    if beir[0].is_file():
        lacking = ", ".join(path.relative_to(folder).as_posix() for path in beir if not path.is_file())
        others = splits_of(folder)
        return [Skipped(name, f"a corpus without {lacking}" + (f" (split {', '.join(others)})" if others else ""))]
    for here in _INSTEAD_OF_TEST if split == "test" else (split,):
        if file := _split_file(folder, here):
            return [_of_file(file, name, here, named=named)]
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix.lower() in SUFFIXES]
    if any(path.stem in _SPLITS for path in files):
        return [Skipped(name, f"no split {split!r} ({', '.join(path.name for path in files)})")]
    return [_of_file(path, _name(root, path.with_suffix("")), split, named=False) for path in files]


def _split_file(folder: Path, split: str) -> Path | None:
    paths = (folder / f"{split}{suffix}" for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def _of_file(path: Path, name: str, split: str, *, named: bool) -> TestSet | Skipped:
    """Tell a file's type by its columns.

    Raises:
        GeckoError: The user named it, and it cannot be read.
    """
    if "train" in path.stem and not named:
        return Skipped(name, "a training file")
    if path.suffix.lower() not in SUFFIXES:
        return Skipped(name, f"not a kind of file that is read: {path.suffix or 'no suffix'}")
    try:
        columns = first_columns(path)
    except GeckoError as error:
        if named:
            raise
        return Skipped(name, error.message)
    roles = columns_in(columns)
    task_type = next((kind for kind, needed in _ROLES if set(needed) <= set(roles)), None)
    if task_type == "bitext" and (others := set(columns) - {roles["sentence1"], roles["sentence2"], *_BESIDE}):
        # A pair with something else beside it is not a translation: its judgement goes by another name.
        return Skipped(name, f"its columns have neither score nor label, but {', '.join(sorted(map(str, others)))}")
    if task_type is None:
        return Skipped(name, f"no type of task has the columns {', '.join(map(str, columns))}")
    train = _split_file(path.parent, "train") if task_type == "classification" else None
    if task_type == "classification" and train in {None, path}:
        task_type, train = "clustering", None
    return TestSet(name, task_type, path.parent, path, split, train, named)


def _name(root: Path, place: Path) -> str:
    """Name a place by its path below the folder that was named, or by that folder's own name."""
    return root.name if place == root else place.relative_to(root).as_posix()


def _tell_apart(found: Sequence[tuple[Path, TestSet]]) -> list[TestSet]:
    """Put the named folder's own name before names that several of them give, or its parent's where it is the set."""
    homes = Counter(name for name, _ in {(item.name, item.folder) for _, item in found})
    return [
        replace(item, name=f"{(root.parent if item.folder == root else root).name}/{item.name}")
        if homes[item.name] > 1
        else item
        for root, item in found
    ]
