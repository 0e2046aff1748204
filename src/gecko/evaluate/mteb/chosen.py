"""Look up the tasks of MTEB that are asked for, and find and load their data: from a folder, or from the Hub."""

from __future__ import annotations

import difflib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gecko.errors import GeckoError, UsageError
from gecko.evaluate.mteb.data import KINDS, Dataset, load_local
from gecko.evaluate.mteb.places import HINT, find_place, readme_note

logger = logging.getLogger(__name__)

_HUB_SECONDS = 10
# What some classes set when they transform what they loaded: their sample is then whole.
_SETTINGS = ("max_fraction_of_documents_to_embed", "max_document_to_embed")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A task's data, with what its class notes of itself when it has transformed it."""

    rows: Dataset
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A task of MTEB that will be run.

    Attributes:
        name: MTEB's name of it.
        split: The split that is scored.
        place: The local folder that supplies its data; None for the Hub.
        note: What that folder's README says of MTEB.
        words: Words for it, as ``word_of`` takes them.
    """

    name: str
    split: str
    place: Path | None
    note: str
    words: Mapping[str, str] | None

    def make(self, loaded: Loaded | None = None) -> Any:  # noqa: ANN401
        """Make MTEB's task anew, with its draws at their beginning, and with the given data if any."""
        import mteb

        with quietly():
            task = mteb.get_task(self.name, eval_splits=[self.split])
        if loaded is None:
            return task
        # A class of its own, so that nothing but where the data comes from differs from MTEB's.
        local = type(type(task).__name__, (type(task),), {"load_data": _given(loaded)})
        own = local()
        own.filter_eval_splits(eval_splits=[self.split])
        own.hf_subsets = [subset for subset in task.hf_subsets if subset in loaded.rows or subset == "default"]
        return own

    def load(self) -> Loaded:
        """Read the data, from the folder or from the Hub.

        Raises:
            GeckoError: It is not there, or broken.
        """
        task = self.make()
        if self.place is not None:
            return Loaded(load_local(task, self.place, self.split), _settings(task))
        try:
            with quietly():
                task.load_data()
                if hasattr(task, "convert_v1_dataset_format_to_v2"):
                    task.convert_v1_dataset_format_to_v2(num_proc=None)
        except Exception as error:  # of the network, the Hub, its client or the data itself
            raise GeckoError(f"{self.name}: its data cannot be loaded ({reason_of(error)})", _hint_of_data()) from error
        return Loaded(dict(task.dataset), {name: vars(task)[name] for name in _SETTINGS if name in vars(task)})


def open_mteb(
    names: Sequence[str],
    data: Path | None = None,
    *,
    split: str = "test",
    words: Mapping[str, str] | None = None,
) -> list[Chosen]:
    """Look tasks up, and read what is on the disk once, so that a mistake is told before a model is loaded.

    Args:
        names: MTEB's names of tasks.
        data: Folder of folders that supply their data; what is in none is asked of the Hub.
        split: The split that is scored; a task that has no ``test`` is scored on its first split.
        words: Words put before texts of models with gecko's format, by the task's name or gecko's name of its type.

    Raises:
        UsageError: A name is not MTEB's, or words are for no task that was named.
        GeckoError: mteb is not installed, a task is not of texts, or its data is not there or broken.
    """
    tasks = _registry()
    chosen = []
    for name in dict.fromkeys(names):
        if name not in tasks:
            close = difflib.get_close_matches(name.lower(), [known.lower() for known in tasks], n=3, cutoff=0.5)
            near = [known for known in tasks if known.lower() in close]
            hint = f"did you mean {' or '.join(sorted(near))}?" if near else "names are as in mteb.get_tasks()"
            raise UsageError(f"--mteb {name}: MTEB has no task of this name", hint)
        metadata = tasks[name].metadata
        if metadata.type not in KINDS or list(metadata.modalities) != ["text"]:
            raise UsageError(f"--mteb {name}: it is of type {metadata.type}", f"one of {', '.join(KINDS)}, of texts")
        place = find_place(data, name) if data else None
        own = Chosen(name, _split(metadata, split), place, readme_note(place) if place else "", words)
        if place is not None:
            own.load()
        elif not _hub_has(str(metadata.dataset["path"])):
            where = f"no folder in {data} supplies its data, and" if data else "no local data was named, and"
            raise GeckoError(f"{name}: {where} the Hub does not answer for {metadata.dataset['path']}", _hint_of_data())
        chosen.append(own)
    known = {own.name for own in chosen} | {KINDS[tasks[own.name].metadata.type] for own in chosen}
    for name in words or ():
        if name not in known:
            raise UsageError(f"task word for {name!r}: no such task or type", f"there are {', '.join(sorted(known))}")
    return chosen


def _given(loaded: Loaded) -> Any:  # noqa: ANN401
    """The ``load_data`` of a task whose data is at hand."""

    def load_data(self: Any, *args: object, **kwargs: object) -> None:  # noqa: ANN401
        self.dataset = loaded.rows
        for name, value in loaded.settings.items():
            setattr(self, name, value)
        self.data_loaded = True

    return load_data


def _settings(task: Any) -> dict[str, Any]:  # noqa: ANN401
    """A folder holds what is scored, as it is after a class's own transformations: a sample is not drawn twice."""
    from mteb.abstasks.abstask import AbsTask

    transforms = type(task).dataset_transform is not AbsTask.dataset_transform
    return {"max_fraction_of_documents_to_embed": None} if transforms and hasattr(task, _SETTINGS[0]) else {}


def _registry() -> dict[str, Any]:
    """MTEB's tasks by name.

    Raises:
        GeckoError: mteb is not installed.
    """
    try:
        with quietly():
            from mteb.get_tasks import TASK_LIST
    except ModuleNotFoundError as error:
        raise GeckoError(
            f"--mteb needs {error.name}, which is not installed", "pip install 'gecko-embed[mteb]'"
        ) from None
    return {task.metadata.name: task for task in TASK_LIST}


def _split(metadata: Any, split: str) -> str:  # noqa: ANN401
    """The split of a task that is scored.

    Raises:
        UsageError: It has no such split.
    """
    there = list(metadata.eval_splits)
    if split in there:
        return split
    if split == "test":
        return str(there[0])
    raise UsageError(f"--split {split}: {metadata.name} is not scored on it", f"it is on {' or '.join(there)}")


def _hub_has(path: str) -> bool:
    """Ask the Hub for a data set once, as the libraries' own attempts take minutes; offline its cache may hold it."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        return (_cached_datasets() / f"datasets--{path.replace('/', '--')}").is_dir()
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(path, timeout=_HUB_SECONDS)
    except Exception as error:  # of the network, the Hub or its client
        logger.debug("no answer from the Hub for %s: %s", path, error)
        return False
    return True


def _cached_datasets() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _hint_of_data() -> str:
    return f"--mteb-data DIR, where DIR holds {HINT}; or connect to the network"


def reason_of(error: BaseException) -> str:
    """The first line of what an exception says, or its name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


@contextmanager
def quietly() -> Iterator[None]:
    """Keep MTEB's own remarks and many progress bars out of the output; the report says what matters."""
    log = logging.getLogger("mteb")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
