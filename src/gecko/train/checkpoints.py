"""A training's checkpoints: whose they are, and which of them are whole."""

from __future__ import annotations

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
    """The newest whole checkpoint of a training, None where there is none; others are deleted.

    Args:
        folder: Of the checkpoints.
        mark: Tells the training from others (student, settings, rows).
        tell: Receives a line where checkpoints of another training are thrown away.
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
    """Throw away the checkpoints of another training (student, settings, rows): to go on would mix the two."""
    owner = folder / "training.json"
    if read_json(owner) != mark:
        if any(folder.glob("checkpoint-*")):
            tell(f"checkpoints of another training (rows, settings or student) are thrown away: {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        write_json(owner, mark)


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
