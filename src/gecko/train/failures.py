"""What stops a training, said in a line with what to do: full memory and disks, and a model that is no numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gecko.embedder.embedder import Embedder
from gecko.errors import GeckoError, is_memory_error, reason
from gecko.recipe import TrainOptions
from gecko.records import UnifiedRow
from gecko.train.save import is_write_error

_LOOKED_AT = 16


def train(trainer: Any, checkpoint: Path | None, options: TrainOptions) -> None:  # noqa: ANN401
    """Let the trainer train, from a checkpoint where there is one.

    Raises:
        GeckoError: The memory or the disk is full.
    """
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except Exception as error:
        if is_memory_error(error):
            raise GeckoError(f"training: {reason(error)}", _less_memory(options)) from error
        if not is_write_error(error):
            raise
        raise GeckoError(
            f"training stopped: {reason(error)}",
            "free space where the disk is full, then run again: it goes on from its last checkpoint",
        ) from error


def check_sound(model: Any, rows: Sequence[UnifiedRow]) -> None:  # noqa: ANN401
    """Stop before a model is saved whose weights, or vectors of some training queries, are not numbers.

    The loss is taken before a step, so that of the last step tells nothing of the model it leaves behind; and weights
    that are numbers still, but huge, give vectors that are none.

    Args:
        model: The Sentence-Transformers model after training.
        rows: What it was trained on.

    Raises:
        GeckoError: They are not.
    """
    sound = all(bool(weights.isfinite().all()) for weights in model.parameters())
    if not sound or not np.isfinite(Embedder(model).encode([row.query for row in rows[:_LOOKED_AT]])).all():
        raise GeckoError(
            "the training diverged: the model's weights or vectors are not numbers, so it is not saved",
            "lower train.learning_rate, or raise train.warmup",
        )


def _less_memory(options: TrainOptions) -> str:
    """Which option to lower, with its value: encoding takes the most memory, then the similarities of a batch."""
    if not options.mini_batch and not options.mini_tokens:
        return f"set train.mini_batch=32: it is 0, so all {options.batch_size} rows of a batch are encoded at once"
    size = "mini_tokens" if options.mini_tokens else "mini_batch"
    return (
        f"lower train.{size} (now {getattr(options, size)}) or train.max_length (now {options.max_length}), and where "
        f"that is not enough train.batch_size (now {options.batch_size})"
    )
