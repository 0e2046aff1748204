"""A training's checkpoints: whose they are, and which of them are whole."""

from __future__ import annotations

import itertools
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from gecko.shards import read_json, write_json
from gecko.train.processes import is_main, wait_for_all

logger = logging.getLogger(__name__)

_WHOLE = "whole"


def own_checkpoint(folder: Path, mark: str, tell: Callable[[str], None] = logger.info) -> Path | None:
    """The newest whole checkpoint of a training, None where there is none; those of another are set aside.

    Args:
        folder: Of the checkpoints.
        mark: Tells the training from others (student, settings, rows).
        tell: Receives a line where checkpoints of another training are set aside.
    """
    if is_main():
        _keep_own(folder, mark, tell)
        _remove_torn(folder)
    wait_for_all()
    return next(reversed(whole_checkpoints(folder)), None)


def whole_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints, the newest last."""
    return sorted((mark.parent for mark in folder.glob(f"checkpoint-*/{_WHOLE}")), key=step_of)


def step_of(checkpoint: Path) -> int:
    """After which step a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _keep_own(folder: Path, mark: str, tell: Callable[[str], None]) -> None:
    """Set the checkpoints of another training (student, settings, rows) aside: to go on from them would mix the two.

    They are the user's to delete, or to go back to: a training whose folder gets its name back goes on from it.
    """
    owner = folder / "training.json"
    other = read_json(owner)
    if other == mark:
        return
    if whole_checkpoints(folder):
        aside = _free(folder.with_name(f"{folder.name}-{str(other or 'unknown')[:8]}"))
        folder.rename(aside)
        tell(f"checkpoints of another training (rows, settings or student) are set aside; they may be deleted: {aside}")
    shutil.rmtree(folder, ignore_errors=True)
    write_json(owner, mark)


def _free(place: Path) -> Path:
    """The place, or where something is there already the next of its name with a number."""
    numbered = (place.with_name(f"{place.name}-{number}") for number in itertools.count(2))
    return next(free for free in itertools.chain([place], numbered) if not free.exists())


def _remove_torn(folder: Path) -> None:
    """Remove checkpoints that a kill cut short, and those of weights that are not numbers.

    The trainer writes a checkpoint's files straight into its folder, so the folder alone proves nothing.
    """
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / _WHOLE).exists():
            shutil.rmtree(checkpoint)


def checkpoint_keeper(module: nn.Module) -> Any:  # noqa: ANN401
    """A trainer callback that marks each checkpoint once all its files are there, those of all processes.

    A checkpoint of weights that are not numbers is not marked: to go on from it would be to diverge again.

    Args:
        module: What is trained: the loss, with the model in it.
    """
    from transformers import TrainerCallback

    class Keeper(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401
            wait_for_all()  # each process writes a file of its own into it
            sound = all(bool(weights.isfinite().all()) for weights in module.parameters())
            if state.is_world_process_zero and sound:
                (Path(args.output_dir) / f"checkpoint-{state.global_step}" / _WHOLE).touch()
            wait_for_all()  # all then see the same checkpoints as whole

    return Keeper()
