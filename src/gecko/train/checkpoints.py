"""A training's checkpoints: whose they are, which of them are whole, and what they hold beside the trainer's files."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gecko.shards import read_json, write_json

logger = logging.getLogger(__name__)

_WHOLE = "whole"
_PROJECTION = "projection.safetensors"


def own_checkpoint(folder: Path, mark: str, tell: Callable[[str], None] = logger.info) -> Path | None:
    """The newest whole checkpoint of a training, None where there is none; others are deleted.

    Args:
        folder: Of the checkpoints.
        mark: Tells the training from others (student, settings, rows).
        tell: Receives a line where checkpoints of another training are thrown away.
    """
    from gecko.train.gather import is_main, wait_for_all

    if is_main():
        _keep_own(folder, mark, tell)
        _remove_torn(folder)
    wait_for_all()
    return max(folder.glob("checkpoint-*"), key=lambda place: int(place.name.rpartition("-")[2]), default=None)


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


def load_projection(checkpoint: Path, projection: Any) -> None:  # noqa: ANN401
    """Put the projection of embedding distillation back as it was at a checkpoint."""
    projection.load_projection(checkpoint / _PROJECTION)


def checkpoint_keeper(projection: Any | None) -> Any:  # noqa: ANN401
    """A trainer callback that finishes each checkpoint: adds the projection, and marks it once all its files are there.

    A checkpoint of weights that are not numbers is not marked: to go on from it would be to diverge again.

    Args:
        projection: Sentence-Transformers' ``EmbedDistillLoss``, or None without distillation.
    """
    from transformers import TrainerCallback

    class Keeper(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
            from gecko.train.gather import wait_for_all

            wait_for_all()  # each process writes a file of its own into it
            if not state.is_world_process_zero:
                return
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if projection is not None:
                projection.save_projection(checkpoint / _PROJECTION)
            if all(bool(weights.isfinite().all()) for weights in model.parameters()):
                (checkpoint / _WHOLE).touch()

    return Keeper()
